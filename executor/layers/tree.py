"""The tree that a layer is unpacked into, and what the layers below have for it."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from types import TracebackType
from typing import Self

from executor.errors import HostError
from executor.isolation.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from executor.rootfs.contained import CAPABILITY, Root, get_capability
from executor.rootfs.copy import copy_bytes
from executor.rootfs.overlayform import LayerStack, is_opaque, is_whiteout, make_opaque, make_whiteout
from executor.rootfs.remove import remove_tree

_MAX_LINKS = 40
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


class NeedsLowerError(HostError):
    """A layer cannot be unpacked without knowing the layers below it; a signal to the caller, not to people."""

    code = "layer-needs-lower"


class Tree:
    """A directory in overlay form whose missing parts come from the layers below."""

    def __init__(self, root: Root, lower: LayerStack | None, id_shift: int) -> None:
        self.root = root
        self._lower = lower
        self._shift = id_shift
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

    # --- directories ------------------------------------------------------------------------------------------------

    def parent(self, parts: list[bytes]) -> int:
        """A descriptor, good until the next call, of a directory that is made when absent; see `resolved_parent`."""
        path = b"/".join(parts)
        if path == self._parent_path:
            return self._parent_fd
        self._forget_parent()
        try:
            self._parent_fd = openat2(self.root.fd, path, _DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            self.resolved_parent = path
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                raise
            resolved = self._resolve(parts, make=True) or b""
            self._parent_fd = openat2(self.root.fd, resolved, _DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            self.resolved_parent = resolved
        self._parent_path = path
        return self._parent_fd

    def _forget_parent(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent_path, self._parent_fd = None, -1

    def _resolve(self, parts: list[bytes], *, make: bool) -> bytes | None:
        """The path of a directory, links followed as in a root of its own.

        What is missing is made as the layers below have it, or without `make` is the answer None.
        """
        done: list[bytes] = []
        pending = deque(parts)
        links = 0
        while pending:
            part = pending.popleft()
            if part in {b"", b"."}:
                continue
            if part == b"..":
                del done[-1:]
                continue
            path = b"/".join([*done, part])
            status, own = self._look(path)
            gone = status is None or is_whiteout(status)
            if status is not None and stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = self.root.readlink(path) if own else self._below.readlink(path)
                done = [] if target.startswith(b"/") else done
                pending.extendleft(reversed(target.split(b"/")))
                continue
            if not make and gone:
                return None
            if status is not None and not gone and not stat.S_ISDIR(status.st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if make and (gone or not own):
                self._make_implied(path, status, own)
            done.append(part)
        return b"/".join(done)

    @property
    def _below(self) -> LayerStack:
        if self._lower is None:
            raise NeedsLowerError("layer: it depends on the layers below it")
        return self._lower

    def _look(self, path: bytes) -> tuple[os.stat_result | None, bool]:
        """What is visible at a path whose directories are resolved, and whether it is this layer's own."""
        own = self.root.lstat(path)
        if own is not None:
            return own, True
        return (None, False) if self._hidden(path) else (self._below.lstat(path), False)

    def _hidden(self, path: bytes) -> bool:
        """Whether this layer hides everything below at that path, by an opaque directory above it."""
        parts = path.split(b"/")
        return any(self._is_opaque(b"/".join(parts[:length])) for length in range(1, len(parts)))

    def _is_opaque(self, path: bytes) -> bool:
        try:
            descriptor = self.root.open_directory(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return is_opaque(descriptor)
        finally:
            os.close(descriptor)

    def _make_implied(self, path: bytes, status: os.stat_result | None, own: bool) -> None:
        """Make a directory that has no entry: as it is below, else 0755 of user 0."""
        with self.root.parent(path) as (directory, name):
            replaces = own and status is not None
            if replaces:
                os.unlink(name, dir_fd=directory)
            os.mkdir(name, 0o700, dir_fd=directory)
            if replaces:
                self.opaque_at(directory, name)
            model = status if status is not None and not own and stat.S_ISDIR(status.st_mode) else None
            uid, gid = (model.st_uid, model.st_gid) if model else (self._shift, self._shift)
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
            os.chmod(name, stat.S_IMODE(model.st_mode) if model else 0o755, dir_fd=directory)
        # without a time of its own it gets a fixed one, so that equal layers give equal trees
        self.remember_time(path, model.st_mtime_ns // 10**9 if model else 0)

    # --- hiding -----------------------------------------------------------------------------------------------------

    def make_directory_opaque(self, parts: list[bytes]) -> None:
        self.parent(parts)
        descriptor = self.root.open_directory(self.resolved_parent)
        try:
            if self.resolved_parent:
                make_opaque(descriptor)
        finally:
            os.close(descriptor)

    def opaque_at(self, directory: int, name: bytes) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            make_opaque(descriptor)
        finally:
            os.close(descriptor)

    def hide_all_below(self) -> None:
        """Hide all of the layers below: a root cannot be opaque, so every name there is."""
        for name in self._below.names(b""):
            status = self.root.lstat(name)
            if status is None:
                make_whiteout(self.root.fd, name)
            elif stat.S_ISDIR(status.st_mode):
                self.opaque_at(self.root.fd, name)

    def remove(self, directory: int, name: bytes, existing: os.stat_result) -> None:
        """Remove what an entry replaces."""
        if stat.S_ISDIR(existing.st_mode):
            remove_tree(directory, name)
        else:
            os.unlink(name, dir_fd=directory)

    # --- files of the layers below ----------------------------------------------------------------------------------

    def bring(self, parts: list[bytes]) -> tuple[bytes, os.stat_result] | None:
        """The resolved path and status of a file in this tree, copied here from below when it is there only."""
        directory = self._resolve(parts[:-1], make=False)
        if directory is None:
            return None
        path = directory + b"/" + parts[-1] if directory else parts[-1]
        status, own = self._look(path)
        if status is None or is_whiteout(status):
            return None
        if not own and not stat.S_ISDIR(status.st_mode):
            self.parent(path.split(b"/")[:-1])
            self._copy_up(path, status)
        return path, status

    def _copy_up(self, path: bytes, status: os.stat_result) -> None:
        if stat.S_ISLNK(status.st_mode):
            self.root.symlink(self._below.readlink(path), path)
            self.root.chown(path, status.st_uid, status.st_gid)
        elif stat.S_ISREG(status.st_mode):
            self._copy_file(path, status)
        elif stat.S_ISFIFO(status.st_mode):
            self.root.mkfifo(path)
            self.root.chown(path, status.st_uid, status.st_gid)
            self.root.chmod(path, stat.S_IMODE(status.st_mode))
        self.root.utime(path, status.st_mtime_ns)

    def _copy_file(self, path: bytes, status: os.stat_result) -> None:
        reader = self._below.open_file(path)
        try:
            writer = self.root.create_file(path)
            try:
                copy_bytes(reader, writer)
                os.fchown(writer, status.st_uid, status.st_gid)
                os.fchmod(writer, stat.S_IMODE(status.st_mode))
                if (value := get_capability(reader)) is not None:
                    os.setxattr(writer, CAPABILITY, value)
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    # --- times ------------------------------------------------------------------------------------------------------

    def remember_time(self, path: bytes, mtime: int) -> None:
        """A directory's time, set when nothing is made in it any more."""
        self._times[path.lstrip(b"/")] = mtime

    def set_times(self) -> None:
        self._forget_parent()
        flags = os.O_RDONLY | os.O_DIRECTORY
        for path, mtime in self._times.items():
            try:
                descriptor = openat2(self.root.fd, path, flags, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    continue  # a later entry has replaced it
                raise
            try:
                os.utime(descriptor, ns=(mtime * 10**9, mtime * 10**9))
            finally:
                os.close(descriptor)
