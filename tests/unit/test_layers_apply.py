"""Unpacking layers: what overlayfs shall see, and what hostile archives shall not reach."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from executor.errors import DiskFullError, HostError, PushwrightError, RegistryContentError
from executor.layers.apply import Applied, NeedsLowerError, apply_layer
from executor.layers.limits import LayerLimits
from executor.oci import Digest
from executor.rootfs.contained import Root
from executor.rootfs.overlayform import LayerStack
from tests.support.archives import Member, archive, device, directory, fifo, file, hard_link, symlink, tree
from tests.support.privilege import as_root

BOTTOM = LayerStack(())
# version 2, effective, cap_net_bind_service
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def apply(
    top: Path,
    *members: Member,
    lower: LayerStack | None = BOTTOM,
    id_shift: int = 0,
    limits: LayerLimits | None = None,
    expected: Digest | None = None,
    warn: Callable[[str, str], None] = lambda code, message: None,
) -> Applied:
    top.mkdir(exist_ok=True)
    with Root.at(top) as root:
        return apply_layer(
            io.BytesIO(archive(*members)),
            root,
            id_shift=id_shift,
            lower=lower,
            limits=limits,
            expected_diff_id=expected,
            warn=warn,
        )


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "user.overlay.opaque" in os.listxattr(path) and os.getxattr(path, "user.overlay.opaque") == b"y"


class TestEntries:
    @as_root
    def test_kinds_modes_owners_and_times(self, tmp_path: Path) -> None:
        applied = apply(
            tmp_path / "r",
            directory("./", mode=0o711, uid=1, gid=2, mtime=7),
            directory("d/", mode=0o1777, uid=3, gid=4, mtime=8),
            file("d/setuid", b"x" * 3_000_000, mode=0o6755, uid=5, gid=6, mtime=9),
            symlink("d/link", "../outside", uid=7, gid=8, mtime=10),
            fifo("d/pipe", mode=0o622, uid=9, gid=10, mtime=11),
            hard_link("same", "d/setuid", mode=0o6755, uid=5, gid=6, mtime=9),
        )
        seen = tree(tmp_path / "r")
        top = (tmp_path / "r").stat()
        assert (top.st_mode & 0o7777, top.st_uid, top.st_gid, top.st_mtime) == (0o711, 1, 2, 7)
        facts = {name: (item.mode, item.uid, item.gid, item.mtime) for name, item in seen.items()}
        assert facts == {
            "d": (0o1777, 3, 4, 8),
            "d/setuid": (0o6755, 5, 6, 9),
            "d/link": (0o777, 7, 8, 10),
            "d/pipe": (0o622, 9, 10, 11),
            "same": (0o6755, 5, 6, 9),
        }
        assert seen["same"].links == ("d/setuid", "same")
        assert seen["d/link"].content == b"../outside"
        assert applied.entries == 6

    @as_root
    def test_ids_are_shifted(self, tmp_path: Path) -> None:
        apply(tmp_path / "r", directory("d/"), file("d/f", uid=5, gid=6), file("new/g"), id_shift=1)
        facts = {name: (item.uid, item.gid) for name, item in tree(tmp_path / "r").items()}
        assert facts == {"d": (1, 1), "d/f": (6, 7), "new": (1, 1), "new/g": (1, 1)}
        assert (tmp_path / "r").stat().st_uid == 1

    @as_root
    @pytest.mark.parametrize("uid", [(1 << 32) - 1, (1 << 32) - 2, 1 << 40])
    def test_ids_that_do_not_exist(self, tmp_path: Path, uid: int) -> None:
        with pytest.raises(HostError) as caught:
            apply(tmp_path / "r", file("f", uid=uid), id_shift=1)
        assert caught.value.code == "id-out-of-range"

    @as_root
    @pytest.mark.parametrize("id_shift", [0, 1])
    def test_of_attributes_only_the_file_capability(self, tmp_path: Path, id_shift: int) -> None:
        text = CAPABILITY.decode("latin-1")
        pax = {
            "SCHILY.xattr.security.capability": text,
            "SCHILY.xattr.user.overlay.opaque": "y",
            "SCHILY.xattr.trusted.overlay.opaque": "y",
            "SCHILY.xattr.user.any": "1",
        }
        apply(tmp_path / "r", file("f", pax=pax), directory("d/", pax=pax), id_shift=id_shift)
        assert os.listxattr(tmp_path / "r/f") == ["security.capability"]
        assert os.listxattr(tmp_path / "r/d") == []
        found = os.getxattr(tmp_path / "r/f", "security.capability")
        root = struct.unpack_from("<I", found, 20)[0] if len(found) == 24 else 0
        assert (found[4:20], root) == (CAPABILITY[4:], id_shift)

    @as_root
    def test_damaged_capability(self, tmp_path: Path) -> None:
        with pytest.raises(RegistryContentError):
            apply(tmp_path / "r", file("f", pax={"SCHILY.xattr.security.capability": "short"}))

    @as_root
    def test_devices_are_left_out_and_named(self, tmp_path: Path) -> None:
        warnings: list[tuple[str, str]] = []
        applied = apply(
            tmp_path / "r",
            directory("dev/"),
            device("dev/null"),
            Member("dev/sda", b"4"),
            warn=lambda code, message: warnings.append((code, message)),
        )
        assert applied.skipped == ("dev/null", "dev/sda")
        assert [code for code, _ in warnings] == ["device-node"]
        assert "dev/null" in warnings[0][1]
        assert sorted(tree(tmp_path / "r")) == ["dev"]

    @as_root
    def test_later_entries_replace(self, tmp_path: Path) -> None:
        apply(
            tmp_path / "r",
            file("a", b"first"),
            file("a", b"second"),
            directory("b/"),
            file("b/inner"),
            file("b", b"no directory any more"),
            file("c"),
            directory("c/"),
            file("c/inner", b"x"),
            directory("d/", mode=0o700, mtime=1),
            file("d/stays"),
            directory("d/", mode=0o755, mtime=2),
            symlink("e", "a"),
            file("e", b"own"),
        )
        seen = tree(tmp_path / "r")
        assert {name: item.content for name, item in seen.items()} == {
            "a": b"second",
            "b": b"no directory any more",
            "c": b"",
            "c/inner": b"x",
            "d": b"",
            "d/stays": b"",
            "e": b"own",
        }
        assert (seen["d"].mode, seen["d"].mtime) == (0o755, 2)
        # what is below the directory c was hidden by the file c
        assert is_opaque(tmp_path / "r/c")

    @as_root
    def test_hard_link_entries_speak_for_the_file(self, tmp_path: Path) -> None:
        apply(tmp_path / "r", file("a", b"x", mode=0o755), hard_link("b", "a", mode=0o600, uid=4, mtime=3))
        seen = tree(tmp_path / "r")
        assert (seen["a"].mode, seen["a"].uid, seen["a"].mtime) == (0o600, 4, 3)
        assert seen["a"].links == ("a", "b")

    @as_root
    def test_hard_links_to_links_and_repeated(self, tmp_path: Path) -> None:
        apply(
            tmp_path / "r",
            symlink("s", "nowhere"),
            hard_link("t", "s", mode=0o777),
            file("a", b"x"),
            hard_link("b", "./a"),
            hard_link("b", "/a"),
        )
        assert (tmp_path / "r/t").readlink() == Path("nowhere")
        assert tree(tmp_path / "r")["b"].links == ("a", "b")


class TestWhiteouts:
    @as_root
    def test_become_devices_and_attributes(self, tmp_path: Path) -> None:
        apply(
            tmp_path / "r", directory("d/"), file("d/.wh.gone"), directory("o/"), file("o/.wh..wh..opq"), file(".wh.x")
        )
        assert is_whiteout(tmp_path / "r/d/gone")
        assert is_whiteout(tmp_path / "r/x")
        assert is_opaque(tmp_path / "r/o")
        assert sorted(tree(tmp_path / "r")) == ["d", "d/gone", "o", "x"]

    @as_root
    @pytest.mark.parametrize("first", [True, False])
    def test_speak_of_lower_layers_only(self, tmp_path: Path, first: bool) -> None:
        whiteouts = [file(".wh.f"), file(".wh.d"), file("o/.wh..wh..opq")]
        own = [file("f", b"own"), directory("d/"), file("d/own"), file("o/own")]
        members = whiteouts + own if first else own + whiteouts
        apply(tmp_path / "r", directory("o/"), *members)
        assert (tmp_path / "r/f").read_bytes() == b"own"
        assert (tmp_path / "r/d/own").exists()
        assert is_opaque(tmp_path / "r/d")
        assert (tmp_path / "r/o/own").exists()
        assert is_opaque(tmp_path / "r/o")

    @as_root
    @pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh.."])
    def test_of_nothing(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(RegistryContentError):
            apply(tmp_path / "r", directory("d/"), file(name))

    @as_root
    def test_aufs_metadata_is_left_out(self, tmp_path: Path) -> None:
        apply(tmp_path / "r", file(".wh..wh.aufs"), directory(".wh..wh.plnk/"), file("f"))
        assert sorted(tree(tmp_path / "r")) == ["f"]

    @as_root
    def test_opaque_root_hides_every_name_below(self, tmp_path: Path) -> None:
        apply(tmp_path / "low", directory("etc/"), directory("usr/"), file("bin"))
        with Root.at(tmp_path / "low") as low:
            apply(tmp_path / "r", file(".wh..wh..opq"), directory("etc/"), lower=LayerStack((low,)))
        assert is_opaque(tmp_path / "r/etc")
        assert is_whiteout(tmp_path / "r/usr")
        assert is_whiteout(tmp_path / "r/bin")


class TestLower:
    def lower(self, path: Path) -> Root:
        apply(
            path,
            directory("etc/", mode=0o750, uid=3, mtime=4),
            file("etc/shadow", b"secret", mode=0o640, gid=42),
            symlink("lib", "usr/lib"),
            directory("usr/"),
            directory("usr/lib/", mode=0o700),
            file("plain"),
        )
        return Root.at(path)

    @as_root
    @pytest.mark.parametrize(
        "member",
        [file("etc/new"), hard_link("copy", "etc/shadow"), file("etc/.wh.x"), file("lib/x"), file(".wh..wh..opq")],
    )
    def test_a_layer_alone_says_that_it_needs_more(self, tmp_path: Path, member: Member) -> None:
        with pytest.raises(NeedsLowerError):
            apply(tmp_path / "r", member, lower=None)

    @as_root
    def test_a_self_contained_layer_does_not(self, tmp_path: Path) -> None:
        apply(tmp_path / "r", directory("d/"), file("d/f"), hard_link("g", "d/f"), file(".wh.x"), lower=None)
        assert is_whiteout(tmp_path / "r/x")

    @as_root
    def test_implied_directories_are_as_below(self, tmp_path: Path) -> None:
        with self.lower(tmp_path / "low") as low:
            apply(tmp_path / "r", file("etc/new"), file("fresh/f"), lower=LayerStack((low,)))
        seen = tree(tmp_path / "r")
        assert (seen["etc"].mode, seen["etc"].uid, seen["etc"].mtime) == (0o750, 3, 4)
        assert (seen["fresh"].mode, seen["fresh"].uid, seen["fresh"].mtime) == (0o755, 0, 0)
        assert sorted(seen) == ["etc", "etc/new", "fresh", "fresh/f"]

    @as_root
    def test_links_below_are_followed(self, tmp_path: Path) -> None:
        with self.lower(tmp_path / "low") as low:
            apply(tmp_path / "r", file("lib/x", b"1"), lower=LayerStack((low,)))
        seen = tree(tmp_path / "r")
        assert sorted(seen) == ["usr", "usr/lib", "usr/lib/x"]
        assert seen["usr/lib"].mode == 0o700

    @as_root
    def test_hard_link_to_a_file_below_brings_it_along(self, tmp_path: Path) -> None:
        with self.lower(tmp_path / "low") as low:
            apply(tmp_path / "r", hard_link("copy", "etc/shadow", mode=0o640, gid=42), lower=LayerStack((low,)))
        seen = tree(tmp_path / "r")
        assert seen["copy"].links == ("copy", "etc/shadow")
        assert (seen["copy"].content, seen["copy"].mode, seen["copy"].gid) == (b"secret", 0o640, 42)

    @as_root
    def test_what_this_layer_hides_is_not_found_below(self, tmp_path: Path) -> None:
        with self.lower(tmp_path / "low") as low, pytest.raises(RegistryContentError):
            members = (directory("etc/"), file("etc/.wh..wh..opq"), hard_link("copy", "etc/shadow"))
            apply(tmp_path / "r", *members, lower=LayerStack((low,)))
        with self.lower(tmp_path / "low2") as low, pytest.raises(RegistryContentError):
            apply(tmp_path / "r2", file("etc/.wh.shadow"), hard_link("c", "etc/shadow"), lower=LayerStack((low,)))

    @as_root
    def test_file_below_is_no_directory(self, tmp_path: Path) -> None:
        with self.lower(tmp_path / "low") as low, pytest.raises(RegistryContentError):
            apply(tmp_path / "r", file("plain/f"), lower=LayerStack((low,)))


class TestContent:
    @as_root
    def test_diff_id(self, tmp_path: Path) -> None:
        data = archive(file("f"))
        assert apply(tmp_path / "a", file("f"), expected=Digest.of(data)).diff_id == Digest.of(data)
        with pytest.raises(RegistryContentError) as caught:
            apply(tmp_path / "b", file("f"), expected=Digest.of(b"other"))
        assert caught.value.code == "diff-id-mismatch"

    @as_root
    def test_bombs(self, tmp_path: Path) -> None:
        with pytest.raises(RegistryContentError) as caught:
            apply(tmp_path / "a", file("f", bytes(5_000_000)), limits=LayerLimits(size_bytes=1_000_000))
        assert caught.value.code == "layer-too-large"
        with pytest.raises(RegistryContentError):
            apply(tmp_path / "b", *(file(str(n)) for n in range(20)), limits=LayerLimits(entries=10))
        with pytest.raises(RegistryContentError):
            apply(tmp_path / "c", file("d/" * 600 + "f"))
        with pytest.raises(RegistryContentError):
            apply(tmp_path / "d", file("n" * 300))
        with pytest.raises(RegistryContentError):
            apply(tmp_path / "e", file("n/" * 40_000))

    @as_root
    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(DiskFullError):
            apply(tmp_path / "a", file("f", b"x"))

    @as_root
    @pytest.mark.parametrize(
        "members",
        [
            (file(""),),
            (file("f", pax={"path": "a\0b"}),),
            (symlink("s", ""),),
            (file("."),),
            (file("f"), file("f/g")),
            (file("f"), hard_link("f/g", "f")),
            (hard_link("a", "none"),),
            (hard_link("a", "a"),),
            (directory("d/"), hard_link("a", "d")),
            (hard_link("a", "/"),),
            (hard_link("a", ""),),
            (file(".wh.a"), hard_link("b", "a")),
            (directory("d/"), file("d/f"), hard_link("d", "d/f")),
            (symlink("a", "b"), symlink("b", "a"), file("a/x")),
        ],
    )
    def test_nonsense(self, tmp_path: Path, members: tuple[Member, ...]) -> None:
        with pytest.raises(RegistryContentError):
            apply(tmp_path / "r", *members)


@as_root
def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    members = [directory(f"d{n % 7}/e{n}/") for n in range(50)] + [file(f"d{n % 7}/e{n}/f", b"x") for n in range(50)]
    links = [hard_link(f"l{n}", "d0/e0/f") for n in range(20)] + [file(f"w{n}/.wh.x") for n in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    apply(tmp_path / "good", *members, *links)
    with pytest.raises(RegistryContentError):
        apply(tmp_path / "bad", *members, hard_link("l", "none"))
    assert len(os.listdir("/proc/self/fd")) == before


ESCAPES = {
    "dot-dot": (file("../planted", b"evil"),),
    "dot-dot-inside": (file("a/../../planted", b"evil"),),
    "absolute": (file("{outside}/planted", b"evil"),),
    "link-to-file": (symlink("s", "{outside}/planted"), file("s", b"evil", mode=0o777)),
    "link-to-directory": (symlink("s", "{outside}"), file("s/planted", b"evil")),
    "relative-link": (symlink("s", "../outside"), file("s/planted", b"evil")),
    "far-relative-link": (symlink("s", "../" * 40 + "{outside}"), file("s/planted", b"evil")),
    "chain-of-links": (symlink("a", "{outside}"), symlink("b", "a"), symlink("c", "b/."), file("c/planted", b"evil")),
    "directory-through-link": (symlink("s", "{outside}"), directory("s/", mode=0o777, uid=5)),
    "directory-in-link": (symlink("s", "{outside}"), directory("s/new/")),
    "link-then-chown": (symlink("s", "{outside}/planted"), directory("s/", mode=0o777, uid=7, mtime=1)),
    "hard-link-dot-dot": (hard_link("h", "../outside/planted"), file("h", b"evil")),
    "hard-link-absolute": (hard_link("h", "{outside}/planted", mode=0o777, uid=5),),
    "hard-link-through-link": (symlink("s", "{outside}"), hard_link("h", "s/planted", mode=0o777, uid=5)),
    "hard-link-at-link": (symlink("s", "{outside}"), file("f", b"evil"), hard_link("s/planted", "f")),
    "hard-link-to-link": (symlink("s", "{outside}/planted"), hard_link("h", "s", mode=0o777), file("h", b"evil")),
    "hard-link-to-link-relabelled": (
        symlink("s", "{outside}/planted"),
        hard_link("h", "s", mode=0o777, uid=9, mtime=1),
    ),
    "whiteout-through-link": (symlink("s", "{outside}"), file("s/.wh.planted")),
    "whiteout-dot-dot": (directory("d/"), file("d/../../outside/.wh.planted")),
    "opaque-through-link": (symlink("s", "{outside}"), file("s/.wh..wh..opq")),
    "whiteout-of-root": (file(".wh.."),),
    "whiteout-of-parent": (file(".wh..."),),
    "capability-through-link": (
        symlink("s", "{outside}/planted"),
        file("s", b"x", pax={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}),
    ),
    "fifo-through-link": (symlink("s", "{outside}"), fifo("s/planted")),
    "symlink-through-link": (symlink("s", "{outside}"), symlink("s/planted", "x")),
    "swap-directory-for-link": (
        directory("d/"),
        file("d/a"),
        symlink("d", "{outside}"),
        file("d/planted", b"evil"),
        directory("d/", mode=0o777, uid=3, mtime=2),
    ),
    "swap-inside-cached-parent": (
        directory("d/"),
        directory("d/e/"),
        file("d/e/f"),
        symlink("d/e", "{outside}"),
        file("d/e/planted", b"evil"),
    ),
    "replace-root": (symlink("/", "{outside}"), file("planted", b"evil")),
    "time-through-replaced-directory": (directory("d/", mtime=3), symlink("d", "{outside}", mtime=4)),
    "proc-magic-link": (symlink("s", "/proc/self/root{outside}"), file("s/planted", b"evil")),
    "proc-descriptor": (symlink("s", "/proc/self/cwd"), file("s/planted", b"evil")),
}


class TestEscapes:
    @as_root
    @pytest.mark.parametrize("name", ESCAPES)
    def test_the_planted_file_is_untouched(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        outside = tmp_path / "outside"
        outside.mkdir(mode=0o700)
        (outside / "planted").write_text("planted")
        (outside / "planted").chmod(0o600)
        monkeypatch.chdir(outside)
        for path in (outside / "planted", outside):
            os.utime(path, (1_000, 1_000))
        before = tree(tmp_path), outside.stat(), os.listxattr(outside)
        members = [
            Member(
                member.name.replace("{outside}", str(outside)),
                member.kind,
                member.data,
                member.link.replace("{outside}", str(outside)),
                member.mode,
                member.uid,
                member.gid,
                member.mtime,
                member.pax,
            )
            for member in ESCAPES[name]
        ]
        for lower in (BOTTOM, None):
            top = tmp_path / f"r{lower is None}"
            try:
                apply(top, *members, lower=lower)
            except PushwrightError as error:
                assert error.code in {"layer-invalid", "layer-needs-lower"}
            os.system(f"rm -rf {top}")
        after = tree(tmp_path), outside.stat(), os.listxattr(outside)
        assert after[0] == before[0]
        assert (after[1].st_mode, after[1].st_uid, after[1].st_mtime) == (before[1].st_mode, before[1].st_uid, 1_000)
        assert after[2] == before[2]
