"""Reading archives: the forms that exist, and everything that is none."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from executor.errors import RegistryContentError
from executor.layers.limits import LayerLimits
from executor.layers.tar import BLOCK, Entry, TarReader
from executor.oci import Digest
from tests.support.archives import Member, archive, directory, file, hard_link, symlink


def entries(data: bytes, limits: LayerLimits | None = None) -> list[Entry]:
    return list(TarReader(io.BytesIO(data), limits or LayerLimits()))


def refused(data: bytes, limits: LayerLimits | None = None) -> RegistryContentError:
    with pytest.raises(RegistryContentError) as caught:
        entries(data, limits)
    return caught.value


def header(**fields: bytes) -> bytearray:
    """A plain header of a file `name`, with raw fields put over it and the checksum made right again."""
    places = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "kind": 156, "magic": 257}
    block = bytearray(archive(file("name"), form=tarfile.USTAR_FORMAT)[:BLOCK])
    for name, value in fields.items():
        block[places[name] : places[name] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return block


END = bytes(2 * BLOCK)


class TestForms:
    @pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    @pytest.mark.parametrize("name", ["a", "a" * 100, "d/" + "a" * 150, "d/" * 120 + "x", "é" * 200, "new\nline"])
    def test_names(self, form: int, name: str) -> None:
        found = entries(archive(file(name, b"1"), symlink("l", name), hard_link("h", name), form=form))
        assert [item.name for item in found] == [name.encode(), b"l", b"h"]
        assert [item.link for item in found] == [b"", name.encode(), name.encode()]

    def test_ustar_prefix(self) -> None:
        name = "p" * 100 + "/" + "n" * 90
        assert entries(archive(file(name), form=tarfile.USTAR_FORMAT))[0].name == name.encode()

    @pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    def test_large_numbers(self, form: int) -> None:
        member = file("f", uid=3_000_000_000, gid=2_500_000, mtime=9_000_000_000)
        (found,) = entries(archive(member, form=form))
        assert (found.uid, found.gid, found.mtime) == (3_000_000_000, 2_500_000, 9_000_000_000)

    def test_time_before_the_epoch(self) -> None:
        assert entries(archive(file("f", mtime=-5), form=tarfile.GNU_FORMAT))[0].mtime == -5
        assert entries(archive(file("f", pax={"mtime": "-5.25"})))[0].mtime == -6
        assert entries(archive(file("f", pax={"mtime": "7.999"})))[0].mtime == 7

    def test_old_directory(self) -> None:
        assert entries(bytes(header(kind=b"\0")) + END)[0].kind == b"0"
        data = bytearray(archive(file("d/"), form=tarfile.USTAR_FORMAT))
        data[:BLOCK] = header(kind=b"\0")
        data[:4], data[148:156] = b"nam/", b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:BLOCK])
        assert entries(bytes(data))[0].kind == b"5"

    def test_content_and_digest(self, tmp_path: Path) -> None:
        content = os.urandom(3_000_000)
        data = archive(file("skipped", b"1" * 700), file("big", content), file("last", b"2"))
        reader = TarReader(io.BytesIO(data), LayerLimits())
        for entry in reader:
            if entry.name == b"big":
                with (tmp_path / "out").open("wb") as out:
                    reader.copy_content(out.fileno())
        assert (tmp_path / "out").read_bytes() == content
        assert reader.finish() == Digest.of(data)
        assert reader.size_bytes == len(data)

    def test_global_records_and_unknown_ones_are_ignored(self) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "evil"}) as tar:
            tar.addfile(tarfile.TarInfo("good"))
        assert [item.name for item in entries(data.getvalue())] == [b"good"]

    def test_link_with_a_size_has_no_content(self) -> None:
        data = bytes(header(kind=b"1", size=b"00000001000\0")) + bytes(header()) + END
        assert [item.size for item in entries(data)] == [0, 0]

    def test_capability(self) -> None:
        found = entries(
            archive(file("f", pax={"SCHILY.xattr.security.capability": "\1\0\0\2", "SCHILY.xattr.user.x": "y"}))
        )
        assert found[0].capability == b"\1\0\0\2"

    def test_end_without_zero_blocks(self) -> None:
        assert len(entries(bytes(header()))) == 1
        assert len(entries(bytes(header()) + bytes(BLOCK))) == 1
        assert entries(b"") == []

    def test_bytes_after_the_end_are_part_of_the_digest_only(self) -> None:
        data = archive(file("f")) + bytes(header())
        reader = TarReader(io.BytesIO(data), LayerLimits())
        assert len(list(reader)) == 1
        assert reader.finish() == Digest.of(data)


class TestDamage:
    def test_every_truncation(self) -> None:
        data = archive(file("n" * 120, b"x" * 600, pax={"comment": "c"}))
        whole = len(data.rstrip(b"\0"))
        for length in range(1, whole, 97):
            refused(data[:length])

    def test_every_header_byte_is_under_the_checksum(self) -> None:
        good = bytes(header())
        for position in range(0, BLOCK, 7):
            bad = bytearray(good)
            bad[position] ^= 0x15
            if not 148 <= position < 156:
                assert refused(bytes(bad) + END).code == "layer-invalid"

    @pytest.mark.parametrize(
        "fields",
        [
            {"size": b"99999999999\0"}, {"size": b"-1"}, {"size": b"0x10"}, {"uid": b"\xff" * 8},
            {"size": b"\x80" + b"\xff" * 11}, {"size": b"\xff" * 12}, {"mode": b"zzzz"},
            {"kind": b"S"}, {"kind": b"V"}, {"kind": b"!"}, {"kind": b"D"},
        ],
    )  # fmt: skip
    def test_bad_fields(self, fields: dict[str, bytes]) -> None:
        assert refused(bytes(header(**fields)) + END).code in {"layer-invalid", "layer-unsupported"}

    @pytest.mark.parametrize(
        "records",
        [
            b"5 a=b", b"6 a=b\n7", b"x a=b\n", b"0 a=b\n", b"99 a=b\n", b"6 a=b\n ", b"6 abc\n", b" 6 a=b\n",
            b"-6 a=b\n", b"5 =b\n", b"99999999999999999999999 a=b\n", b"6  a=\n\n", b"3 \n", b"11 path=a\0\n",
            b"9 size=x\n", b"10 size=-1\n", b"31 size=99999999999999999999999\n", b"10 mtime=x\n", b"8 uid=:\n",
            b"22 GNU.sparse.major=1\n", b"28 GNU.sparse.realsize=1000\n",
        ],
    )  # fmt: skip
    def test_bad_records(self, records: bytes) -> None:
        block = header(kind=b"x", size=b"%011o\0" % len(records))
        data = bytes(block) + records.ljust(-(-len(records) // BLOCK) * BLOCK, b"\0") + bytes(header()) + END
        assert refused(data).code in {"layer-invalid", "layer-unsupported"}

    def test_extended_header_without_entry(self) -> None:
        data = archive(file("n" * 200))
        assert refused(data[: 2 * BLOCK]).code == "layer-invalid"

    def test_zero_block_in_the_middle(self) -> None:
        refused(bytes(header()) + bytes(BLOCK) + bytes(header()) + END)

    @pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
    def test_huge_extended_header(self, kind: bytes) -> None:
        error = refused(bytes(header(kind=kind, size=b"77777777777\0")) + END)
        assert "at most" in error.message

    def test_sizes_are_bounded(self) -> None:
        data = archive(file("f", b"x" * 5_000_000))
        assert refused(data, LayerLimits(size_bytes=4_000_000)).code == "layer-too-large"
        assert len(entries(data, LayerLimits(size_bytes=len(data)))) == 1

    def test_entries_are_bounded(self) -> None:
        data = archive(*(file(str(number)) for number in range(5)))
        assert len(entries(data, LayerLimits(entries=5))) == 5
        refused(data, LayerLimits(entries=4))

    @pytest.mark.parametrize("seed", range(200))
    def test_random_damage_never_escapes(self, seed: int) -> None:
        import random

        source = random.Random(seed)
        data = bytearray(
            archive(
                directory("d/"), file("d/f", b"x" * 900), symlink("l", "t" * 130), Member("p", pax={"mtime": "1.5"})
            )
        )
        for _ in range(source.randrange(1, 6)):
            data[source.randrange(len(data))] = source.randrange(256)
        try:
            entries(bytes(data))
        except RegistryContentError:
            return
