"""Copying files and trees from one root into another, as COPY does."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from executor.errors import StepFailedError
from executor.rootfs.contained import CAPABILITY, Root, get_capability

_CHUNK = 1 << 20
_NOT_BY_KERNEL = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EPERM}


class Selection(Protocol):
    """Which paths of a tree are copied; paths are relative to the tree."""

    def selects(self, path: bytes, is_directory: bool, /) -> bool: ...

    def descends(self, path: bytes, /) -> bool:
        """Whether something below a directory that is not selected may be."""
        ...


class Everything:
    """The selection of all there is."""

    def selects(self, path: bytes, is_directory: bool, /) -> bool:
        return True

    def descends(self, path: bytes, /) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What copies look like.

    `owner` is a uid and gid as this process numbers them, None keeps those of the source. `chmod` gives the new mode
    from the old one and whether it is a directory's. `mtime_ns` replaces every modification time. `capabilities`
    keeps file capabilities, the only extended attribute that is ever copied.
    """

    owner: tuple[int, int] | None = None
    chmod: Callable[[int, bool], int] | None = None
    mtime_ns: int | None = None
    capabilities: bool = False
    selection: Selection = field(default_factory=Everything)


def copy_file(
    source: Root, source_path: bytes, target: Root, target_path: bytes, options: CopyOptions | None = None
) -> None:
    """Copy one file, link or FIFO to exactly `target_path`, whose directory exists; a link is copied as a link."""
    _Copier(source, target, options or CopyOptions()).entry(source_path, target_path)


def copy_tree(
    source: Root, source_path: bytes, target: Root, target_path: bytes, options: CopyOptions | None = None
) -> None:
    """Copy what is in the directory `source_path` into the directory `target_path`, which exists and stays as it is.

    Directories below it get the source's mode, owner and time whether they are new or not. Hard links between the
    copied regular files are kept. A directory in the place of a file, or the other way round, is a `StepFailedError`.
    """
    _Copier(source, target, options or CopyOptions()).tree(source_path, target_path)


