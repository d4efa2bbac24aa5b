"""Finding changes: in trees made by hand, and in those that the kernel's overlayfs made."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from executor.errors import StepFailedError
from executor.rootfs.changes import find_changes
from executor.rootfs.contained import Root
from executor.rootfs.overlayform import LayerStack
from tests.support.privilege import as_root

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


class Trees:
    def __init__(self, top: Path) -> None:
        self.lower, self.upper = top / "lower", top / "upper"
        self.lower.mkdir()
        self.upper.mkdir()

    def changes(self, *, scratch: bool = False) -> list[str]:
        """Paths, with `-` before those that are gone."""
        with Root.at(self.upper) as upper, Root.at(self.lower) as lower:
            found = find_changes(upper, None if scratch else lower)
            return [("-" if change.is_whiteout else "") + os.fsdecode(change.path) for change in found]

    def both(self, name: str, text: str = "same", time: int = 1000) -> tuple[Path, Path]:
        """A file that was copied up without change."""
        for top in (self.lower, self.upper):
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            os.utime(path, (time, time))
        return self.lower / name, self.upper / name

    def overlay(self, script: str) -> None:
        """Run a shell script in the merged directory of a real overlay mount."""
        top = self.lower.parent
        (top / "work").mkdir(exist_ok=True)
        (top / "merged").mkdir(exist_ok=True)
        options = f"lowerdir={self.lower},upperdir={self.upper},workdir={top}/work,userxattr"
        command = f"mount -t overlay overlay -o {options} {top}/merged && cd {top}/merged && set -e && {script}"
        done = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path)


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


class TestPredicate:
    def test_nothing(self, trees: Trees) -> None:
        assert trees.changes() == []
        assert trees.changes(scratch=True) == []

    def test_copied_up_without_change(self, trees: Trees) -> None:
        trees.both("d/e/f")
        assert trees.changes() == []

    def test_content_of_equal_size_and_time(self, trees: Trees) -> None:
        _, new = trees.both("d/f", "same")
        new.write_text("diff")
        os.utime(new, (1000, 1000))
        assert trees.changes() == ["d", "d/f"]

    def test_size_time_and_mode(self, trees: Trees) -> None:
        for name in ("size", "time", "mode"):
            trees.both(name)
        (trees.upper / "size").write_text("longer")
        os.utime(trees.upper / "size", (1000, 1000))
        os.utime(trees.upper / "time", (1000, 1001))
        (trees.upper / "mode").chmod(0o600)
        assert trees.changes() == ["mode", "size", "time"]

    @as_root
    def test_owner_and_capability(self, trees: Trees) -> None:
        for name in ("owner", "group", "capability"):
            trees.both(name)
        os.chown(trees.upper / "owner", 5, -1)
        os.chown(trees.upper / "group", -1, 5)
        os.setxattr(trees.upper / "capability", "security.capability", CAPABILITY)
        assert trees.changes() == ["capability", "group", "owner"]
        os.setxattr(trees.lower / "capability", "security.capability", CAPABILITY)
        assert trees.changes() == ["group", "owner"]

    def test_other_attributes_are_no_change(self, trees: Trees) -> None:
        _, new = trees.both("f")
        os.setxattr(new, "user.any", b"1")
        assert trees.changes() == []

    def test_link_target(self, trees: Trees) -> None:
        for top, target in ((trees.lower, "aa"), (trees.upper, "bb")):
            (top / "l").symlink_to(target)
            (top / "m").symlink_to("same")
            for name in ("l", "m"):
                os.utime(top / name, (5, 5), follow_symlinks=False)
        assert trees.changes() == ["l"]

    @pytest.mark.parametrize("kind", ["file", "link", "directory", "fifo"])
    @pytest.mark.parametrize("before", ["file", "link", "directory", "fifo"])
    def test_type(self, trees: Trees, kind: str, before: str) -> None:
        make: dict[str, Callable[[Path], object]] = {
            "file": lambda path: path.write_text(""),
            "link": lambda path: path.symlink_to("x"),
            "directory": lambda path: path.mkdir(),
            "fifo": os.mkfifo,
        }
        make[before](trees.lower / "x")
        make[kind](trees.upper / "x")
        for top in (trees.lower, trees.upper):
            os.utime(top / "x", (5, 5), follow_symlinks=False)
        assert trees.changes() == ([] if kind == before else ["x"])

    def test_directory_over_link_is_not_compared_with_its_target(self, trees: Trees) -> None:
        trees.both("real/f")
        (trees.lower / "d").symlink_to("real")
        trees.both("d/f")
        (trees.upper / "d").mkdir(exist_ok=True)
        (trees.upper / "d/f").write_text("same")
        os.utime(trees.upper / "d/f", (1000, 1000))
        assert trees.changes() == ["d", "d/f"]

    def test_parents_come_along_and_first(self, trees: Trees) -> None:
        (trees.lower / "a").mkdir(mode=0o751)
        (trees.lower / "a/b").mkdir()
        (trees.upper / "a").mkdir(mode=0o751)
        (trees.upper / "a/b").mkdir()
        (trees.upper / "a/b/new").touch()
        (trees.upper / "a.b").touch()
        assert trees.changes() == ["a", "a/b", "a/b/new", "a.b"]

    def test_everything_is_new_on_scratch(self, trees: Trees) -> None:
        trees.both("d/f")
        assert trees.changes(scratch=True) == ["d", "d/f"]

    def test_hard_links_come_together(self, trees: Trees) -> None:
        trees.both("d/old")
        os.link(trees.upper / "d/old", trees.upper / "new")
        trees.both("alone")
        os.link(trees.upper / "alone", trees.upper / "also")
        os.link(trees.lower / "alone", trees.lower / "also")
        assert trees.changes() == ["d", "d/old", "new"]


class TestGone:
    @as_root
    def test_whiteouts(self, trees: Trees) -> None:
        (trees.lower / "d").mkdir()
        (trees.lower / "d/gone").touch()
        (trees.upper / "d").mkdir()
        whiteout(trees.upper / "d/gone")
        whiteout(trees.upper / "never-was")
        assert trees.changes() == ["d", "-d/gone"]

    @as_root
    def test_nothing_below_what_is_gone(self, trees: Trees) -> None:
        trees.both("d/e/f")
        (trees.upper / "d/e/f").unlink()
        (trees.upper / "d/e").rmdir()
        (trees.upper / "d").rmdir()
        whiteout(trees.upper / "d")
        assert trees.changes() == ["-d"]

    def test_opaque_directories(self, trees: Trees) -> None:
        for name in ("d/kept", "d/changed", "d/sub/kept"):
            trees.both(name)
        for name in ("d/gone", "d/sub/gone", "d/lost/f", "d/sub/lost/f"):
            (trees.lower / name).parent.mkdir(exist_ok=True)
            (trees.lower / name).touch()
        (trees.upper / "d/changed").write_text("changed")
        (trees.upper / "d/new").touch()
        os.setxattr(trees.upper / "d", "user.overlay.opaque", b"y")
        expected = ["d", "d/changed", "-d/gone", "-d/lost", "d/new", "d/sub", "-d/sub/gone", "-d/sub/lost"]
        assert trees.changes() == expected

    def test_socket_is_left_out_but_hides(self, trees: Trees) -> None:
        (trees.lower / "was-file").touch()
        for name in ("was-file", "new"):
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(trees.upper / name))
        assert trees.changes() == ["-was-file"]


class TestKernel:
    """What overlayfs really leaves in an upper directory."""

    @as_root
    def test_the_life_of_a_tree(self, trees: Trees) -> None:
        low = trees.lower
        for name in (
            "etc/keep",
            "etc/edit",
            "etc/remove",
            "opt/app/a",
            "opt/app/b",
            "var/x/y",
            "bin/old",
            "bin/touched",
        ):
            (low / name).parent.mkdir(parents=True, exist_ok=True)
            (low / name).write_text(name)
        trees.overlay(
            "echo more >> etc/edit; rm etc/remove; rm -r opt/app; mkdir opt/app; echo b > opt/app/b; "
            "rm -r var; ln bin/old bin/new; mv etc/keep etc/kept; echo x > new; : >> bin/touched"
        )
        assert trees.changes() == [
            "bin",
            "bin/new",
            "bin/old",
            "etc",
            "etc/edit",
            "-etc/keep",
            "etc/kept",
            "-etc/remove",
            "new",
            "opt",
            "opt/app",
            "-opt/app/a",
            "opt/app/b",
            "-var",
        ]

    @as_root
    def test_swapped_types_and_renamed_directories(self, trees: Trees) -> None:
        for name in ("d/f", "e/f", "file"):
            (trees.lower / name).parent.mkdir(exist_ok=True)
            (trees.lower / name).write_text(name)
        trees.overlay(
            "rm -r d; echo file > d; rm file; mkdir file; echo x > file/in;"
            "cp -r e g; touch -d 2001-01-01 g/f; rm -r e; mv g e"
        )
        assert trees.changes() == ["d", "e", "e/f", "file", "file/in"]

    @as_root
    def test_undone_changes_are_none(self, trees: Trees) -> None:
        (trees.lower / "d").mkdir()
        (trees.lower / "d/f").write_text("x")
        trees.overlay("chmod 600 d/f; chmod 644 d/f; touch d/new; rm d/new; mkdir e; rmdir e")
        (trees.lower / "d/f").chmod(0o644)
        assert trees.changes() == []


def test_a_path_that_no_layer_can_hold(tmp_path: Path) -> None:
    trees = Trees(tmp_path)
    here = os.open(trees.upper, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=here)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(StepFailedError) as caught:
        trees.changes()
    assert caught.value.code == "path-too-long"
    from executor.store_files import remove

    remove(trees.upper)
    assert not trees.upper.exists()


@as_root
def test_layers_below_without_a_mount(tmp_path: Path) -> None:
    trees = Trees(tmp_path)
    trees.both("d/f")
    middle = tmp_path / "middle"
    (middle / "d").mkdir(parents=True)
    whiteout(middle / "d/f")
    with Root.at(trees.upper) as upper, Root.at(trees.lower) as low, Root.at(middle) as mid:
        assert [item.path for item in find_changes(upper, LayerStack((low,)))] == []
        assert [item.path for item in find_changes(upper, LayerStack((mid, low)))] == [b"d", b"d/f"]
