"""Writes the tree of a commit as files, without any of git's conveniences.

libgit2's own checkout would read .gitattributes, run filters, convert line ends and keep a .git directory. Here the
tree objects alone decide, every name is hostile until checked, and every file is made new through the descriptor of
its directory, so that no link in the tree is ever followed.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from executor.context.printable import printable
from executor.errors import DiskFullError, GitError, HostError, PushwrightError

if TYPE_CHECKING:
    import pygit2

OnProgress = Callable[[str, int, int], None]
OnWarning = Callable[[str, str], None]

# the modes git writes (git-fast-import, "filemodify"); libgit2 normalises historic ones to these
_DIRECTORY, _REGULAR, _EXECUTABLE, _LINK, _SUBMODULE = 0o040000, 0o100644, 0o100755, 0o120000, 0o160000
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_THIS_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = {errno.ENOSPC, errno.EDQUOT}
# what the kernel says of a name, a link target or a second entry of one name: the tree's fault, not the machine's
_TREE_FAULTS = {errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.EINVAL, errno.ENOTDIR, errno.EILSEQ}
_SHOWN_SUBMODULES = 20


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """What a commit may unpack to; trees that name each other many times make few objects into many files."""

    entries: int = 2_000_000
    total_bytes: int = 20 * 1024**3
    file_bytes: int = 4 * 1024**3
    link_bytes: int = 4095
    depth: int = 200


class TreeWriter:
    """Writes one tree; counts what it wrote."""

    def __init__(
        self,
        repository: pygit2.Repository,
        *,
        mtime: int,
        limits: TreeLimits,
        deadline: float,
        on_progress: OnProgress,
        on_warning: OnWarning,
    ) -> None:
        self._repository = repository
        self._times = (mtime * 1_000_000_000, mtime * 1_000_000_000)
        self._limits = limits
        self._deadline = deadline
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._entries = 0
        self._bytes = 0
        self._submodules: list[str] = []
        self._pointers: list[str] = []

    def write(self, tree: pygit2.Oid, root: int) -> None:
        """Write `tree` into the empty directory of descriptor `root`."""
        import pygit2

        try:
            self._write_directory(tree, root, b"", depth=1)
        except (pygit2.GitError, KeyError, ValueError) as error:
            raise _refused(f"an object of it is missing or damaged: {printable(str(error))}") from error
        self._on_progress("files", self._bytes, self._bytes)
        self._warn()

    def _write_directory(self, tree: pygit2.Oid, directory: int, path: bytes, *, depth: int) -> None:
        if depth > self._limits.depth:
            raise _refused(f"expected at most {self._limits.depth} directories inside each other", path)
        self._size(tree, "tree", path)
        for entry in self._repository[tree]:  # type: ignore[attr-defined]
            name: bytes = entry.raw_name
            where = path + b"/" + name if path else name
            check_entry_name(name, where)
            self._entries += 1
            if self._entries > self._limits.entries:
                raise _refused(f"expected at most {self._limits.entries} entries, found more", where)
            self._tick()
            try:
                self._write_entry(entry, directory, where, depth)
            except OSError as error:
                raise _os_failure(error, where) from error
        os.fchmod(directory, 0o755)
        os.utime(directory, ns=self._times)

    def _write_entry(self, entry: pygit2.Object, directory: int, where: bytes, depth: int) -> None:
        name, oid, mode = where.rpartition(b"/")[2], entry.id, entry.filemode
        if mode in {_REGULAR, _EXECUTABLE}:
            self._write_file(oid, 0o755 if mode == _EXECUTABLE else 0o644, name, directory, where)
        elif mode == _LINK:
            self._write_link(oid, name, directory, where)
        elif mode in {_DIRECTORY, _SUBMODULE}:
            os.mkdir(name, 0o700, dir_fd=directory)
            child = os.open(name, _THIS_DIRECTORY, dir_fd=directory)
            try:
                if mode == _DIRECTORY:
                    self._write_directory(oid, child, where, depth=depth + 1)
                else:
                    self._submodules.append(_shown(where))
                    os.fchmod(child, 0o755)
                    os.utime(child, ns=self._times)
            finally:
                os.close(child)
        else:
            raise _refused(f"expected a file, directory, link or submodule, found mode {mode:o}", where)

    def _write_file(self, oid: pygit2.Oid, mode: int, name: bytes, directory: int, where: bytes) -> None:
        size = self._size(oid, "blob", where)
        file = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            # libgit2 holds a packed object whole, so a view of it is the least that can be had
            data = memoryview(self._repository[oid])  # type: ignore[arg-type]
            if size < 1024 and bytes(data[: len(_LFS_POINTER)]) == _LFS_POINTER:
                self._pointers.append(_shown(where))
            while data:
                data = data[os.write(file, data) :]
            os.fchmod(file, mode)
            os.utime(file, ns=self._times)
        finally:
            os.close(file)

    def _write_link(self, oid: pygit2.Oid, name: bytes, directory: int, where: bytes) -> None:
        if not 0 < self._size(oid, "blob", where) <= self._limits.link_bytes:
            raise _refused(f"expected a link target of 1 to {self._limits.link_bytes} bytes", where)
        target = bytes(memoryview(self._repository[oid]))  # type: ignore[arg-type]
        if b"\0" in target:
            raise _refused("expected a link target without NUL", where)
        os.symlink(target, name, dir_fd=directory)
        os.utime(name, ns=self._times, dir_fd=directory, follow_symlinks=False)

    def _size(self, oid: pygit2.Oid, kind: str, where: bytes) -> int:
        """The object's size, from its header: a few bytes of pack can inflate to more than there is memory."""
        import pygit2
        from pygit2.enums import ObjectType

        try:
            found, size = self._repository.odb.read_header(oid)
        except (pygit2.GitError, KeyError) as error:
            raise _refused(f"object {oid} is missing or damaged", where) from error
        if found != (ObjectType.TREE if kind == "tree" else ObjectType.BLOB):
            raise _refused(f"expected object {oid} to be a {kind}", where)
        if size > self._limits.file_bytes:
            raise _refused(f"expected at most {self._limits.file_bytes} bytes in one object, found {size}", where)
        if kind == "blob":
            self._bytes += size
            if self._bytes > self._limits.total_bytes:
                raise _refused(f"expected at most {self._limits.total_bytes} bytes in all files, found more", where)
        return int(size)

    def _tick(self) -> None:
        if self._entries % 256 == 0:
            self._on_progress("files", self._bytes, 0)
            if time.monotonic() > self._deadline:
                raise GitError("commit: writing its files took longer than it may", code="git-timeout", retryable=True)

    def _warn(self) -> None:
        for path in self._submodules[:_SHOWN_SUBMODULES]:
            self._on_warning("git-submodule-empty", f"{path}: a submodule; its directory is empty in the context")
        if (more := len(self._submodules) - _SHOWN_SUBMODULES) > 0:
            self._on_warning("git-submodule-empty", f"{more} more submodules are empty in the context")
        if self._pointers:
            text = f"{self._pointers[0]}: a Git LFS pointer, not its file ({len(self._pointers)} such files)"
            self._on_warning("git-lfs-pointer", text)


def check_entry_name(name: bytes, where: bytes) -> None:
    """Refuse the names git itself refuses to check out (git-fsck: hasDot, hasDotdot, hasDotgit, fullPathname)."""
    if name in {b"", b".", b".."} or b"/" in name or name.lower() == b".git":
        raise _refused("expected a file name, found one that git forbids", where)


def _os_failure(error: OSError, where: bytes) -> PushwrightError:
    if error.errno in _FULL:
        return DiskFullError(f"no space left while writing {_shown(where)} of the commit")
    if error.errno in _TREE_FAULTS:
        return _refused(f"this file cannot be made: {error.strerror}", where)
    return HostError(f"{_shown(where)} of the commit cannot be written: {error.strerror}", code="git-checkout-failed")


def _refused(message: str, where: bytes = b"") -> GitError:
    name = f"commit's tree: {_shown(where)}: " if where else "commit's tree: "
    return GitError(
        name + message, code="git-tree-refused", hint="run git fsck on the repository and mend what it reports"
    )


def _shown(path: bytes) -> str:
    return printable(path.decode("utf-8", "backslashreplace"))
