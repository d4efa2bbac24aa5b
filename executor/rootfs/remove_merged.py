"""Removing a tree from a mounted stack of layers.

overlayfs does not rename a directory that a lower layer has (EXDEV; kernel documentation, filesystems/overlayfs,
"redirect_dir"), so the tree is walked down and up again and nothing in it is moved.
"""

from __future__ import annotations

import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_merged_tree(parent_fd: int, name: bytes) -> None:
    """Remove the file, link or tree `name` below the directory `parent_fd`; one that does not exist is no error.

    Links are removed, never followed. A tree of any depth takes neither recursion nor more than two descriptors.
    Nobody else may change the tree meanwhile.
    """
    try:
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=parent_fd)
        return
    path = [name]
    here = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        below = [_remove_files(here)]
        while path:
            if below[-1]:
                step = below[-1].pop()
                here = _go(here, step, here)
                path.append(step)
                below.append(_remove_files(here))
                continue
            below.pop()
            emptied = path.pop()
            here = _go(here, b".." if path else b".", here if path else parent_fd)
            os.rmdir(emptied, dir_fd=here)
    finally:
        os.close(here)


def _go(here: int, name: bytes, base: int) -> int:
    """A descriptor of the directory `name` below `base`, in place of `here`."""
    there = os.open(name, _DIRECTORY, dir_fd=base)
    os.close(here)
    return there


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
