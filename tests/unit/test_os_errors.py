"""Errors of the kernel as errors that say who can mend them: never as a fault of ours."""

from __future__ import annotations

import errno

import pytest

from executor.errors import DiskFullError, StepFailedError
from executor.os_errors import describe, host_error, step_error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_can_be_tried_again(number: int) -> None:
    for told in (host_error(OSError(number, "full", "/x")), step_error(OSError(number, "full", "/x"))):
        assert isinstance(told, DiskFullError)
        assert told.retryable


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EIO, "host-io"),
        (errno.EMFILE, "host-exhausted"),
        (errno.ENOMEM, "host-exhausted"),
        (errno.EPERM, "operation-refused"),
    ],
)
def test_what_the_machine_did(number: int, code: str) -> None:
    told = step_error(OSError(number, "reason", b"/some/\xff"))
    assert (told.code, told.exit_status, told.fixable_by) == (code, 3, "host")
    assert "reason" in told.message
    assert "/some/" in told.message


def test_names_are_their_author_s() -> None:
    told = step_error(OSError(errno.ENAMETOOLONG, "File name too long", "a" * 5000))
    assert isinstance(told, StepFailedError)
    assert told.code == "path-unusable"
    assert len(told.message) < 400


def test_an_error_without_a_text_is_named() -> None:
    assert describe(OSError()) == "OSError"
