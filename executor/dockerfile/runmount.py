"""`RUN --mount`: its options, what they default to, and which go together (BuildKit `commands_runmount.go`)."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from executor.dockerfile.instructions import Run
from executor.dockerfile.mountoptions import MountType, Options, Sharing, read_options
from executor.dockerfile.mountvalues import parse_record
from executor.errors import DockerfileError, Location

DEFAULT_DIRECTORY = "/run/secrets"
SSH_SOCKET = "/run/buildkit/ssh_agent"
DEFAULT_SSH_ID = "default"

_DEFAULT_MODES = {"cache": 0o755, "secret": 0o400, "ssh": 0o600}
_UNUSED = {
    "bind": {"id", "env"},
    "cache": {"env"},
    "tmpfs": {"from", "source", "id", "env"},
    "secret": set[str](),
    "ssh": {"from", "env"},
}


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a RUN, checked and with its defaults filled in.

    `source_stage` is the value of `from`: a stage, named context or image, None for the build context (`bind`) or an
    empty directory (`cache`). `source` is absolute and clean below the root of that, with every `..` gone; its links
    are still to be resolved inside that root. `target` is as written, see `target_path`. `id` is that of the cache,
    secret or agent, and never a path: see `cache_directory_name`. `mode`, `uid` and `gid` are those of a new cache
    directory, a secret's file or a socket. `size_bytes` is None for no limit. `env` is the variable a secret is given
    in; a secret with `env` and no `target` is no file. `unused` are options that were given and mean nothing here.
    """

    type: MountType
    location: Location
    source_stage: str | None = None
    source: str = "/"
    target: str = ""
    read_only: bool = True
    id: str = ""
    sharing: Sharing = "shared"
    required: bool = False
    size_bytes: int | None = None
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    env: str | None = None
    unused: tuple[str, ...] = ()

    def target_path(self, working_dir: str, ssh_number: int = 0) -> str | None:
        """Where the mount is, absolute and clean, or None for a secret that is only a variable.

        `ssh_number` counts the ssh mounts of the instruction from 0: it is in the name of a socket without a target.
        """
        target = self.target
        if not target and self.type == "ssh":
            return f"{SSH_SOCKET}.{ssh_number}"
        if not target and self.type == "secret":
            return f"{DEFAULT_DIRECTORY}/{_last_name(self.id)}" if self.env is None else None
        path = clean(posixpath.join("/", working_dir, target))
        if path == "/":
            raise _root_target(target, self.location)
        return path


@dataclass(frozen=True, slots=True)
class MountWords:
    """A `--mount` as written: the fields of its record, of which all values but that of `from` are to be expanded."""

    text: str
    location: Location
    fields: tuple[str, ...]

    @property
    def source_stage(self) -> str | None:
        """The stage, named context or image that `from` names; it is known before anything is expanded."""
        return read_options(self.fields, None, self.location).get("from") or None

    def is_of_type(self, kind: MountType) -> bool:
        """Whether the mount is written to be of this type; one whose type is a variable is of none yet."""
        return read_options(self.fields, None, self.location).type == kind

    def expanded(self, expand: Callable[[str], str]) -> Mount:
        """The mount that this is with variables put in; `DockerfileError` where options do not fit together."""
        return _mount(read_options(self.fields, expand, self.location), self.location)


def parse_mount(text: str, location: Location) -> MountWords:
    """One value of `--mount`; `DockerfileError` for whatever is wrong with it whatever the variables are."""
    try:
        fields = parse_record(text)
    except ValueError as error:
        raise DockerfileError(
            f"RUN --mount: expected options separated by commas, found {text[:60]!r}: {error}",
            location=location,
            hint="write it as in --mount=type=cache,target=/root/.cache",
        ) from error
    options = read_options(fields, None, location)
    _check(options, location)
    return MountWords(text, location, fields)


