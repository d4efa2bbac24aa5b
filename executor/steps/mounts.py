"""What a RUN asks for by `--mount`, brought together before it and put away behind it (`dockerfile2llb`).

Everything is resolved inside the root it comes from: a source through the links of its own tree, a target by the
runner inside the step's root, and a cache's id never names a path.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from executor.dockerfile.runmount import Mount, cache_directory_name
from executor.errors import DockerfileError, StepFailedError
from executor.isolation.idmap import ID_SHIFT
from executor.isolation.mounts import StepMount
from executor.rootfs.contained import Root
from executor.rootfs.copy import CopyOptions, copy_file, copy_tree
from executor.rootfs.overlay import Overlays
from executor.steps.files import CopySource, Ignored

_IMAGE_ROOT = (ID_SHIFT, ID_SHIFT)
_PRIVATE_COPIES = 64


@dataclass(frozen=True, slots=True)
class MountOrigin:
    """Where a bind or the beginnings of a cache come from: layers (bottom first), or a context."""

    directories: tuple[Path, ...] = ()
    context: CopySource | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The mounts of one RUN, ready: what to mount, and the variables that secrets are given in."""

    mounts: tuple[StepMount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


class StepMounts:
    """Prepares mounts; `secrets` are values by id, `caches` the directory of all cache mounts of one scope."""

    def __init__(
        self, overlays: Overlays, secrets: Mapping[str, bytes], secret_files: Path, caches: Path, scope: str
    ) -> None:
        self._overlays = overlays
        self._secrets = secrets
        self._secret_files = secret_files
        self._caches = caches
        self._scope = scope

    @contextlib.contextmanager
    def prepared(
        self, mounts: Sequence[Mount], origin_of: Callable[[Mount], MountOrigin], working_dir: str
    ) -> Iterator[Prepared]:
        """Everything the mounts need, for as long as the context lasts."""
        placed: list[StepMount] = []
        env: dict[str, str] = {}
        with contextlib.ExitStack() as stack:
            for mount in mounts:
                target = mount.target_path(working_dir)
                if mount.type == "secret":
                    placed += self._secret(mount, target, env, stack)
                elif target is not None:
                    placed.append(self._placed(mount, target, origin_of, stack))
            yield Prepared(tuple(placed), env)

    def _placed(
        self, mount: Mount, target: str, origin_of: Callable[[Mount], MountOrigin], stack: contextlib.ExitStack
    ) -> StepMount:
        if mount.type == "tmpfs":
            return StepMount(target, read_only=mount.read_only, size_bytes=mount.size_bytes or 0)
        if mount.type == "cache":
            return StepMount(target, str(self._cache(mount, origin_of, stack)), read_only=mount.read_only)
        source = self._bind(mount, origin_of(mount), stack)
        return StepMount(target, str(source), source.is_dir(), mount.read_only)

    # --- bind ---

    def _bind(self, mount: Mount, origin: MountOrigin, stack: contextlib.ExitStack) -> Path:
        if origin.context is not None:
            return self._copied(mount, origin.context)
        tree = stack.enter_context(self._tree(origin.directories, writable=not mount.read_only))
        with Root.at(tree) as root:
            return tree / os.fsdecode(_resolved(mount, root))

    @contextlib.contextmanager
    def _tree(self, directories: tuple[Path, ...], *, writable: bool) -> Iterator[Path]:
        """The tree to mount; what is written to it goes where nobody looks again."""
        if not writable:
            with self._overlays.view(directories) as view:
                yield view
            return
        discarded = self._overlays.new_directory("discarded")
        os.chown(discarded, *_IMAGE_ROOT)
        with self._overlays.writable(directories, discarded) as merged:
            yield merged

    def _copied(self, mount: Mount, context: CopySource) -> Path:
        """A copy of what the context has: the step's ids may not read the context, and ignored files are not in it."""
        resolved = _resolved(mount, context.root)
        status = context.root.lstat(resolved)
        place = self._overlays.new_directory("context")
        os.chown(place, *_IMAGE_ROOT)
        rules = context.rules
        with Root.at(place) as target:
            if status is not None and stat.S_ISDIR(status.st_mode):
                options = CopyOptions(owner=_IMAGE_ROOT)
                if rules is not None:
                    options = CopyOptions(owner=_IMAGE_ROOT, selection=Ignored(rules, resolved))
                copy_tree(context.root, resolved, target, b"", options)
                return place
            if rules is not None and rules.excludes(os.fsdecode(resolved)):
                raise _missing(mount)
            copy_file(context.root, resolved, target, b"file", CopyOptions(owner=_IMAGE_ROOT))
        return place / "file"

    # --- cache ---

    def _cache(self, mount: Mount, origin_of: Callable[[Mount], MountOrigin], stack: contextlib.ExitStack) -> Path:
        """The cache's directory, made when new; locked for as long as its sharing asks."""
        name = cache_directory_name(mount.id, self._scope)
        if mount.sharing == "private":
            for number in range(_PRIVATE_COPIES):
                lock = self._lock(f"{name}.{number}", fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock is not None:
                    stack.callback(os.close, lock)
                    return self._cache_directory(f"{name}.{number}", mount, origin_of)
            raise StepFailedError(
                f"cache {mount.id!r}: more than {_PRIVATE_COPIES} steps use it at once", code="cache-mount-busy"
            )
        if mount.sharing == "locked":
            lock = self._lock(name, fcntl.LOCK_EX)
            if lock is not None:
                stack.callback(os.close, lock)
        return self._cache_directory(name, mount, origin_of)

    def _lock(self, name: str, operation: int) -> int | None:
        descriptor = os.open(
            self._caches / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def _cache_directory(self, name: str, mount: Mount, origin_of: Callable[[Mount], MountOrigin]) -> Path:
        """The content is a child of the cache's own directory, so that it comes into being whole, by a rename."""
        directory = self._caches / name
        making = self._lock(f"{name}.new", fcntl.LOCK_EX)
        try:
            if not directory.is_dir():
                fresh = self._overlays.new_directory("cache")
                if mount.source_stage is not None:
                    self._fill(mount, origin_of(mount), fresh)
                os.chown(fresh, mount.uid + ID_SHIFT, mount.gid + ID_SHIFT)
                fresh.chmod(mount.mode)
                fresh.rename(directory)
        finally:
            if making is not None:
                os.close(making)
        return directory

    def _fill(self, mount: Mount, origin: MountOrigin, fresh: Path) -> None:
        with self._overlays.view(origin.directories) as view, Root.at(view) as root, Root.at(fresh) as target:
            resolved = _resolved(mount, root)
            status = root.lstat(resolved)
            if status is None or not stat.S_ISDIR(status.st_mode):
                raise DockerfileError(
                    f"RUN --mount: expected a directory as beginning of a cache, found a file at {mount.source!r}",
                    location=mount.location,
                )
            copy_tree(root, resolved, target, b"", CopyOptions(capabilities=True))

    # --- secret ---

    def _secret(
        self, mount: Mount, target: str | None, env: dict[str, str], stack: contextlib.ExitStack
    ) -> list[StepMount]:
        value = self._secrets.get(mount.id)
        if value is None:
            if mount.required:
                raise DockerfileError(
                    f"RUN --mount: expected the secret {mount.id!r}, which was not given",
                    code="secret-missing",
                    location=mount.location,
                    hint=f"give it: --secret id={mount.id},src=FILE",
                )
            return []
        if mount.env is not None:
            env[mount.env] = value.decode("utf-8", "surrogateescape")
        if target is None:
            return []
        path = self._secret_files / f"{len(os.listdir(self._secret_files))}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(value)
            os.fchown(descriptor, mount.uid + ID_SHIFT, mount.gid + ID_SHIFT)
            os.fchmod(descriptor, mount.mode)
        stack.callback(path.unlink)
        return [StepMount(target, str(path), is_directory=False)]


def _resolved(mount: Mount, root: Root) -> bytes:
    """The source inside its own root, every link followed there and nowhere else (CVE-2024-1753)."""
    try:
        resolved = root.resolve(os.fsencode(mount.source))
    except NotADirectoryError as error:
        raise _missing(mount) from error
    if resolved and root.lstat(resolved) is None:
        raise _missing(mount)
    return resolved


def _missing(mount: Mount) -> DockerfileError:
    return DockerfileError(
        f"RUN --mount: expected {mount.source!r} in {mount.source_stage or 'the build context'}, found nothing there",
        code="mount-source-missing",
        location=mount.location,
    )
