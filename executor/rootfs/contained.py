"""File operations that cannot leave a root directory.

Every path is a sequence of bytes below a `Root`, with or without leading slash. Symbolic links in its directories are
followed as a process would whose root directory this is; the last name is never followed, except by `resolve`. The
kernel does the resolving (openat2(2), Linux 5.6), so what a tree holds cannot lead anywhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from executor.isolation.syscalls import RESOLVE_IN_ROOT, openat2
from executor.rootfs.remove import remove_tree

CAPABILITY = "security.capability"
# as many as the kernel follows (path_resolution(7))
_MAX_LINKS = 40


def parts_of(path: bytes) -> list[bytes]:
    """The names of a path, without empty ones and `.`."""
    return [part for part in path.split(b"/") if part not in {b"", b"."}]


class View(Protocol):
    """A tree to look at: one directory, or layers stacked on each other."""

    def lstat(self, path: bytes, /) -> os.stat_result | None: ...

    def names(self, path: bytes, /) -> list[bytes]: ...

    def readlink(self, path: bytes, /) -> bytes: ...

    def open_file(self, path: bytes, /) -> int: ...


class Root:
    """A directory, and the operations that stay below it. Takes over the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.fd = descriptor

    @classmethod
    def at(cls, path: Path | str | bytes) -> Root:
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """A descriptor of the directory that `path` is in, and its last name; `.` for the root itself."""
        parts = parts_of(path)
        if not parts:
            yield self.fd, b"."
            return
        if parts[-1] == b"..":
            raise OSError(errno.EINVAL, "a path cannot end in ..", os.fsdecode(path))
        descriptor = openat2(self.fd, b"/".join(parts[:-1]), os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT)
        try:
            yield descriptor, parts[-1]
        finally:
            os.close(descriptor)

    # --- looking ----------------------------------------------------------------------------------------------------

    def lstat(self, path: bytes) -> os.stat_result | None:
        """The status of what is there, links not followed; None when there is nothing."""
        try:
            with self.parent(path) as (directory, name):
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def readlink(self, path: bytes) -> bytes:
        with self.parent(path) as (directory, name):
            return os.readlink(name, dir_fd=directory)

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, sorted by their bytes."""
        descriptor = self.open_directory(path)
        try:
            return sorted(os.fsencode(name) for name in os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def open_directory(self, path: bytes) -> int:
        with self.parent(path) as (directory, name):
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)

    def open_file(self, path: bytes) -> int:
        """A descriptor to read a regular file by; anything else is refused, without waiting on a FIFO."""
        with self.parent(path) as (directory, name):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        return descriptor

    def resolve(self, path: bytes) -> bytes:
        """The path with every link followed inside the root, the last name's too; its tail may not exist yet."""
        done: list[bytes] = []
        pending = deque(path.split(b"/"))
        links = 0
        while pending:
            part = pending.popleft()
            if part in {b"", b"."}:
                continue
            if part == b"..":
                del done[-1:]
                continue
            done.append(part)
            status = self.lstat(b"/".join(done))
            if status is None or stat.S_ISDIR(status.st_mode):
                continue
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
                target = self.readlink(b"/".join(done))
                done = [] if target.startswith(b"/") else done[:-1]
                pending.extendleft(reversed(target.split(b"/")))
            elif any(item not in {b"", b"."} for item in pending):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(b"/".join(done)))
        return b"/".join(done)

    def walk(self, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """What is below a directory, parents before children, sorted in each directory; links are not followed."""
        pending = [path]
        while pending:
            base = pending.pop()
            below = []
            for name in self.names(base):
                child = base + b"/" + name if base else name
                status = self.lstat(child)
                if status is None:
                    continue
                yield child, status
                if stat.S_ISDIR(status.st_mode):
                    below.append(child)
            pending.extend(reversed(below))

    # --- changing ---------------------------------------------------------------------------------------------------

    def create_file(self, path: bytes, mode: int = 0o600) -> int:
        """A descriptor to write a new file by; a name that is taken is an error."""
        with self.parent(path) as (directory, name):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(name, flags, mode, dir_fd=directory)

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        with self.parent(path) as (directory, name):
            os.mkdir(name, mode, dir_fd=directory)
            os.chmod(name, mode, dir_fd=directory)  # whatever the umask

    def make_directories(self, path: bytes, mode: int, owner: tuple[int, int] | None) -> bytes:
        """Make the directories of a path that are missing; the path with its links followed.

        Links on the way are followed inside the root, dangling ones too. `owner` and `mode` are those of new ones.
        """
        resolved = self.resolve(path)
        parts = parts_of(resolved)
        for length in range(1, len(parts) + 1):
            prefix = b"/".join(parts[:length])
            status = self.lstat(prefix)
            if status is None:
                self.mkdir(prefix, 0o700)
                if owner is not None:
                    self.chown(prefix, *owner)
                self.chmod(prefix, mode)
            elif not stat.S_ISDIR(status.st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(prefix))
        return resolved

    def symlink(self, target: bytes, path: bytes) -> None:
        with self.parent(path) as (directory, name):
            os.symlink(target, name, dir_fd=directory)

    def link(self, existing: bytes, path: bytes) -> None:
        """A hard link to `existing` itself, be it a symbolic link."""
        with self.parent(existing) as (source, old), self.parent(path) as (directory, name):
            os.link(old, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    def mkfifo(self, path: bytes, mode: int = 0o600) -> None:
        with self.parent(path) as (directory, name):
            os.mkfifo(name, mode, dir_fd=directory)

    def unlink(self, path: bytes) -> None:
        with self.parent(path) as (directory, name):
            os.unlink(name, dir_fd=directory)

    def remove(self, path: bytes) -> None:
        """Remove a file or a whole tree, if there is one."""
        with self.parent(path) as (directory, name):
            remove_tree(directory, name)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """Change the owner; the kernel drops set-id bits and the file capability of a file then."""
        with self.parent(path) as (directory, name):
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)

    def chmod(self, path: bytes, mode: int) -> None:
        """Change the mode; a symbolic link has none and is refused."""
        with self.parent(path) as (directory, name):
            chmod_at(directory, name, mode)

    def utime(self, path: bytes, mtime_ns: int) -> None:
        with self.parent(path) as (directory, name):
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)


def chmod_at(directory: int, name: bytes, mode: int) -> None:
    # without fchmodat2 (Linux 6.6) chmod follows links; nobody else writes to the trees this is used on
    if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        raise OSError(errno.EOPNOTSUPP, "a symbolic link has no mode", os.fsdecode(name))
    os.chmod(name, mode, dir_fd=directory)


def get_capability(descriptor: int) -> bytes | None:
    """A file's `security.capability` as the kernel gives it in this user namespace; None when it has none."""
    return get_attribute(descriptor, CAPABILITY)


def get_attribute(descriptor: int, name: str) -> bytes | None:
    try:
        return os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.EOPNOTSUPP}:
            return None
        raise
