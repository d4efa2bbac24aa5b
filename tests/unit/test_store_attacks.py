"""What a builder that was taken over could put into the directories it owns, and what the launcher makes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.errors import StoreError
from executor.rootfs.remove import remove_tree
from executor.store import Store

STRANGER = 200_000


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of somebody else's; it must be as it was."""
    place = tmp_path / "outside"
    (place / ".new-keep").mkdir(parents=True)
    (place / "keep").write_text("kept")
    os.utime(place / ".new-keep", (0, 0))
    place.chmod(0o750)
    before = place.stat()
    yield place
    after = place.stat()
    assert (before.st_uid, before.st_gid, before.st_mode) == (after.st_uid, after.st_gid, after.st_mode)
    assert sorted(os.listdir(place)) == [".new-keep", "keep"]
    assert (place / "keep").read_text() == "kept"


def _replace(path: Path, target: Path) -> None:
    path.rmdir()
    path.symlink_to(target)


@pytest.mark.root
@pytest.mark.parametrize("name", ["blobs/incoming", "blobs/sha256", "work", "unpacked", "cache", "staging"])
def test_a_link_in_the_place_of_a_directory_is_not_given_away(tmp_path: Path, outside: Path, name: str) -> None:
    store = Store.create(tmp_path / "store", owner=STRANGER)
    _replace(store.root / name, outside)
    with pytest.raises(StoreError):
        Store.create(tmp_path / "store", owner=STRANGER)


@pytest.mark.root
def test_builders_own_what_they_write_and_nothing_that_leads_there(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", owner=STRANGER)
    owned = {
        os.path.relpath(base, store.root) for base, _, _ in os.walk(store.root) if Path(base).stat().st_uid == STRANGER
    }
    assert owned == {"blobs/incoming", "blobs/sha256", "unpacked", "work", "cache"}


def test_links_among_what_is_abandoned_are_not_followed(tmp_path: Path, outside: Path) -> None:
    store = Store.create(tmp_path / "store")
    _replace(store.root / "blobs" / "incoming", outside)
    store.unpacked_root.symlink_to(outside)
    (store.root / "work" / "a1").symlink_to(outside)
    (store.root / "work" / "b2").mkdir()
    (store.root / "work" / "b2" / "link").symlink_to(outside)
    (store.root / "work" / "not a build").mkdir()
    (store.root / "work" / "d4").mkdir()
    (store.root / "leases" / "d4").mkdir()
    # what cannot be understood stays; neither it nor what cannot be removed is in the way of other builds
    assert store.remove_abandoned() == ["a1", "b2"]
    assert sorted(os.listdir(store.root / "work")) == ["d4", "not a build"]


def test_an_abandoned_thing_of_another_kind_is_no_hindrance(tmp_path: Path, outside: Path) -> None:
    store = Store.create(tmp_path / "store")
    incoming = store.root / "blobs" / "incoming"
    (incoming / ".new-link").symlink_to(outside)
    os.mkfifo(incoming / ".new-fifo")
    (incoming / ".new-file").touch()
    for name in (".new-link", ".new-fifo", ".new-file"):
        os.utime(incoming / name, (0, 0), follow_symlinks=False)
    store.remove_abandoned()
    assert not (incoming / ".new-file").exists()


def test_a_directory_that_became_a_link_is_not_made_accessible(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the refusal to open a directory and the change of its mode, its owner puts a link in its place."""
    tree = tmp_path / "tree"
    (tree / "closed").mkdir(parents=True)
    opened = os.open

    def refuse_and_replace(path: str | bytes, flags: int, *arguments: int, dir_fd: int | None = None) -> int:
        if path == b"closed" and not flags & os.O_PATH:
            if not (tree / "closed").is_symlink():
                _replace(tree / "closed", outside)
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *arguments, dir_fd=dir_fd)

    monkeypatch.setattr("executor.rootfs.remove.os.open", refuse_and_replace)
    parent = opened(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match="Not a directory"):
            remove_tree(parent, "closed")
    finally:
        os.close(parent)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0])
def test_the_umask_does_not_close_the_store_to_its_builders(tmp_path: Path, umask: int) -> None:
    former = os.umask(umask)
    try:
        store = Store.create(tmp_path / "store")
    finally:
        os.umask(former)
    modes = {name: (store.root / name).stat().st_mode & 0o777 for name in ("", "blobs", "blobs/sha256", "leases")}
    assert set(modes.values()) == {0o755}
    assert {(store.root / name).stat().st_mode & 0o777 for name in ("work", "unpacked", "cache", "staging")} == {0o700}
