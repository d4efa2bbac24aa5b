"""What is in an image, read from a docker-archive by code that shares nothing with the executor's."""

from __future__ import annotations

import hashlib
import json
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_CAPABILITY = "SCHILY.xattr.security.capability"
_SHOWN_BYTES = 400
_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True)
class Inode:
    """One thing in the tree; hard links share it, so that it is told apart by identity, not by value."""

    mode: int
    uid: int
    gid: int
    mtime: float
    size: int = 0
    link: str = ""
    content: str = ""
    capability: str = ""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


Tree = Mapping[str, Inode]


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """One line of a layer as it was written."""

    path: str
    inode: Inode | None
    linked_to: str = ""


@dataclass(frozen=True, slots=True)
class ImageContents:
    """The config, the lines of each layer, and the tree as it is behind each layer."""

    config: Mapping[str, Any]
    layers: tuple[tuple[LayerEntry, ...], ...] = field(repr=False)
    trees: tuple[Tree, ...] = field(repr=False)


def read_archive(path: Path) -> ImageContents:
    """The only image of an archive such as `docker save` writes."""
    with tarfile.open(path) as archive:
        (image,) = json.loads(_member(archive, "manifest.json").read())
        config = json.loads(_member(archive, image["Config"]).read())
        layers = tuple(tuple(_entries(_member(archive, name))) for name in image["Layers"])
    trees: list[Tree] = []
    for layer in layers:
        trees.append(_apply(trees[-1] if trees else {}, layer))
    return ImageContents(config, layers, tuple(trees))


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    # `docker save` links a layer that it has written before; tarfile follows
    stream = archive.extractfile(name)
    if stream is None:
        raise ValueError(f"{name}: not a file of the archive")
    return stream


def _entries(blob: IO[bytes]) -> Iterator[LayerEntry]:
    """The lines of a layer, hard links with what they are linked to; the root's own line is left out."""
    with tarfile.open(fileobj=blob, mode="r:*", encoding="utf-8", errors="surrogateescape") as layer:
        for item in layer:
            path = item.name.removeprefix("./").strip("/")
            if path in {"", "."}:
                continue
            if item.islnk():
                inode = Inode(item.mode, item.uid, item.gid, item.mtime)
                yield LayerEntry(path, inode, item.linkname.removeprefix("./").strip("/"))
            else:
                yield LayerEntry(path, _inode(layer, item))


def _inode(layer: tarfile.TarFile, item: tarfile.TarInfo) -> Inode:
    inode = Inode(
        mode=_TYPES[item.type] | item.mode,
        uid=item.uid,
        gid=item.gid,
        mtime=item.mtime,
        capability=item.pax_headers.get(_CAPABILITY, "").encode("utf-8", "surrogateescape").hex(),
    )
    if item.issym():
        return replace(inode, link=item.linkname)
    if item.ischr() or item.isblk():
        return replace(inode, link=f"{item.devmajor}:{item.devminor}")
    if not item.isreg():
        return inode
    stream = layer.extractfile(item)
    assert stream is not None
    return replace(inode, size=item.size, content=_shown(stream, item.size))


def _shown(stream: IO[bytes], size: int) -> str:
    """A short text as it is, for the sake of whoever reads a difference; a digest of everything else."""
    if size <= _SHOWN_BYTES:
        return ascii(stream.read())[2:-1]
    return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def _apply(below: Tree, layer: tuple[LayerEntry, ...]) -> Tree:
    """The tree with a layer over it (image-spec, layer, "Applying Changesets"); whiteouts hide what is below only."""
    tree = dict(below)
    for entry in layer:
        directory, _, name = entry.path.rpartition("/")
        if name == _OPAQUE:
            _remove(tree, directory, itself=False)
        elif name.startswith(_WHITEOUT):
            _remove(tree, f"{directory}/{name.removeprefix(_WHITEOUT)}".strip("/"), itself=True)
    for entry in layer:
        if entry.path.rpartition("/")[2].startswith(_WHITEOUT):
            continue
        inode = tree[entry.linked_to] if entry.linked_to else entry.inode
        assert inode is not None
        if not inode.is_directory:
            _remove(tree, entry.path, itself=True)
        tree[entry.path] = inode
    return tree


def _remove(tree: dict[str, Inode], path: str, *, itself: bool) -> None:
    if itself:
        tree.pop(path, None)
    for other in [item for item in tree if item.startswith(f"{path}/" if path else "")]:
        del tree[other]


def hard_links(tree: Tree) -> dict[str, str]:
    """The names that are one file, each with all of them."""
    groups: dict[int, list[str]] = {}
    for path, inode in sorted(tree.items()):
        groups.setdefault(id(inode), []).append(path)
    return {path: " ".join(group) for group in groups.values() if len(group) > 1 for path in group}
