"""The content store: blobs, unpacked layers, references, and the working directories of builds.

What is in place is complete: everything is written beside its place, flushed, and renamed. Whoever dies leaves files
that hold no lock any more, which `remove_abandoned` finds by trying to take it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from executor.errors import RegistryContentError, StoreError, UsageError
from executor.oci import Descriptor, Digest
from executor.store_files import (
    NEW_PREFIX,
    flush_directory,
    is_abandoned,
    names,
    new_name,
    remove,
    storing,
    take_lock_file,
    try_lock,
    write_whole,
)
from executor.store_references import References
from executor.store_unpacked import NewUnpacked, find_unpacked

FORMAT = 1
_BUILD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIRECTORIES = {
    "blobs": 0o755,
    "blobs/incoming": 0o755,
    "blobs/sha256": 0o755,
    # trees from images have set-user-id files; nobody else on this machine shall reach those
    "unpacked": 0o700,
    "work": 0o700,
    "cache": 0o700,
    "leases": 0o755,
    "refs": 0o755,
    # copies of contexts are written with the rights of whoever builds: no builder may reach in meanwhile
    "staging": 0o700,
}
# what builders write; the rest, and the directories that hold these, stay the launcher's, so that a builder cannot put
# a link in the place of anything that the launcher goes through
_OF_BUILDERS = frozenset({"blobs/incoming", "blobs/sha256", "unpacked", "work", "cache"})


class BlobWriter:
    """A blob on its way in: hashed while written, in place only after `commit`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hash = hashlib.sha256()
        self._size = 0
        self._path = store.root / "blobs" / "incoming" / new_name()
        self._descriptor = -1

    def __enter__(self) -> Self:
        with storing("new blob"):
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    @property
    def size(self) -> int:
        return self._size

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self._hash.update(data)
        view = memoryview(data).cast("B")
        with storing("blob"):
            written = 0
            while written < len(view):
                written += os.write(self._descriptor, view[written:])
        self._size += len(view)
        return len(view)

    def commit(self, expected: Digest | None = None) -> tuple[Digest, int]:
        """Put the blob in place; `RegistryContentError` when it is not the one expected."""
        digest = Digest(f"sha256:{self._hash.hexdigest()}")
        if expected is not None and digest != expected:
            raise RegistryContentError(
                f"blob: expected {expected}, found {digest} ({self._size} bytes)", code="digest-mismatch"
            )
        with storing(f"blob {digest}"):
            if not self._store.has_blob(digest):
                os.fchmod(self._descriptor, 0o644)  # readable by all, whatever the umask
                os.fsync(self._descriptor)
                os.rename(self._path, self._store.blob_path(digest))
                flush_directory(self._store.blob_path(digest).parent)
        return digest, self._size


