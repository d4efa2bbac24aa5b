"""A build context on disk: its root inside a tree of hostile files, and the few files read from it by name.

The tree comes from a repository: any name in it may be a link, a FIFO or a device. Names are resolved one component at
a time through descriptors, so that neither `..` nor a link leads out of the tree, whatever changes meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from executor.errors import ContextError

# the kernel's own bound on links in one path (path_resolution(7), MAXSYMLINKS)
MAX_LINKS = 40
MAX_PATH_BYTES = 4096
DOCKERFILE_LIMIT_BYTES = 1024 * 1024
IGNORE_LIMIT_BYTES = 1024 * 1024

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# without O_NONBLOCK opening a FIFO waits for a writer for ever
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class ContextFile:
    """A file read from the tree: the path it was asked for by, as people know it, and its bytes."""

    path: str
    data: bytes


class DirectorySource:
    """A tree of files, `base`, and the context in it, at `sub_path`.

    COPY sees the context. The Dockerfile and ignore files are named relative to the context but may lie anywhere in
    the tree (`../docker/Dockerfile`), as with Kaniko's `--context-sub-path`.
    """

    def __init__(self, base: Path, sub_path: str = "") -> None:
        self._base = base
        self._sub_path = sub_path
        with self._opened(self._parts(""), "build context", _DIRECTORY) as (_, parts):
            self._root_parts = parts

    @property
    def base(self) -> Path:
        """The whole tree: a checkout, or the directory that was named."""
        return self._base

    @property
    def root(self) -> Path:
        """The context's directory, links resolved."""
        return self._base.joinpath(*(os.fsdecode(part) for part in self._root_parts))

    @contextlib.contextmanager
    def open_root(self) -> Iterator[int]:
        """A descriptor of the context's directory."""
        with self._opened(self._root_parts, "build context", _DIRECTORY) as (descriptor, _):
            yield descriptor

    def read_dockerfile(self, name: str) -> ContextFile:
        """The Dockerfile `name`, relative to the context."""
        found = self._read(name, DOCKERFILE_LIMIT_BYTES, "Dockerfile")
        if found is None:
            raise ContextError(
                f"Dockerfile: expected a file {name!r} in the {self._described()}, found none",
                code="dockerfile-not-found",
                hint="name it relative to the build context",
            )
        return found

    def read_ignore(self, dockerfile: str) -> ContextFile | None:
        """The ignore file: `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` in the context."""
        for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
            if (found := self._read(name, IGNORE_LIMIT_BYTES, "ignore file")) is not None:
                return found
        return None

    def _read(self, name: str, limit: int, what: str) -> ContextFile | None:
        """The file's bytes; None when there is none."""
        if not name:
            raise ContextError(f"{what}: expected a name, found nothing")
        try:
            with self._opened(self._parts(name), what, _FILE) as (descriptor, _):
                data = _read_regular(descriptor, limit, f"{what} {name!r}")
        except FileNotFoundError:
            return None
        return ContextFile(name, data)

    def _parts(self, name: str) -> tuple[bytes, ...]:
        """Where `name` starts from the tree's root: an absolute name means the context's root, as links do."""
        path = os.fsencode(f"{self._sub_path}/{name}")
        if b"\0" in path or len(path) > MAX_PATH_BYTES:
            raise ContextError(f"path {name[:80]!r}: expected at most {MAX_PATH_BYTES} bytes and no NUL")
        return tuple(path.split(b"/"))

    @contextlib.contextmanager
    def _opened(self, parts: tuple[bytes, ...], what: str, flags: int) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        with contextlib.ExitStack() as stack:
            try:
                walk = _Walk(self._base, what)
                stack.callback(walk.close)
                descriptor = walk.open(parts, flags)
            except FileNotFoundError:
                if flags == _DIRECTORY:
                    raise self._unusable(what, "found none") from None
                raise
            except OSError as error:
                raise self._unusable(what, f"found: {error.strerror}") from error
            yield descriptor, walk.parts

    def _unusable(self, what: str, found: str) -> ContextError:
        wanted = f"a directory {self._sub_path!r}" if what == "build context" else "a readable file"
        return ContextError(f"{what}: expected {wanted} in the {self._described()}, {found}")

    def _described(self) -> str:
        return f"build context {self._sub_path!r}" if self._sub_path else "build context"


class _Walk:
    """Resolves a path below `base`; holds a descriptor for each directory entered, so that `..` is never asked for."""

    def __init__(self, base: Path, what: str) -> None:
        self._what = what
        self._names: list[bytes] = []
        self._open = [os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        self._last: int | None = None

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The names of the directories that lead to what was opened, without links."""
        return tuple(self._names)

    def open(self, parts: tuple[bytes, ...], flags: int) -> int:
        """A descriptor of what the path names; it lives until `close`."""
        waiting = deque(part for part in parts if part not in {b"", b"."})
        links = 0
        while waiting:
            name = waiting.popleft()
            if name == b"..":
                self._leave()
                continue
            mode = os.stat(name, dir_fd=self._open[-1], follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAX_LINKS:
                    raise ContextError(f"{self._what}: expected at most {MAX_LINKS} links on the way, found more")
                waiting.extendleft(reversed(self._target(name)))
            elif waiting or flags == _DIRECTORY:
                self._open.append(os.open(name, _DIRECTORY, dir_fd=self._open[-1]))
                self._names.append(name)
            elif not stat.S_ISREG(mode):
                raise ContextError(f"{self._what}: expected a regular file, found {_kind(mode)}")
            else:
                self._last = os.open(name, flags, dir_fd=self._open[-1])
                return self._last
        if flags != _DIRECTORY:
            raise ContextError(f"{self._what}: expected a regular file, found a directory")
        return self._open[-1]

    def close(self) -> None:
        for descriptor in [*self._open, *([] if self._last is None else [self._last])]:
            os.close(descriptor)

    def _leave(self) -> None:
        if len(self._open) == 1:
            raise ContextError(
                f"{self._what}: expected a path inside the build context, found one that leads out of it",
                code="context-escape",
            )
        os.close(self._open.pop())
        self._names.pop()

    def _target(self, name: bytes) -> list[bytes]:
        target = os.readlink(name, dir_fd=self._open[-1])
        if target.startswith(b"/"):
            raise ContextError(
                f"{self._what}: expected a path inside the build context, found a link to an absolute path",
                code="context-escape",
            )
        return [part for part in target.split(b"/") if part not in {b"", b"."}]


def _read_regular(descriptor: int, limit: int, what: str) -> bytes:
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode):
        raise ContextError(f"{what}: expected a regular file, found {_kind(info.st_mode)}")
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ContextError(f"{what}: expected at most {limit} bytes, found {max(info.st_size, len(data))}")
    return data


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
        stat.S_IFLNK: "a link",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
