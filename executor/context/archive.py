"""Archives that ADD unpacks: told by their content, and unpacked into a tree that has content already.

What is done with an entry is what BuildKit does (`solver/llbsolver/file/unpack_root.go`), save that device nodes and
names that cannot be in a layer are errors here, where BuildKit leaves out the one and misreads the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from executor.context.landing import Landing, escape
from executor.errors import HostError, PushwrightError, RegistryContentError, StepFailedError
from executor.layers.compression import (
    HEAD_BYTES,
    Compression,
    DamagedStreamError,
    DemandingStreamError,
    decompressed,
    detect,
    open_decompressed,
)
from executor.layers.limits import LayerLimits
from executor.layers.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    LINK,
    REGULAR,
    SYMLINK,
    Entry,
    TarReader,
    shown,
)
from executor.os_errors import step_error
from executor.rootfs import capability
from executor.rootfs.contained import CAPABILITY, Root, chmod_at

_WHITEOUT = b".wh."
# an archive's first entry lies within this, or it is no archive that anybody made
_SNIFF_LIMITS = LayerLimits(size_bytes=16 << 20)
# the kernel's ids have 32 bits, the last of which means "leave it"
_MAX_ID = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds: how it is compressed, and whether an archive is in it."""

    compression: Compression
    is_archive: bool


@dataclass(frozen=True, slots=True)
class UnpackOptions:
    """How entries are unpacked.

    `id_shift` is added to the archive's ids; `owner`, a uid and gid as this process numbers them, takes the place of
    them all. `chmod` gives the new mode from the entry's and whether it is a directory's. Without `limits` they
    follow from the size of the stream.
    """

    id_shift: int = 0
    owner: tuple[int, int] | None = None
    chmod: Callable[[int, bool], int] | None = None
    limits: LayerLimits | None = None


@dataclass(frozen=True, slots=True)
class Unpacked:
    """How many entries an archive had, and how many bytes it was without its compression."""

    entries: int
    size_bytes: int


def sniff(stream: BinaryIO) -> Content:
    """What a seekable stream holds from where it is; it stays there.

    An archive is what has a first entry; so an empty one is none, and neither is a compressed file without one
    (BuildKit's `isArchivePath`). Content that cannot be looked into for its demand of memory is a `StepFailedError`.
    """
    start = stream.tell()
    try:
        compression = detect(stream.read(HEAD_BYTES))
        stream.seek(start)
        reader = TarReader(cast(BinaryIO, decompressed(stream, compression)), _SNIFF_LIMITS)
        try:
            is_archive = next(iter(reader), None) is not None
        except DamagedStreamError:
            is_archive = False
        except DemandingStreamError as error:
            raise _too_demanding(error) from error
        except RegistryContentError as error:
            # an entry that cannot be unpacked makes an archive nevertheless
            is_archive = error.code == "layer-unsupported"
        return Content(compression, is_archive)
    finally:
        stream.seek(start)


def unpack(stream: BinaryIO, target: Root, directory: bytes, options: UnpackOptions | None = None) -> Unpacked:
    """Unpack an archive, compressed or not, into an existing directory of `target`.

    The directory itself stays as it is. Nothing outside it is reached, see `Landing`. A directory of the archive joins
    one that exists and gives it its owner, mode and time; any other entry takes the place of what has its name. Of
    extended attributes only `security.capability` is kept. After an error the entries before it are there.
    """
    options = options or UnpackOptions()
    limits = options.limits or _limits_for(stream)
    implied_owner = (options.id_shift, options.id_shift)
    with (
        _faults_of_archives(),
        Root(target.open_directory(target.resolve(directory))) as root,
        Landing(root, implied_owner) as landing,
    ):
        reader = TarReader(cast(BinaryIO, open_decompressed(stream)), limits)
        unpacking = _Unpacking(reader, landing, options, limits)
        count = 0
        for entry in reader:
            unpacking.entry(entry)
            count += 1
        landing.set_times()
        # to its end, where a compressed stream has its checksum
        reader.finish()
    return Unpacked(count, reader.size_bytes)


def _limits_for(stream: BinaryIO) -> LayerLimits:
    if not stream.seekable():
        return LayerLimits()
    start = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(start)
    return LayerLimits.for_blob(end - start)