class Store:
    """One content store in a directory; safe to use from several threads and processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._references = References(root / "refs", self)

    # --- the layout -------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, root: Path) -> Store:
        """The store at `root`; `StoreError` when there is none, or one of a version this program does not know."""
        store = cls(root)
        store._ids()
        return store

    @classmethod
    def create(cls, root: Path, *, owner: int | None = None, ids: tuple[int, int] | None = None) -> Store:
        """The store at `root`, made when there is none; two processes may do so at once.

        `owner` (as the caller's user namespace numbers it) gets the directories that builders write. `ids` are the
        first and the number of the subordinate ids that unpacked files belong to; a store of others is refused.
        """
        store = cls(root)
        with storing(f"store {root}"):
            root.mkdir(mode=0o755, parents=True, exist_ok=True)
            _open_up(root, 0o755)
            for name, mode in _DIRECTORIES.items():
                _make_directory(root / name, mode, owner if name in _OF_BUILDERS else None)
            if not (root / "version").exists():
                line = f"{FORMAT} {ids[0]} {ids[1]}\n" if ids else f"{FORMAT} own\n"
                write_whole(root / "version", line.encode(), replace=False)
        found = store._ids()
        if ids is not None and found != ids:
            raise StoreError(
                f"store {root}: its files belong to {_ids_text(found)}, this build has {_ids_text(ids)}",
                code="store-other-ids",
                hint="use another data directory, or give back the former range in /etc/subuid",
            )
        return store

    def _ids(self) -> tuple[int, int] | None:
        """The subordinate ids the store is for; None: the ids of whoever uses it."""
        try:
            words = (self.root / "version").read_text("ascii")[:200].split()
        except FileNotFoundError as error:
            raise StoreError(f"store {self.root}: not found", code="store-missing") from error
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"store {self.root}: version cannot be read: {error}", code="store-damaged") from error
        if words and words[0].isdecimal() and int(words[0]) > FORMAT:
            raise StoreError(
                f"store {self.root}: expected format {FORMAT}, found {words[0]}",
                code="store-newer",
                hint="a newer version of this program made it; use that one, or another data directory",
            )
        if words == [str(FORMAT), "own"]:
            return None
        if len(words) == 3 and words[0] == str(FORMAT) and words[1].isdecimal() and words[2].isdecimal():
            return int(words[1]), int(words[2])
        raise StoreError(f"store {self.root}: version is damaged: {' '.join(words)[:80]!r}", code="store-damaged")

    # --- blobs ------------------------------------------------------------------------------------------------------

    def blob_path(self, digest: Digest) -> Path:
        return self.root / "blobs" / "sha256" / Digest.parse(digest).hex

    def has_blob(self, digest: Digest) -> bool:
        try:
            return stat.S_ISREG(self.blob_path(digest).lstat().st_mode)
        except FileNotFoundError:
            return False

    def open_blob(self, digest: Digest) -> BinaryIO:
        """The blob for reading; `StoreError` of code `blob-missing` when it is not there.

        The builder writes this directory and others read it, so only regular files are opened, never what a link
        points to.
        """
        path = self.blob_path(digest)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
                raise StoreError(f"blob {digest}: not in the store", code="blob-missing") from error
            raise StoreError(f"blob {digest}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StoreError(f"blob {digest}: not in the store", code="blob-missing")
        return os.fdopen(descriptor, "rb")

    def blob_size(self, digest: Digest) -> int:
        with self.open_blob(digest) as stream:
            return os.fstat(stream.fileno()).st_size

    def new_blob(self) -> BlobWriter:
        """A context manager to write a blob through; without `commit` nothing remains of it."""
        return BlobWriter(self)

    def put_blob(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        if not self.has_blob(digest):
            with self.new_blob() as writer:
                writer.write(data)
                writer.commit(digest)
        return digest

    def read_blob(self, digest: Digest, limit: int) -> bytes:
        """The whole blob, of at most `limit` bytes, checked against its digest."""
        with self.open_blob(digest) as stream, storing(f"blob {digest}"):
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise RegistryContentError(f"blob {digest}: expected at most {limit} bytes", code="blob-too-large")
        if Digest.of(data) != digest:
            raise StoreError(f"blob {digest}: its bytes have changed", code="blob-damaged", hint="remove the file")
        return data

    # --- references -------------------------------------------------------------------------------------------------

    def put_reference(self, repository: str, tag: str, descriptor: Descriptor) -> None:
        """Let `repository:tag` name a manifest of the store, and the repository have what the manifest names."""
        self._references.put(repository, tag, descriptor)

    def reference(self, repository: str, tag: str) -> Descriptor | None:
        return self._references.get(repository, tag)

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository, sorted; none of one that is not known."""
        return self._references.tags(repository)

    def repositories(self) -> list[str]:
        return self._references.repositories()

    def has_repository(self, repository: str) -> bool:
        return self._references.has_repository(repository)

    def links(self, repository: str, digest: Digest) -> bool:
        """Whether a blob or manifest was published in this repository: that, not having the bytes, gives the right."""
        return self._references.links(repository, digest)

    # --- unpacked layers --------------------------------------------------------------------------------------------

    @property
    def unpacked_root(self) -> Path:
        """Where the unpacked layers of this store's ids are; its children have names of at most 16 characters."""
        ids = self._ids()
        return self.root / "unpacked" / (f"{FORMAT}-{ids[0]}-{ids[1]}" if ids else f"{FORMAT}-own")

    def unpacked_path(self, key: str) -> Path | None:
        """The root directory of a complete unpacked layer, or None."""
        return find_unpacked(self.unpacked_root, key)

    def new_unpacked(self, key: str) -> NewUnpacked:
        """A context manager whose `path` is an empty directory to unpack into."""
        return NewUnpacked(self.unpacked_root, key)

    # --- builds -----------------------------------------------------------------------------------------------------

    def work_dir(self, build_id: str) -> Path:
        """A build's own directory, made when absent."""
        path = self.root / "work" / _checked_build(build_id)
        with storing(f"build {build_id}"):
            path.mkdir(mode=0o700, exist_ok=True)
        return path

    def staging_dir(self, build_id: str) -> Path:
        """A fresh directory that no builder can reach, for what a build is to be given."""
        path = self.root / "staging" / _checked_build(build_id)
        with storing(f"build {build_id}"):
            path.mkdir(mode=0o755)
        return path

    def remove_work_dir(self, build_id: str) -> None:
        """Remove what a build has below `staging` and `work`."""
        with storing(f"build {build_id}"):
            for home in ("staging", "work"):
                remove(self.root / home / _checked_build(build_id))

    @contextlib.contextmanager
    def lease(self, build_id: str) -> Iterator[None]:
        """Hold a build's lease: a lock that ends with the process. `StoreError` `lease-held` when another has it."""
        path = self.root / "leases" / _checked_build(build_id)
        with storing(f"lease {build_id}"):
            descriptor = take_lock_file(path)
        if descriptor is None:
            raise _LeaseHeldError(f"lease {build_id}: another process is at this build")
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            os.close(descriptor)

    def is_leased(self, build_id: str) -> bool:
        try:
            descriptor = os.open(self.root / "leases" / _checked_build(build_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(descriptor)
        finally:
            os.close(descriptor)

    def remove_abandoned(self) -> list[str]:
        """Remove what processes that died have left: their builds' directories, and blobs and layers half written.

        Files that belong to subordinate ids stay when this process may not touch them; the next build removes them.
        What cannot be removed, whatever a builder made of it, does not keep other builds from running. Gives the ids
        of the builds removed.
        """
        removed = set()
        for home in (self.root / "blobs" / "incoming", self.unpacked_root):
            for name in _names_readable(home):
                with contextlib.suppress(OSError):
                    if name.startswith(NEW_PREFIX) and is_abandoned(home / name):
                        remove(home / name)
        for home in (self.root / "staging", self.root / "work"):
            for build_id in filter(_BUILD_ID.fullmatch, _names_readable(home)):
                with contextlib.suppress(StoreError), self.lease(build_id):
                    self.remove_work_dir(build_id)
                    removed.add(build_id)
        return sorted(removed)


class _LeaseHeldError(StoreError):
    code = "lease-held"


def _names_readable(directory: Path) -> list[str]:
    try:
        return names(directory)
    except OSError:
        return []


def _checked_build(build_id: str) -> str:
    if not _BUILD_ID.fullmatch(build_id):
        raise UsageError(f"build: expected at most 64 letters, digits, dots and dashes, found {build_id[:80]!r}")
    return build_id


def _ids_text(ids: tuple[int, int] | None) -> str:
    return f"the ids from {ids[0]}, {ids[1]} of them" if ids else "the ids of its user"


def _make_directory(path: Path, mode: int, owner: int | None) -> None:
    """A directory that has these bits of `mode` at least, whatever the umask; a link in its place is an error."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    # O_PATH: its owner may not let us read it, and everything below means this very directory
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _open_up(Path(f"/proc/self/fd/{descriptor}"), mode)
        status = os.fstat(descriptor)
        if owner is not None and (status.st_uid, status.st_gid) != (owner, owner):
            os.chown(f"/proc/self/fd/{descriptor}", owner, owner)
    finally:
        os.close(descriptor)


def _open_up(directory: Path, mode: int) -> None:
    found = stat.S_IMODE(directory.stat().st_mode)
    if mode & ~found:
        directory.chmod(found | mode)
