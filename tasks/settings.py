"""What the operator decides: read once from the environment into one frozen value.

`SETTINGS` names every variable; `docs/settings.md` describes the same ones, and a test compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, cast
from urllib.parse import urlsplit

from executor.errors import UsageError

T = TypeVar("T")

SETTINGS = (
    "REDIS_URL",
    "DOCKER_CONFIG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "PUSHWRIGHT_HOME",
    "PUSHWRIGHT_REGISTRY",
    "PUSHWRIGHT_INSECURE_REGISTRIES",
    "PUSHWRIGHT_SKIP_TLS_VERIFY_REGISTRIES",
    "PUSHWRIGHT_REGISTRY_MAPS",
    "PUSHWRIGHT_REGISTRY_MIRRORS",
    "PUSHWRIGHT_REGISTRY_CERTIFICATES",
    "PUSHWRIGHT_SECRET_KEY",
    "PUSHWRIGHT_SECRET_KEY_FILE",
    "PUSHWRIGHT_PUBLIC_URL",
    "PUSHWRIGHT_API_TOKEN",
    "PUSHWRIGHT_API_TOKEN_FILE",
    "PUSHWRIGHT_CONCURRENCY",
    "PUSHWRIGHT_LEASE_SECONDS",
    "PUSHWRIGHT_HEARTBEAT_SECONDS",
    "PUSHWRIGHT_SWEEP_SECONDS",
    "PUSHWRIGHT_ANNOUNCE_SECONDS",
    "PUSHWRIGHT_RETRY_SECONDS",
    "PUSHWRIGHT_BUILD_DEADLINE_SECONDS",
    "PUSHWRIGHT_GIT_LOCAL_ROOTS",
    "PUSHWRIGHT_ALLOW_PRIVATE_GIT_HOSTS",
    "PUSHWRIGHT_RUN_NETWORK",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be decided about a Pushwright without changing its code.

    `registry` is the host, with an optional path prefix, under which images of projects without an own `image` go;
    empty means the embedded registry, which serves the local store. `retry_seconds` are the pauses before a second,
    third, … attempt.
    """

    data_dir: Path
    redis_url: str = field(default="", repr=False)
    registry: str = ""
    insecure_registries: tuple[str, ...] = ()
    skip_tls_verify_registries: tuple[str, ...] = ()
    registry_maps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    registry_mirrors: tuple[str, ...] = ()
    registry_certificates: Mapping[str, Path] = field(default_factory=dict)
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    docker_config: Path | None = None
    secret_key: str = field(default="", repr=False)
    secret_key_file: Path | None = None
    public_url: str = ""
    api_token: str = field(default="", repr=False)
    api_token_file: Path | None = None
    concurrency: int = 2
    lease_seconds: float = 30.0
    heartbeat_seconds: float = 5.0
    sweep_seconds: float = 5.0
    announce_seconds: float = 10.0
    retry_seconds: tuple[float, ...] = (5.0, 20.0)
    build_deadline_seconds: float = 3600.0
    git_local_roots: tuple[Path, ...] = ()
    allow_private_git_hosts: bool = False
    run_network: Literal["host", "none"] = "host"

    def __post_init__(self) -> None:
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            raise UsageError(
                f"PUSHWRIGHT_HEARTBEAT_SECONDS: expected at most a third of the lease of {self.lease_seconds:g} s, "
                f"found {self.heartbeat_seconds:g}"
            )

    @property
    def store(self) -> Path:
        """Where the content store lives."""
        return self.data_dir / "store"

    @property
    def silence_seconds(self) -> float:
        """How long a build runs on without a renewed lease: 5 s less than it lasts, as the executor counts too."""
        return max(self.lease_seconds - 5.0, self.lease_seconds / 2)

    @property
    def registry_proxies(self) -> Mapping[str, str]:
        """The proxies as the registry client names them: `http`, `https`, `all`, `no`."""
        return {name.lower().removesuffix("_proxy"): value for name, value in self.proxies.items()}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """The settings as `environ` has them; an unusable value is a `UsageError` that names its variable."""
        data_dir = _data_dir(environ)
        return cls(
            data_dir=data_dir,
            redis_url=environ.get("REDIS_URL", ""),
            registry=_read(environ, "PUSHWRIGHT_REGISTRY", _registry, ""),
            insecure_registries=_read(environ, "PUSHWRIGHT_INSECURE_REGISTRIES", _words, ()),
            skip_tls_verify_registries=_read(environ, "PUSHWRIGHT_SKIP_TLS_VERIFY_REGISTRIES", _words, ()),
            registry_maps=_read(environ, "PUSHWRIGHT_REGISTRY_MAPS", _maps, {}),
            registry_mirrors=_read(environ, "PUSHWRIGHT_REGISTRY_MIRRORS", _words, ()),
            registry_certificates=_read(environ, "PUSHWRIGHT_REGISTRY_CERTIFICATES", _certificates, {}),
            proxies=_proxies(environ),
            docker_config=_docker_config(environ),
            secret_key=environ.get("PUSHWRIGHT_SECRET_KEY", ""),
            secret_key_file=_read(environ, "PUSHWRIGHT_SECRET_KEY_FILE", _absolute, data_dir / "secret.key"),
            public_url=_read(environ, "PUSHWRIGHT_PUBLIC_URL", _http_url, ""),
            api_token=environ.get("PUSHWRIGHT_API_TOKEN", ""),
            api_token_file=_read(environ, "PUSHWRIGHT_API_TOKEN_FILE", _absolute, None),
            concurrency=_read(environ, "PUSHWRIGHT_CONCURRENCY", _slots, 2),
            lease_seconds=_read(environ, "PUSHWRIGHT_LEASE_SECONDS", _seconds, 30.0),
            heartbeat_seconds=_read(environ, "PUSHWRIGHT_HEARTBEAT_SECONDS", _seconds, 5.0),
            sweep_seconds=_read(environ, "PUSHWRIGHT_SWEEP_SECONDS", _seconds, 5.0),
            announce_seconds=_read(environ, "PUSHWRIGHT_ANNOUNCE_SECONDS", _seconds, 10.0),
            retry_seconds=_read(environ, "PUSHWRIGHT_RETRY_SECONDS", _pauses, (5.0, 20.0)),
            build_deadline_seconds=_read(environ, "PUSHWRIGHT_BUILD_DEADLINE_SECONDS", _seconds, 3600.0),
            git_local_roots=_read(environ, "PUSHWRIGHT_GIT_LOCAL_ROOTS", _paths, ()),
            allow_private_git_hosts=_read(environ, "PUSHWRIGHT_ALLOW_PRIVATE_GIT_HOSTS", _switch, default=False),
            run_network=_read(environ, "PUSHWRIGHT_RUN_NETWORK", _network, "host"),
        )


