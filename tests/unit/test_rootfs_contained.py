"""Operations below a root: links are followed inside it, and nothing leads out."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from executor.rootfs.contained import Root
from executor.rootfs.overlayform import LayerStack, make_opaque, make_whiteout
from executor.rootfs.remove import remove_tree
from tests.support.archives import tree
from tests.support.privilege import as_root


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "root/usr/lib").mkdir(parents=True)
    (tmp_path / "root/usr/lib/f").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/planted").write_text("planted")
    os.utime(tmp_path / "outside/planted", (9, 9))
    return tmp_path / "root"


@pytest.fixture
def root(top: Path) -> Iterator[Root]:
    with Root.at(top) as opened:
        yield opened


class TestResolve:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            (b"", b""), (b"/", b""), (b".", b""), (b"usr/lib", b"usr/lib"), (b"/usr//./lib/", b"usr/lib"),
            (b"lib", b"usr/lib"), (b"lib/f", b"usr/lib/f"), (b"absolute/f", b"usr/lib/f"), (b"../../etc", b"etc"),
            (b"up", b"outside"), (b"up/planted", b"outside/planted"), (b"usr/lib/../x", b"usr/x"),
            (b"dangling", b"var/none/x"), (b"dangling/y", b"var/none/x/y"), (b"none/../usr", b"usr"),
            (b"chain", b"usr/lib"), (b"usr/back", b"usr"),
        ],
    )  # fmt: skip
    def test_as_in_a_root_of_its_own(self, root: Root, top: Path, path: bytes, expected: bytes) -> None:
        (top / "lib").symlink_to("usr/lib")
        (top / "absolute").symlink_to("/usr/lib")
        (top / "up").symlink_to("../../../outside")
        (top / "dangling").symlink_to("/var/none/x")
        (top / "chain").symlink_to("lib")
        (top / "usr/back").symlink_to("../usr")
        assert root.resolve(path) == expected

    def test_loops_and_files_on_the_way(self, root: Root, top: Path) -> None:
        (top / "a").symlink_to("b")
        (top / "b").symlink_to("a")
        with pytest.raises(OSError, match="a/x") as caught:
            root.resolve(b"a/x")
        assert caught.value.errno == errno.ELOOP
        with pytest.raises(NotADirectoryError):
            root.resolve(b"usr/lib/f/x")


class TestEscapes:
    OPERATIONS: ClassVar[dict[str, Callable[[Root, bytes], object]]] = {
        "open_file": lambda root, base: root.open_file(base + b"/planted"),
        "readlink": lambda root, base: root.readlink(base + b"/link"),
        "names": lambda root, base: root.names(base),
        "create_file": lambda root, base: os.close(root.create_file(base + b"/new")),
        "mkdir": lambda root, base: root.mkdir(base + b"/new"),
        "make_directories": lambda root, base: root.make_directories(base + b"/new/er", 0o755, None),
        "symlink": lambda root, base: root.symlink(b"x", base + b"/new"),
        "link": lambda root, base: root.link(base + b"/planted", b"stolen"),
        "link into": lambda root, base: root.link(b"usr/lib/f", base + b"/new"),
        "mkfifo": lambda root, base: root.mkfifo(base + b"/new"),
        "unlink": lambda root, base: root.unlink(base + b"/planted"),
        "remove": lambda root, base: root.remove(base + b"/planted"),
        "chown": lambda root, base: root.chown(base + b"/planted", 5, 5),
        "chmod": lambda root, base: root.chmod(base + b"/planted", 0o777),
        "utime": lambda root, base: root.utime(base + b"/planted", 0),
    }

    @as_root
    @pytest.mark.parametrize("how", ["relative", "absolute", "dots", "magic"])
    @pytest.mark.parametrize("name", OPERATIONS)
    def test_what_is_outside_stays(self, root: Root, top: Path, name: str, how: str) -> None:
        outside = top.parent / "outside"
        descriptor = os.open(outside, os.O_RDONLY)
        targets = {
            "relative": "../outside",
            "absolute": str(outside),
            "magic": f"/proc/self/fd/{descriptor}",
        }
        base = b"../outside"
        if how in targets:
            (top / "way").symlink_to(targets[how])
            base = b"way"
        before = tree(outside)
        try:
            self.OPERATIONS[name](root, base)
        except OSError as error:
            assert error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP}
        finally:
            os.close(descriptor)
        assert tree(outside) == before
        assert not any(item.content == b"planted" for item in tree(top).values())

    @as_root
    def test_the_last_name_is_never_followed(self, root: Root, top: Path) -> None:
        planted = top.parent / "outside/planted"
        (top / "s").symlink_to(planted)
        before = tree(planted.parent)
        root.chown(b"s", 5, 6)
        root.utime(b"s", 0)
        with pytest.raises(OSError, match="symbolic link"):
            root.chmod(b"s", 0o777)
        with pytest.raises(OSError, match="symbolic links"):
            root.open_file(b"s")
        with pytest.raises(NotADirectoryError):
            root.open_directory(b"s")
        with pytest.raises(FileExistsError):
            root.create_file(b"s")
        root.link(b"s", b"t")
        assert (top / "t").is_symlink()
        root.remove(b"s")
        assert tree(planted.parent) == before
        assert (top / "t").lstat().st_uid == 5


class TestOperations:
    def test_fifos_are_not_waited_on(self, root: Root) -> None:
        root.mkfifo(b"pipe")
        with pytest.raises(OSError, match="not a regular file"):
            root.open_file(b"pipe")

    @as_root
    def test_make_directories(self, root: Root, top: Path) -> None:
        (top / "usr").chmod(0o711)
        (top / "link").symlink_to("/var/deep")
        assert root.make_directories(b"usr/a/b", 0o750, (3, 4)) == b"usr/a/b"
        assert root.make_directories(b"link/c", 0o755, None) == b"var/deep/c"
        assert root.make_directories(b"/", 0o755, None) == b""
        seen = tree(top)
        assert (seen["usr"].mode, seen["usr"].uid) == (0o711, 0)
        assert (seen["usr/a"].mode, seen["usr/a"].uid, seen["usr/a/b"].gid) == (0o750, 3, 4)
        assert "var/deep/c" in seen
        with pytest.raises(NotADirectoryError):
            root.make_directories(b"usr/lib/f/x", 0o755, None)
        with pytest.raises(NotADirectoryError):
            root.make_directories(b"usr/lib/f", 0o755, None)

    def test_umask_does_not_show(self, root: Root, top: Path) -> None:
        before = os.umask(0o077)
        try:
            root.mkdir(b"d", 0o775)
        finally:
            os.umask(before)
        assert (top / "d").stat().st_mode & 0o777 == 0o775

    def test_lstat_and_walk(self, root: Root, top: Path) -> None:
        (top / "s").symlink_to("usr")
        assert root.lstat(b"none") is None
        assert root.lstat(b"usr/lib/f/x") is None
        assert root.lstat(b"") is not None
        assert [path for path, _ in root.walk(b"")] == [b"s", b"usr", b"usr/lib", b"usr/lib/f"]
        assert [path for path, _ in root.walk(b"usr")] == [b"usr/lib", b"usr/lib/f"]

    def test_a_path_that_ends_in_dots(self, root: Root) -> None:
        with pytest.raises(OSError, match="end in"):
            root.lstat(b"usr/..")


class TestRemove:
    def test_deep_wide_and_closed(self, top: Path) -> None:
        here = os.open(top, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("deep", dir_fd=here)
            below = os.open("deep", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        for number in range(50):
            (top / f"closed{number}/x").mkdir(parents=True)
            (top / f"closed{number}/x/f").touch()
            (top / f"closed{number}/x").chmod(0)
            (top / f"closed{number}").chmod(0o500)
        (top / "out").symlink_to("../outside")
        parent = os.open(top.parent, os.O_RDONLY)
        try:
            remove_tree(parent, "root")
            remove_tree(parent, "root")
        finally:
            os.close(parent)
        assert os.listdir(top.parent) == ["outside"]
        assert (top.parent / "outside/planted").read_text() == "planted"

    def test_a_link_in_the_place_of_a_tree(self, top: Path) -> None:
        (top / "s").symlink_to("../outside")
        descriptor = os.open(top, os.O_RDONLY)
        try:
            remove_tree(descriptor, b"s")
        finally:
            os.close(descriptor)
        assert (top.parent / "outside/planted").exists()
        assert not (top / "s").is_symlink()


class TestLayerStack:
    def test_no_layers(self) -> None:
        empty = LayerStack(())
        assert empty.lstat(b"") is None
        assert empty.lstat(b"etc/passwd") is None
        assert empty.names(b"") == []
        with pytest.raises(FileNotFoundError):
            empty.open_file(b"f")

    @as_root
    def test_as_overlayfs_shows_it(self, tmp_path: Path) -> None:
        layers = [tmp_path / name for name in ("top", "middle", "bottom")]
        for path in ("bottom/d/a", "bottom/d/b", "bottom/o/x", "bottom/r/x", "bottom/t/x", "middle/d/c", "middle/o/y"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(path)
        (tmp_path / "top/d").mkdir(parents=True)
        (tmp_path / "top/d/c").symlink_to("a")
        (tmp_path / "middle/r").write_text("file")
        (tmp_path / "top/r").mkdir()
        roots = [Root.at(layer) for layer in layers]
        try:
            make_whiteout(roots[1].fd, b"t")
            descriptor = roots[0].open_directory(b"d")
            make_whiteout(descriptor, b"b")
            os.close(descriptor)
            descriptor = roots[1].open_directory(b"o")
            make_opaque(descriptor)
            os.close(descriptor)
            stack = LayerStack(roots)
            assert stack.names(b"") == [b"d", b"o", b"r"]
            assert stack.names(b"d") == [b"a", b"c"]
            assert stack.names(b"o") == [b"y"]
            assert stack.names(b"r") == []
            assert stack.readlink(b"d/c") == b"a"
            for gone in (b"d/b", b"o/x", b"r/x", b"t", b"t/x", b"d/a/x", b"none/x"):
                assert stack.lstat(gone) is None, gone
            with os.fdopen(stack.open_file(b"d/a")) as stream:
                assert stream.read() == "bottom/d/a"
        finally:
            for item in roots:
                item.close()
