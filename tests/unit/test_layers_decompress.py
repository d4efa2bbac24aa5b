"""Decompressing layers: whole streams of the compression that the media type names, and nothing else."""

from __future__ import annotations

import gzip
import io
import threading

import pytest

from executor.errors import RegistryContentError
from executor.layers.decompress import decompress
from executor.layers.limits import LayerLimits
from executor.layers.tar import TarReader
from executor.oci import LAYER_DOCKER, LAYER_DOCKER_GZIP, LAYER_OCI, LAYER_OCI_GZIP, LAYER_OCI_ZSTD
from tests.support.archives import archive, file
from tests.support.compressed import ZSTD_OF_A_HUGE_WINDOW, compress_zstd

DATA = archive(file("f", b"content" * 300_000))
GZIP = gzip.compress(DATA)
ZSTD = compress_zstd(DATA)


def read(blob: bytes, media_type: str = LAYER_OCI_GZIP) -> bytes:
    with decompress(io.BytesIO(blob), media_type) as stream:
        return b"".join(iter(lambda: stream.read(100_000), b""))


@pytest.mark.parametrize("media_type", [LAYER_OCI_GZIP, LAYER_DOCKER_GZIP])
def test_gzip(media_type: str) -> None:
    assert read(GZIP, media_type) == DATA
    assert read(gzip.compress(DATA[:5000]) + gzip.compress(DATA[5000:]), media_type) == DATA


def test_zstd() -> None:
    assert read(ZSTD, LAYER_OCI_ZSTD) == DATA
    assert read(compress_zstd(DATA[:5000]) + compress_zstd(DATA[5000:]), LAYER_OCI_ZSTD) == DATA


@pytest.mark.parametrize("blob", [ZSTD[:-1], ZSTD[:40], b"", b"not zstd at all", DATA, GZIP, ZSTD_OF_A_HUGE_WINDOW])
def test_damage_of_zstd(blob: bytes) -> None:
    with pytest.raises(RegistryContentError) as caught:
        read(blob, LAYER_OCI_ZSTD)
    assert caught.value.code == "layer-invalid"


@pytest.mark.parametrize("media_type", [LAYER_OCI, LAYER_DOCKER])
def test_plain(media_type: str) -> None:
    assert read(DATA, media_type) == DATA


@pytest.mark.parametrize("media_type", ["application/octet-stream", "application/gzip", "", "x" * 10_000])
def test_other_media_types_are_named(media_type: str) -> None:
    with pytest.raises(RegistryContentError) as caught:
        read(GZIP, media_type)
    assert caught.value.code == "layer-media-type"
    assert media_type[:100] in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "blob",
    [
        GZIP[:-1],
        GZIP[:-9],
        GZIP[: len(GZIP) // 2],
        GZIP[:5],
        b"not gzip at all",
        DATA,
        GZIP[:-8] + b"\0\0\0\0" + GZIP[-4:],
        GZIP[:200] + b"\xff" * 40 + GZIP[240:],
        GZIP + b"\x1f\x8b\x08",
    ],
)
def test_damage(blob: bytes) -> None:
    with pytest.raises(RegistryContentError):
        read(blob)


def test_a_bomb_is_stopped_where_the_limit_is() -> None:
    blob = gzip.compress(archive(file("f", bytes(60_000_000))), 9)
    limits = LayerLimits(size_bytes=5_000_000)
    with decompress(io.BytesIO(blob), LAYER_OCI_GZIP) as stream:
        reader = TarReader(stream, limits)
        with pytest.raises(RegistryContentError) as caught:
            list(reader)
    assert caught.value.code == "layer-too-large"
    assert reader.size_bytes < 8_000_000


def test_limits_grow_with_the_blob() -> None:
    assert LayerLimits.for_blob(10).size_bytes == 1 << 30
    assert LayerLimits.for_blob(1 << 30).size_bytes == 200 << 30


def test_no_thread_stays_behind() -> None:
    before = threading.active_count()
    with decompress(io.BytesIO(GZIP * 20), LAYER_OCI_GZIP) as stream:
        stream.read(10)
    assert threading.active_count() == before
