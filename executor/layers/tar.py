"""Reading the tar archives that layers are: ustar, pax and GNU long names (POSIX.1-2017 pax; tar(5) of libarchive).

The reader takes hostile bytes: every number, length and name is checked, and everything wrong is a
`RegistryContentError` of code `layer-invalid`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from executor.errors import RegistryContentError
from executor.layers.limits import LayerLimits
from executor.oci import Digest

BLOCK = 512
REGULAR, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
CAPABILITY_RECORD = b"SCHILY.xattr.security.capability"
_ZERO_BLOCK = bytes(BLOCK)
_CHUNK = 1 << 20
# types without content, whatever their size field says (as Go's archive/tar reads them)
_HEADER_ONLY = frozenset({LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_KNOWN = _HEADER_ONLY | {REGULAR}
# kernels store seconds in 64 bits; what lies beyond this is a lie anyway
_TIME_LIMIT = 1 << 40


def invalid(message: str) -> RegistryContentError:
    return RegistryContentError(f"layer: {message}", code="layer-invalid")


def shown(name: bytes) -> str:
    """A hostile name for an error message."""
    text = name[:120].decode("utf-8", "backslashreplace")
    return repr(text + "…" if len(name) > 120 else text)


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of an archive; names are as written, `mtime` is whole seconds."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    capability: bytes | None


class TarReader:
    """Members of an archive, one after the other; the digest of the whole stream at the end."""

    def __init__(self, stream: BinaryIO, limits: LayerLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._hash = hashlib.sha256()
        self._buffer = b""
        self._position = 0
        self._total = 0
        self._left = 0  # bytes of the present member that were not read
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        count = 0
        while (entry := self._next()) is not None:
            count += 1
            if count > self._limits.entries:
                raise invalid(f"expected at most {self._limits.entries} entries, found more")
            yield entry

    def copy_content(self, descriptor: int) -> None:
        """Write the present member's content to a file."""
        while self._left:
            view = self._take(self._left)
            self._left -= len(view)
            while view:
                view = view[os.write(descriptor, view) :]

    def finish(self) -> Digest:
        """Read the stream to its end; the digest of all its bytes. Those after the end of the archive mean nothing."""
        while self._fill():
            pass
        return Digest(f"sha256:{self._hash.hexdigest()}")

    @property
    def size_bytes(self) -> int:
        """How many bytes of the stream were read."""
        return self._total

    # --- bytes ------------------------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        self._buffer = self._stream.read(_CHUNK)
        self._position = 0
        self._total += len(self._buffer)
        self._hash.update(self._buffer)
        if self._total > self._limits.size_bytes:
            raise RegistryContentError(
                f"layer: expected at most {self._limits.size_bytes} bytes after decompression, found more",
                code="layer-too-large",
            )
        return bool(self._buffer)

    def _take(self, count: int) -> memoryview:
        """Between 1 and `count` bytes."""
        if self._position >= len(self._buffer) and not self._fill():
            raise invalid("the archive is cut off in the middle of an entry")
        view = memoryview(self._buffer)[self._position : self._position + count]
        self._position += len(view)
        return view

    def _exactly(self, count: int) -> bytes:
        end = self._position + count
        if end <= len(self._buffer):
            data = self._buffer[self._position : end]
            self._position = end
            return data
        pieces = []
        while count:
            view = self._take(count)
            pieces.append(bytes(view))
            count -= len(view)
        return b"".join(pieces)

    def _skip(self, count: int) -> None:
        while count:
            count -= len(self._take(count))

    def _block(self) -> bytes | None:
        """The next header block, or None at the end: two zero blocks, or the end of the stream."""
        if self._position >= len(self._buffer) and not self._fill():
            return None
        block = self._exactly(BLOCK)
        if block != _ZERO_BLOCK:
            return block
        if self._position >= len(self._buffer) and not self._fill():
            return None
        if self._exactly(BLOCK) != _ZERO_BLOCK:
            raise invalid("a zero block in the middle of the archive")
        return None

    # --- headers ----------------------------------------------------------------------------------------------------

    def _next(self) -> Entry | None:
        records: dict[bytes, bytes] = {}
        long_name = long_link = None
        while True:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
            block = self._block()
            if block is None:
                if records or long_name is not None or long_link is not None:
                    raise invalid("the archive ends after an extended header")
                return None
            _check_sum(block)
            kind = block[156:157]
            if kind in {b"x", b"g"}:
                found = _pax_records(self._extended(block))
                # global records are ignored, as container engines do; git archive writes one with a comment
                records = found if kind == b"x" else records
            elif kind == b"L":
                long_name = self._extended(block).rstrip(b"\0")
            elif kind == b"K":
                long_link = self._extended(block).rstrip(b"\0")
            else:
                entry = self._entry(block, records, long_name, long_link)
                self._left, self._padding = entry.size, -entry.size % BLOCK
                return entry

    def _extended(self, block: bytes) -> bytes:
        size = _number(block[124:136], "size")
        if size > self._limits.header_bytes:
            raise invalid(f"expected an extended header of at most {self._limits.header_bytes} bytes, found {size}")
        data = self._exactly(size)
        self._skip(-size % BLOCK)
        return data

    def _entry(
        self, block: bytes, records: dict[bytes, bytes], long_name: bytes | None, long_link: bytes | None
    ) -> Entry:
        name = records.get(b"path") or long_name or _short_name(block)
        kind = block[156:157]
        if kind in {b"\0", b"7"}:
            kind = DIRECTORY if name.endswith(b"/") else REGULAR
        if kind not in _KNOWN or any(key.startswith(b"GNU.sparse.") for key in records):
            what = "sparse file" if kind in _KNOWN | {b"S"} else f"entry of type {kind!r}"
            raise RegistryContentError(f"layer: {shown(name)}: {what} is not supported", code="layer-unsupported")
        size = _decimal(records, b"size", block[124:136])
        return Entry(
            name=name,
            kind=kind,
            mode=_number(block[100:108], "mode") & 0o7777,
            uid=_decimal(records, b"uid", block[108:116]),
            gid=_decimal(records, b"gid", block[116:124]),
            size=0 if kind in _HEADER_ONLY else size,
            mtime=_mtime(records, block),
            link=records.get(b"linkpath") or long_link or _text(block[157:257]),
            capability=records.get(CAPABILITY_RECORD) or None,
        )


