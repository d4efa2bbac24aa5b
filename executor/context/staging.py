"""A directory as build context that the builder's own ids may not read: copied, by whoever may, to where they may.

The builder owns none of the host's ids, so it sees a context as a stranger does. Files of mode 0600, or a directory of
mode 0700, are common in homes and temporary places; the launcher, which has the rights of the person, copies then.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from executor.errors import ContextError
from executor.os_errors import step_error
from executor.rootfs.contained import Root
from executor.rootfs.copy import CopyOptions, copy_tree

_STRANGER_READS = stat.S_IROTH
_STRANGER_ENTERS = stat.S_IROTH | stat.S_IXOTH


def is_open_to_strangers(directory: Path) -> bool:
    """Whether everybody may read everything in the tree; links are not followed."""
    with _reading(directory):
        return _is_open(directory)


def _is_open(directory: Path) -> bool:
    pending = [os.fspath(directory)]
    while pending:
        base = pending.pop()
        if os.stat(base, follow_symlinks=False).st_mode & _STRANGER_ENTERS != _STRANGER_ENTERS:
            return False
        with os.scandir(base) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False) and not (
                    entry.stat(follow_symlinks=False).st_mode & _STRANGER_READS
                ):
                    return False
    return True


def stage(directory: Path, destination: Path, owner: tuple[int, int]) -> None:
    """Copy the tree into the empty directory `destination`, for `owner`; modes, times and links stay.

    Nobody else may reach `destination` meanwhile: this is done with the rights of whoever asked for the build.
    """
    with _reading(directory), Root.at(directory) as source, Root.at(destination) as target:
        copy_tree(source, b"", target, b"", CopyOptions(owner=owner))
        os.fchown(target.fd, *owner)


@contextlib.contextmanager
def _reading(directory: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ContextError(
            f"the build context {directory} cannot be read: {error.filename or ''} {error.strerror}",
            code="context-unreadable",
            hint="make its files readable for the user who builds",
        ) from error
    except OSError as error:
        raise step_error(error) from error
