"""Removing a tree that somebody else filled."""

from __future__ import annotations

import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(parent_fd: int, name: str | bytes) -> None:
    """Remove `name` below the directory `parent_fd` with all it holds; a name that does not exist is no error.

    Symbolic links are removed, never followed. Every directory met is first moved up beside the one being emptied, so
    a tree of any depth takes neither recursion, nor long path names, nor more than two descriptors.
    """
    name = os.fsencode(name)
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent_fd)
            return
    except FileNotFoundError:
        return
    top = _open_writable(parent_fd, name)
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent_fd)


def _open_writable(parent_fd: int, name: bytes) -> int:
    try:
        return _open_checked(parent_fd, name)
    except PermissionError:
        # the owner may give itself the permission: to this very directory, whatever has the name by now
        found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            os.chmod(f"/proc/self/fd/{found}", 0o700)
        finally:
            os.close(found)
        return _open_checked(parent_fd, name)


def _open_checked(parent_fd: int, name: bytes) -> int:
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=descriptor, effective_ids=True):
        os.fchmod(descriptor, 0o700)
    return descriptor


def _empty(top: int) -> None:
    """Remove the entries of `top`, whose directories become its direct children one after the other."""
    counter = 0
    pending = _remove_files(top)
    # the names given here must not meet names that the tree itself has
    prefix = b".pushwright-remove-" + os.urandom(8).hex().encode()
    while pending:
        name = pending.pop()
        directory = _open_writable(top, name)
        try:
            for child in _remove_files(directory):
                counter += 1
                moved = prefix + b"-%d" % counter
                # moving a directory writes its `..`, which takes permission on itself
                os.close(_open_writable(directory, child))
                os.rename(child, moved, src_dir_fd=directory, dst_dir_fd=top)
                pending.append(moved)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=top)


def _remove_files(directory: int) -> list[bytes]:
    """Unlink what is no directory; the names of the directories."""
    directories = []
    with os.scandir(directory) as entries:
        found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if is_directory:
            directories.append(name)
        else:
            os.unlink(name, dir_fd=directory)
    return directories