def _check_sum(block: bytes) -> None:
    stated = _number(block[148:156], "checksum")
    # the field itself counts as eight blanks
    total = sum(block) - sum(block[148:156]) + 256
    if stated != total:
        signed = total - 256 * sum(1 for byte in block[:148] + block[156:] if byte > 127)
        if stated != signed:
            raise invalid(f"a header's checksum is {stated}, expected {total}")


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _short_name(block: bytes) -> bytes:
    name = _text(block[:100])
    # GNU's own format keeps times where ustar has a prefix, and has another magic
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        return prefix + b"/" + name
    return name


def _number(field: bytes, what: str, *, negative: bool = False) -> int:
    """Octal digits, or GNU's base-256 with the top bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
    else:
        text = _text(field).strip(b" ")
        if not text:
            return 0
        if text.strip(b"01234567"):
            raise invalid(f"a header's {what}: expected octal digits, found {text!r}")
        value = int(text, 8)
    if value < 0 and not negative:
        raise invalid(f"a header's {what}: expected no negative number, found {value}")
    if value >= 1 << 62:
        raise invalid(f"a header's {what}: {value} is too large")
    return value


def _decimal(records: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    text = records.get(key)
    if not text:
        return _number(field, key.decode())
    if not text.isdigit() or len(text) > 18:
        raise invalid(f"a header's {key.decode()}: expected a number, found {text[:40]!r}")
    return int(text)


def _mtime(records: dict[bytes, bytes], block: bytes) -> int:
    text = records.get(b"mtime")
    if text:
        whole, _, fraction = text.partition(b".")
        digits = whole.removeprefix(b"-")
        if not digits.isdigit() or len(digits) > 18 or (fraction and not fraction.isdigit()):
            raise invalid(f"a header's mtime: expected seconds, found {text[:40]!r}")
        value = int(whole)
        # whole seconds below the time, also before the epoch
        if whole.startswith(b"-") and fraction.strip(b"0"):
            value -= 1
    else:
        value = _number(block[136:148], "mtime", negative=True)
    return max(-_TIME_LIMIT, min(value, _TIME_LIMIT))


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """`LENGTH KEY=VALUE\\n`, the length in decimal and of the whole record (pax, "pax Extended Header")."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        blank = data.find(b" ", position, position + 20)
        digits = data[position:blank] if blank > 0 else b""
        if not digits.isdigit():
            raise invalid("an extended header's record has no length")
        end = position + int(digits)
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= blank + 1 or data[end - 1 : end] != b"\n" or not equals or not key:
            raise invalid("an extended header's record is damaged")
        if key in {b"path", b"linkpath"} and b"\0" in value:
            raise invalid(f"a name with a zero byte: {shown(value)}")
        records[key] = value
        position = end
    return records
