"""`--chmod`: the table of golden cases, and the chmod(1) of this system."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from executor.dockerfile.chmod import parse_chmod
from executor.errors import DockerfileError, Location
from tests.support.golden_tables import rows

PLACE = Location("Dockerfile", 3)


@pytest.mark.parametrize(("text", "entry", "expected"), rows("chmod/modes.txt", 3))
def test_mode(text: str, entry: str, expected: str) -> None:
    kind, old = entry.split()
    if expected == "ERROR":
        with pytest.raises(DockerfileError, match="octal mode between 0 and 7777") as caught:
            parse_chmod(text, PLACE)
        assert caught.value.location == PLACE
        assert caught.value.hint
    else:
        assert oct(parse_chmod(text, PLACE)(int(old, 8), kind == "d")) == oct(int(expected, 8))


@pytest.mark.parametrize(("text", "mode"), [("640", 0o640), ("0", 0), ("u=rwx,go=", 0o755), ("a-x", 0o755)])
def test_directories_made_on_the_way(text: str, mode: int) -> None:
    assert parse_chmod(text, PLACE).created_directory_mode == mode


def test_a_long_mode_is_refused_and_not_repeated() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_chmod("u+r," * 100_000 + "u+r", PLACE)
    assert len(caught.value.message) < 300
    with pytest.raises(DockerfileError):
        parse_chmod("7" * 100_000, PLACE)


@pytest.mark.parametrize(
    "text",
    [
        *("a+x", "u+x", "go-w", "u=rw,go=r", "a=r,ug=rw,u+x", "u=rwX,go=rX", "+X", "o+X", "g=u", "o=g", "go=u-w"),
        *("u+o", "g-u", "u+s", "g+s", "ug+s,o+x", "+t", "-t", "u=rwx,go=rx", "a-x", "u+r-w+x", "=rw"),
    ],
)
def test_files_as_chmod_changes_them(text: str, tmp_path: Path) -> None:
    # with = GNU also takes the sticky bit away, which BSD, and so BuildKit, leaves
    modes = [0o000, 0o644, 0o755, 0o421, 0o070, 0o607, 0o777]
    for mode in modes:
        (tmp_path / f"{mode:o}").touch()
        (tmp_path / f"{mode:o}").chmod(mode)
    previous = os.umask(0)
    try:
        subprocess.run(["chmod", "--", text, *(tmp_path / f"{mode:o}" for mode in modes)], check=True)
    finally:
        os.umask(previous)
    changed = {oct(mode): oct(stat.S_IMODE((tmp_path / f"{mode:o}").stat().st_mode)) for mode in modes}
    chmod = parse_chmod(text, PLACE)
    assert {oct(mode): oct(chmod(mode, False)) for mode in modes} == changed
