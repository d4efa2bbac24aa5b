"""Mount points that were made for a step: gone behind it, unless the step made them its own."""

from __future__ import annotations

from pathlib import Path

from executor.steps.run import remove_stubs

CREATED = ("/etc", "/etc/hosts", "/etc/resolv.conf", "/run", "/run/secrets", "/gone")


def _upper(tmp_path: Path) -> Path:
    tmp_path.mkdir(exist_ok=True)
    for name in ("etc", "run/secrets"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("etc/hosts", "etc/resolv.conf"):
        (tmp_path / name).touch()
    return tmp_path


def test_empty_ones_are_removed_with_their_directories(tmp_path: Path) -> None:
    remove_stubs(_upper(tmp_path), CREATED)
    assert list(tmp_path.iterdir()) == []


def test_what_the_step_wrote_stays_and_keeps_its_directory(tmp_path: Path) -> None:
    upper = _upper(tmp_path)
    (upper / "etc/hosts").write_text("mine")
    (upper / "run/own").touch()
    remove_stubs(upper, CREATED)
    assert sorted(str(path.relative_to(upper)) for path in upper.rglob("*")) == ["etc", "etc/hosts", "run", "run/own"]


def test_a_link_in_the_place_of_one_leads_nowhere(tmp_path: Path) -> None:
    upper, outside = _upper(tmp_path / "upper"), tmp_path / "outside"
    outside.mkdir()
    (outside / "hosts").touch()
    (upper / "etc/hosts").unlink()
    (upper / "etc/resolv.conf").unlink()
    (upper / "etc").rmdir()
    (upper / "etc").symlink_to(outside)
    remove_stubs(upper, CREATED)
    assert (outside / "hosts").exists()
