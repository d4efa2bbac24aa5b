"""Overlay form: how a layer on disk says that something of the layers below is gone.

A whiteout is a character device 0/0; a directory with `user.overlay.opaque` = `y` hides what is below it (kernel
documentation, filesystems/overlayfs, "whiteouts and opaque directories"; the `user.` names need the `userxattr` mount
option, Linux 5.11). Making 0/0 devices takes no privilege over the host since Linux 5.8.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from executor.rootfs.contained import Root, get_attribute, parts_of

OPAQUE = "user.overlay.opaque"


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def make_whiteout(directory: int, name: bytes) -> None:
    os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)


def is_opaque(directory: int) -> bool:
    return get_attribute(directory, OPAQUE) == b"y"


def make_opaque(directory: int) -> None:
    os.setxattr(directory, OPAQUE, b"y")


class LayerStack:
    """Unpacked layers seen as overlayfs would show them, without a mount; the topmost first.

    No layers at all are the view below a bottom layer. The roots stay the caller's to close.
    """

    def __init__(self, roots: Sequence[Root]) -> None:
        self._roots = tuple(roots)

    def lstat(self, path: bytes) -> os.stat_result | None:
        found = self._find(path)
        return found[1] if found else None

    def names(self, path: bytes) -> list[bytes]:
        shown: set[bytes] = set()
        hidden: set[bytes] = set()
        for root in self._directories(parts_of(path)):
            here = root.names(path)
            for name in here:
                status = root.lstat(path + b"/" + name)
                if status is not None and is_whiteout(status):
                    hidden.add(name)
                elif name not in hidden:
                    shown.add(name)
        return sorted(shown)

    def readlink(self, path: bytes) -> bytes:
        return self._existing(path).readlink(path)

    def open_file(self, path: bytes) -> int:
        return self._existing(path).open_file(path)

    def _existing(self, path: bytes) -> Root:
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(2, os.strerror(2), os.fsdecode(path))
        return found[0]

    def _find(self, path: bytes) -> tuple[Root, os.stat_result] | None:
        """The layer that shows `path`, and its status there. Links in the path's directories are not followed."""
        parts = parts_of(path)
        if not parts:
            return (self._roots[0], os.fstat(self._roots[0].fd)) if self._roots else None
        for root in self._directories(parts[:-1]):
            status = root.lstat(path)
            if status is not None:
                return None if is_whiteout(status) else (root, status)
        return None

    def _directories(self, parts: list[bytes]) -> list[Root]:
        """The layers whose directory of that name is visible, topmost first."""
        visible = list(self._roots)
        for length in range(1, len(parts) + 1):
            prefix = b"/".join(parts[:length])
            merged = []
            for root in visible:
                status = root.lstat(prefix)
                if status is None:
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    break
                merged.append(root)
                if self._opaque(root, prefix):
                    break
            visible = merged
        return visible

    @staticmethod
    def _opaque(root: Root, path: bytes) -> bool:
        descriptor = root.open_directory(path)
        try:
            return is_opaque(descriptor)
        finally:
            os.close(descriptor)
