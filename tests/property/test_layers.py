"""Properties of layers: what is written comes back, equal trees give equal bytes, and nothing hostile gets through."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.errors import PushwrightError
from executor.layers.apply import apply_layer
from executor.layers.header import encode_entry
from executor.layers.limits import LayerLimits
from executor.layers.tar import DIRECTORY, FIFO, LINK, REGULAR, SYMLINK, Entry, TarReader
from executor.layers.write import LayerResult, write_layer
from executor.oci import Digest
from executor.rootfs.changes import find_changes
from executor.rootfs.contained import Root
from executor.rootfs.overlayform import LayerStack
from executor.store_files import remove
from tests.support.archives import Member, archive, tree
from tests.support.privilege import as_root

# names from a small set, so that entries meet each other; some are awkward
NAMES = st.sampled_from(["a", "b", "c", "dir", "é", "new\nline", "x" * 120, "-", "a b"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@dataclass(frozen=True)
class Node:
    kind: str
    content: bytes = b""
    mode: int = 0o644
    mtime: int = 0
    owner: int = 0


NODES = st.builds(
    Node,
    kind=st.sampled_from(["file", "file", "directory", "link", "fifo"]),
    content=st.one_of(st.binary(max_size=40).map(lambda data: data or b"t"), st.just(b"z" * 513)),
    mode=st.integers(0, 0o7777),
    mtime=st.integers(0, 2**33),
    owner=st.integers(0, 60_000),
)


def consistent(nodes: dict[str, Node]) -> dict[str, Node]:
    """Without entries that lie in something that is no directory."""
    kept: dict[str, Node] = {}
    for name in sorted(nodes, key=lambda item: item.split("/")):
        above = [name[:end] for end, letter in enumerate(name) if letter == "/"]
        if all(kept.get(path, Node("directory")).kind == "directory" for path in above):
            kept[name] = nodes[name]
    return kept


TREES = st.dictionaries(PATHS, NODES, max_size=12).map(consistent)


def build(top: Path, nodes: Mapping[str, Node]) -> None:
    for name, node in nodes.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        make(top / name, node)
    for path in sorted(top.rglob("*"), reverse=True):
        node = nodes.get(str(path.relative_to(top)), Node("directory", mode=0o755))
        os.chown(path, node.owner, node.owner, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(node.mode)
        os.utime(path, (node.mtime, node.mtime), follow_symlinks=False)


def make(path: Path, node: Node) -> None:
    if node.kind == "file":
        with path.open("xb") as stream:
            stream.write(node.content)
    elif node.kind == "directory":
        path.mkdir(exist_ok=True)
    elif node.kind == "fifo":
        os.mkfifo(path)
    else:
        os.symlink("/".join(f"{byte:02x}" for byte in node.content), path)


class Blob:
    """A layer's bytes in memory."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes, /) -> int:
        self.data += data
        return len(data)

    def commit(self, expected: Digest | None = None, /) -> tuple[Digest, int]:
        return Digest.of(self.data), len(self.data)


def write(upper: Path, lower: Path | None) -> tuple[LayerResult, bytes]:
    blob = Blob()
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(Root.at(upper))
        below = stack.enter_context(Root.at(lower)) if lower else None
        result = write_layer(find_changes(root, below), root, blob, id_shift=0)
    return result, gzip.decompress(blob.data)


@contextlib.contextmanager
def directories(*names: str):  # type: ignore[no-untyped-def]
    top = Path(tempfile.mkdtemp())
    try:
        for name in names:
            (top / name).mkdir()
        yield top
    finally:
        remove(top)


def apply(data: bytes, top: Path, *lower: Root, expected: Digest | None = None) -> None:
    with Root.at(top) as root:
        apply_layer(io.BytesIO(data), root, id_shift=0, lower=LayerStack(lower), expected_diff_id=expected)


@as_root
@given(nodes=TREES)
@settings(deadline=None, max_examples=50)
def test_write_then_apply_gives_the_tree_back(nodes: dict[str, Node]) -> None:
    with directories("tree", "out") as top:
        build(top / "tree", nodes)
        result, data = write(top / "tree", None)
        apply(data, top / "out", expected=result.diff_id)
        assert tree(top / "out") == tree(top / "tree")


