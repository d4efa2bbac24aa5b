"""What the launcher believes of what a builder says, and how it tells what went wrong outside the builder."""

from __future__ import annotations

from pathlib import Path

import pytest

from executor.errors import HostError, PushwrightError, UsageError
from executor.isolation.supervisor import Control
from executor.launch import _checked_result, _git_binds, launch
from executor.oci import MANIFEST_OCI, Digest
from executor.progress import ignore_events
from executor.spec import BuildSpec, DirectoryContext, GitContext

MANIFEST = '{"schemaVersion":2}'


def _event(**changes: object) -> dict[str, object]:
    fields = {
        "digest": str(Digest.of(MANIFEST.encode())),
        "size": len(MANIFEST),
        "media_type": MANIFEST_OCI,
        "manifest": MANIFEST,
        "config_digest": str(Digest.of(b"{}")),
        "platform": "linux/amd64",
    }
    return {"v": 1, "seq": 9, "ts": 1.0, "type": "result", **fields, **changes}


def test_a_result_that_fits_is_believed() -> None:
    assert _checked_result(_event()).digest == str(Digest.of(MANIFEST.encode()))


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": str(Digest.of(b"something else"))},
        {"digest": "../../etc"},
        {"size": 1},
        {"size": -1},
        {"manifest": MANIFEST + " "},
        {"manifest": "\ud800"},
        {"digest": 7},
        {"surplus": 1},
    ],
)
def test_a_result_that_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(PushwrightError):
        _checked_result(_event(**changes))


def test_the_whole_machine_is_no_directory_of_repositories(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    for root in ("/", "//", "/.", str(tmp_path / "link")):
        spec = BuildSpec(GitContext("file:///x", "0" * 40, local_root=root), str(tmp_path))
        with pytest.raises(UsageError):
            _git_binds(spec)


def test_a_context_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file", tmp_path / "file" / "below"):
        event = launch(BuildSpec(DirectoryContext(str(path)), str(tmp_path / "store")), ignore_events, Control())
        assert (event["type"], event["code"]) == ("error", "context-missing")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_foreign_exceptions_become_errors_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = BuildSpec(DirectoryContext(str(tmp_path)), str(tmp_path / "store"))
    for raised, code in (
        (OSError(28, "No space left on device"), "disk-full"),
        (OSError(5, "Input/output error"), "host-io"),
        (MemoryError(), "host-exhausted"),
        (ValueError("odd"), "internal"),
        (HostError("told", code="host-error"), "host-error"),
    ):

        def fail(error: Exception = raised) -> None:
            raise error

        monkeypatch.setattr("executor.launch.idmap.plan_ids", fail)
        assert launch(spec, ignore_events, Control())["code"] == code
