"""The content store: complete or not there, and safe against names, links and rivals."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from executor import store_files, store_unpacked
from executor.errors import DiskFullError, RegistryContentError, StoreError, UsageError
from executor.oci import (
    CONFIG_OCI,
    INDEX_OCI,
    LAYER_OCI_GZIP,
    MANIFEST_OCI,
    Descriptor,
    Digest,
    Index,
    Manifest,
    OciError,
)
from executor.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def published(store: Store, *, layer: bytes = b"layer") -> Descriptor:
    config, data = store.put_blob(b"{}"), store.put_blob(layer)
    manifest = Manifest(Descriptor(CONFIG_OCI, config, 2), (Descriptor(LAYER_OCI_GZIP, data, len(layer)),)).encode()
    return Descriptor(MANIFEST_OCI, store.put_blob(manifest), len(manifest))


def age(path: Path, seconds: float = 3600) -> None:
    then = path.lstat().st_mtime - seconds
    os.utime(path, (then, then))


class TestLayout:
    def test_open_says_that_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError) as caught:
            Store.open(tmp_path / "none")
        assert caught.value.code == "store-missing"
        assert not (tmp_path / "none").exists()

    def test_newer_version_is_refused(self, store: Store) -> None:
        (store.root / "version").write_text("2 own\n")
        with pytest.raises(StoreError) as caught:
            Store.open(store.root)
        assert caught.value.code == "store-newer"

    @pytest.mark.parametrize("text", ["", "own", "1", "1 2", "1 a b", "0 own", "1 own more", "\xff"])
    def test_damaged_version_is_refused(self, store: Store, text: str) -> None:
        (store.root / "version").write_bytes(text.encode("latin-1"))
        with pytest.raises(StoreError) as caught:
            Store.open(store.root)
        assert caught.value.code == "store-damaged"

    def test_ids_of_the_store_are_kept(self, tmp_path: Path) -> None:
        Store.create(tmp_path / "s", ids=(100_000, 65_536))
        assert (tmp_path / "s/version").read_text() == "1 100000 65536\n"
        assert Store.create(tmp_path / "s", ids=(100_000, 65_536)).unpacked_root.name == "1-100000-65536"
        with pytest.raises(StoreError) as caught:
            Store.create(tmp_path / "s", ids=(200_000, 65_536))
        assert caught.value.code == "store-other-ids"

    def test_many_create_at_once(self, tmp_path: Path) -> None:
        script = (
            "import sys; from pathlib import Path; from executor.store import Store; Store.create(Path(sys.argv[1]))"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "s")]
        children = [subprocess.Popen(command) for _ in range(4)]
        assert [child.wait() for child in children] == [0, 0, 0, 0]
        assert (tmp_path / "s/version").read_text() == "1 own\n"
        assert [name for name in os.listdir(tmp_path / "s") if name.startswith(".")] == []

    def test_create_again_changes_nothing(self, store: Store) -> None:
        digest = store.put_blob(b"kept")
        assert Store.create(store.root).read_blob(digest, 10) == b"kept"

    def test_trees_are_closed_to_other_users(self, store: Store) -> None:
        assert (store.root / "unpacked").stat().st_mode & 0o777 == 0o700
        assert (store.root / "work").stat().st_mode & 0o777 == 0o700


class TestBlobs:
    def test_write_in_pieces(self, store: Store) -> None:
        with store.new_blob() as blob:
            blob.write(b"ab")
            blob.write(memoryview(b"cd"))
            assert blob.commit() == (Digest.of(b"abcd"), 4)
        assert store.read_blob(Digest.of(b"abcd"), 4) == b"abcd"
        assert store.blob_size(Digest.of(b"abcd")) == 4
        assert store.blob_path(Digest.of(b"abcd")).stat().st_mode & 0o777 == 0o644

    def test_without_commit_nothing_stays(self, store: Store) -> None:
        with pytest.raises(ValueError, match="stop"), store.new_blob() as blob:
            blob.write(b"half")
            raise ValueError("stop")
        assert os.listdir(store.root / "blobs/incoming") == []
        assert os.listdir(store.root / "blobs/sha256") == []

    def test_other_bytes_than_expected(self, store: Store) -> None:
        with pytest.raises(RegistryContentError) as caught, store.new_blob() as blob:
            blob.write(b"evil")
            blob.commit(Digest.of(b"good"))
        assert caught.value.code == "digest-mismatch"
        assert not store.has_blob(Digest.of(b"evil"))
        assert not store.has_blob(Digest.of(b"good"))
        assert os.listdir(store.root / "blobs/incoming") == []

    def test_same_blob_from_many_threads(self, store: Store) -> None:
        def put() -> None:
            for _ in range(20):
                store.put_blob(b"same")

        threads = [threading.Thread(target=put) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.listdir(store.root / "blobs/sha256") == [Digest.of(b"same").hex]
        assert os.listdir(store.root / "blobs/incoming") == []

    def test_missing(self, store: Store) -> None:
        with pytest.raises(StoreError) as caught:
            store.open_blob(Digest.of(b"x"))
        assert caught.value.code == "blob-missing"
        assert not store.has_blob(Digest.of(b"x"))

    def test_reading_is_bounded_and_checked(self, store: Store) -> None:
        digest = store.put_blob(b"12345")
        with pytest.raises(RegistryContentError):
            store.read_blob(digest, 4)
        store.blob_path(digest).write_bytes(b"other")
        with pytest.raises(StoreError) as caught:
            store.read_blob(digest, 10)
        assert caught.value.code == "blob-damaged"

    @pytest.mark.parametrize("text", ["sha256:../../secret", "sha256:" + "A" * 64, "md5:00", "../x", ""])
    def test_digest_is_no_path(self, store: Store, text: str) -> None:
        with pytest.raises(OciError):
            store.blob_path(Digest(text))

    def test_links_and_fifos_planted_by_the_builder_are_not_opened(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        for digest, plant in (
            (Digest.of(b"1"), lambda path: os.symlink(tmp_path / "secret", path)),
            (Digest.of(b"2"), os.mkfifo),
            (Digest.of(b"3"), os.mkdir),
        ):
            plant(store.blob_path(digest))
            with pytest.raises(StoreError):
                store.open_blob(digest)
            assert not store.has_blob(digest)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_full_disk_is_said_and_cleaned_up(self, store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        def full(descriptor: int, data: object) -> int:
            raise OSError(number, os.strerror(number))

        with pytest.raises(DiskFullError), store.new_blob() as blob:
            monkeypatch.setattr(os, "write", full)
            try:
                blob.write(b"x")
            finally:
                monkeypatch.undo()
        assert os.listdir(store.root / "blobs/incoming") == []

    def test_full_file_system_for_real(self, store: Store) -> None:
        with pytest.raises(DiskFullError), store.new_blob() as blob:
            os.close(blob._descriptor)
            blob._descriptor = os.open("/dev/full", os.O_WRONLY)
            blob.write(b"x")


class TestReferences:
    def test_put_and_get(self, store: Store) -> None:
        descriptor = published(store)
        store.put_reference("team/app", "abc", descriptor)
        store.put_reference("team/app", "ABC.1", descriptor)
        store.put_reference("team", "main", descriptor)
        assert store.reference("team/app", "abc") == descriptor
        assert store.tags("team/app") == ["ABC.1", "abc"]
        assert store.repositories() == ["team", "team/app"]
        assert store.has_repository("team/app")
        assert not store.has_repository("tea")

    def test_unknown_is_nothing(self, store: Store) -> None:
        assert store.reference("a", "b") is None
        assert store.tags("a") == []
        assert store.repositories() == []
        assert not store.links("a", Digest.of(b"layer"))

    def test_links_are_per_repository(self, store: Store) -> None:
        descriptor = published(store)
        other = published(store, layer=b"secret")
        store.put_reference("mine", "t", descriptor)
        store.put_reference("theirs", "t", other)
        assert store.links("mine", descriptor.digest)
        assert store.links("mine", Digest.of(b"{}"))
        assert store.links("mine", Digest.of(b"layer"))
        assert not store.links("mine", Digest.of(b"secret"))
        assert not store.links("mine", other.digest)

    def test_index_links_what_the_store_has(self, store: Store) -> None:
        descriptor = published(store)
        absent = Descriptor(MANIFEST_OCI, Digest.of(b"elsewhere"), 9)
        data = Index((descriptor, absent)).encode()
        store.put_reference("multi", "t", Descriptor(INDEX_OCI, store.put_blob(data), len(data)))
        assert store.links("multi", Digest.of(b"layer"))
        assert not store.links("multi", absent.digest)

    @pytest.mark.parametrize(
        ("repository", "tag"),
        [
            ("../../x", "t"), ("/etc", "t"), ("a/../b", "t"), ("A", "t"), ("a//b", "t"), ("", "t"), ("a/", "t"),
            ("_tags", "t"), ("a/_tags", "t"), ("a" * 256, "t"), ("a\n", "t"), ("a", "../t"), ("a", ""), ("a", ".t"),
            ("a", "t/u"), ("a", "t" * 129), ("a", "t\n"), ("a", "t\0"),
        ],
    )  # fmt: skip
    def test_names_are_no_paths(self, store: Store, tmp_path: Path, repository: str, tag: str) -> None:
        descriptor = published(store)
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        with pytest.raises(UsageError) as caught:
            store.put_reference(repository, tag, descriptor)
        assert caught.value.code == "reference-invalid"
        assert store.reference(repository, tag) is None
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before

    def test_bad_repository_is_unknown(self, store: Store) -> None:
        (store.root / "_tags").mkdir()
        assert store.tags("..") == []
        assert not store.has_repository("..")
        assert not store.links("..", Digest.of(b""))

    def test_manifest_must_be_there(self, store: Store) -> None:
        with pytest.raises(StoreError):
            store.put_reference("a", "t", Descriptor(MANIFEST_OCI, Digest.of(b"no"), 2))
        assert store.tags("a") == []

    def test_damaged_reference(self, store: Store) -> None:
        store.put_reference("a", "t", published(store))
        (store.root / "refs/a/_tags/t").write_text("{")
        with pytest.raises(StoreError) as caught:
            store.reference("a", "t")
        assert caught.value.code == "store-damaged"


class TestUnpacked:
    def unpack(self, store: Store, key: str, text: str = "x") -> Path:
        with store.new_unpacked(key) as new:
            (new.path / "file").write_text(text)
            return new.commit()

    def test_only_complete_ones(self, store: Store) -> None:
        with store.new_unpacked("sha256:1") as new:
            (new.path / "half").write_text("x")
            assert store.unpacked_path("sha256:1") is None
        assert store.unpacked_path("sha256:1") is None
        assert os.listdir(store.unpacked_root) == []
        path = self.unpack(store, "sha256:1")
        assert store.unpacked_path("sha256:1") == path
        assert store.unpacked_path("sha256:2") is None
        assert len(path.relative_to(store.unpacked_root).parts[0]) == 16

    def test_the_loser_uses_the_winners(self, store: Store) -> None:
        with store.new_unpacked("k") as slow:
            (slow.path / "file").write_text("slow")
            winner = self.unpack(store, "k", "fast")
            assert slow.commit() == winner
        assert (winner / "file").read_text() == "fast"
        assert os.listdir(store.unpacked_root) == [winner.parent.name]

    def test_keys_that_share_a_short_name(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_unpacked, "short_names", lambda key: iter(["same", "other"]))
        first, second = self.unpack(store, "a", "a"), self.unpack(store, "b", "b")
        assert store.unpacked_path("a") == first
        assert store.unpacked_path("b") == second
        assert (first / "file").read_text() == "a"
        assert (second / "file").read_text() == "b"

    def test_trees_of_an_earlier_boot_are_made_again(self, store: Store) -> None:
        path = self.unpack(store, "k", "maybe torn")
        marker = path.parent / "complete"
        marker.write_text(json.dumps({"key": "k", "boot": "earlier"}))
        assert store.unpacked_path("k") is None
        assert (self.unpack(store, "k", "whole") / "file").read_text() == "whole"
        assert store.unpacked_path("k") == path

    @pytest.mark.parametrize("marker", ["", "[]", "{}", '{"key": 1}', "\0"])
    def test_damaged_marker(self, store: Store, marker: str) -> None:
        path = self.unpack(store, "k")
        (path.parent / "complete").write_text(marker)
        assert store.unpacked_path("k") is None
        self.unpack(store, "k")
        assert store.unpacked_path("k") == path

    def test_without_a_boot_id(self, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(store_files, "_BOOT_ID", tmp_path / "none")
        path = self.unpack(store, "k")
        assert store.unpacked_path("k") == path
        monkeypatch.undo()
        assert store.unpacked_path("k") == path


class TestBuilds:
    @pytest.mark.parametrize("build_id", ["", "..", "a/b", ".x", "a" * 65, "a\n"])
    def test_ids_are_no_paths(self, store: Store, build_id: str) -> None:
        with pytest.raises(UsageError):
            store.work_dir(build_id)
        with pytest.raises(UsageError), store.lease(build_id):
            pass

    def test_one_lease_per_build(self, store: Store) -> None:
        with store.lease("b"):
            assert store.is_leased("b")
            with pytest.raises(StoreError) as caught, store.lease("b"):
                pass
            assert caught.value.code == "lease-held"
        assert not store.is_leased("b")
        with store.lease("b"):
            pass

    def test_asking_does_not_take_a_lease_away(self, store: Store) -> None:
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                store.is_leased("b")

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            for _ in range(50):
                with store.lease("b"):
                    pass
        finally:
            stop.set()
            thread.join()

    def test_what_the_dead_left_is_removed(self, store: Store) -> None:
        script = (
            "import os, signal, sys; from pathlib import Path; from executor.store import Store\n"
            "store = Store.open(Path(sys.argv[1]))\n"
            "with store.lease('dead'), store.new_blob() as blob, store.new_unpacked('k') as new:\n"
            "    (store.work_dir('dead') / 'deep/er').mkdir(parents=True)\n"
            "    blob.write(b'half'); (new.path / 'd').mkdir()\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        assert subprocess.run([sys.executable, "-c", script, str(store.root)], check=False).returncode == -9
        for home in ("blobs/incoming", "unpacked/1-own"):
            (left,) = (store.root / home).iterdir()
            age(left)
        with store.lease("alive"), store.new_blob() as blob:
            blob.write(b"whole")
            age(blob._path)
            store.work_dir("alive")
            assert store.remove_abandoned() == ["dead"]
            assert os.listdir(store.root / "work") == ["alive"]
            assert os.listdir(store.unpacked_root) == []
            assert blob.commit()[0] == Digest.of(b"whole")
        assert os.listdir(store.root / "blobs/incoming") == []

    def test_what_may_not_be_touched_stays(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        store.work_dir("theirs")
        listed = []

        def refuse(directory: Path) -> list[str]:
            listed.append(directory.name)
            raise PermissionError(errno.EACCES, "Permission denied", str(directory))

        monkeypatch.setattr("executor.store.names", refuse)
        assert store.remove_abandoned() == []
        assert listed == ["incoming", "1-own", "staging", "work"]
        assert store.work_dir("theirs").is_dir()

    def test_what_was_just_begun_is_left_alone(self, store: Store) -> None:
        path = store.root / "blobs/incoming/.new-1"
        path.touch()
        store.remove_abandoned()
        assert path.exists()
        age(path)
        store.remove_abandoned()
        assert not path.exists()


def test_hash_of_the_name_is_that_of_the_bytes(store: Store) -> None:
    data = os.urandom(3_000_000)
    digest = store.put_blob(data)
    assert digest.hex == hashlib.sha256(store.blob_path(digest).read_bytes()).hexdigest()
