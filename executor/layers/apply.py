"""Unpacking a layer into a directory, in overlay form.

Paths are the archive's and hostile: each is resolved below the root by the kernel, links inside the layer included.
The root must be written by nobody else meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from executor.errors import DiskFullError, HostError, PushwrightError, RegistryContentError
from executor.layers.limits import LayerLimits
from executor.layers.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    LINK,
    REGULAR,
    SYMLINK,
    Entry,
    TarReader,
    invalid,
    shown,
)
from executor.layers.tree import NeedsLowerError, Tree
from executor.oci import Digest
from executor.rootfs import capability
from executor.rootfs.contained import CAPABILITY, Root, chmod_at
from executor.rootfs.overlayform import LayerStack, make_whiteout

__all__ = ["Applied", "NeedsLowerError", "apply_layer"]

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
# the kernel's ids have 32 bits, the last of which means "leave it"
_MAX_ID = (1 << 32) - 2
# AUFS kept its own files under this prefix; container engines leave them out
_AUFS = b".wh..wh."


@dataclass(frozen=True, slots=True)
class Applied:
    """A layer unpacked: its diff ID, and how much it was. `skipped` are device nodes, which were not made."""

    diff_id: Digest
    entries: int
    size_bytes: int
    skipped: tuple[str, ...] = ()


def apply_layer(
    stream: BinaryIO,
    root: Root,
    *,
    id_shift: int,
    lower: LayerStack | None,
    expected_diff_id: Digest | None = None,
    limits: LayerLimits | None = None,
    warn: Callable[[str, str], None] = lambda code, message: None,
) -> Applied:
    """Unpack an uncompressed layer into the empty directory `root`.

    An image's id U becomes U + `id_shift`. `lower` is what the layers below show; with None the layer must stand by
    itself, and `NeedsLowerError` says that it does not: it has a hard link to a file below, or lies in directories it
    does not describe. The tree can then only be used on top of that very stack. The view of no layers, for a bottom
    layer, is `LayerStack(())`.

    Of extended attributes only `security.capability` is applied. Device nodes are left out and named in a warning.
    After an error the directory is half filled and for the caller to remove.
    """
    reader = TarReader(stream, limits or LayerLimits())
    try:
        with Tree(root, lower, id_shift) as tree:
            unpacking = _Unpacking(reader, tree, limits or LayerLimits(), id_shift)
            unpacking.start()
            for entry in reader:
                unpacking.entry(entry)
            unpacking.finish()
        diff_id = reader.finish()
    except OSError as error:
        raise HostError(f"layer: {error.strerror or error}", code="layer-not-applied") from error
    if expected_diff_id is not None and diff_id != expected_diff_id:
        raise RegistryContentError(
            f"layer: expected the diff ID {expected_diff_id}, found {diff_id}", code="diff-id-mismatch"
        )
    if unpacking.skipped:
        warn(
            "device-node",
            f"left out {len(unpacking.skipped)} device nodes of a layer, the first {unpacking.skipped[0]}: "
            "they cannot be made in a user namespace; the layer itself is unchanged",
        )
    return Applied(diff_id, unpacking.count, reader.size_bytes, tuple(unpacking.skipped))


class _Unpacking:
    """One layer on its way into its tree."""

    def __init__(self, reader: TarReader, tree: Tree, limits: LayerLimits, id_shift: int) -> None:
        self._reader = reader
        self._tree = tree
        self._limits = limits
        self._shift = id_shift
        self._hides_all = False
        self.count = 0
        self.skipped: list[str] = []

    def entry(self, entry: Entry) -> None:
        self.count += 1
        parts = self._parts(entry.name, "name")
        if max(entry.uid, entry.gid) + self._shift > _MAX_ID:
            raise _unmapped(entry)
        try:
            if not parts:
                self._root(entry)
            elif parts[-1].startswith(_WHITEOUT):
                self._whiteout(parts, entry)
            elif entry.kind in {CHARACTER, BLOCK_DEVICE}:
                self.skipped.append(b"/".join(parts)[:200].decode("utf-8", "backslashreplace"))
            else:
                self._make(parts, entry)
        except OSError as error:
            raise _refused(error, entry) from error

    def start(self) -> None:
        """The root is as a layer without an entry for it has it."""
        os.fchown(self._tree.root.fd, self._shift, self._shift)
        os.fchmod(self._tree.root.fd, 0o755)
        self._tree.remember_time(b"", 0)

    def finish(self) -> None:
        if self._hides_all:
            self._tree.hide_all_below()
        self._tree.set_times()

    def _parts(self, path: bytes, what: str) -> list[bytes]:
        if not path or b"\0" in path or len(path) > self._limits.path_bytes:
            raise invalid(f"expected a {what} of 1 to {self._limits.path_bytes} bytes, found {shown(path)}")
        parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
        if b".." in parts:
            raise invalid(f"{shown(path)}: a {what} must not have ..")
        if len(parts) > self._limits.depth:
            raise invalid(f"{shown(path)}: expected a {what} of at most {self._limits.depth} parts, found {len(parts)}")
        return parts

    def _root(self, entry: Entry) -> None:
        if entry.kind != DIRECTORY:
            raise invalid(f"{shown(entry.name)}: the root must be a directory")
        descriptor = self._tree.root.fd
        os.fchown(descriptor, entry.uid + self._shift, entry.gid + self._shift)
        os.fchmod(descriptor, entry.mode)
        self._tree.remember_time(b"", entry.mtime)

    def _whiteout(self, parts: list[bytes], entry: Entry) -> None:
        name = parts[-1]
        if name == _OPAQUE:
            if len(parts) == 1:
                self._hides_all = True
            else:
                self._tree.make_directory_opaque(parts[:-1])
            return
        if name.startswith(_AUFS):
            return
        hidden = name[len(_WHITEOUT) :]
        if hidden in {b"", b".", b".."}:
            raise invalid(f"{shown(entry.name)}: a whiteout of nothing")
        # a whiteout speaks of the layers below only (image-spec, layer, "Whiteouts")
        directory = self._tree.parent(parts[:-1])
        status = _lstat_at(directory, hidden)
        if status is None:
            make_whiteout(directory, hidden)
        elif stat.S_ISDIR(status.st_mode):
            self._tree.make_directory_opaque([*parts[:-1], hidden])

    def _make(self, parts: list[bytes], entry: Entry) -> None:
        target = self._link_target(entry) if entry.kind == LINK else None
        directory, name = self._tree.parent(parts[:-1]), parts[-1]
        existing = _lstat_at(directory, name)
        if entry.kind == DIRECTORY:
            self._directory(directory, name, parts, existing, entry)
            return
        if target is not None:
            self._link(target, directory, name, existing, entry)
            return
        if existing is not None:
            self._tree.remove(directory, name, existing)
        if entry.kind == REGULAR:
            self._file(directory, name, entry)
            return
        if entry.kind == SYMLINK:
            if not entry.link or b"\0" in entry.link:
                raise invalid(f"{shown(entry.name)}: a symbolic link to nothing")
            os.symlink(entry.link, name, dir_fd=directory)
        elif entry.kind == FIFO:
            os.mkfifo(name, 0o600, dir_fd=directory)
        self._dress(directory, name, entry)

    def _directory(
        self, directory: int, name: bytes, parts: list[bytes], existing: os.stat_result | None, entry: Entry
    ) -> None:
        if existing is None or not stat.S_ISDIR(existing.st_mode):
            if existing is not None:
                self._tree.remove(directory, name, existing)
            os.mkdir(name, 0o700, dir_fd=directory)
            if existing is not None:
                # it takes the place of a whiteout or a file, so what the layers below have there stays hidden
                self._tree.opaque_at(directory, name)
        os.chown(name, entry.uid + self._shift, entry.gid + self._shift, dir_fd=directory, follow_symlinks=False)
        os.chmod(name, entry.mode, dir_fd=directory)
        self._tree.remember_time(self._tree.resolved_parent + b"/" + name, entry.mtime)

    def _file(self, directory: int, name: bytes, entry: Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            self._reader.copy_content(descriptor)
            os.fchown(descriptor, entry.uid + self._shift, entry.gid + self._shift)
            os.fchmod(descriptor, entry.mode)
            self._set_capability(descriptor, entry)
            os.utime(descriptor, ns=(entry.mtime * 10**9, entry.mtime * 10**9))
        finally:
            os.close(descriptor)

    def _link_target(self, entry: Entry) -> bytes:
        """The resolved path, inside this tree, of what a hard link names."""
        parts = self._parts(entry.link, "link target")
        if not parts:
            raise invalid(f"{shown(entry.name)}: a hard link to the root")
        found = self._tree.bring(parts)
        if found is None:
            raise invalid(f"{shown(entry.name)}: a hard link to {shown(entry.link)}, which does not exist")
        path, status = found
        if stat.S_ISDIR(status.st_mode):
            raise invalid(f"{shown(entry.name)}: a hard link to the directory {shown(entry.link)}")
        return path

    def _link(self, target: bytes, directory: int, name: bytes, existing: os.stat_result | None, entry: Entry) -> None:
        with self._tree.root.parent(target) as (source, old):
            status = os.stat(old, dir_fd=source, follow_symlinks=False)
            if existing is not None:
                if os.path.samestat(existing, status):
                    return  # a link to itself, or one made before
                self._tree.remove(directory, name, existing)
                # removing a tree may have taken the target with it
                if self._tree.root.lstat(target) is None:
                    raise invalid(f"{shown(entry.name)}: a hard link to what it replaces")
            os.link(old, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        self._relabel(directory, name, status, entry)

    def _relabel(self, directory: int, name: bytes, status: os.stat_result, entry: Entry) -> None:
        """Give a linked file the owner, mode and time of the link's entry, as container engines do."""
        uid, gid = entry.uid + self._shift, entry.gid + self._shift
        changes_owner = (status.st_uid, status.st_gid) != (uid, gid)
        if changes_owner:
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            if changes_owner or stat.S_IMODE(status.st_mode) != entry.mode:
                chmod_at(directory, name, entry.mode)
            if entry.capability is not None and stat.S_ISREG(status.st_mode):
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                try:
                    self._set_capability(descriptor, entry)
                finally:
                    os.close(descriptor)
        os.utime(name, ns=(entry.mtime * 10**9, entry.mtime * 10**9), dir_fd=directory, follow_symlinks=False)

    def _dress(self, directory: int, name: bytes, entry: Entry) -> None:
        os.chown(name, entry.uid + self._shift, entry.gid + self._shift, dir_fd=directory, follow_symlinks=False)
        if entry.kind != SYMLINK:
            os.chmod(name, entry.mode, dir_fd=directory)
        os.utime(name, ns=(entry.mtime * 10**9, entry.mtime * 10**9), dir_fd=directory, follow_symlinks=False)

    def _set_capability(self, descriptor: int, entry: Entry) -> None:
        if entry.capability is None:
            return
        value = capability.to_disk(entry.capability, self._shift)
        if value is None:
            raise invalid(f"{shown(entry.name)}: a damaged file capability")
        os.setxattr(descriptor, CAPABILITY, value)


def _lstat_at(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _refused(error: OSError, entry: Entry) -> PushwrightError:
    """What an entry's failure means: a full disk, an id this machine does not have, or a name no file can have."""
    where = f"layer: {shown(entry.name)}: {error.strerror}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(where, hint="free space or inodes where the data directory lives")
    if error.errno in {errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EMLINK}:
        return invalid(f"{shown(entry.name)}: {error.strerror}")
    if error.errno in {errno.EINVAL, errno.EOVERFLOW}:
        return _unmapped(entry)
    return HostError(where, code="layer-not-applied", hint="check the data directory's file system and its mode")


def _unmapped(entry: Entry) -> HostError:
    return HostError(
        f"layer: {shown(entry.name)}: owner {entry.uid}:{entry.gid} is not among the ids of this build",
        code="id-out-of-range",
        hint="a build has 65536 ids at most, and fewer where /etc/subuid or /etc/subgid give fewer",
    )
