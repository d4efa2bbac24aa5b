"""Archives of ADD: told by their content, and unpacked where nothing outside can be reached."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executor.context.archive import Unpacked, UnpackOptions, sniff, unpack
from executor.errors import HostError, PushwrightError, StepFailedError
from executor.layers.limits import LayerLimits
from executor.rootfs.contained import Root
from tests.support.archives import Member, archive, device, directory, fifo, file, hard_link, symlink, tree
from tests.support.compressed import COMPRESSORS, ZSTD_OF_A_HUGE_WINDOW, xz_of_a_huge_dictionary
from tests.support.privilege import as_root

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
PAX_CAPABILITY = {"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}
PLAIN = archive(file("f", b"content"))
EMPTY = archive()
formats = pytest.mark.parametrize("name", sorted(COMPRESSORS))


@dataclass(frozen=True)
class Place:
    """A root file system with content, a directory in it, and planted files around both."""

    top: Path

    @property
    def root(self) -> Path:
        return self.top / "root"

    @property
    def app(self) -> Path:
        return self.root / "app"

    def unpack(self, *members: Member, to: bytes = b"app", options: UnpackOptions | None = None) -> Unpacked:
        return self.unpack_bytes(archive(*members), to, options)

    def unpack_bytes(self, data: bytes, to: bytes = b"app", options: UnpackOptions | None = None) -> Unpacked:
        with Root.at(self.root) as root:
            return unpack(io.BytesIO(data), root, to, options or UnpackOptions())

    def refuses(self, *members: Member, options: UnpackOptions | None = None) -> str:
        """The code of the error, after which all that was planted is as it was."""
        before = self.planted()
        with pytest.raises(PushwrightError) as caught:
            self.unpack(*members, options=options)
        assert self.planted() == before
        return caught.value.code

    def planted(self) -> dict[str, object]:
        seen: dict[str, object] = {}
        for base in (self.top / "outside", self.root / "etc", self.root / "outside"):
            seen |= {f"{base.name}/{name}": value for name, value in tree(base).items()}
        return seen


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    for name in ("outside", "root/app", "root/etc", "root/outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name).chmod(0o755)
    for name in ("outside/planted", "root/etc/planted", "root/outside/planted"):
        (tmp_path / name).write_text("planted")
    found = Place(tmp_path)
    before = found.planted()
    yield found
    # whatever a test unpacked into /app, it was in /app only
    assert found.planted() == before


class TestSniff:
    @formats
    def test_compressed(self, name: str) -> None:
        compress = COMPRESSORS[name]
        assert sniff(io.BytesIO(compress(PLAIN))) == sniffed(name, is_archive=True)
        for data in (b"", b"no archive", EMPTY, b"x" * 3000, PLAIN[:300]):
            assert sniff(io.BytesIO(compress(data))) == sniffed(name, is_archive=False)

    @pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    @pytest.mark.parametrize("member", [file("f"), directory("d"), symlink("s", "t"), device("c"), file("x" * 90)])
    def test_plain(self, member: Member, form: int) -> None:
        assert sniff(io.BytesIO(archive(member, form=form))) == sniffed("none", is_archive=True)

    @pytest.mark.parametrize(
        "data", [b"", EMPTY, b"ustar", bytes(512), b"\x1f\x8b\x08", b"BZh", b"\x28\xb5\x2f\xfd", PLAIN[1:], b"x" * 2048]
    )
    def test_no_archives(self, data: bytes) -> None:
        assert not sniff(io.BytesIO(data)).is_archive

    def test_entries_that_cannot_be_unpacked_make_an_archive(self) -> None:
        assert sniff(io.BytesIO(archive(Member("s", tarfile.GNUTYPE_SPARSE)))).is_archive

    def test_a_damaged_archive_is_one_when_it_begins_as_one(self) -> None:
        blob = gzip.compress(archive(file("f", os.urandom(3_000_000))))
        assert sniff(io.BytesIO(blob[:-8])).is_archive

    def test_long_names(self) -> None:
        for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            assert sniff(io.BytesIO(archive(file("n" * 3000), form=form))).is_archive

    def test_the_stream_stays_where_it_is(self) -> None:
        stream = io.BytesIO(b"before" + gzip.compress(PLAIN))
        stream.seek(6)
        assert sniff(stream).is_archive
        assert stream.tell() == 6

    @pytest.mark.parametrize("blob", [ZSTD_OF_A_HUGE_WINDOW, xz_of_a_huge_dictionary()], ids=["zstd", "xz"])
    def test_what_takes_too_much_memory_to_look_into(self, blob: bytes) -> None:
        with pytest.raises(StepFailedError) as caught:
            sniff(io.BytesIO(blob))
        assert caught.value.code == "archive-unsupported"
        assert "--unpack=false" in str(caught.value)

    def test_headers_without_end(self) -> None:
        header = archive(file("x" * 60_000, b""))[: 512 + 60_000 // 512 * 512 + 512]
        assert not sniff(io.BytesIO(gzip.compress(header * 400))).is_archive

    @given(st.binary(max_size=1500))
    def test_any_bytes(self, data: bytes) -> None:
        assert not sniff(io.BytesIO(data)).is_archive


def sniffed(compression: str, *, is_archive: bool) -> object:
    from executor.context.archive import Content

    return Content(compression, is_archive)  # type: ignore[arg-type]


class TestEntries:
    @as_root
    def test_everything_is_as_in_the_archive(self, place: Place) -> None:
        done = place.unpack(
            directory("d", 0o1775, uid=5, gid=6, mtime=1000),
            file("d/f", b"content", mode=0o6755, uid=7, gid=8, mtime=-5),
            symlink("d/s", "/nowhere/at/all", uid=9, gid=10, mtime=1001),
            fifo("d/p", mode=0o622, uid=11, gid=12, mtime=1002),
            hard_link("h", "d/f", mode=0o6755, uid=7, gid=8, mtime=-5),
            file("./odd\nname\udcff", b"x", uid=70_000),
        )
        seen = tree(place.app)
        assert (seen["d"].mode, seen["d"].uid, seen["d"].gid, seen["d"].mtime) == (0o1775, 5, 6, 1000)
        assert (seen["d/f"].mode, seen["d/f"].uid, seen["d/f"].gid, seen["d/f"].content) == (0o6755, 7, 8, b"content")
        assert seen["d/f"].links == ("d/f", "h")
        assert (place.app / "d/f").stat().st_mtime_ns == -5 * 10**9
        assert (seen["d/s"].content, seen["d/s"].uid, seen["d/s"].mtime) == (b"/nowhere/at/all", 9, 1001)
        assert (seen["d/p"].mode, seen["d/p"].uid, seen["d/p"].mtime) == (0o622, 11, 1002)
        assert stat.S_ISFIFO((place.app / "d/p").lstat().st_mode)
        assert seen["odd\nname\udcff"].uid == 70_000
        assert done.entries == 6
        assert done.size_bytes % 512 == 0

    @as_root
    @formats
    def test_compressed(self, place: Place, name: str) -> None:
        data = COMPRESSORS[name](archive(file("f", b"content" * 100_000)))
        place.unpack_bytes(data)
        assert (place.app / "f").read_bytes() == b"content" * 100_000

    @as_root
    def test_members_of_gzip(self, place: Place) -> None:
        data = archive(file("f", b"content" * 1000))
        place.unpack_bytes(gzip.compress(data[:700]) + gzip.compress(data[700:]))
        assert (place.app / "f").read_bytes() == b"content" * 1000

    @as_root
    def test_owners_are_shifted(self, place: Place) -> None:
        place.unpack(directory("d", uid=3, gid=4), file("d/f", uid=5, gid=6), options=UnpackOptions(id_shift=1))
        place.unpack(file("made/f", uid=7), options=UnpackOptions(id_shift=1))
        owners = {name: (item.uid, item.gid) for name, item in tree(place.app).items()}
        assert owners == {"d": (4, 5), "d/f": (6, 7), "made": (1, 1), "made/f": (8, 1)}

    @as_root
    def test_one_owner_for_all(self, place: Place) -> None:
        options = UnpackOptions(id_shift=1, owner=(21, 22))
        place.unpack(
            directory("d", uid=3),
            file("d/f", uid=(1 << 32) - 2, mode=0o4755),
            symlink("s", "d"),
            hard_link("h", "d/f", mode=0o4755),
            options=options,
        )
        assert {(item.uid, item.gid) for item in tree(place.app).values()} == {(21, 22)}
        assert tree(place.app)["d/f"].mode == 0o4755

    @as_root
    def test_modes_are_changed(self, place: Place) -> None:
        options = UnpackOptions(chmod=lambda mode, is_directory: mode & 0o700 | is_directory)
        place.unpack(directory("d", 0o755), file("d/f", mode=0o654), hard_link("h", "d/f", mode=0o777), options=options)
        assert {name: item.mode for name, item in tree(place.app).items()} == {"d": 0o701, "d/f": 0o700, "h": 0o700}

    @as_root
    def test_only_capabilities_of_all_attributes(self, place: Place) -> None:
        others = {
            "SCHILY.xattr.user.any": "1",
            "SCHILY.xattr.trusted.overlay.opaque": "y",
            "LIBARCHIVE.xattr.user.b": "x",
        }
        place.unpack(
            file("f", b"", mode=0o4755, uid=5, pax={**PAX_CAPABILITY, **others}),
            file("g", b"", pax=others),
            directory("d", pax=others),
            hard_link("h", "f", mode=0o4755, uid=5),
        )
        assert os.listxattr(place.app / "f") == ["security.capability"]
        assert os.getxattr(place.app / "f", "security.capability") == CAPABILITY
        assert stat.S_IMODE((place.app / "f").stat().st_mode) == 0o4755
        assert os.listxattr(place.app / "g") == os.listxattr(place.app / "d") == []

    @as_root
    def test_times_of_directories_outlive_their_content(self, place: Place) -> None:
        place.unpack(directory("d", mtime=77), directory("d/e", mtime=78), file("d/e/f"), file("d/g"))
        seen = tree(place.app)
        assert (seen["d"].mtime, seen["d/e"].mtime) == (77, 78)

    @as_root
    def test_the_directory_itself_stays_as_it_is(self, place: Place) -> None:
        place.app.chmod(0o711)
        place.unpack(directory("./", 0o700, uid=9), directory("/", 0o700, uid=9), directory("a/..", 0o700), file("f"))
        status = place.app.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o711, os.getuid())
        assert place.refuses(file("./")) == "archive-invalid"
        assert place.refuses(symlink(".", "/etc")) == "archive-invalid"

    @as_root
    def test_into_the_root_and_through_a_link(self, place: Place) -> None:
        (place.root / "alias").symlink_to("/app")
        place.unpack(file("f"), to=b"/alias/")
        assert (place.app / "f").exists()
        place.unpack(file("top"), to=b"/")
        assert (place.root / "top").exists()

    def test_a_directory_that_is_not_there(self, place: Place) -> None:
        for missing in (b"missing", b"etc/planted"):
            with pytest.raises(StepFailedError) as caught:
                place.unpack(file("f"), to=missing)
            assert caught.value.code == "path-unusable"


class TestWhatIsThere:
    @as_root
    def test_directories_join(self, place: Place) -> None:
        (place.app / "d").mkdir(mode=0o700)
        (place.app / "d/own").write_text("own")
        place.unpack(directory("d", 0o750, uid=3, mtime=99), file("d/new", b"new"))
        seen = tree(place.app)
        assert (seen["d"].mode, seen["d"].uid, seen["d"].mtime) == (0o750, 3, 99)
        assert (seen["d/own"].content, seen["d/new"].content) == (b"own", b"new")

    @as_root
    def test_others_are_replaced(self, place: Place) -> None:
        """As BuildKit does; a link is replaced and never written through."""
        (place.app / "file").write_text("old")
        (place.app / "link").symlink_to("/etc/planted")
        (place.app / "other").symlink_to("../etc/planted")
        (place.app / "linked").symlink_to("../etc")
        (place.app / "full/of").mkdir(parents=True)
        (place.app / "full/of/things").touch()
        place.unpack(
            file("file", b"new"),
            file("link", b"new"),
            symlink("other", "new"),
            directory("linked"),
            file("full", b"new"),
        )
        seen = tree(place.app)
        assert {name: item.content for name, item in seen.items()} == {
            **dict.fromkeys(("file", "link", "other", "full"), b"new"),
            "linked": b"",
        }
        assert stat.S_ISDIR((place.app / "linked").lstat().st_mode)

    @as_root
    def test_a_name_given_twice(self, place: Place) -> None:
        place.unpack(
            file("a", b"1"), file("a", b"2"), directory("a"), file("a/x", b"3"), symlink("a", "/etc"), directory("a"),
            file("a/planted", b"4"), directory("b", mtime=50), symlink("b", "/outside"),
        )  # fmt: skip
        seen = tree(place.app)
        assert {name: item.content for name, item in seen.items()} == {"a": b"", "a/planted": b"4", "b": b"/outside"}

    @as_root
    def test_links_to_what_was_there(self, place: Place) -> None:
        (place.app / "old").write_text("old")
        place.unpack(hard_link("new", "old", mode=0o600, mtime=5), hard_link("old", "new", mode=0o600, mtime=5))
        seen = tree(place.app)
        assert seen["new"].links == ("new", "old")
        assert (seen["old"].mode, seen["old"].mtime, seen["old"].content) == (0o600, 5, b"old")

    def test_a_file_on_the_way(self, place: Place) -> None:
        (place.app / "file").touch()
        assert place.refuses(file("file/below")) == "path-unusable"
        assert place.refuses(file("x"), hard_link("h", "x/below")) == "path-unusable"


ESCAPING = [
    [file("../planted")],
    [file("../etc/planted")],
    [file("a/../../etc/planted")],
    [file("/../etc/planted")],
    [directory("../etc", 0o777)],
    [symlink("../etc", "x")],
    [symlink("l", "../etc"), file("l/planted")],
    [symlink("l", "../etc"), directory("l/new")],
    [symlink("l", "../etc"), hard_link("h", "l/planted")],
    [symlink("l", "d/../../etc"), file("l/planted")],
    [directory("d"), symlink("d/l", ".."), symlink("d/m", "l/../etc"), file("d/m/planted")],
    [hard_link("h", "../etc/planted")],
    [hard_link("h", "/../outside/planted")],
    [hard_link("h", "a/../../../../outside/planted")],
    [symlink("l", ".."), fifo("l/pipe")],
    [symlink("l", ".."), symlink("l/s", "x")],
]


class TestAttacks:
    @pytest.mark.parametrize("members", ESCAPING)
    def test_what_climbs_out(self, place: Place, members: list[Member]) -> None:
        assert place.refuses(*members) == "archive-escape"
        assert sorted(path.name for path in place.root.iterdir()) == ["app", "etc", "outside"]

    def test_links_of_the_image_that_lead_out(self, place: Place) -> None:
        (place.app / "relative").symlink_to("../etc")
        assert place.refuses(file("relative/planted", b"x")) == "archive-escape"
        assert place.refuses(hard_link("h", "relative/planted")) == "archive-escape"

    @as_root
    @pytest.mark.parametrize("start", ["/", "//", "/./", "/etc/../"])
    def test_absolute_names_are_inside(self, place: Place, start: str) -> None:
        place.unpack(file(f"{start}etc/planted", b"new"))
        assert (place.app / "etc/planted").read_bytes() == b"new"

    @as_root
    def test_absolute_links_are_inside(self, place: Place) -> None:
        outside = str(place.top / "outside")
        place.unpack(symlink("l", outside), file("l/planted", b"new"), symlink("e", "/etc"), file("e/planted", b"new"))
        assert (place.app / outside.lstrip("/") / "planted").read_bytes() == b"new"
        assert (place.app / "etc/planted").read_bytes() == b"new"

    @as_root
    def test_links_of_the_image_are_followed_inside(self, place: Place) -> None:
        (place.app / "real").mkdir()
        (place.app / "current").symlink_to("real")
        (place.app / "dangling").symlink_to("made/../later/deep")
        (place.app / "absolute").symlink_to("/etc")
        place.unpack(file("current/f", b"1"), file("dangling/f", b"2"), file("absolute/planted", b"3"))
        seen = tree(place.app)
        assert (seen["real/f"].content, seen["later/deep/f"].content) == (b"1", b"2")
        assert seen["etc/planted"].content == b"3"
        assert "made" not in seen

    def test_hard_links_to_the_machine(self, place: Place) -> None:
        for target in (str(place.top / "outside/planted"), "/etc/passwd", "etc/planted", "missing"):
            assert place.refuses(hard_link("h", target)) == "archive-invalid"
        for target in ("", ".", "/", "d"):
            assert place.refuses(directory("d"), hard_link("h", target)) == "archive-invalid"

    def test_a_hard_link_to_what_it_replaces(self, place: Place) -> None:
        assert place.refuses(directory("d"), file("d/f"), hard_link("d", "d/f")) == "archive-invalid"

    @as_root
    def test_a_hard_link_to_a_link_is_to_the_link_itself(self, place: Place) -> None:
        place.unpack(symlink("s", str(place.top / "outside/planted")), hard_link("h", "s", mode=0o777))
        assert (place.app / "h").is_symlink()
        assert place.unpack(file("h", b"new")).entries == 1
        assert (place.app / "s").is_symlink()

    def test_links_in_a_circle(self, place: Place) -> None:
        assert place.refuses(symlink("a", "b"), symlink("b", "a"), file("a/f")) == "path-unusable"

    @as_root
    def test_times_and_modes_never_go_through_a_link(self, place: Place) -> None:
        place.unpack(directory("d", 0o700, mtime=1), symlink("d", "/etc", mtime=2), directory("e/f", mtime=3))
        place.unpack(symlink("e", "/etc"), symlink("g", "../etc", mtime=4))

    def test_devices(self, place: Place) -> None:
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            assert place.refuses(Member("null", kind)) == "device-node"

    @pytest.mark.parametrize("name", [".wh.f", "d/.wh..wh..opq", ".wh.d/f", ".wh."])
    def test_whiteouts(self, place: Place, name: str) -> None:
        (place.app / "f").touch()
        assert place.refuses(file(name)) == "name-reserved"
        assert (place.app / "f").exists()

    @as_root
    def test_names_that_only_look_odd(self, place: Place) -> None:
        place.unpack(file("C:\\x"), file("..."), file("a.wh.b"), file("..f"), file("-rf"), file("d/./e//f"))
        assert set(tree(place.app)) == {"C:\\x", "...", "a.wh.b", "..f", "-rf", "d", "d/e", "d/e/f"}

    def test_names_that_no_file_can_have(self, place: Place) -> None:
        assert place.refuses(file("n" * 256)) == "path-unusable"
        assert place.refuses(file("n/" * 2100)) == "archive-invalid"
        assert place.refuses(file("n/" * 600 + "f")) == "archive-invalid"
        assert place.refuses(symlink("s", "")) == "archive-invalid"
        assert place.refuses(symlink("s", "t" * 5000)) == "path-unusable"

    def test_sparse_and_unknown_types(self, place: Place) -> None:
        for kind in (tarfile.GNUTYPE_SPARSE, b"V", b"M"):
            assert place.refuses(Member("s", kind)) == "archive-unsupported"
        assert place.refuses(file("s", pax={"GNU.sparse.major": "1"})) == "archive-unsupported"

    def test_ids_that_no_build_has(self, place: Place) -> None:
        for uid in (0xFFFFFFFF, 1 << 40):
            assert place.refuses(file("f", uid=uid), options=UnpackOptions(id_shift=1)) == "id-out-of-range"
        with pytest.raises(HostError):
            place.unpack(file("f", gid=0xFFFFFFFF))

    def test_a_damaged_capability(self, place: Place) -> None:
        pax = {"SCHILY.xattr.security.capability": "short"}
        assert place.refuses(file("f", pax=pax)) == "archive-invalid"

    @formats
    def test_bombs(self, place: Place, name: str) -> None:
        data = COMPRESSORS[name](archive(file("zeros", bytes(30_000_000))))
        with pytest.raises(StepFailedError) as caught:
            place.unpack_bytes(data, options=UnpackOptions(limits=LayerLimits(size_bytes=3_000_000)))
        assert caught.value.code == "archive-too-large"
        assert (place.app / "zeros").stat().st_size < 5_000_000

    def test_too_many_entries(self, place: Place) -> None:
        limits = LayerLimits(entries=10)
        members = [file(f"f{number}") for number in range(11)]
        assert place.refuses(*members, options=UnpackOptions(limits=limits)) == "archive-invalid"

    def test_bounds_follow_from_the_size(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(LayerLimits, "for_blob", classmethod(lambda cls, size: cls(size_bytes=10 * size)))
        with pytest.raises(StepFailedError) as caught:
            place.unpack_bytes(gzip.compress(archive(file("zeros", bytes(20_000_000)))))
        assert caught.value.code == "archive-too-large"

    @formats
    @pytest.mark.parametrize("cut", [1, 9, 200])
    def test_truncated(self, place: Place, name: str, cut: int) -> None:
        data = COMPRESSORS[name](archive(file("f", os.urandom(50_000))))
        with pytest.raises(StepFailedError) as caught:
            place.unpack_bytes(data[:-cut])
        assert caught.value.code == "archive-invalid"

    def test_truncated_without_compression(self, place: Place) -> None:
        data = archive(file("f", os.urandom(50_000)), file("g", b"x"))
        for size in (100, 512, 1000, 50_000, 52_000):
            with pytest.raises(StepFailedError) as caught:
                place.unpack_bytes(data[:size])
            assert caught.value.code == "archive-invalid"

    def test_a_wrong_checksum_after_the_last_entry(self, place: Place) -> None:
        data = bytearray(gzip.compress(archive(file("f", b"content"))))
        data[-6] ^= 1
        with pytest.raises(StepFailedError) as caught:
            place.unpack_bytes(bytes(data))
        assert caught.value.code == "archive-invalid"

    @as_root
    @formats
    def test_what_follows_the_archive_means_nothing(self, place: Place, name: str) -> None:
        compress = COMPRESSORS[name]
        more = archive(file("../etc/planted", b"evil"), file("second", b"evil"))
        place.unpack_bytes(compress(PLAIN) + b"garbage")
        place.unpack_bytes(compress(PLAIN) + compress(more))
        place.unpack_bytes(PLAIN + more)
        assert set(tree(place.app)) == {"f"}

    def test_archives_in_archives_stay_files(self, place: Place) -> None:
        inner = gzip.compress(archive(file("inner")))
        place.unpack_bytes(gzip.compress(archive(file("a.tar.gz", inner, uid=os.getuid(), gid=os.getgid()))))
        assert set(tree(place.app)) == {"a.tar.gz"}

    def test_errors_name_no_layer(self, place: Place) -> None:
        with pytest.raises(StepFailedError) as caught:
            place.unpack_bytes(PLAIN[:600])
        assert caught.value.message.startswith("archive: ")
        assert "layer" not in caught.value.message


names = st.sampled_from(["a", "b", "a/b", "a/b/c", "../a", "/b", "a/../b", ".", "b/a", "a/a"])
targets = st.sampled_from(["a", "..", "../..", "/", "/etc", "../etc", "b", "a/b", ".", "../../outside", "../app/a"])
members = st.one_of(
    st.builds(file, names, st.just(b"evil")),
    st.builds(directory, names, st.sampled_from([0o700, 0o755])),
    st.builds(symlink, names, targets),
    st.builds(hard_link, names, st.one_of(names, targets, st.just("../etc/planted"))),
    st.builds(fifo, names),
)


@given(st.lists(members, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_no_archive_reaches_anything_else(place: Place, members: list[Member]) -> None:
    before = place.planted()
    own = [Member(item.name, item.kind, item.data, item.link, item.mode, os.getuid(), os.getgid()) for item in members]
    try:
        place.unpack(*own)
    except StepFailedError as error:
        assert error.code in {"archive-escape", "archive-invalid", "path-unusable"}
    assert place.planted() == before
    assert sorted(path.name for path in place.root.iterdir()) == ["app", "etc", "outside"]
    assert sorted(path.name for path in place.top.iterdir()) == ["outside", "root"]
