"""COPY and WORKDIR: changes that need no command (BuildKit `solver/llbsolver/file`, `fsutil/copy`)."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from executor.context.archive import UnpackOptions, sniff, unpack
from executor.context.ignore import IgnoreRules
from executor.context.ignore_patterns import Part, parse_units
from executor.dockerfile import history
from executor.dockerfile.chmod import Chmod, parse_chmod
from executor.dockerfile.heredoctext import COPIED_MODE, copied_content, file_name
from executor.dockerfile.instructions import Add, Copy, Heredoc, Workdir
from executor.dockerfile.support import refuse_remote
from executor.errors import ContextError, DockerfileError, Location, StepFailedError
from executor.isolation.idmap import ID_SHIFT, require_image_ids
from executor.rootfs.contained import Root
from executor.rootfs.copy import CopyOptions, Everything, Selection, copy_file, copy_tree
from executor.rootfs.users import resolve_owner
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
        # not the user that RUN would have: BuildKit takes USER as if it were a --chown here
        uid, gid = resolve_owner(state.config.config.user or "0", root)
        require_image_ids(uid, gid)
        root.make_directories(os.fsencode(joined), 0o755, (uid + ID_SHIFT, gid + ID_SHIFT))
    return changed.recorded(created, history.workdir(joined), snapshots.commit(state.directories, upper))


def copy(
    state: StageState, instruction: Copy | Add, source: CopySource, snapshots: Snapshots, created: str
) -> StageState:
    """COPY and ADD: every source to the destination, in order, here-documents last.

    ADD unpacks a local file that holds an archive, whatever its name is, unless --unpack=false. With --link the layer
    is made on nothing: directories on the way are new, and links below are not followed.
    """
    location = instruction.location
    sources = [state.scope.expand(item, location) for item in instruction.sources]
    refuse_remote(instruction, sources)
    destination = state.scope.expand(instruction.destination, location)
    chown = state.scope.expand(instruction.chown, location)
    chmod_text = state.scope.expand(instruction.chmod, location)
    chmod = parse_chmod(chmod_text, location) if chmod_text else None
    excludes = IgnoreRules.from_patterns(
        [state.scope.expand(item, location) for item in instruction.excludes], f"{instruction.keyword} --exclude"
    )
    below = replace(state, layers=()) if instruction.link else state
    with _writable(snapshots, below) as (root, upper), _user_database(snapshots, state) as users:
        owner = _owner(chown, users, source)
        unpacks = isinstance(instruction, Add) and instruction.unpack is not False
        wanted = _Wanted(owner, chmod, excludes, unpacks, bool(chown))
        target = _Destination(state.working_dir, destination, root, wanted)
        for text in sources:
            _copy_one(text, source, target, wanted)
        for heredoc in instruction.heredocs:
            _write_heredoc(heredoc, state, target, created, location)
    names = [heredoc.name for heredoc in instruction.heredocs]
    words = {"chown": chown, "chmod": chmod_text}
    created_by = history.copy(sources, destination, heredocs=names, keyword=instruction.keyword, **words)
    return state.recorded(created, created_by, snapshots.commit(below.directories, upper))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What copies shall look like, and which files stay behind. Owners are as the builder numbers them."""

    owner: tuple[int, int] | None
    chmod: Chmod | None
    excludes: IgnoreRules
    unpacks: bool = False
    is_owner_given: bool = False

    def options(self, source: CopySource, selection: Selection) -> CopyOptions:
        return CopyOptions(owner=self.owner, chmod=self.chmod, capabilities=not source.is_context, selection=selection)


def _write_heredoc(heredoc: Heredoc, state: StageState, target: _Destination, created: str, location: Location) -> None:
    name = os.fsencode(file_name(heredoc, location))
    path = target.for_file(name)
    existing = target.root.lstat(path)
    if existing is not None and stat.S_ISDIR(existing.st_mode):
        raise StepFailedError(f"cannot replace the directory {_shown(path)} by a file", code="copy-conflict")
    target.root.remove(path)
    descriptor = target.root.create_file(path)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(copied_content(heredoc, state.scope.variables, location))
        stream.flush()
        os.fchown(descriptor, *target.owner)
        os.fchmod(descriptor, target.file_mode(COPIED_MODE))
    target.root.utime(path, int(datetime.fromisoformat(created).timestamp()) * 10**9)


