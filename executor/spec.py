"""What a build is asked to do, and what it gave: values that cross the process boundary as JSON.

A specification arrives on the executor's standard input, credentials included, so that nothing secret is ever an
argument or an environment variable. Unknown fields and wrong types are `UsageError`s naming the path of the field.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

from executor.errors import UsageError

SPEC_VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DirectoryContext:
    """Files on this machine; `revision` names the commit they are, where that is known."""

    path: str
    kind: Literal["directory"] = "directory"
    sub_path: str = ""


@dataclass(frozen=True, slots=True)
class GitContext:
    """One commit of a repository.

    `ref` is the full ref that was pushed (`refs/heads/main`), asked for where the server does not give bare commits.
    `username` and `password` go to the URL's own host only. `local_root`, when set, is the directory below which a
    `file://` URL may point. `allow_private` lets the URL's host resolve to loopback, link-local or private addresses.
    """

    url: str
    commit: str
    kind: Literal["git"] = "git"
    ref: str = ""
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    sub_path: str = ""
    local_root: str = ""
    allow_private: bool = False
    timeout_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Credential:
    """What a registry is shown: a user name and password, or an identity token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How registries are reached.

    `maps` and `mirrors` give, for a registry host, the hosts (with optional path prefix) tried before it, in order.
    `insecure` hosts are spoken to in plain HTTP, `skip_tls_verify` hosts without checking their certificate.
    `certificates` are PEM bundles by host.
    """

    credentials: Mapping[str, Credential] = field(default_factory=dict)
    maps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()
    skip_default_fallback: bool = False
    insecure: tuple[str, ...] = ()
    skip_tls_verify: tuple[str, ...] = ()
    certificates: Mapping[str, str] = field(default_factory=dict)
    retries: int = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one build; 0 means none."""

    deadline_seconds: float = 0.0
    step_output_bytes: int = 64 * 1024 * 1024
    open_files: int = 1 << 20
    processes: int = 0


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """One build.

    `destinations` are references; one without a tag is pushed by digest only. Without `push` they only name the image
    in exported files. `keep_as` names repositories of the local store under which the image is kept for the read-only
    registry, as `repository` or `repository:tag`. `created` is seconds since the epoch for the image's `created` and
    history, None for now; `reproducible` lowers every file time above it. `secrets` are values for
    RUN --mount=type=secret by id, in base64; `cache_scope` keeps the cache mounts of those who share it apart from
    those of others. `network` is that of RUN. `isolation` is a level or `auto`.
    """

    context: DirectoryContext | GitContext
    store: str
    dockerfile: str = "Dockerfile"
    destinations: tuple[str, ...] = ()
    push: bool = True
    keep_as: tuple[str, ...] = ()
    target: str = ""
    platform: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    image_format: Literal["oci", "docker"] = "oci"
    compression_level: int = 2
    created: int | None = None
    reproducible: bool = False
    isolation: Literal["auto", "userns"] = "auto"
    network: Literal["host", "none"] = "host"
    proxies: Mapping[str, str] = field(default_factory=dict)
    tar_path: str = ""
    oci_layout_path: str = ""
    digest_file: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    cache_scope: str = ""
    registries: RegistryOptions = field(default_factory=RegistryOptions)
    limits: Limits = field(default_factory=Limits)
    version: int = SPEC_VERSION

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> BuildSpec:
        if isinstance(value, dict) and value.get("version") != SPEC_VERSION:
            raise UsageError(f"specification.version: expected {SPEC_VERSION}, found {value.get('version')!r}")
        return _read(cls, value, "specification")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build gave: the manifest's descriptor and its very bytes, to be put under tags by whoever owns them."""

    digest: str
    size: int
    media_type: str
    manifest: str
    config_digest: str
    platform: str
    pushed: tuple[str, ...] = ()
    base_images: Mapping[str, str] = field(default_factory=dict)
    commit_time: int | None = None
    isolation: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> BuildResult:
        return _read(cls, value, "result")


def _read(kind: type[T], value: object, where: str) -> T:
    """A dataclass from decoded JSON, field by field."""
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected an object, found {type(value).__name__}")
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(value) - set(known)):
        raise UsageError(f"{where}: unknown field {unknown[0]!r}", hint=f"known are {', '.join(sorted(known))}")
    arguments: dict[str, Any] = {}
    for name, item in known.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], f"{where}.{name}")
        elif item.default is MISSING and item.default_factory is MISSING:
            raise UsageError(f"{where}.{name}: missing")
    return kind(**arguments)


def _convert(hint: Any, value: object, where: str) -> Any:
    origin, parameters = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return _convert_union(parameters, value, where)
    if origin is Literal:
        if value not in parameters:
            raise UsageError(f"{where}: expected one of {', '.join(map(str, parameters))}, found {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where}: expected an array, found {type(value).__name__}")
        return tuple(_convert(parameters[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: expected an object, found {type(value).__name__}")
        return {str(key): _convert(parameters[1], item, f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return _read(typing.cast(type, hint), value, where)
    accepted: tuple[type, ...] = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise UsageError(f"{where}: expected {hint.__name__}, found {type(value).__name__}")
    return value


def _convert_union(parameters: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in parameters:
        return None
    choices = [item for item in parameters if item is not type(None)]
    if len(choices) == 1:
        return _convert(choices[0], value, where)
    kind = value.get("kind") if isinstance(value, dict) else None
    for choice in choices:
        if typing.get_args(typing.get_type_hints(choice)["kind"]) == (kind,):
            return _convert(choice, value, where)
    raise UsageError(f"{where}.kind: expected one of the known kinds, found {kind!r}")