def check_mounts(run: Run) -> tuple[MountWords, ...]:
    """All mounts of a RUN, so that what is wrong with them is told before anything is built."""
    return tuple(parse_mount(text, run.location) for text in run.mounts)


def cache_directory_name(cache_id: str, namespace: str = "") -> str:
    """The name of a cache's directory: 64 hexadecimal digits, whatever the id is.

    An id comes from the repository and may look like a path that leads elsewhere (CVE-2024-9675).
    """
    hashed = hashlib.sha256()
    for part in (namespace, cache_id):
        data = part.encode("utf-8", "surrogateescape")
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()


def clean(path: str) -> str:
    """Go's `path.Clean`: POSIX lets two leading slashes mean something, and normpath keeps them."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _check(options: Options, location: Location) -> None:
    """What does not go together, as far as the values are known: those to be expanded are not, at first."""
    kind = options.type
    if kind is None:
        return
    if kind in {"bind", "tmpfs"}:
        for key in ("mode", "uid", "gid"):
            if options.given(key):
                raise _error(f"option {key} is not allowed with type={kind}", location, "remove it")
    if options.get("sharing") and kind != "cache":
        raise _error(f"option sharing is not allowed with type={kind}", location, "only a cache is shared")
    if kind == "secret":
        _check_secret(options, location)
    if kind == "ssh" and options.get("source"):
        raise _error("option source is not allowed with type=ssh", location, "name the agent by id=")
    target = options.get("target") or ""
    if target.startswith("/") and clean(target) == "/":
        raise _root_target(target, location)


def _check_secret(options: Options, location: Location) -> None:
    if options.get("from"):
        raise _error("option from is not allowed with type=secret", location, "a secret is in no stage: remove it")
    if not any(options.may_have(key) for key in ("id", "source", "target")):
        raise _error("type=secret: expected id, source or target, found none of them", location, "write id=name")
    if options.get("id") and options.get("source"):
        raise _error("type=secret: expected id or source, found both", location, "they mean the same: keep id")
    name = options.get("id") or options.get("source") or ""
    if name and not options.may_have("target") and not options.given("env") and _last_name(name) in {"", ".", ".."}:
        raise _error(f"type=secret: expected an id that can name a file, found {name[:60]!r}", location, "add target=")


def _mount(options: Options, location: Location) -> Mount:
    _check(options, location)
    kind = options.type
    if kind is None:
        raise ValueError("a mount is made of expanded options")
    target = options.get("target") or ""
    return Mount(
        type=kind,
        location=location,
        source_stage=options.get("from") or None,
        source=clean("/" + (options.get("source") or "")) if kind in {"bind", "cache"} else "/",
        target=target,
        read_only=kind not in {"cache", "tmpfs"} if options.read_only is None else options.read_only,
        id=_identifier(options, kind, target),
        sharing=options.sharing or "shared",
        required=options.required,
        size_bytes=options.numbers.get("size") or None,
        mode=options.numbers.get("mode", _DEFAULT_MODES.get(kind, 0o755)),
        uid=options.numbers.get("uid", 0),
        gid=options.numbers.get("gid", 0),
        env=options.get("env") if kind == "secret" else None,
        unused=tuple(sorted(key for key in _UNUSED[kind] if options.given(key))),
    )


def _identifier(options: Options, kind: MountType, target: str) -> str:
    given = options.get("id") or ""
    if kind == "cache":
        return given or clean(target)
    if kind == "ssh":
        return given or DEFAULT_SSH_ID
    return given or options.get("source") or _last_name(target) if kind == "secret" else ""


def _last_name(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))


def _root_target(target: str, location: Location) -> DockerfileError:
    return _error(
        f"expected a target below the root, found {target[:60]!r}",
        location,
        "write target=/path; without one, the mount is at the WORKDIR",
    )


def _error(message: str, location: Location, hint: str) -> DockerfileError:
    return DockerfileError(f"RUN --mount: {message}", location=location, hint=hint)
