"""COPY and WORKDIR: changes that need no command (BuildKit `solver/llbsolver/file`, `fsutil/copy`)."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from executor.context.ignore import IgnoreRules
from executor.context.ignore_patterns import Part, parse_units
from executor.dockerfile import history
from executor.dockerfile.instructions import Copy, Workdir
from executor.dockerfile.support import octal_mode
from executor.errors import ContextError, DockerfileError, StepFailedError
from executor.isolation.idmap import ID_SHIFT, require_image_ids
from executor.rootfs.contained import Root
from executor.rootfs.copy import CopyOptions, Everything, Selection, copy_file, copy_tree
from executor.rootfs.users import resolve_owner, resolve_user
from executor.steps.snapshot import Snapshots
from executor.steps.state import StageState

_WILDCARDS = re.compile(r"[*?\[\\]")
_ROOT_OWNER = (ID_SHIFT, ID_SHIFT)


@dataclass(frozen=True, slots=True)
class CopySource:
    """Where a COPY takes files from: the build context (with its ignore rules), or a tree of an image."""

    root: Root
    rules: IgnoreRules | None = None

    @property
    def is_context(self) -> bool:
        return self.rules is not None


def change_working_dir(state: StageState, instruction: Workdir, snapshots: Snapshots, created: str) -> StageState:
    """WORKDIR: make the directory, owned by the present USER, and remember it as written."""
    path = state.scope.expand(instruction.path, instruction.location)
    if not path:
        raise DockerfileError("WORKDIR: expected a path, found none after expansion", location=instruction.location)
    joined = posixpath.normpath(posixpath.join(state.working_dir, path))
    # POSIX gives a leading // a meaning of its own, and normpath keeps it
    joined = "/" + joined.lstrip("/")
    changed = state.configured(working_dir=joined)
    if joined == "/":
        return changed.recorded(created, history.workdir(joined))
    with _writable(snapshots, state) as (root, upper):
        user = resolve_user(state.config.config.user, root)
        require_image_ids(user.uid, user.gid)
        root.make_directories(os.fsencode(joined), 0o755, (user.uid + ID_SHIFT, user.gid + ID_SHIFT))
    return changed.recorded(created, history.workdir(joined), snapshots.commit(state.directories, upper))


def copy(state: StageState, instruction: Copy, source: CopySource, snapshots: Snapshots, created: str) -> StageState:
    """COPY: every source to the destination, in order."""
    location = instruction.location
    sources = [state.scope.expand(item, location) for item in instruction.sources]
    destination = state.scope.expand(instruction.destination, location)
    chown = state.scope.expand(instruction.chown, location)
    chmod = state.scope.expand(instruction.chmod, location)
    with _writable(snapshots, state) as (root, upper):
        owner = _owner(chown, root, source)
        mode = octal_mode(chmod, location) if chmod else None
        target = _Destination(state, destination, root, owner or _ROOT_OWNER, mode)
        for text in sources:
            _copy_one(text, source, target, owner, mode)
    created_by = history.copy(sources, destination, chown=chown, chmod=chmod)
    return state.recorded(created, created_by, snapshots.commit(state.directories, upper))


@contextmanager
def _writable(snapshots: Snapshots, state: StageState) -> Iterator[tuple[Root, Path]]:
    upper = snapshots.new_upper(state.directories)
    with snapshots.overlays.writable(state.directories, upper) as merged, Root.at(merged) as root:
        yield root, upper


def _owner(chown: str, root: Root, source: CopySource) -> tuple[int, int] | None:
    """The owner of what is copied, as the builder numbers ids; None keeps that of each file."""
    if chown:
        uid, gid = resolve_owner(chown, root)
        require_image_ids(uid, gid)
        return uid + ID_SHIFT, gid + ID_SHIFT
    return _ROOT_OWNER if source.is_context else None


class _Destination:
    """Where a COPY goes, with the rules of when a name is a directory."""

    def __init__(self, state: StageState, text: str, root: Root, owner: tuple[int, int], mode: int | None) -> None:
        self.root = root
        self._must_be_directory = text.endswith(("/", "/.", "/..")) or text in {".", ".."}
        joined = posixpath.normpath(posixpath.join(state.working_dir, text))
        self._path = os.fsencode(joined.lstrip("/"))
        self._owner = owner
        self._mode = 0o755 if mode is None else mode

    def for_directory(self) -> bytes:
        """The directory that takes a directory's content; made when missing."""
        resolved = self.root.resolve(self._path)
        status = self.root.lstat(resolved)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise StepFailedError(
                f"cannot copy a directory to {_shown(self._path)}, which is no directory", code="copy-conflict"
            )
        return self._make(resolved)

    def for_file(self, name: bytes) -> bytes:
        """The path that takes a file called `name`, its directory made when missing."""
        resolved = self.root.resolve(self._path)
        status = self.root.lstat(resolved)
        if self._must_be_directory or (status is not None and stat.S_ISDIR(status.st_mode)):
            directory = self._make(resolved)
            path = directory + b"/" + name if directory else name
            # a link that is already there is written through, and stays
            return self.root.resolve(path) if self._leads_on(path) else path
        parent = posixpath.dirname(resolved)
        if parent:
            self._make(parent)
        return resolved

    def _leads_on(self, path: bytes) -> bool:
        status = self.root.lstat(path)
        return status is not None and stat.S_ISLNK(status.st_mode)

    def _make(self, path: bytes) -> bytes:
        try:
            return self.root.make_directories(path, self._mode, self._owner)
        except NotADirectoryError as error:
            raise StepFailedError(
                f"cannot make the directory {_shown(path)}: part of it is a file", code="copy-conflict"
            ) from error


