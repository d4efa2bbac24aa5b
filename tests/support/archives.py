"""Archives made by Python's own tarfile, as an independent writer, with whatever names a test wants."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Member:
    name: str
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    link: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_600_000_000
    pax: Mapping[str, str] = field(default_factory=dict)


def file(name: str, data: bytes = b"", **fields: object) -> Member:
    return Member(name, data=data, **fields)  # type: ignore[arg-type]


def directory(name: str, mode: int = 0o755, **fields: object) -> Member:
    return Member(name, tarfile.DIRTYPE, mode=mode, **fields)  # type: ignore[arg-type]


def symlink(name: str, target: str, **fields: object) -> Member:
    return Member(name, tarfile.SYMTYPE, link=target, mode=0o777, **fields)  # type: ignore[arg-type]


def hard_link(name: str, target: str, **fields: object) -> Member:
    return Member(name, tarfile.LNKTYPE, link=target, **fields)  # type: ignore[arg-type]


def fifo(name: str, **fields: object) -> Member:
    return Member(name, tarfile.FIFOTYPE, **fields)  # type: ignore[arg-type]


def device(name: str, **fields: object) -> Member:
    return Member(name, tarfile.CHRTYPE, **fields)  # type: ignore[arg-type]


def archive(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    """The bytes of an archive; names are written as they are, slashes and all."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.linkname, info.size = member.kind, member.link, len(member.data)
            info.mode, info.uid, info.gid, info.mtime = member.mode, member.uid, member.gid, member.mtime
            info.pax_headers = dict(member.pax)
            tar.addfile(info, io.BytesIO(member.data))
    return buffer.getvalue()


@dataclass(frozen=True)
class Seen:
    """What a test compares of one file."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    content: bytes
    links: tuple[str, ...]


def tree(top: Path, *, directory_times: bool = True) -> dict[str, Seen]:
    """Everything below a directory, by its relative path."""
    seen: dict[str, Seen] = {}
    inodes: dict[int, list[str]] = {}
    paths = sorted(top.rglob("*"))
    for path in paths:
        inodes.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(top)))
    for path in paths:
        status = path.lstat()
        content = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.fsencode(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        is_directory = stat.S_ISDIR(status.st_mode)
        seen[str(path.relative_to(top))] = Seen(
            kind=oct(status.st_mode >> 12),
            mode=status.st_mode & 0o7777,
            uid=status.st_uid,
            gid=status.st_gid,
            mtime=int(status.st_mtime) if directory_times or not is_directory else 0,
            content=content,
            links=() if is_directory else tuple(inodes[status.st_ino]),
        )
    return seen
