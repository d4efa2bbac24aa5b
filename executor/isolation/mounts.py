"""What a RUN step finds mounted in its root: /proc, /dev, /sys, name resolution; what of it is hidden or read-only.

The lists are those of runc's default specification, which Docker and BuildKit use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from executor.isolation import syscalls
from executor.isolation.idmap import ID_SHIFT
from executor.isolation.sandbox import DEVICES

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_SAFE = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_MAX_LINKS = 40


@contextlib.contextmanager
def _inside(root: int, path: str) -> Iterator[str]:
    """A name that mount(2) follows to `path` below `root`, through whatever is mounted there now."""
    found = syscalls.open_in_root(root, path, os.O_PATH)
    try:
        yield f"/proc/self/fd/{found}"
    finally:
        os.close(found)


@dataclass(frozen=True, slots=True)
class StepMount:
    """Something that a step sees at `target`: a file or directory of the builder, or, without source, a fresh tmpfs.

    `size_bytes` bounds a tmpfs; 0 leaves it to the kernel (half of the memory).
    """

    target: str
    source: str = ""
    is_directory: bool = True
    read_only: bool = True
    size_bytes: int = 0


class MountPoints:
    """Makes missing mount points inside a root and remembers those that must be removed after the step.

    A mount point whose name is a link is made where the link leads, inside the root (as runc does).
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._root_status = os.fstat(root)
        self.created: list[str] = []

    def mount(self, kind: str, path: str, flags: int, options: str = "", *, keep: bool = True) -> None:
        """Mount a new file system; a mount point that is kept stays in the layer (runc makes /proc, /dev and /sys,
        BuildKit leaves them)."""
        with _inside(self._root, self._ensure(path, is_directory=True, keep=keep)) as target:
            syscalls.mount(kind, target, kind, flags, options)

    def bind(self, source: str, path: str, *, is_directory: bool, keep: bool = False, read_only: bool = True) -> None:
        """Bind a file or directory."""
        place = self._ensure(path, is_directory=is_directory, keep=keep)
        with _inside(self._root, place) as target:
            syscalls.bind(source, target)
        if read_only:
            with _inside(self._root, place) as target:
                syscalls.make_read_only(target)

    def place(self, mount: StepMount) -> None:
        """What a RUN asked for by --mount; its mount point is not part of the image."""
        if mount.source:
            self.bind(mount.source, mount.target, is_directory=mount.is_directory, read_only=mount.read_only)
            return
        size = f",size={mount.size_bytes}" if mount.size_bytes else ""
        options = f"mode=1777,uid={ID_SHIFT},gid={ID_SHIFT}{size}"
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | (syscalls.MS_RDONLY if mount.read_only else 0)
        self.mount("tmpfs", mount.target, flags, options, keep=False)

    def _ensure(self, path: str, *, is_directory: bool, keep: bool) -> str:
        """The path of the mount point, made where it was missing."""
        for _ in range(_MAX_LINKS):
            try:
                found = syscalls.open_in_root(self._root, path, os.O_PATH)
            except FileNotFoundError:
                target = self._link_target(path)
                if target is None:
                    self._make(path, is_directory=is_directory, keep=keep)
                else:
                    path = target
                continue
            status = os.fstat(found)
            os.close(found)
            if stat.S_ISDIR(status.st_mode) != is_directory:
                kind = "directory" if is_directory else "file"
                raise OSError(errno.ENOTDIR, f"{path} in the image is not a {kind}, and a step needs one there")
            if os.path.samestat(status, self._root_status):
                # mounted there, /proc would be the step's root, and nothing in it hidden
                raise OSError(errno.ELOOP, f"{path} in the image leads to its root directory")
            return path
        raise OSError(errno.ELOOP, f"{path} in the image is a link that leads to itself")

    def _link_target(self, path: str) -> str | None:
        parent, name = posixpath.split(path)
        try:
            directory = syscalls.open_in_root(self._root, parent, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            return posixpath.normpath(posixpath.join(parent, os.readlink(name, dir_fd=directory)))
        except OSError:
            return None
        finally:
            os.close(directory)

    def _make(self, path: str, *, is_directory: bool, keep: bool) -> None:
        parent, name = posixpath.split(path)
        if parent != "/":
            parent = self._ensure(parent, is_directory=True, keep=keep)
        directory = syscalls.open_in_root(self._root, parent, os.O_PATH | os.O_DIRECTORY)
        try:
            if is_directory:
                os.mkdir(name, 0o755, dir_fd=directory)
            else:
                flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o644, dir_fd=directory))
            os.chown(name, ID_SHIFT, ID_SHIFT, dir_fd=directory, follow_symlinks=False)
            if not keep:
                # the name without links, as the layer's own directory has it
                self.created.append(posixpath.join(self._path_of(directory), name))
        finally:
            os.close(directory)

    def _path_of(self, directory: int) -> str:
        root, found = (os.readlink(f"/proc/self/fd/{item}") for item in (self._root, directory))
        return found.removeprefix(root) or "/"