@as_root
@given(nodes=TREES, order=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_equal_trees_give_equal_bytes(nodes: dict[str, Node], order) -> None:  # type: ignore[no-untyped-def]
    with directories("one", "two") as top:
        build(top / "one", nodes)
        shuffled = list(nodes)
        order.shuffle(shuffled)
        build(top / "two", {name: nodes[name] for name in shuffled})
        assert write(top / "one", None)[1] == write(top / "two", None)[1]


@as_root
@given(before=TREES, after=TREES, opaque=st.booleans())
@settings(deadline=None, max_examples=50)
def test_changes_on_top_of_the_old_give_the_new(before: dict[str, Node], after: dict[str, Node], opaque: bool) -> None:
    """`lower` is `before`; `upper`, laid over it by hand, says how to come to `after`; a layer must say the same."""
    with directories("lower", "after", "upper", "out") as top:
        build(top / "lower", before)
        build(top / "after", after)
        as_upper(top / "lower", top / "after", top / "upper", opaque=opaque)
        _, data = write(top / "upper", top / "lower")
        with Root.at(top / "lower") as lower:
            apply(data, top / "out", lower)
            with Root.at(top / "out") as out:
                shown = view(LayerStack((out, lower)))
        assert shown == expected(top / "after")


def as_upper(lower: Path, after: Path, upper: Path, *, opaque: bool) -> None:
    """What overlayfs would have in its upper directory: whiteouts, or opaque directories, for what is gone."""
    os.system(f"cp -a {after}/. {upper}")
    for path in sorted(lower.rglob("*")):
        place = upper / path.relative_to(lower)
        if not os.path.lexists(place) and place.parent.is_dir() and not place.parent.is_symlink():
            in_lower = path.parent.is_dir() and not path.parent.is_symlink()
            if opaque and place.parent != upper:
                os.setxattr(place.parent, "user.overlay.opaque", b"y")
            elif in_lower:
                os.mknod(place, stat.S_IFCHR, os.makedev(0, 0))


def view(stack: LayerStack, path: bytes = b"") -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for name in stack.names(path):
        child = path + b"/" + name if path else name
        status = stack.lstat(child)
        assert status is not None
        found[os.fsdecode(child)] = fact(status, lambda child=child: stack.open_file(child), stack.readlink, child)
        if stat.S_ISDIR(status.st_mode):
            found.update(view(stack, child))
    return found


def fact(status, opened, readlink, child) -> tuple[int, int, bytes]:  # type: ignore[no-untyped-def]
    content = b""
    if stat.S_ISREG(status.st_mode):
        with os.fdopen(opened(), "rb") as stream:
            content = stream.read()
    elif stat.S_ISLNK(status.st_mode):
        content = readlink(child)
    return status.st_mode, status.st_uid, content


def expected(top: Path) -> dict[str, tuple[int, int, bytes]]:
    with Root.at(top) as root:
        return view(LayerStack((root,)))


ENTRIES = st.builds(
    Entry,
    name=st.binary(min_size=1, max_size=300).map(lambda name: name.replace(b"\0", b"0")),
    kind=st.sampled_from([REGULAR, DIRECTORY, SYMLINK, LINK, FIFO]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32),
    gid=st.integers(0, 2**32),
    size=st.just(0),
    mtime=st.integers(-(2**40), 2**40),
    link=st.binary(max_size=300).map(lambda name: name.replace(b"\0", b"0")),
    capability=st.one_of(st.none(), st.binary(min_size=1, max_size=24)),
)


@given(entries=st.lists(ENTRIES, max_size=5))
def test_headers_are_read_as_they_were_written(entries: list[Entry]) -> None:
    data = b"".join(encode_entry(entry) for entry in entries) + bytes(1024)
    assert list(TarReader(io.BytesIO(data), LayerLimits())) == entries


@given(entries=st.lists(ENTRIES, min_size=1, max_size=5))
def test_tarfile_reads_the_same_headers(entries: list[Entry]) -> None:
    data = b"".join(encode_entry(entry) for entry in entries) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for entry, info in zip(entries, tar, strict=True):
            # tarfile drops slashes at the end of some names (of pax headers, of directories) and not of others
            assert os.fsencode(info.name).rstrip(b"/") == entry.name.rstrip(b"/")
            assert (info.type, info.mode, info.uid, info.gid) == (entry.kind, entry.mode, entry.uid, entry.gid)
            assert info.mtime == entry.mtime


@given(data=st.binary(max_size=2000), position=st.integers(0, 3000))
def test_any_bytes_are_an_archive_or_an_error(data: bytes, position: int) -> None:
    good = archive(Member("n" * 150, data=b"x" * 100), Member("d/", tarfile.DIRTYPE))
    mixed = good[:position] + data + good[position + len(data) :]
    with contextlib.suppress(PushwrightError):
        list(TarReader(io.BytesIO(mixed), LayerLimits()))


HOSTILE_NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh..", "out"]), min_size=1, max_size=4
).map("/".join)
HOSTILE = st.lists(
    st.builds(
        Member,
        name=HOSTILE_NAMES,
        kind=st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
        data=st.just(b""),
        link=st.one_of(HOSTILE_NAMES, st.sampled_from(["../outside", "../../outside/planted", "/", "a", "b"])),
        mode=st.integers(0, 0o7777),
    ),
    max_size=10,
)


@as_root
@given(members=HOSTILE)
@settings(deadline=None, max_examples=100)
def test_no_archive_reaches_out_of_its_root(members: list[Member]) -> None:
    with directories("root", "outside") as top:
        (top / "outside/planted").write_text("planted")
        os.utime(top / "outside/planted", (5, 5))
        os.utime(top / "outside", (5, 5))
        before = tree(top / "outside"), (top / "outside").stat()
        with contextlib.suppress(PushwrightError):
            apply(archive(*members), top / "root")
        after = tree(top / "outside"), (top / "outside").stat()
        assert after[0] == before[0]
        assert (after[1].st_mode, after[1].st_mtime) == (before[1].st_mode, before[1].st_mtime)
        assert sorted(os.listdir(top)) == ["outside", "root"]
