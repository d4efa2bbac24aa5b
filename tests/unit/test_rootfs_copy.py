"""Copying between roots, as COPY does."""

from __future__ import annotations

import errno
import fnmatch
import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from executor.errors import StepFailedError
from executor.rootfs.contained import Root
from executor.rootfs.copy import CopyOptions, copy_file, copy_tree
from tests.support.archives import tree
from tests.support.privilege import as_root

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


@dataclass(frozen=True)
class Pair:
    source: Root
    target: Root
    source_path: Path
    target_path: Path

    def tree(self, options: CopyOptions | None = None, base: bytes = b"", to: bytes = b"") -> None:
        copy_tree(self.source, base, self.target, to, options)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    for name in ("source", "target", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside/planted").write_text("planted")
    with Root.at(tmp_path / "source") as source, Root.at(tmp_path / "target") as target:
        yield Pair(source, target, tmp_path / "source", tmp_path / "target")


def fill(top: Path) -> None:
    (top / "d/e").mkdir(parents=True)
    (top / "d/e/f").write_bytes(os.urandom(2_000_000))
    (top / "d/e/f").chmod(0o4750)
    os.link(top / "d/e/f", top / "d/linked")
    (top / "s").symlink_to("d/../nowhere")
    os.mkfifo(top / "pipe")
    (top / "d").chmod(0o1775)
    for path in top.rglob("*"):
        os.utime(path, (1234, 1234), follow_symlinks=False)


class TestTree:
    @as_root
    def test_everything_is_kept(self, pair: Pair) -> None:
        fill(pair.source_path)
        os.chown(pair.source_path / "d/e", 5, 6)
        os.chown(pair.source_path / "s", 7, 8, follow_symlinks=False)
        pair.tree()
        assert tree(pair.target_path) == tree(pair.source_path)

    @as_root
    def test_options(self, pair: Pair) -> None:
        fill(pair.source_path)
        pair.tree(
            CopyOptions(owner=(11, 12), mtime_ns=7 * 10**9, chmod=lambda mode, is_directory: 0o700 + is_directory)
        )
        seen = tree(pair.target_path)
        assert {(item.uid, item.gid, item.mtime) for item in seen.values()} == {(11, 12, 7)}
        modes = {name: item.mode for name, item in seen.items()}
        assert modes == {"d": 0o701, "d/e": 0o701, "d/e/f": 0o700, "d/linked": 0o700, "pipe": 0o700, "s": 0o777}

    @as_root
    def test_attributes(self, pair: Pair) -> None:
        path = pair.source_path / "f"
        path.touch()
        os.setxattr(path, "security.capability", CAPABILITY)
        os.setxattr(path, "user.any", b"1")
        pair.tree()
        assert os.listxattr(pair.target_path / "f") == []
        (pair.target_path / "f").unlink()
        pair.tree(CopyOptions(capabilities=True))
        assert os.listxattr(pair.target_path / "f") == ["security.capability"]

    @as_root
    def test_existing_directories(self, pair: Pair) -> None:
        (pair.source_path / "sub").mkdir(mode=0o711)
        (pair.source_path / "sub/f").touch()
        (pair.target_path / "to/sub").mkdir(parents=True, mode=0o700)
        (pair.target_path / "to/sub/own").touch()
        (pair.target_path / "to").chmod(0o750)
        os.chown(pair.target_path / "to", 3, 3)
        pair.tree(to=b"to")
        seen = tree(pair.target_path)
        # the one copied into stays as it is, those below it get the source's
        assert (seen["to"].mode, seen["to"].uid) == (0o750, 3)
        assert (seen["to/sub"].mode, seen["to/sub"].uid) == (0o711, 0)
        assert sorted(seen) == ["to", "to/sub", "to/sub/f", "to/sub/own"]

    def test_files_and_links_replace_each_other(self, pair: Pair, tmp_path: Path) -> None:
        (pair.source_path / "a").write_text("new")
        (pair.source_path / "b").symlink_to("x")
        (pair.target_path / "a").symlink_to(tmp_path / "outside/planted")
        (pair.target_path / "b").write_text("old")
        pair.tree()
        assert (pair.target_path / "a").read_text() == "new"
        assert (pair.target_path / "b").readlink() == Path("x")
        assert (tmp_path / "outside/planted").read_text() == "planted"

    def test_a_hard_link_elsewhere_keeps_its_content(self, pair: Pair) -> None:
        (pair.source_path / "a").write_text("new")
        (pair.target_path / "a").write_text("old")
        os.link(pair.target_path / "a", pair.target_path / "b")
        pair.tree()
        assert (pair.target_path / "b").read_text() == "old"

    @pytest.mark.parametrize("link", [False, True])
    def test_directory_onto_file(self, pair: Pair, link: bool, tmp_path: Path) -> None:
        (pair.source_path / "x").mkdir()
        (pair.source_path / "x/planted").write_text("evil")
        if link:
            (pair.target_path / "x").symlink_to(tmp_path / "outside")
        else:
            (pair.target_path / "x").touch()
        with pytest.raises(StepFailedError) as caught:
            pair.tree()
        assert caught.value.code == "copy-conflict"
        assert (tmp_path / "outside/planted").read_text() == "planted"

    def test_file_onto_directory(self, pair: Pair) -> None:
        (pair.source_path / "x").touch()
        (pair.target_path / "x").mkdir()
        with pytest.raises(StepFailedError) as caught:
            pair.tree()
        assert caught.value.code == "copy-conflict"

    def test_sockets_are_left_out(self, pair: Pair) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(pair.source_path / "socket"))
        pair.tree()
        assert os.listdir(pair.target_path) == []

    @as_root
    def test_devices_are_refused(self, pair: Pair) -> None:
        os.mknod(pair.source_path / "null", stat.S_IFCHR, os.makedev(0, 0))
        with pytest.raises(StepFailedError) as caught:
            pair.tree()
        assert caught.value.code == "device-node"

    def test_a_deep_tree(self, pair: Pair) -> None:
        deep = pair.source_path.joinpath(*["d"] * 1200)
        here = pair.source_path
        for _ in range(1200):
            here = here / "d"
            here.mkdir()
        (deep / "f").write_text("bottom")
        pair.tree()
        assert (pair.target_path.joinpath(*["d"] * 1200) / "f").read_text() == "bottom"
        from executor.store_files import remove

        remove(pair.source_path)
        remove(pair.target_path)