class _Copier:
    def __init__(self, source: Root, target: Root, options: CopyOptions) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._links: dict[tuple[int, int], bytes] = {}
        self._times: list[tuple[bytes, int]] = []

    def tree(self, source_path: bytes, target_path: bytes) -> None:
        # what waits: a directory's path below the top, and those above it that exist only once something is in them
        pending: list[tuple[bytes, tuple[bytes, ...]]] = [(b"", ())]
        while pending:
            base, unmade = pending.pop()
            below: list[tuple[bytes, tuple[bytes, ...]]] = []
            for name in self._source.names(_join(source_path, base)):
                path = _join(base, name)
                status = self._source.lstat(_join(source_path, path))
                if status is None:
                    raise StepFailedError(f"{_shown(path)}: vanished while it was copied", code="source-changed")
                is_directory = stat.S_ISDIR(status.st_mode)
                if self._options.selection.selects(path, is_directory):
                    for parent in unmade:
                        self.entry(_join(source_path, parent), _join(target_path, parent))
                    unmade = ()
                    self.entry(_join(source_path, path), _join(target_path, path))
                    if is_directory:
                        below.append((path, ()))
                elif is_directory and self._options.selection.descends(path):
                    below.append((path, (path,)))
            pending.extend((path, (*unmade, *own)) for path, own in reversed(below))
        # making children changed the times of their directories
        for path, mtime_ns in reversed(self._times):
            self._target.utime(path, mtime_ns)

    def entry(self, source_path: bytes, target_path: bytes) -> None:
        status = self._source.lstat(source_path)
        if status is None:
            raise StepFailedError(f"{_shown(source_path)}: not found", code="source-missing")
        if stat.S_ISSOCK(status.st_mode):
            return  # a layer cannot hold it, and it means nothing without its process
        existing = self._target.lstat(target_path)
        if stat.S_ISDIR(status.st_mode):
            self._directory(status, target_path, existing)
            return
        if existing is not None:
            if stat.S_ISDIR(existing.st_mode):
                raise StepFailedError(
                    f"cannot replace the directory /{_shown(target_path)} by a file", code="copy-conflict"
                )
            self._target.unlink(target_path)
        self._leaf(source_path, status, target_path)

    def _directory(self, status: os.stat_result, target_path: bytes, existing: os.stat_result | None) -> None:
        if existing is None:
            self._target.mkdir(target_path, 0o700)
        elif not stat.S_ISDIR(existing.st_mode):
            raise StepFailedError(
                f"cannot copy a directory to /{_shown(target_path)}, which is no directory", code="copy-conflict"
            )
        self._dress(status, target_path)
        self._times.append((target_path, self._mtime_ns(status)))

    def _leaf(self, source_path: bytes, status: os.stat_result, target_path: bytes) -> None:
        if stat.S_ISREG(status.st_mode):
            if self._linked(status, target_path):
                return
            self._content(source_path, status, target_path)
        elif stat.S_ISLNK(status.st_mode):
            self._target.symlink(self._source.readlink(source_path), target_path)
            self._dress(status, target_path)
        elif stat.S_ISFIFO(status.st_mode):
            self._target.mkfifo(target_path)
            self._dress(status, target_path)
        else:
            raise StepFailedError(
                f"{_shown(source_path)}: a device node cannot be copied",
                code="device-node",
                hint="a build inside a user namespace cannot make device nodes",
            )
        self._target.utime(target_path, self._mtime_ns(status))

    def _linked(self, status: os.stat_result, target_path: bytes) -> bool:
        """Whether this is another name of a file that has been copied, and has been made one of the copy."""
        if status.st_nlink == 1:
            return False
        first = self._links.setdefault((status.st_dev, status.st_ino), target_path)
        if first == target_path:
            return False
        self._target.link(first, target_path)
        return True

    def _content(self, source_path: bytes, status: os.stat_result, target_path: bytes) -> None:
        reader = self._source.open_file(source_path)
        try:
            if not os.path.samestat(os.fstat(reader), status):
                raise StepFailedError(f"{_shown(source_path)}: replaced while it was copied", code="source-changed")
            writer = self._target.create_file(target_path)
            try:
                copy_bytes(reader, writer)
                os.fchown(writer, *self._owner(status))
                os.fchmod(writer, self._mode(status))
                capability = get_capability(reader) if self._options.capabilities else None
                if capability is not None:
                    os.setxattr(writer, CAPABILITY, capability)
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    def _dress(self, status: os.stat_result, target_path: bytes) -> None:
        self._target.chown(target_path, *self._owner(status))
        if not stat.S_ISLNK(status.st_mode):
            self._target.chmod(target_path, self._mode(status))

    def _owner(self, status: os.stat_result) -> tuple[int, int]:
        return self._options.owner or (status.st_uid, status.st_gid)

    def _mode(self, status: os.stat_result) -> int:
        mode = stat.S_IMODE(status.st_mode)
        return self._options.chmod(mode, stat.S_ISDIR(status.st_mode)) if self._options.chmod else mode

    def _mtime_ns(self, status: os.stat_result) -> int:
        return status.st_mtime_ns if self._options.mtime_ns is None else self._options.mtime_ns


def copy_bytes(reader: int, writer: int) -> None:
    """Copy a file's content from where it is read to its end; inside the kernel, shared where the file system can."""
    try:
        while os.copy_file_range(reader, writer, 1 << 30):
            pass
    except OSError as error:
        if error.errno not in _NOT_BY_KERNEL:
            raise
    # also after success: some file systems give 0 for files whose size they do not know (proc, for one)
    while data := os.read(reader, _CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(writer, view) :]


def _join(base: bytes, name: bytes) -> bytes:
    return base + b"/" + name if base and name else base or name


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
