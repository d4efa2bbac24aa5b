"""From a layer's blob to its archive."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from executor.errors import RegistryContentError
from executor.layers.compression import DamagedStreamError, DemandingStreamError, Readable, decompressed
from executor.oci import LAYER_COMPRESSIONS


@contextlib.contextmanager
def decompress(stream: BinaryIO, media_type: str) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a layer of this media type.

    What is no stream of that compression, or a truncated one, is a `RegistryContentError` from whatever reads it. How
    many bytes may come out is for the reader to bound, see `LayerLimits`. gzip is read in another thread, zstd is not:
    it is fast enough.
    """
    compression = LAYER_COMPRESSIONS.get(media_type)
    if compression == "none":
        yield stream
        return
    if compression == "zstd":
        yield cast(BinaryIO, _Checked(decompressed(stream, "zstd"), (DamagedStreamError, DemandingStreamError)))
        return
    if compression != "gzip":
        raise RegistryContentError(
            f"layer: media type {media_type[:120]!r} is not supported",
            code="layer-media-type",
            hint="layers may be plain, or compressed by gzip or zstd",
        )
    # slow to import, and not needed by whoever only writes
    from isal import igzip_threaded, isal_zlib

    archive: BinaryIO = igzip_threaded.open(stream, "rb", threads=1)  # type: ignore[no-untyped-call]
    try:
        failures = (cast(type[Exception], isal_zlib.error), zlib.error, gzip.BadGzipFile, EOFError)
        yield cast(BinaryIO, _Checked(archive, failures, "not a whole gzip stream: "))
    finally:
        archive.close()


class _Checked:
    """A decompressor whose failures are errors of the content."""

    def __init__(self, archive: Readable, failures: tuple[type[Exception], ...], prefix: str = "") -> None:
        self._archive = archive
        self._failures = failures
        self._prefix = prefix

    def read(self, size: int = -1) -> bytes:
        try:
            return self._archive.read(size)
        except self._failures as error:
            raise RegistryContentError(f"layer: {self._prefix}{error}", code="layer-invalid") from error