class Glob:
    """All but what a pattern matches, directories judged like files."""

    def __init__(self, *excluded: str, descend: bool = True) -> None:
        self._excluded = excluded
        self._descend = descend

    def selects(self, path: bytes, is_directory: bool, /) -> bool:
        return not any(fnmatch.fnmatchcase(path.decode(), pattern) for pattern in self._excluded)

    def descends(self, path: bytes, /) -> bool:
        return self._descend


class TestSelection:
    def test_what_is_not_selected_is_not_there(self, pair: Pair) -> None:
        for name in ("a/x.txt", "a/y", "b/x.txt", "c"):
            (pair.source_path / name).parent.mkdir(exist_ok=True)
            (pair.source_path / name).touch()
        pair.tree(CopyOptions(selection=Glob("*.txt", "c")))
        assert sorted(tree(pair.target_path)) == ["a", "a/y", "b"]

    def test_directories_appear_with_their_first_selected_file(self, pair: Pair) -> None:
        for name in ("d/e/keep", "d/e/more", "d/f/skip", "g/h/skip"):
            (pair.source_path / name).parent.mkdir(parents=True, exist_ok=True)
            (pair.source_path / name).touch()
        (pair.source_path / "d").chmod(0o710)
        pair.tree(CopyOptions(selection=Glob("d", "d/e", "d/f", "g", "g/h", "*skip")))
        assert sorted(tree(pair.target_path)) == ["d", "d/e", "d/e/keep", "d/e/more"]
        assert tree(pair.target_path)["d"].mode == 0o710

    def test_without_descending(self, pair: Pair) -> None:
        (pair.source_path / "d").mkdir()
        (pair.source_path / "d/f").touch()
        pair.tree(CopyOptions(selection=Glob("d", descend=False)))
        assert os.listdir(pair.target_path) == []


class TestFile:
    def test_one_file(self, pair: Pair) -> None:
        (pair.source_path / "f").write_text("text")
        (pair.source_path / "f").chmod(0o640)
        copy_file(pair.source, b"f", pair.target, b"g")
        assert (pair.target_path / "g").read_text() == "text"
        assert (pair.target_path / "g").stat().st_mode & 0o777 == 0o640

    def test_missing(self, pair: Pair) -> None:
        with pytest.raises(StepFailedError) as caught:
            copy_file(pair.source, b"none", pair.target, b"x")
        assert caught.value.code == "source-missing"

    def test_a_link_is_copied_and_not_what_it_names(self, pair: Pair, tmp_path: Path) -> None:
        (pair.source_path / "s").symlink_to(tmp_path / "outside/planted")
        copy_file(pair.source, b"s", pair.target, b"s")
        assert (pair.target_path / "s").is_symlink()

    def test_neither_side_leaves_its_root(self, pair: Pair, tmp_path: Path) -> None:
        (pair.source_path / "way").symlink_to("../outside")
        (pair.target_path / "way").symlink_to(tmp_path / "outside")
        (pair.source_path / "f").write_text("evil")
        with pytest.raises(StepFailedError):
            copy_file(pair.source, b"way/planted", pair.target, b"stolen")
        with pytest.raises(FileNotFoundError):
            copy_file(pair.source, b"f", pair.target, b"way/planted")
        assert (tmp_path / "outside/planted").read_text() == "planted"
        assert not (pair.target_path / "stolen").exists()

    @pytest.mark.parametrize("number", [errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
    def test_where_the_kernel_cannot_copy(self, pair: Pair, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        def refuse(reader: int, writer: int, count: int) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "copy_file_range", refuse)
        data = os.urandom(3_000_000)
        (pair.source_path / "f").write_bytes(data)
        copy_file(pair.source, b"f", pair.target, b"f")
        assert (pair.target_path / "f").read_bytes() == data
