"""Compressed streams: which compression one has, and its bytes without it, in bounded memory.

A stream may be several compressed ones after each other, as `cat a.gz b.gz` gives (RFC 1952, section 2.2; RFC 8878,
section 3; xz file format, section 2). What follows the last of them and begins like none is ignored, as gzip(1) does.
How many bytes may come out is for the reader to bound.
"""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast

Compression = Literal["none", "gzip", "bzip2", "xz", "zstd"]

# enough to tell every compression from the others
HEAD_BYTES = 6
# xz -9 takes 65 MiB to read; zstd's own program reads windows of up to 128 MiB unless told otherwise
MEMORY_LIMIT_BYTES = 128 << 20
_ZSTD_WINDOW_LOG = 27
_INPUT_BYTES = 128 * 1024
_OUTPUT_BYTES = 1 << 20


class DamagedStreamError(Exception):
    """The stream is not what its first bytes promise, or is cut off."""


class DemandingStreamError(Exception):
    """The stream was made to need more memory for reading than `MEMORY_LIMIT_BYTES`."""


class Readable(Protocol):
    """What gives its bytes piece by piece, and none at its end."""

    def read(self, size: int, /) -> bytes: ...


class _Decoder(Protocol):
    """One compressed stream being read, as the decompressors of the standard library are."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Format:
    """How a compression is read, what its decoder raises, and which words say that memory was not enough."""

    begin: Callable[[], _Decoder]
    failures: tuple[type[Exception], ...]
    memory_words: str = "no such words"


def detect(head: bytes) -> Compression:
    """The compression of a stream that begins with these bytes, of which `HEAD_BYTES` are enough."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"BZh"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    # a stream of zstd may begin with a skippable frame (RFC 8878, section 3.1.2)
    skippable = head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50
    return "zstd" if skippable or head.startswith(b"\x28\xb5\x2f\xfd") else "none"


def open_decompressed(stream: Readable) -> Readable:
    """The bytes of a stream without the compression that its first bytes show; plain ones as they are."""
    source = _Source(stream)
    compression = detect(source.head(b""))
    return source if compression == "none" else _Decompressed(source, compression)


def decompressed(stream: Readable, compression: Compression) -> Readable:
    """The bytes of a stream of this compression; `read` raises `DamagedStreamError` or `DemandingStreamError`."""
    source = _Source(stream)
    return source if compression == "none" else _Decompressed(source, compression)


class _Source:
    """A stream whose first bytes can be looked at."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._pending = b""

    def head(self, before: bytes) -> bytes:
        """Put `before` in front of the stream; what it begins with now."""
        self._pending = before + self._pending
        while len(self._pending) < HEAD_BYTES and (more := self._stream.read(_INPUT_BYTES)):
            self._pending += more
        return self._pending[:HEAD_BYTES]

    def read(self, size: int, /) -> bytes:
        if self._pending:
            data, self._pending = self._pending[:size], self._pending[size:]
            return data
        return self._stream.read(size)


class _Decompressed:
    """What one or more compressed streams hold."""

    def __init__(self, source: _Source, compression: Compression) -> None:
        self._source = source
        self._compression = compression
        self._format = _FORMATS[compression]()
        self._decoder = self._format.begin()
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; a negative size, which elsewhere means everything, gives a piece as any other does."""
        size = min(size, _OUTPUT_BYTES) if size >= 0 else _OUTPUT_BYTES
        try:
            while not self._ended:
                if data := self._decode(size):
                    return data
                if self._decoder.eof:
                    self._next_member(self._decoder.unused_data)
        except self._format.failures as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # not the decoder's, which has no number, but of whatever is read
            if self._format.memory_words in str(error):
                raise DemandingStreamError(f"it takes more than {MEMORY_LIMIT_BYTES >> 20} MiB to read") from error
            raise self._damaged(str(error)) from error
        return b""

    def _decode(self, size: int) -> bytes:
        if self._decoder.eof:
            return b""
        if self._decoder.needs_input:
            given = self._source.read(_INPUT_BYTES)
            if not given:
                raise self._damaged("it is cut off")
            return self._decoder.decompress(given, size)
        data = self._decoder.decompress(b"", size)
        if not (data or self._decoder.eof or self._decoder.needs_input):
            raise self._damaged("nothing more comes out of it")
        return data

    def _next_member(self, rest: bytes) -> None:
        """Go on with the stream that follows one that has ended; zero bytes between them are padding."""
        while not (rest := rest.lstrip(b"\0")) and (more := self._source.read(_INPUT_BYTES)):
            rest = more
        if rest and detect(self._source.head(rest)) == self._compression:
            self._decoder = self._format.begin()
        else:
            self._ended = True

    def _damaged(self, reason: str) -> DamagedStreamError:
        return DamagedStreamError(f"not a whole {self._compression} stream: {reason}")


def _gzip() -> _Format:
    # slow to import, as the compiled modules below are
    from isal import igzip_lib

    return _Format(
        lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), (cast(type[Exception], igzip_lib.error),)
    )


def _bzip2() -> _Format:
    return _Format(bz2.BZ2Decompressor, (OSError, ValueError))


def _xz() -> _Format:
    def begin() -> _Decoder:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT_BYTES)

    return _Format(begin, (lzma.LZMAError,), "emory usage limit")


def _zstd() -> _Format:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    options = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG}
    return _Format(lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,), "too much memory")


_FORMATS: Mapping[Compression, Callable[[], _Format]] = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _zstd}