@contextmanager
def _user_database(snapshots: Snapshots, state: StageState) -> Iterator[Root]:
    """Where names of users are looked up: the stage so far, whatever the copy goes into."""
    with snapshots.overlays.view(state.directories) as view, Root.at(view) as root:
        yield root


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

    def __init__(self, working_dir: str, text: str, root: Root, wanted: _Wanted) -> None:
        self.root = root
        self.owner = wanted.owner or _ROOT_OWNER
        self._must_be_directory = text.endswith(("/", "/.", "/..")) or text in {"", ".", ".."}
        joined = posixpath.normpath(posixpath.join(working_dir, text))
        self._path = os.fsencode(joined.lstrip("/"))
        self._chmod = wanted.chmod
        self._mode = 0o755 if wanted.chmod is None else wanted.chmod.created_directory_mode

    def file_mode(self, mode: int) -> int:
        return mode if self._chmod is None else self._chmod(mode, False)  # noqa: FBT003 - a protocol of positions

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
            # a link of that name in the directory is replaced; only one that is itself the destination is followed
            directory = self._make(resolved)
            return directory + b"/" + name if directory else name
        parent = posixpath.dirname(resolved)
        if parent:
            self._make(parent)
        return resolved

    def _make(self, path: bytes) -> bytes:
        try:
            return self.root.make_directories(path, self._mode, self.owner)
        except NotADirectoryError as error:
            raise StepFailedError(
                f"cannot make the directory {_shown(path)}: part of it is a file", code="copy-conflict"
            ) from error


def _copy_one(text: str, source: CopySource, target: _Destination, wanted: _Wanted) -> None:
    for path in _matches(text, source):
        resolved = _resolve(path, text, source)
        status = source.root.lstat(resolved)
        if status is None:
            raise _missing(text)
        if stat.S_ISDIR(status.st_mode):
            selection = Ignored(source.rules or IgnoreRules(), resolved, wanted.excludes)
            options = wanted.options(source, selection)
            copy_tree(source.root, resolved, target.root, target.for_directory(), options)
        elif wanted.unpacks and stat.S_ISREG(status.st_mode) and _unpacked(source, resolved, target, wanted):
            continue
        elif not (_WILDCARDS.search(text) and wanted.excludes.excludes(os.fsdecode(posixpath.basename(path)))):
            options = wanted.options(source, Everything())
            copy_file(source.root, resolved, target.root, target.for_file(posixpath.basename(path)), options)


def _unpacked(source: CopySource, path: bytes, target: _Destination, wanted: _Wanted) -> bool:
    """Whether the file is an archive, whose entries are then below the destination, which is a directory."""
    with os.fdopen(source.root.open_file(path), "rb") as stream:
        if not sniff(stream).is_archive:
            return False
        # the owners are the archive's own, unless --chown says otherwise
        owner = wanted.owner if wanted.is_owner_given else None
        options = UnpackOptions(id_shift=ID_SHIFT, owner=owner, chmod=wanted.chmod)
        unpack(stream, target.root, target.for_directory(), options)
    return True


class Ignored:
    """What of a directory its context's ignore rules, and a COPY's own, let through."""

    def __init__(self, rules: IgnoreRules, base: bytes, excludes: IgnoreRules | None = None) -> None:
        self._rules = rules
        self._base = os.fsdecode(base)
        self._excludes = excludes or IgnoreRules()

    def selects(self, path: bytes, is_directory: bool) -> bool:
        return not (self._rules.excludes(self._full(path)) or self._excludes.excludes(os.fsdecode(path)))

    def descends(self, path: bytes) -> bool:
        return self._rules.may_descend(self._full(path)) and self._excludes.may_descend(os.fsdecode(path))

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
    components = cleaned.split("/")
    plain = next(number for number, component in enumerate(components) if _WILDCARDS.search(component))
    # links are followed up to the first wildcard, and in what matches in the end, but not on the way between
    base = _resolve(os.fsencode("/".join(components[:plain])), text, source)
    if source.root.lstat(base) is None:
        raise _missing(text)
    found = [base]
    for component in components[plain:]:
        found = [path for base in found for path in _match_component(source, base, component)]
    return sorted(path for path in found if not _is_hidden(source, os.fsdecode(path)))


def _match_component(source: CopySource, base: bytes, component: str) -> list[bytes]:
    status = source.root.lstat(base)
    if status is None or not stat.S_ISDIR(status.st_mode):
        return []
    prefix = base + b"/" if base else b""
    if not _WILDCARDS.search(component):
        path = prefix + os.fsencode(component)
        return [path] if source.root.lstat(path) is not None else []
    pattern = _name_pattern(component)
    return [prefix + name for name in source.root.names(base) if pattern.fullmatch(os.fsdecode(name))]


def _name_pattern(component: str) -> re.Pattern[str]:
    """Go's `filepath.Match` for one path component; `**` means no more than `*`. Matching takes linear time."""
    try:
        return Part(tuple(parse_units(component, "COPY"))).regex
    except ContextError as error:
        raise StepFailedError(error.message, code="copy-pattern-invalid") from error


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")
