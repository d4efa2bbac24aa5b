"""Mounting a stack of unpacked layers, with overlayfs, in the builder's own mount namespace.

Mount data has 4 096 bytes for all layer directories together, so each gets a short name: a link in a directory of the
builder's. Layers are in "userxattr" form (Linux 5.11), which is the one a user namespace may mount.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from executor.errors import IsolationError, StepFailedError
from executor.isolation import syscalls

# the kernel takes 500 (fs/overlayfs/params.h, OVL_MAX_STACK); the short names of 400 fit into mount data
MAX_LAYERS = 400


class Overlays:
    """Stacks of layers, mounted below `work`; safe to use from several threads."""

    def __init__(self, work: Path, links: Path) -> None:
        self._work = work
        self._links = links
        self._names: dict[Path, str] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._empty = work / "empty"
        self._empty.mkdir(mode=0o755)

    def new_directory(self, kind: str, *, mode: int = 0o755) -> Path:
        """A fresh, empty directory of this build."""
        path = self._work / f"{kind}{next(self._numbers)}"
        path.mkdir(mode=mode)
        path.chmod(mode)
        return path

    def lowers(self, layers: Sequence[Path]) -> tuple[str, ...]:
        """Short names of `layers` (bottom first), topmost first as overlayfs wants them; never none at all."""
        if len(layers) > MAX_LAYERS:
            raise StepFailedError(
                f"expected at most {MAX_LAYERS} layers in one stage, found {len(layers)}",
                code="too-many-layers",
                hint="join RUN and COPY instructions",
            )
        with self._lock:
            return tuple(self._name(layer) for layer in reversed(layers or (self._empty,)))

    def _name(self, layer: Path) -> str:
        name = self._names.get(layer)
        if name is None:
            link = self._links / f"{len(self._names):x}"
            link.symlink_to(layer)
            name = self._names[layer] = str(link)
        return name

    @contextlib.contextmanager
    def view(self, layers: Sequence[Path]) -> Iterator[Path]:
        """The merged tree of `layers` (bottom first), read-only, for as long as the context lasts."""
        if not layers:
            yield self._empty
            return
        target = self.new_directory("view")
        # without an upper directory overlayfs wants two lower ones at least
        lowers = (*self.lowers(layers), self.lowers(())[0])
        options = f"lowerdir={':'.join(lowers)},userxattr"
        _mount(target, syscalls.MS_RDONLY, options)
        try:
            yield target
        finally:
            syscalls.umount(str(target))
            target.rmdir()

    @contextlib.contextmanager
    def writable(self, layers: Sequence[Path], upper: Path) -> Iterator[Path]:
        """The merged tree of `layers` and `upper` (an empty directory, topmost), where every change goes to `upper`."""
        target, work = self.new_directory("root"), self.new_directory("work", mode=0o700)
        options = f"lowerdir={':'.join(self.lowers(layers))},upperdir={upper},workdir={work},userxattr"
        _mount(target, 0, options)
        try:
            yield target
        finally:
            syscalls.umount(str(target))
            target.rmdir()


def _mount(target: Path, flags: int, options: str) -> None:
    try:
        syscalls.mount("overlay", str(target), "overlay", flags, options)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EPERM, errno.ENODEV, errno.EOPNOTSUPP}:
            raise
        raise IsolationError(
            f"the kernel refused to lay layers over each other: {error.strerror}",
            code="overlay-refused",
            hint="the data directory must be on a file system that overlayfs can write to: in a container, on a volume",
        ) from error