class _Unpacking:
    """One archive on its way into its directory."""

    def __init__(self, reader: TarReader, landing: Landing, options: UnpackOptions, limits: LayerLimits) -> None:
        self._reader = reader
        self._landing = landing
        self._options = options
        self._limits = limits

    def entry(self, entry: Entry) -> None:
        parts = self._parts(entry.name, "name")
        if not parts:
            if entry.kind != DIRECTORY:
                raise _invalid(f"{shown(entry.name)}: the directory itself cannot be anything else")
            return
        if any(part.startswith(_WHITEOUT) for part in parts):
            raise StepFailedError(
                f"archive: {shown(entry.name)}: names that begin with .wh. cannot be in an image",
                code="name-reserved",
                hint="they mean that a file is removed (image-spec, layer); leave them out of the archive",
            )
        if entry.kind in {CHARACTER, BLOCK_DEVICE}:
            raise StepFailedError(
                f"archive: {shown(entry.name)}: a device node cannot be unpacked",
                code="device-node",
                hint="a build inside a user namespace cannot make device nodes; leave it out of the archive",
            )
        if self._options.owner is None and max(entry.uid, entry.gid) + self._options.id_shift > _MAX_ID:
            raise _unmapped(entry)
        try:
            self._make(parts, entry)
        except OSError as error:
            raise _refused(error, entry) from error

    def _parts(self, path: bytes, what: str) -> list[bytes]:
        """The names of a path as if the directory were the root; what climbs out of it is an error."""
        if b"\0" in path or len(path) > self._limits.path_bytes:
            raise _invalid(f"expected a {what} of at most {self._limits.path_bytes} bytes, found {shown(path)}")
        cleaned = posixpath.normpath(path.lstrip(b"/"))
        parts = [] if cleaned == b"." else cleaned.split(b"/")
        if parts and parts[0] == b"..":
            raise escape(path, "it begins with ..")
        if len(parts) > self._limits.depth:
            raise _invalid(
                f"{shown(path)}: expected a {what} of at most {self._limits.depth} parts, found {len(parts)}"
            )
        return parts

    def _make(self, parts: list[bytes], entry: Entry) -> None:
        if entry.kind == LINK:
            self._link(parts, entry)
            return
        directory, name = self._landing.parent(parts[:-1]), parts[-1]
        existing = _lstat_at(directory, name)
        if entry.kind == DIRECTORY:
            if existing is None or not stat.S_ISDIR(existing.st_mode):
                self._clear(directory, name, existing)
                os.mkdir(name, 0o700, dir_fd=directory)
            self._dress(directory, name, entry)
            self._landing.remember_time(name, entry.mtime)
            return
        self._clear(directory, name, existing)
        if entry.kind == REGULAR:
            self._file(directory, name, entry)
            return
        if entry.kind == SYMLINK:
            if not entry.link or b"\0" in entry.link:
                raise _invalid(f"{shown(entry.name)}: a symbolic link to nothing")
            os.symlink(entry.link, name, dir_fd=directory)
        else:
            os.mkfifo(name, 0o600, dir_fd=directory)
        self._dress(directory, name, entry)
        _set_time(directory, name, entry)

    def _clear(self, directory: int, name: bytes, existing: os.stat_result | None) -> None:
        if existing is not None:
            self._landing.remove(directory, name)

    def _file(self, directory: int, name: bytes, entry: Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            self._reader.copy_content(descriptor)
            os.fchown(descriptor, *self._owner(entry))
            self._set_capability(descriptor, entry)
            os.fchmod(descriptor, self._mode(entry))
            os.utime(descriptor, ns=_times(entry))
        finally:
            os.close(descriptor)

    def _link(self, parts: list[bytes], entry: Entry) -> None:
        """A hard link, also to what was there before the archive; it gets the entry's owner, mode and time."""
        target = self._parts(entry.link, "link target")
        if not target:
            raise _invalid(f"{shown(entry.name)}: a hard link to the directory that it is unpacked into")
        base = self._landing.resolve(target[:-1])
        source = base + b"/" + target[-1] if base else target[-1]
        root = self._landing.root
        status = root.lstat(source)
        if status is None or stat.S_ISDIR(status.st_mode):
            what = "does not exist" if status is None else "is a directory"
            raise _invalid(f"{shown(entry.name)}: a hard link to {shown(entry.link)}, which {what}")
        directory, name = self._landing.parent(parts[:-1]), parts[-1]
        existing = _lstat_at(directory, name)
        if existing is None or not os.path.samestat(existing, status):
            self._clear(directory, name, existing)
            # removing a tree may have taken the target with it
            if root.lstat(source) is None:
                raise _invalid(f"{shown(entry.name)}: a hard link to what it replaces")
            with root.parent(source) as (other, old):
                os.link(old, name, src_dir_fd=other, dst_dir_fd=directory, follow_symlinks=False)
        self._relabel(directory, name, status, entry)

    def _relabel(self, directory: int, name: bytes, status: os.stat_result, entry: Entry) -> None:
        owner, mode = self._owner(entry), self._mode(entry)
        changes_owner = (status.st_uid, status.st_gid) != owner
        # not when it is the same: changing the owner drops the file capability that an earlier entry gave
        if changes_owner:
            os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            if entry.capability is not None and stat.S_ISREG(status.st_mode):
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                try:
                    self._set_capability(descriptor, entry)
                finally:
                    os.close(descriptor)
            if changes_owner or stat.S_IMODE(status.st_mode) != mode:
                chmod_at(directory, name, mode)
        _set_time(directory, name, entry)

    def _dress(self, directory: int, name: bytes, entry: Entry) -> None:
        os.chown(name, *self._owner(entry), dir_fd=directory, follow_symlinks=False)
        if entry.kind != SYMLINK:
            chmod_at(directory, name, self._mode(entry))

    def _owner(self, entry: Entry) -> tuple[int, int]:
        shift = self._options.id_shift
        return self._options.owner or (entry.uid + shift, entry.gid + shift)

    def _mode(self, entry: Entry) -> int:
        return self._options.chmod(entry.mode, entry.kind == DIRECTORY) if self._options.chmod else entry.mode

    def _set_capability(self, descriptor: int, entry: Entry) -> None:
        if entry.capability is None:
            return
        value = capability.to_disk(entry.capability, self._options.id_shift)
        if value is None:
            raise _invalid(f"{shown(entry.name)}: a damaged file capability")
        os.setxattr(descriptor, CAPABILITY, value)


def _times(entry: Entry) -> tuple[int, int]:
    return entry.mtime * 10**9, entry.mtime * 10**9


def _set_time(directory: int, name: bytes, entry: Entry) -> None:
    os.utime(name, ns=_times(entry), dir_fd=directory, follow_symlinks=False)


def _lstat_at(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


# --- errors -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _faults_of_archives() -> Iterator[None]:
    """The reader speaks of layers, which come from registries; an archive of ADD is its author's to mend."""
    try:
        yield
    except DamagedStreamError as error:
        raise _invalid(str(error)) from error
    except DemandingStreamError as error:
        raise _too_demanding(error) from error
    except RegistryContentError as error:
        message = f"archive: {error.message.removeprefix('layer: ')}"
        if error.code == "layer-too-large":
            raise StepFailedError(
                message, code="archive-too-large", hint="unpack it with a RUN step if it is what it should be"
            ) from error
        if error.code == "layer-unsupported":
            raise StepFailedError(message, code="archive-unsupported", hint="unpack it with a RUN step") from error
        raise StepFailedError(message, code="archive-invalid") from error
    except OSError as error:
        raise step_error(error) from error


def _invalid(message: str) -> StepFailedError:
    return StepFailedError(f"archive: {message}", code="archive-invalid")


def _too_demanding(error: DemandingStreamError) -> StepFailedError:
    return StepFailedError(
        f"archive: {error}",
        code="archive-unsupported",
        hint="compress it with a smaller window, or copy it as it is: COPY, or ADD --unpack=false",
    )


def _refused(error: OSError, entry: Entry) -> PushwrightError:
    if error.errno in {errno.EINVAL, errno.EOVERFLOW}:
        return _unmapped(entry)
    return step_error(OSError(error.errno, error.strerror, os.fsdecode(entry.name)))


def _unmapped(entry: Entry) -> HostError:
    return HostError(
        f"archive: {shown(entry.name)}: owner {entry.uid}:{entry.gid} is not among the ids of this build",
        code="id-out-of-range",
        hint="a build has 65536 ids at most; --chown gives every entry another owner",
    )
