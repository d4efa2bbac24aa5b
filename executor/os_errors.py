"""What the kernel refused, as errors that say who can mend it."""

from __future__ import annotations

import errno
import os

from executor.errors import DiskFullError, HostError, PushwrightError, StepFailedError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORT = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN})
# what the names and links in a Dockerfile, a context or an image can bring about
_OF_NAMES = frozenset(
    {
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENOENT,
        errno.ENOTEMPTY,
        errno.EMLINK,
        errno.ENXIO,
    }
)
_SHOWN_CHARACTERS = 200


def host_error(error: OSError) -> HostError:
    """The error for whoever runs the machine."""
    if error.errno in _FULL:
        return DiskFullError(
            f"no space is left for the build: {describe(error)}",
            hint="free space where the data directory is, or run gc",
        )
    if error.errno in _SHORT:
        return HostError(
            f"this machine ran short: {describe(error)}",
            code="host-exhausted",
            hint="give it more memory or open files, or run fewer builds at once",
            retryable=True,
        )
    if error.errno == errno.EIO:
        return HostError(
            f"a disk of this machine failed: {describe(error)}", code="host-io", hint="look at the kernel's log"
        )
    return HostError(
        f"this machine refused an operation of the build: {describe(error)}",
        code="operation-refused",
        hint="check the owner, the mode and the file system of the data directory and the build context",
    )


def step_error(error: OSError) -> PushwrightError:
    """The error for whoever can mend it, when it came up while an instruction was carried out."""
    if error.errno in _OF_NAMES:
        return StepFailedError(
            f"a path cannot be used: {describe(error)}",
            code="path-unusable",
            hint="check the paths of this instruction, and the links in the image and the build context",
        )
    return host_error(error)


def describe(error: OSError) -> str:
    """The reason and the file, shortened."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return reason
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    shown = name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "…"
    return f"{reason}: {shown}"