def _copy_one(
    text: str, source: CopySource, target: _Destination, owner: tuple[int, int] | None, mode: int | None
) -> None:
    for path in _matches(text, source):
        resolved = _resolve(path, text, source)
        status = source.root.lstat(resolved)
        if status is None:
            raise _missing(text)
        if stat.S_ISDIR(status.st_mode):
            options = _options(source, owner, mode, _Ignored(source.rules, resolved) if source.rules else Everything())
            copy_tree(source.root, resolved, target.root, target.for_directory(), options)
        else:
            options = _options(source, owner, mode, Everything())
            copy_file(source.root, resolved, target.root, target.for_file(posixpath.basename(path)), options)


def _options(source: CopySource, owner: tuple[int, int] | None, mode: int | None, selection: Selection) -> CopyOptions:
    chmod: Callable[[int, bool], int] | None = None
    if mode is not None:
        wanted = mode

        def chmod(_old: int, _is_directory: bool) -> int:
            return wanted

    return CopyOptions(owner=owner, chmod=chmod, capabilities=not source.is_context, selection=selection)


class _Ignored:
    """What of a directory of the context its ignore rules let through."""

    def __init__(self, rules: IgnoreRules, base: bytes) -> None:
        self._rules = rules
        self._base = os.fsdecode(base)

    def selects(self, path: bytes, is_directory: bool) -> bool:
        return not self._rules.excludes(self._full(path))

    def descends(self, path: bytes) -> bool:
        return self._rules.may_descend(self._full(path))

    def _full(self, path: bytes) -> str:
        return posixpath.join(self._base, os.fsdecode(path))


def _resolve(path: bytes, text: str, source: CopySource) -> bytes:
    try:
        resolved = source.root.resolve(path)
    except NotADirectoryError as error:
        raise _missing(text) from error
    if source.rules is not None:
        names = {os.fsdecode(item) for item in (path, resolved) if item}
        if any(_is_hidden(source, name) for name in names):
            raise _missing(text)
    return resolved


def _is_hidden(source: CopySource, name: str) -> bool:
    """A directory that is excluded may still hold files that are not; only what is excluded for good is missing."""
    rules = source.rules
    return rules is not None and rules.excludes(name) and not rules.may_descend(name)


def _missing(text: str) -> StepFailedError:
    return StepFailedError(
        f"COPY: expected {text!r}, found nothing of that name",
        code="copy-source-missing",
        hint="check the path against the build context, and that no ignore file excludes it",
    )


def _matches(text: str, source: CopySource) -> list[bytes]:
    """The paths that a source stands for: itself, or what matches its wildcards, which may be nothing."""
    cleaned = posixpath.normpath("/" + text).lstrip("/")
    if not _WILDCARDS.search(cleaned):
        return [os.fsencode(cleaned)]
    found = [b""]
    for component in cleaned.split("/"):
        found = [path for base in found for path in _match_component(source, base, component)]
    return sorted(path for path in found if not _is_hidden(source, os.fsdecode(path)))


def _match_component(source: CopySource, base: bytes, component: str) -> list[bytes]:
    prefix = base + b"/" if base else b""
    if not _WILDCARDS.search(component):
        path = prefix + os.fsencode(component)
        return [path] if source.root.lstat(path) is not None else []
    resolved = source.root.resolve(base)
    status = source.root.lstat(resolved)
    if status is None or not stat.S_ISDIR(status.st_mode):
        return []
    pattern = _name_pattern(component)
    return [prefix + name for name in source.root.names(resolved) if pattern.fullmatch(os.fsdecode(name))]


def _name_pattern(component: str) -> re.Pattern[str]:
    """Go's `filepath.Match` for one path component; `**` means no more than `*`. Matching takes linear time."""
    try:
        return Part(tuple(parse_units(component, "COPY"))).regex
    except ContextError as error:
        raise StepFailedError(error.message, code="copy-pattern-invalid") from error


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")
