"""Telling compressions apart and undoing them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.layers.compression import (
    DamagedStreamError,
    DemandingStreamError,
    decompressed,
    detect,
    open_decompressed,
)
from tests.support.compressed import COMPRESSORS, ZSTD_OF_A_HUGE_WINDOW, compress_zstd, xz_of_a_huge_dictionary

SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
DATA = b"".join(b"%d " % number for number in range(40_000))
formats = pytest.mark.parametrize("name", sorted(COMPRESSORS))


class Trickle(io.BytesIO):
    """Gives few bytes at a time, as a pipe may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(3 if size is None or size < 0 else min(size, 3))


def contents(blob: bytes, size: int = 70_000) -> bytes:
    stream = open_decompressed(io.BytesIO(blob))
    return b"".join(iter(lambda: stream.read(size), b""))


@formats
def test_what_is_compressed_comes_back(name: str) -> None:
    blob = COMPRESSORS[name](DATA)
    assert detect(blob) == name
    assert detect(blob[:6]) == name
    assert contents(blob) == DATA
    assert contents(COMPRESSORS[name](b"")) == b""


@formats
def test_streams_after_each_other(name: str) -> None:
    compress = COMPRESSORS[name]
    assert contents(compress(DATA[:1000]) + compress(b"") + compress(DATA[1000:])) == DATA
    assert contents(compress(DATA[:1000]) + bytes(200_000) + compress(DATA[1000:])) == DATA


@formats
@pytest.mark.parametrize("rest", [b"\0", bytes(10_000), b"junk", b"\0\0junk" * 50_000, b"B", b"\x1f"])
def test_what_follows_and_begins_like_nothing_is_ignored(name: str, rest: bytes) -> None:
    assert contents(COMPRESSORS[name](DATA) + rest) == DATA


@formats
def test_small_pieces(name: str) -> None:
    blob = COMPRESSORS[name](DATA[:2000]) * 2
    stream = open_decompressed(Trickle(blob))
    pieces = list(iter(lambda: stream.read(7), b""))
    assert b"".join(pieces) == DATA[:2000] * 2
    assert max(map(len, pieces)) <= 7


@formats
def test_damage(name: str) -> None:
    blob = COMPRESSORS[name](DATA)
    middle = len(blob) // 2
    changed = bytes(byte ^ 0x55 for byte in blob[middle : middle + 64])
    for broken in (blob[:-1], blob[:middle], blob[:7], blob[:middle] + changed + blob[middle + 64 :]):
        with pytest.raises(DamagedStreamError, match=f"not a whole {name} stream"):
            contents(broken)
    with pytest.raises(DamagedStreamError):
        contents(blob + blob[:10])


def test_plain_bytes_stay_as_they_are() -> None:
    for blob in (b"", b"B", b"\x1f\x8b", b"BZ", DATA):
        assert detect(blob) == "none"
        assert contents(blob) == blob
    stream = decompressed(io.BytesIO(gzip.compress(b"x")), "none")
    assert stream.read(2) == b"\x1f\x8b"


def test_zstd_after_a_skippable_frame() -> None:
    blob = SKIPPABLE_FRAME + compress_zstd(DATA) + SKIPPABLE_FRAME
    assert detect(blob) == "zstd"
    assert contents(blob) == DATA


@pytest.mark.parametrize("blob", [ZSTD_OF_A_HUGE_WINDOW, xz_of_a_huge_dictionary()], ids=["zstd", "xz"])
def test_streams_that_want_much_memory_are_refused(blob: bytes) -> None:
    with pytest.raises(DemandingStreamError, match="128 MiB"):
        contents(blob)


def test_the_most_that_the_usual_programs_ask_for_is_read() -> None:
    assert contents(lzma.compress(DATA, preset=9 | lzma.PRESET_EXTREME)) == DATA
    assert contents(bz2.compress(DATA, 9)) == DATA


@formats
def test_a_bomb_takes_no_memory(name: str) -> None:
    """A child under a limit of memory reads 256 MiB that were far less, piece by piece."""
    script = f"""
import io, resource
from executor.layers.compression import open_decompressed
from tests.support.compressed import COMPRESSORS
blob = COMPRESSORS[{name!r}](bytes(1 << 24)) * 16
stream = open_decompressed(io.BytesIO(blob))
limit = 200 << 20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
total = 0
while data := stream.read(1 << 30):
    assert len(data) <= 1 << 20
    total += len(data)
assert total == 1 << 28, total
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@given(st.binary(max_size=300), st.sampled_from(sorted(COMPRESSORS)))
def test_nothing_but_our_own_errors(data: bytes, name: str) -> None:
    magic = COMPRESSORS[name](b"")[:6]
    for blob in (data, magic + data):
        try:
            contents(blob)
        except (DamagedStreamError, DemandingStreamError):
            continue
