"""The directory that an archive is unpacked into, which has content already.

It is the root of all that the archive names: a link, be it the archive's or the image's, is followed inside this
directory only, an absolute one from here, and a relative one that climbs out of it is an error. That is how BuildKit
unpacks (`solver/llbsolver/file/unpack_root.go`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from types import TracebackType
from typing import Self

from executor.errors import StepFailedError
from executor.isolation.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from executor.rootfs.contained import Root
from executor.rootfs.remove_merged import remove_merged_tree

_MAX_LINKS = 40
_PLAIN = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS


class Landing:
    """A directory and the paths in it, which nobody else changes meanwhile.

    `implied_owner` is that of directories which no entry describes.
    """

    def __init__(self, root: Root, implied_owner: tuple[int, int]) -> None:
        self.root = root
        self._implied_owner = implied_owner
        self._parent_path: bytes | None = None
        self._parent_fd = -1
        self._times: dict[bytes, int] = {}
        self.resolved_parent = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget_parent()

    def parent(self, parts: list[bytes]) -> int:
        """A descriptor, good until the next call, of a directory that is made when absent; see `resolved_parent`."""
        path = b"/".join(parts)
        if path == self._parent_path:
            return self._parent_fd
        self._forget_parent()
        try:
            self._parent_fd = openat2(self.root.fd, path, os.O_PATH | os.O_DIRECTORY, _PLAIN)
            self.resolved_parent = path
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                raise
            self.resolved_parent = self._made(self.resolve(parts))
            self._parent_fd = openat2(self.root.fd, self.resolved_parent, os.O_PATH | os.O_DIRECTORY, _PLAIN)
        self._parent_path = path
        return self._parent_fd

    def resolve(self, parts: list[bytes]) -> bytes:
        """The path of a directory, with every link on the way followed; its tail need not exist."""
        done: list[bytes] = []
        pending = deque(parts)
        links = 0
        while pending:
            part = pending.popleft()
            if part in {b"", b"."}:
                continue
            if part == b"..":
                if not done:
                    raise escape(b"/".join(parts), "a link on the way leads out of the directory")
                done.pop()
                continue
            path = b"/".join([*done, part])
            status = self.root.lstat(path)
            if status is not None and stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
                target = self.root.readlink(path)
                done = [] if target.startswith(b"/") else done
                pending.extendleft(reversed(target.split(b"/")))
                continue
            if status is not None and not stat.S_ISDIR(status.st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
            done.append(part)
        return b"/".join(done)

    def remove(self, directory: int, name: bytes) -> None:
        """Remove what an entry replaces, which may be a whole tree."""
        remove_merged_tree(directory, name)
        # the path of the present parent may have led through it
        self._parent_path = None

    def remember_time(self, name: bytes, mtime: int) -> None:
        """The time of a directory in the present parent, set when nothing is made in it any more."""
        self._times[self.resolved_parent + b"/" + name if self.resolved_parent else name] = mtime

    def set_times(self) -> None:
        self._forget_parent()
        for path, mtime in self._times.items():
            try:
                descriptor = openat2(self.root.fd, path, os.O_RDONLY | os.O_DIRECTORY, _PLAIN)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    continue  # a later entry has replaced it
                raise
            try:
                os.utime(descriptor, ns=(mtime * 10**9, mtime * 10**9))
            finally:
                os.close(descriptor)

    def _made(self, resolved: bytes) -> bytes:
        """Make the directories of a path without links that are missing: 0755, whatever --chown says, as BuildKit."""
        parts = resolved.split(b"/")
        for length in range(1, len(parts) + 1):
            path = b"/".join(parts[:length])
            if path and self.root.lstat(path) is None:
                self.root.mkdir(path, 0o700)
                self.root.chown(path, *self._implied_owner)
                self.root.chmod(path, 0o755)
        return resolved

    def _forget_parent(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent_path, self._parent_fd = None, -1


def escape(name: bytes, reason: str) -> StepFailedError:
    text = name[:120].decode("utf-8", "backslashreplace")
    return StepFailedError(
        f"archive: {text!r}: expected a path inside the directory it is unpacked into: {reason}",
        code="archive-escape",
        hint="unpack it with a RUN step where links may lead elsewhere, or make the archive anew",
    )
