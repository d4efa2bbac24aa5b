"""Images as files: where they go, and what must not be overwritten or believed."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from executor.errors import PushwrightError, StoreError, UsageError
from executor.export import export
from executor.oci import CONFIG_OCI, LAYER_OCI_GZIP, MANIFEST_OCI, Descriptor, Manifest
from executor.spec import BuildResult, BuildSpec, DirectoryContext
from executor.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def _image(store: Store) -> tuple[BuildResult, Descriptor]:
    layer = Descriptor(LAYER_OCI_GZIP, store.put_blob(b"layer bytes"), 11)
    config = Descriptor(CONFIG_OCI, store.put_blob(b"{}"), 2)
    data = Manifest(config=config, layers=(layer,), media_type=MANIFEST_OCI).encode()
    digest = store.put_blob(data)
    return BuildResult(str(digest), len(data), MANIFEST_OCI, data.decode(), str(config.digest), "linux/amd64"), layer


def _export(store: Store, result: BuildResult, **outputs: str) -> None:
    export(BuildSpec(DirectoryContext("/"), str(store.root), **outputs), result, store)  # type: ignore[arg-type]


def test_a_directory_in_the_place_of_a_file_is_refused_and_stays_as_it_was(store: Store, tmp_path: Path) -> None:
    result, _ = _image(store)
    (tmp_path / "taken").mkdir()
    for output in ("digest_file", "tar_path"):
        with pytest.raises(UsageError) as caught:
            _export(store, result, **{output: str(tmp_path / "taken")})
        assert caught.value.code == "output-unwritable"
    assert list((tmp_path / "taken").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "taken"]


def test_what_is_no_regular_file_is_written_to_and_not_replaced(store: Store, tmp_path: Path) -> None:
    result, _ = _image(store)
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        _export(store, result, digest_file=str(tmp_path / "fifo"))
        assert os.read(reader, 1000).decode() == result.digest
    finally:
        os.close(reader)
    assert (tmp_path / "fifo").is_fifo()
    _export(store, result, digest_file="/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_link_is_followed_and_stays(store: Store, tmp_path: Path) -> None:
    result, _ = _image(store)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/digest")
    _export(store, result, digest_file=str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "digest").read_text() == result.digest
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["digest"]


@pytest.mark.parametrize("output", ["digest_file", "tar_path", "oci_layout_path"])
def test_a_place_that_cannot_be_written_is_told(store: Store, output: str) -> None:
    result, _ = _image(store)
    with pytest.raises(UsageError) as caught:
        _export(store, result, **{output: "/proc/none/of/this"})
    assert caught.value.code == "output-unwritable"


@pytest.mark.parametrize("output", ["tar_path", "oci_layout_path"])
@pytest.mark.parametrize("damage", [b"layer BYTES", b"layer", b"layer bytes and more", None])
def test_a_blob_that_was_changed_is_not_handed_out(
    store: Store, tmp_path: Path, output: str, damage: bytes | None
) -> None:
    result, layer = _image(store)
    planted = tmp_path / "planted"
    planted.write_bytes(b"layer bytes")
    path = store.blob_path(layer.digest)
    path.unlink()
    if damage is None:
        path.symlink_to(planted)
    else:
        path.write_bytes(damage)
    with pytest.raises(StoreError) as caught:
        _export(store, result, **{output: str(tmp_path / "out")})
    assert caught.value.code in {"blob-damaged", "blob-missing"}
    found = [item.name for item in (tmp_path / "out").rglob("*") if item.is_file()]
    assert layer.digest.hex not in found
    assert not (tmp_path / "out").is_file()
    assert planted.read_bytes() == b"layer bytes"


def test_a_docker_archive_is_whole(store: Store, tmp_path: Path) -> None:
    result, layer = _image(store)
    _export(store, result, tar_path=str(tmp_path / "image.tar"))
    with tarfile.open(tmp_path / "image.tar") as archive:
        assert archive.extractfile(f"{layer.digest.hex}.tar.gz").read() == b"layer bytes"  # type: ignore[union-attr]


def test_names_for_the_store_cannot_leave_it(store: Store, tmp_path: Path) -> None:
    result, _ = _image(store)
    spec = BuildSpec(DirectoryContext("/"), str(store.root), keep_as=("../../escape:tag",))
    with pytest.raises(PushwrightError):
        export(spec, result, store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
