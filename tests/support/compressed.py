"""Compressed bytes as other programs make them, hostile ones among them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable, Mapping

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# a frame of 2 GiB of window (RFC 8878, section 3.1.1.1.2), which a decoder has to have as memory, with one block
ZSTD_OF_A_HUGE_WINDOW = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + b"\x21\x00\x00" + b"abcd"


def xz_of_a_huge_dictionary() -> bytes:
    """A stream whose reading takes half a gigabyte."""
    return lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29, "mode": lzma.MODE_FAST}])


def compress_zstd(data: bytes) -> bytes:
    # with a checksum, as zstd(1) writes it
    return zstd.compress(data, options={int(zstd.CompressionParameter.checksum_flag): 1})


def compress_gzip(data: bytes) -> bytes:
    return gzip.compress(data, 6)


COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": compress_gzip,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": compress_zstd,
}
