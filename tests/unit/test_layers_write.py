"""Writing layers: what other readers see in them, and that equal trees give equal bytes."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from executor.errors import HostError, StepFailedError
from executor.imageconfig import History, ImageConfig
from executor.layers.apply import apply_layer
from executor.layers.decompress import decompress
from executor.layers.write import LayerResult, write_layer
from executor.oci import (
    CONFIG_OCI,
    INDEX_OCI,
    LAYER_DOCKER_GZIP,
    LAYER_OCI_GZIP,
    MANIFEST_OCI,
    Descriptor,
    Digest,
    Index,
    Manifest,
)
from executor.rootfs.changes import Change, find_changes
from executor.rootfs.contained import Root
from executor.rootfs.overlayform import LayerStack
from executor.store import Store
from tests.support.archives import tree
from tests.support.privilege import as_root

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
EMPTY_TAR = bytes(1024)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def write(store: Store, top: Path, changes: list[Change] | None = None, **options: object) -> LayerResult:
    with Root.at(top) as root, store.new_blob() as blob:
        found = find_changes(root, None) if changes is None else changes
        return write_layer(found, root, blob, **{"id_shift": 0, **options})  # type: ignore[arg-type]


def members(store: Store, result: LayerResult) -> dict[str, tarfile.TarInfo]:
    data = gzip.decompress(store.read_blob(result.descriptor.digest, 1 << 30))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def sample(top: Path) -> Path:
    """A tree with a bit of everything an image has."""
    (top / "bin").mkdir(parents=True)
    (top / "bin/tool").write_bytes(os.urandom(1000) + bytes(2_500_000))
    (top / "bin/tool").chmod(0o4755)
    os.link(top / "bin/tool", top / "bin/alias")
    (top / "bin/sh").symlink_to("tool")
    (top / "tmp").mkdir()
    (top / "tmp").chmod(0o1777)
    (top / "empty").touch()
    os.mkfifo(top / "pipe")
    deep = top / ("d" * 80) / ("e" * 80) / ("f" * 120)
    deep.mkdir(parents=True)
    (deep / "new\nline").write_text("1")
    with top.joinpath("bytes").open("wb") as stream:
        stream.write(b"\xff" * 700)
    os.rename(os.fsencode(top / "bytes"), os.fsencode(top) + b"/not-utf8-\xff\xfe")
    for path in (*top.rglob("*"), top):
        os.utime(path, (1_500_000_000, 1_500_000_000), follow_symlinks=False)
    return top


class TestFormat:
    def test_no_changes_are_an_empty_archive(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "t").mkdir()
        result = write(store, tmp_path / "t")
        assert result.diff_id == Digest.of(EMPTY_TAR)
        assert result.size_uncompressed == 1024
        assert gzip.decompress(store.read_blob(result.descriptor.digest, 4096)) == EMPTY_TAR
        assert result.descriptor.size == store.blob_size(result.descriptor.digest)

    def test_digests_are_those_of_the_bytes(self, store: Store, tmp_path: Path) -> None:
        result = write(store, sample(tmp_path / "t"), media_type=LAYER_DOCKER_GZIP)
        blob = store.read_blob(result.descriptor.digest, 1 << 30)
        archive = gzip.decompress(blob)
        assert result.diff_id == Digest.of(archive)
        assert (result.descriptor.size, result.size_uncompressed) == (len(blob), len(archive))
        assert result.descriptor.media_type == LAYER_DOCKER_GZIP
        assert write(store, tmp_path / "t").descriptor.media_type == LAYER_OCI_GZIP

    def test_gzip_header_tells_nothing(self, store: Store, tmp_path: Path) -> None:
        result = write(store, sample(tmp_path / "t"))
        assert store.read_blob(result.descriptor.digest, 1 << 30)[:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff"

    @pytest.mark.parametrize("level", [0, 1, 2, 3])
    def test_levels(self, store: Store, tmp_path: Path, level: int) -> None:
        result = write(store, sample(tmp_path / "t"), compression_level=level)
        data = gzip.decompress(store.read_blob(result.descriptor.digest, 1 << 30))
        assert Digest.of(data) == result.diff_id

    def test_names_as_tarfile_reads_them(self, store: Store, tmp_path: Path) -> None:
        top = sample(tmp_path / "t")
        found = members(store, write(store, top))
        assert set(found) == {str(path.relative_to(top)) for path in top.rglob("*")}
        assert found["bin"].isdir()
        assert (found["bin/sh"].issym(), found["bin/sh"].linkname) == (True, "tool")
        assert found["pipe"].isfifo()
        # the first name has the content, and the link says the same as it does
        assert found["bin/alias"].isreg()
        assert (found["bin/tool"].islnk(), found["bin/tool"].linkname) == (True, "bin/alias")
        assert found["bin/tool"].mode == found["bin/alias"].mode == 0o4755
        assert {(item.uname, item.gname) for item in found.values()} == {("", "")}

    def test_gnu_tar_lists_and_extracts(self, store: Store, tmp_path: Path) -> None:
        top = sample(tmp_path / "t")
        result = write(store, top)
        (tmp_path / "out").mkdir()
        command = ["tar", "--extract", "--gzip", "--same-permissions", "--directory", tmp_path / "out"]
        command += ["--file", store.blob_path(result.descriptor.digest)]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert tree(tmp_path / "out") == tree(top)

    @as_root
    def test_large_ids_and_times(self, store: Store, tmp_path: Path) -> None:
        top = tmp_path / "t"
        top.mkdir()
        (top / "f").touch()
        os.chown(top / "f", 60_001, 60_002)
        os.utime(top / "f", ns=(0, -1_500_000_000))
        (top / "g").touch()
        os.utime(top / "g", (9_000_000_000, 9_000_000_000))
        found = members(store, write(store, top))
        assert (found["f"].uid, found["f"].gid, found["f"].mtime) == (60_001, 60_002, -2)
        assert found["g"].mtime == 9_000_000_000

    @as_root
    def test_ids_are_shifted_back(self, store: Store, tmp_path: Path) -> None:
        top = tmp_path / "t"
        top.mkdir()
        (top / "f").touch()
        os.chown(top / "f", 1, 8)
        found = members(store, write(store, top, id_shift=1))
        assert (found["f"].uid, found["f"].gid) == (0, 7)
        os.chown(top / "f", 0, 8)
        with pytest.raises(HostError) as caught:
            write(store, top, id_shift=1)
        assert caught.value.code == "id-out-of-range"

    @as_root
    @pytest.mark.parametrize("id_shift", [0, 1])
    def test_capability_is_version_2_in_the_layer(self, store: Store, tmp_path: Path, id_shift: int) -> None:
        top = tmp_path / "t"
        top.mkdir()
        (top / "f").touch()
        os.chown(top / "f", id_shift, id_shift)
        value = CAPABILITY if id_shift == 0 else struct.pack("<I", 0x03000001) + CAPABILITY[4:] + struct.pack("<I", 1)
        os.setxattr(top / "f", "security.capability", value)
        os.link(top / "f", top / "g")
        found = members(store, write(store, top, id_shift=id_shift))
        for name in ("f", "g"):
            text = found[name].pax_headers["SCHILY.xattr.security.capability"]
            assert text.encode("utf-8", "surrogateescape") == CAPABILITY

    def test_times_are_clamped(self, store: Store, tmp_path: Path) -> None:
        top = tmp_path / "t"
        top.mkdir()
        for name, time in (("old", 100), ("new", 5000)):
            (top / name).touch()
            os.utime(top / name, (time, time))
        found = members(store, write(store, top, clamp_mtime=1000))
        assert {name: item.mtime for name, item in found.items()} == {"old": 100, "new": 1000}

    def test_whiteouts(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "t/d").mkdir(parents=True)
        status = (tmp_path / "t/d").lstat()
        gone = [Change(b"d", status), Change(b"d/gone", None), Change(b"x", None)]
        found = members(store, write(store, tmp_path / "t", gone))
        assert list(found) == ["d", "d/.wh.gone", ".wh.x"]
        assert all(item.isreg() and item.size == 0 for name, item in found.items() if name != "d")

    def test_a_name_that_would_be_a_whiteout(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "t").mkdir()
        (tmp_path / "t/.wh.passwd").touch()
        with pytest.raises(StepFailedError) as caught:
            write(store, tmp_path / "t")
        assert caught.value.code == "name-reserved"
        assert os.listdir(store.root / "blobs/sha256") == []


class TestEqualBytes:
    def test_order_of_making_does_not_show(self, store: Store, tmp_path: Path) -> None:
        names = [f"{first}{second}" for first in "abc" for second in ("", "/x", ".y", "/x/z" if first == "a" else "/w")]
        digests = set()
        for seed in range(3):
            top = tmp_path / str(seed)
            top.mkdir()
            shuffled = [name for name in names if "/" in name]
            random.Random(seed).shuffle(shuffled)
            for name in shuffled:
                path = top / name / "file"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
            for path in top.rglob("*"):
                os.utime(path, (77, 77))
            digests.add(write(store, top).descriptor.digest)
        assert len(digests) == 1

    def test_sub_second_times_do_not_show(self, store: Store, tmp_path: Path) -> None:
        digests = set()
        for number, nanoseconds in enumerate((0, 999_999_999)):
            top = tmp_path / str(number)
            top.mkdir()
            (top / "f").touch()
            os.utime(top / "f", ns=(0, 5_000_000_000 + nanoseconds))
            digests.add(write(store, top).descriptor.digest)
        assert len(digests) == 1


class TestMovingTargets:
    @pytest.mark.parametrize("size", [0, 1, 9, 11, 5_000_000])
    def test_a_file_that_changes_its_size(self, store: Store, tmp_path: Path, size: int) -> None:
        (tmp_path / "t").mkdir()
        (tmp_path / "t/f").write_bytes(b"x" * 10)
        with Root.at(tmp_path / "t") as root:
            changes = find_changes(root, None)
        (tmp_path / "t/f").write_bytes(b"x" * size)
        with pytest.raises(StepFailedError) as caught:
            write(store, tmp_path / "t", changes)
        assert caught.value.code == "source-changed"
        assert os.listdir(store.root / "blobs/sha256") == []

    def test_a_file_that_becomes_a_link(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret bytes")
        (tmp_path / "t").mkdir()
        (tmp_path / "t/f").write_text("public bytes")
        with Root.at(tmp_path / "t") as root:
            changes = find_changes(root, None)
        (tmp_path / "t/f").unlink()
        (tmp_path / "t/f").symlink_to(tmp_path / "secret")
        with pytest.raises((StepFailedError, HostError)):
            write(store, tmp_path / "t", changes)
        assert os.listdir(store.root / "blobs/sha256") == []

    def test_a_directory_that_becomes_a_link(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/f").write_text("secret bytes")
        (tmp_path / "t/d").mkdir(parents=True)
        (tmp_path / "t/d/f").write_text("public bytes")
        with Root.at(tmp_path / "t") as root:
            changes = find_changes(root, None)
        (tmp_path / "t/d").rename(tmp_path / "old")
        (tmp_path / "t/d").symlink_to(tmp_path / "outside")
        with pytest.raises((StepFailedError, HostError)):
            write(store, tmp_path / "t", changes)


class TestThereAndBack:
    @as_root
    def test_apply_gives_the_tree_back(self, store: Store, tmp_path: Path) -> None:
        top = sample(tmp_path / "t")
        os.chown(top / "empty", 12, 34)
        result = write(store, top)
        self.unpack(store, result, tmp_path / "out")
        assert tree(tmp_path / "out") == tree(top)

    def unpack(self, store: Store, result: LayerResult, out: Path) -> None:
        out.mkdir()
        digest, media_type = result.descriptor.digest, result.descriptor.media_type
        with Root.at(out) as root, store.open_blob(digest) as blob, decompress(blob, media_type) as archive:
            apply_layer(
                archive,
                root,
                id_shift=0,
                lower=LayerStack(()),
                expected_diff_id=result.diff_id,
            )

    @as_root
    def test_changes_on_top_give_what_overlayfs_showed(self, store: Store, tmp_path: Path) -> None:
        lower, upper, merged = sample(tmp_path / "lower"), tmp_path / "upper", tmp_path / "merged"
        copy, again, work = tmp_path / "copy", tmp_path / "again", tmp_path / "work"
        for path in (upper, merged, copy, again, work, tmp_path / "work2"):
            path.mkdir()
        for name in ("opt/app/a", "opt/app/b/c", "var/lib/x"):
            (lower / name).parent.mkdir(parents=True, exist_ok=True)
            (lower / name).write_text(name)
        script = (
            "rm -r opt/app; mkdir -p opt/app/b; echo n > opt/app/n; rm -r var; echo v > var; rm bin/alias;"
            "mv bin/tool bin/moved; ln bin/moved bin/again; chmod 700 tmp; ln -sf x bin/sh"
        )
        mount = f"mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work},userxattr {merged}"
        self.run(f"{mount} && cd {merged} && set -e && {script} && cp -a . {copy}")
        with Root.at(upper) as root, Root.at(lower) as below, store.new_blob() as blob:
            result = write_layer(find_changes(root, below), root, blob, id_shift=0)
        out = tmp_path / "out"
        self.unpack(store, result, out)
        self.run(f"mount -t overlay overlay -o lowerdir={out}:{lower},userxattr {merged} && cp -a {merged}/. {again}")
        assert tree(again, directory_times=False) == tree(copy, directory_times=False)

    def run(self, script: str) -> None:
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    @as_root
    def test_umoci_unpacks_it(self, store: Store, tmp_path: Path) -> None:
        top = sample(tmp_path / "t")
        base = write(store, top)
        gone = [Change(b"bin", (top / "bin").lstat()), Change(b"bin/sh", None), Change(b"tmp", None)]
        second = write(store, top, gone)
        layout = self.layout(store, tmp_path / "layout", [base, second])
        command = ["umoci", "raw", "unpack", "--keep-dirlinks", "--image", f"{layout}:latest", tmp_path / "out"]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        expected = {name: item for name, item in tree(top).items() if name not in {"bin/sh", "tmp"}}
        assert tree(tmp_path / "out") == expected

    def layout(self, store: Store, path: Path, layers: list[LayerResult]) -> Path:
        config = ImageConfig()
        for layer in layers:
            config = config.with_layer(layer.diff_id, History(created_by="test"))
        encoded = config.encode()
        manifest = Manifest(
            Descriptor(CONFIG_OCI, store.put_blob(encoded), len(encoded)), tuple(layer.descriptor for layer in layers)
        ).encode()
        described = Descriptor(
            MANIFEST_OCI, store.put_blob(manifest), len(manifest), {"org.opencontainers.image.ref.name": "latest"}
        )
        path.mkdir()
        (path / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        (path / "index.json").write_bytes(Index((described,), INDEX_OCI).encode())
        (path / "blobs").symlink_to(store.root / "blobs")
        return path
