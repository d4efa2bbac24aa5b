"""Unpacked layers of the store: whole trees under short names."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from executor.errors import StoreError
from executor.store_files import boot_id, locked_directory, new_name, read_marker, remove, storing, write_marker


def short_names(key: str) -> Iterator[str]:
    """Directory names for a key, of 16 characters; a few, should another key have the first."""
    for attempt in range(8):
        hashed = hashlib.sha256(f"{attempt}\0{key}".encode()).digest()[:10]
        yield base64.b32encode(hashed).decode().lower()


def find_unpacked(home: Path, key: str) -> Path | None:
    """The root of a complete tree that this boot of the machine has written, or None."""
    boot = boot_id()
    for name in short_names(key):
        marked = read_marker(home / name / "complete")
        if marked is None:
            return None
        if marked[0] == key:
            return home / name / "fs" if marked[1] in {boot, None} else None
    return None


class NewUnpacked:
    """A layer being unpacked into `path`; in place only after `commit`."""

    def __init__(self, home: Path, key: str) -> None:
        self._key = key
        self._home = home
        self._name = new_name()
        self._descriptor = -1
        self.path = self._home / self._name / "fs"

    def __enter__(self) -> Self:
        with storing(f"unpacked layer {self._key}"):
            self._home.mkdir(mode=0o700, exist_ok=True)
            self.path.parent.mkdir(mode=0o755)
            self._descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self.path.mkdir(mode=0o755)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with storing(f"unpacked layer {self._key}"):
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            remove(self.path.parent)

    def commit(self) -> Path:
        """Rename the tree into place and give its path; when somebody else was faster, theirs.

        Its files are not flushed one by one: the marker names this boot of the machine, and a tree of an earlier boot
        is not trusted but unpacked again from its blob. Without a boot id everything is flushed here.
        """
        boot = boot_id()
        if boot is None:
            os.sync()
        with storing(f"unpacked layer {self._key}"), locked_directory(self._home):
            for name in short_names(self._key):
                place = self._home / name
                marked = read_marker(place / "complete")
                if marked is not None and marked[0] != self._key:
                    continue
                if marked is not None and marked[1] in {boot, None}:
                    return place / "fs"
                if place.exists():
                    remove(place)
                write_marker(self.path.parent / "complete", self._key, boot)
                os.rename(self.path.parent, place)
                return place / "fs"
        raise StoreError(f"unpacked layer {self._key}: every short name is taken")
