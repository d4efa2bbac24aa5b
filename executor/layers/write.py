"""Writing a layer: from a list of changes to a blob, in one pass over the bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from executor.errors import HostError, StepFailedError
from executor.layers.header import END_OF_ARCHIVE, encode_entry
from executor.layers.tar import BLOCK, DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Entry, shown
from executor.oci import LAYER_OCI_GZIP, Descriptor, Digest
from executor.rootfs import capability
from executor.rootfs.changes import Change
from executor.rootfs.contained import Root, get_capability

_CHUNK = 1 << 20
_WHITEOUT = b".wh."
_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: FIFO,
}
# RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system: the same on every machine
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_RAW_DEFLATE = -15


class BlobSink(Protocol):
    """Where the compressed layer goes; `Store.new_blob()` gives one."""

    def write(self, data: bytes, /) -> int: ...

    def commit(self, expected: Digest | None = None, /) -> tuple[Digest, int]: ...


@dataclass(frozen=True, slots=True)
class LayerResult:
    """A layer written: its diff ID, its descriptor, and the size of the archive."""

    diff_id: Digest
    descriptor: Descriptor
    size_uncompressed: int


def write_layer(
    changes: Iterable[Change],
    root: Root,
    blob: BlobSink,
    *,
    id_shift: int,
    compression_level: int = 2,
    clamp_mtime: int | None = None,
    media_type: str = LAYER_OCI_GZIP,
) -> LayerResult:
    """Write changes, with their content below `root`, as a gzip-compressed layer.

    The changes are in order, parents first. A file's uid U becomes the image's U - `id_shift`. Times above
    `clamp_mtime` (seconds) become that. Equal trees give equal bytes. A file whose size changes meanwhile is an error.
    """
    archive = _Archive(blob, compression_level)
    members = _Members(archive, root, id_shift, clamp_mtime)
    for change in changes:
        try:
            members.add(change)
        except OSError as error:
            raise HostError(
                f"layer: {shown(change.path)}: {error.strerror or error}", code="layer-not-written"
            ) from error
    diff_id, size = archive.finish()
    digest, compressed = blob.commit()
    return LayerResult(diff_id, Descriptor(media_type, digest, compressed), size)


class _Archive:
    """An archive's bytes on their way: hashed, compressed, and put into the blob."""

    def __init__(self, blob: BlobSink, level: int) -> None:
        # slow to import, and not needed where nothing is written
        from isal import isal_zlib

        if not 0 <= level <= 3:
            raise ValueError(f"compression level: expected 0 to 3, found {level}")
        self._blob = blob
        self._hash = hashlib.sha256()
        self._size = 0
        self._checksum = 0
        self._crc32 = isal_zlib.crc32
        self._compressor = isal_zlib.compressobj(level=level, wbits=_RAW_DEFLATE)
        self._pending: list[bytes] = []
        self._pending_size = 0
        blob.write(_GZIP_HEADER)

    def write(self, data: bytes) -> None:
        """Take bytes; compressed in pieces of one size, because where they are cut shows in the result."""
        room = _CHUNK - self._pending_size
        while len(data) >= room:
            self._pending.append(data[:room])
            self._flush()
            data, room = data[room:], _CHUNK
        self._pending.append(data)
        self._pending_size += len(data)

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending, self._pending_size = [], 0
        self._hash.update(data)
        self._size += len(data)
        self._checksum = self._crc32(data, self._checksum)
        if compressed := self._compressor.compress(data):
            self._blob.write(compressed)

    def finish(self) -> tuple[Digest, int]:
        self.write(END_OF_ARCHIVE)
        self._flush()
        tail = self._checksum.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
        self._blob.write(self._compressor.flush() + tail)
        return Digest(f"sha256:{self._hash.hexdigest()}"), self._size


class _Members:
    """Changes turned into members of the archive."""

    def __init__(self, archive: _Archive, root: Root, id_shift: int, clamp_mtime: int | None) -> None:
        self._archive = archive
        self._root = root
        self._shift = id_shift
        self._clamp = clamp_mtime
        self._linked: dict[tuple[int, int], Entry] = {}

    def add(self, change: Change) -> None:
        directory, slash, name = change.path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            raise StepFailedError(
                f"{shown(change.path)}: names that begin with .wh. cannot be in an image",
                code="name-reserved",
                hint="they mean that a file is removed (image-spec, layer); remove or rename it in the step",
            )
        status = change.status
        if status is None:
            gone = Entry(directory + slash + _WHITEOUT + name, REGULAR, 0, 0, 0, 0, self._clamp or 0, b"", None)
            self._archive.write(encode_entry(gone))
            return
        first = self._linked.get((status.st_dev, status.st_ino))
        if first is not None:
            # engines give a linked file what the link's own header says, so it says the same
            again = replace(first, name=change.path, kind=LINK, size=0, link=first.name)
            self._archive.write(encode_entry(again))
            return
        entry = self._entry(change.path, status)
        if entry.kind == REGULAR:
            entry = self._file(change.path, entry, status)
        else:
            self._archive.write(encode_entry(entry))
        if status.st_nlink > 1 and entry.kind != DIRECTORY:
            self._linked[status.st_dev, status.st_ino] = entry

    def _entry(self, path: bytes, status: os.stat_result) -> Entry:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            raise HostError(f"layer: {shown(path)}: neither file, directory, link nor FIFO", code="device-node")
        uid, gid = status.st_uid - self._shift, status.st_gid - self._shift
        if uid < 0 or gid < 0:
            raise HostError(
                f"layer: {shown(path)}: its owner {status.st_uid}:{status.st_gid} is no user of the image",
                code="id-out-of-range",
            )
        mtime = status.st_mtime_ns // 10**9
        return Entry(
            name=path + b"/" if kind == DIRECTORY else path,
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=uid,
            gid=gid,
            size=status.st_size if kind == REGULAR else 0,
            mtime=mtime if self._clamp is None else min(mtime, self._clamp),
            link=self._root.readlink(path) if kind == SYMLINK else b"",
            capability=None,
        )

    def _file(self, path: bytes, entry: Entry, status: os.stat_result) -> Entry:
        """Write a file's header and exactly as many bytes as that says; the entry with its capability."""
        descriptor = self._root.open_file(path)
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            if not os.path.samestat(os.fstat(descriptor), status):
                raise _changing(path)
            value = get_capability(descriptor)
            entry = replace(entry, capability=None if value is None else capability.to_layer(value, self._shift))
            self._archive.write(encode_entry(entry))
            left = entry.size
            while left:
                data = stream.read(min(left, _CHUNK))
                if not data:
                    raise _changing(path)
                self._archive.write(data)
                left -= len(data)
            if stream.read(1):
                raise _changing(path)
        self._archive.write(bytes(-entry.size % BLOCK))
        return entry


def _changing(path: bytes) -> StepFailedError:
    return StepFailedError(
        f"layer: {shown(path)}: changed while it was read", code="source-changed", hint="build again"
    )