def _read(environ: Mapping[str, str], name: str, convert: Callable[[str], T], default: T) -> T:
    text = environ.get(name, "").strip()
    if not text:
        return default
    try:
        return convert(text)
    except ValueError as error:
        raise UsageError(f"{name}: expected {error}, found {text[:80]!r}") from error


def _data_dir(environ: Mapping[str, str]) -> Path:
    if environ.get("PUSHWRIGHT_HOME"):
        return _read(environ, "PUSHWRIGHT_HOME", _absolute, Path())
    if os.geteuid() == 0:
        return Path("/var/lib/pushwright")
    if environ.get("XDG_DATA_HOME", "").startswith("/"):
        return Path(environ["XDG_DATA_HOME"]) / "pushwright"
    if environ.get("HOME", "").startswith("/"):
        return Path(environ["HOME"]) / ".local/share/pushwright"
    raise UsageError("PUSHWRIGHT_HOME: expected the data directory, found neither it nor XDG_DATA_HOME nor HOME")


def _docker_config(environ: Mapping[str, str]) -> Path | None:
    """Docker's own rule: the directory $DOCKER_CONFIG, else ~/.docker."""
    if environ.get("DOCKER_CONFIG"):
        return _read(environ, "DOCKER_CONFIG", _absolute, Path()) / "config.json"
    if environ.get("HOME", "").startswith("/"):
        return Path(environ["HOME"]) / ".docker/config.json"
    return None


def _proxies(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Proxies under their upper-case names; the lower-case spelling wins, as in curl."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    found = {name: environ.get(name.lower()) or environ.get(name, "") for name in names}
    return {name: value for name, value in found.items() if value}


def _absolute(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError("an absolute path")
    return Path(text)


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words) or any(character.isspace() for word in words for character in word):
        raise ValueError("names separated by commas")
    return words


def _paths(text: str) -> tuple[Path, ...]:
    try:
        return tuple(_absolute(item) for item in text.split(":"))
    except ValueError:
        raise ValueError("absolute paths separated by colons") from None


def _registry(text: str) -> str:
    if "://" in text or text != text.lower() or any(character.isspace() for character in text):
        raise ValueError("a registry's host, with an optional port and path, without a scheme")
    return text.rstrip("/")


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = [item.strip().partition("=") for item in text.replace(";", ",").split(",")]
    if not all(name and value for name, _, value in pairs):
        raise ValueError("host=value pairs separated by commas")
    return [(name, value) for name, _, value in pairs]


def _maps(text: str) -> Mapping[str, tuple[str, ...]]:
    maps: dict[str, tuple[str, ...]] = {}
    for host, target in _pairs(text):
        maps[host] = (*maps.get(host, ()), target)
    return maps


def _certificates(text: str) -> Mapping[str, Path]:
    return {host: _absolute(path) for host, path in _pairs(text)}


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("an http:// or https:// URL")
    return text.rstrip("/")


def _slots(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 256:
        raise ValueError("a whole number from 1 to 256")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise ValueError("a number of seconds above 0")
    return seconds


def _pauses(text: str) -> tuple[float, ...]:
    return tuple(_seconds(item.strip()) for item in text.split(","))


def _switch(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("yes or no")
    return words[text.lower()]


def _network(text: str) -> Literal["host", "none"]:
    if text not in {"host", "none"}:
        raise ValueError("host or none")
    return cast(Literal["host", "none"], text)