@dataclass(frozen=True, slots=True)
class StepPlaces:
    """Mount points that were made for the step alone, and a writable handle on /proc/sys/user, which it cannot get."""

    created: tuple[str, ...]
    user_limits: int


def mount_step_places(root: str, name_files: Mapping[str, str], mounts: Sequence[StepMount] = ()) -> StepPlaces:
    """Mount everything a step expects below `root`, and what it asked for.

    `name_files` are files of the builder by the path where the step sees them.
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    points = MountPoints(root_fd)
    points.mount("proc", "/proc", _SAFE)
    user_limits = syscalls.open_in_root(root_fd, "/proc/sys/user", os.O_PATH | os.O_DIRECTORY)
    points.bind("/sys", "/sys", is_directory=True, keep=True)
    points.mount("tmpfs", "/dev", syscalls.MS_NOSUID, f"mode=0755,size=64k,uid={ID_SHIFT},gid={ID_SHIFT}")
    with _inside(root_fd, "/dev") as dev:
        _fill_dev(dev)
    for path, source in name_files.items():
        points.bind(source, path, is_directory=False)
    for path in MASKED_PATHS:
        _mask(root_fd, path)
    for path in READ_ONLY_PATHS:
        _make_read_only(root_fd, path)
    # those further up first, so that none hides one below it
    for mount in sorted(mounts, key=lambda item: item.target.count("/")):
        points.place(mount)
    os.close(root_fd)
    return StepPlaces(tuple(points.created), user_limits)


def _fill_dev(dev: str) -> None:
    for name in DEVICES:
        Path(dev, name).touch(mode=0o666)
        syscalls.bind(f"/dev/{name}", f"{dev}/{name}")
    for name, target in DEVICE_LINKS.items():
        Path(dev, name).symlink_to(target)
    for name in ("pts", "shm"):
        Path(dev, name).mkdir(mode=0o755)
    options = "newinstance,ptmxmode=0666,mode=0620"
    syscalls.mount("devpts", f"{dev}/pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, options)
    syscalls.mount("shm", f"{dev}/shm", "tmpfs", _SAFE, f"mode=1777,size=64m,uid={ID_SHIFT},gid={ID_SHIFT}")


def _mask(root: int, path: str) -> None:
    try:
        with _inside(root, path) as target:
            if Path(target).is_dir():
                syscalls.mount("tmpfs", target, "tmpfs", _SAFE | syscalls.MS_RDONLY, "size=4k,nr_inodes=2")
            else:
                syscalls.bind("/dev/null", target)
    except FileNotFoundError:
        # this kernel has no such file: nothing to hide
        return


def _make_read_only(root: int, path: str) -> None:
    try:
        with _inside(root, path) as target:
            syscalls.bind(target, target)
    except FileNotFoundError:
        return
    with _inside(root, path) as target:
        syscalls.make_read_only(target)
