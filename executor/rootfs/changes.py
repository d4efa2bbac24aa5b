"""From an overlay's upper directory to the list of what a step changed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from executor.errors import StepFailedError
from executor.rootfs.contained import Root, View, get_capability
from executor.rootfs.overlayform import is_opaque, is_whiteout

_CHUNK = 1 << 20
# a tar name can be longer, but no container engine could make the file
_MAX_PATH_BYTES = 4095


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a layer: something that is there now (`status`), or is gone (None). Paths have no leading slash."""

    path: bytes
    status: os.stat_result | None

    @property
    def is_whiteout(self) -> bool:
        return self.status is None


@dataclass(slots=True)
class _Node:
    """What the upper directory has at a path, and whether it belongs in the layer by itself."""

    status: os.stat_result | None
    changed: bool


def find_changes(upper: Root, lower: View | None) -> list[Change]:
    """What differs between the layers below (`lower`; None: nothing) and the same with `upper` laid over them.

    Something counts as changed when type, mode, owner, size, link target, modification time in whole seconds, file
    capability or content differ. A directory counts when its mode or owner differ, and comes along, with its real mode,
    when something in it changed. Opaque directories become whiteouts of what they hide (image-spec, layer, "Opaque
    Whiteout"). All names of a hard-linked file are there when one is. The root itself is never listed.
    """
    nodes = _Comparison(upper, lower).nodes()
    _spread_over_links(nodes)
    wanted = {path for path, node in nodes.items() if node.changed}
    for path in list(wanted):
        while (path := path.rpartition(b"/")[0]) and path not in wanted:
            wanted.add(path)
    # by the parts of the path, so that a directory comes before what is in it and nothing between
    return [Change(path, nodes[path].status) for path in sorted(wanted, key=lambda item: item.split(b"/"))]


@dataclass(frozen=True, slots=True)
class _Frame:
    """A directory to walk: whether the lower view has one there too, and whether what that holds is hidden."""

    path: bytes
    has_lower: bool
    hidden: bool


class _Comparison:
    """A walk through the upper directory with the lower view beside it."""

    def __init__(self, upper: Root, lower: View | None) -> None:
        self._upper = upper
        self._lower = lower
        self._nodes: dict[bytes, _Node] = {}

    def nodes(self) -> dict[bytes, _Node]:
        pending = [_Frame(b"", self._lower is not None, hidden=False)]
        while pending:
            pending.extend(self._directory(pending.pop()))
        return self._nodes

    def _directory(self, frame: _Frame) -> list[_Frame]:
        path, has_lower, hidden = frame.path, frame.has_lower, frame.hidden
        below = []
        found = self._entries(path)
        if has_lower and hidden:
            present = {name for name, _ in found}
            for name in self._lower_view.names(path):
                if name not in present:
                    self._nodes[_join(path, name)] = _Node(None, changed=True)
        for name, status in found:
            child = _join(path, name)
            if len(child) > _MAX_PATH_BYTES:
                raise StepFailedError(
                    f"a path of {len(child)} bytes, beginning {child[:80]!r}, is too long for a layer",
                    code="path-too-long",
                    hint="remove what the step left there",
                )
            before = self._lower_view.lstat(child) if has_lower else None
            if self._compare(child, status, before):
                is_lower = before is not None and stat.S_ISDIR(before.st_mode)
                below.append(_Frame(child, is_lower, hidden=is_lower and (hidden or self._is_opaque(child))))
        return below

    def _entries(self, path: bytes) -> list[tuple[bytes, os.stat_result]]:
        descriptor = self._upper.open_directory(path)
        try:
            with os.scandir(descriptor) as entries:
                return [(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries]
        finally:
            os.close(descriptor)

    def _compare(self, path: bytes, status: os.stat_result, before: os.stat_result | None) -> bool:
        """Note one entry; whether it is a directory to go into."""
        if is_whiteout(status) or stat.S_ISSOCK(status.st_mode):
            # a socket cannot be in a layer, but what it replaces is gone
            if before is not None:
                self._nodes[path] = _Node(None, changed=True)
            return False
        self._nodes[path] = _Node(status, changed=before is None or self._differs(path, status, before))
        return stat.S_ISDIR(status.st_mode)

    def _differs(self, path: bytes, status: os.stat_result, before: os.stat_result) -> bool:
        if (status.st_mode, status.st_uid, status.st_gid) != (before.st_mode, before.st_uid, before.st_gid):
            return True
        if stat.S_ISDIR(status.st_mode):
            return False  # its time and size follow from its entries
        if status.st_mtime_ns // 10**9 != before.st_mtime_ns // 10**9 or status.st_size != before.st_size:
            return True
        if stat.S_ISLNK(status.st_mode):
            return self._upper.readlink(path) != self._lower_view.readlink(path)
        if not stat.S_ISREG(status.st_mode):
            return status.st_rdev != before.st_rdev
        return self._content_differs(path)

    def _content_differs(self, path: bytes) -> bool:
        with (
            os.fdopen(self._upper.open_file(path), "rb", buffering=0) as new,
            os.fdopen(self._lower_view.open_file(path), "rb", buffering=0) as old,
        ):
            if get_capability(new.fileno()) != get_capability(old.fileno()):
                return True
            while data := new.read(_CHUNK):
                if data != old.read(len(data)):
                    return True
        return False

    def _is_opaque(self, path: bytes) -> bool:
        descriptor = self._upper.open_directory(path)
        try:
            return is_opaque(descriptor)
        finally:
            os.close(descriptor)

    @property
    def _lower_view(self) -> View:
        if self._lower is None:
            raise RuntimeError("asked for the layers below when there are none")
        return self._lower


def _spread_over_links(nodes: dict[bytes, _Node]) -> None:
    """A layer's hard link needs its target in the same layer: when one name changed, all names are listed."""
    groups: dict[tuple[int, int], list[_Node]] = {}
    for node in nodes.values():
        status = node.status
        if status is not None and status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            groups.setdefault((status.st_dev, status.st_ino), []).append(node)
    for group in groups.values():
        if any(node.changed for node in group):
            for node in group:
                node.changed = True


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
