"""A service of a compose file as the arguments of `docker run`, so that the file itself is what is tried.

Networks and published ports are left out: the caller decides what the containers share. Every other key must be known
here, and an unknown one is an error, so that nothing of the file goes untried unnoticed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# handled by the caller: images are built beforehand, networks are shared, dependencies give the order of starts
LEFT_TO_THE_CALLER = frozenset({"image", "build", "networks", "ports", "depends_on"})


@dataclass(frozen=True, slots=True)
class Service:
    """One service: its image, the options of `docker run`, and the command."""

    image: str
    options: tuple[str, ...]
    command: tuple[str, ...]


def compose_command() -> list[str]:
    """Compose as this machine has it: `docker compose`, else the older `docker-compose`."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    return ["docker", "compose"]


def read_services(directory: Path) -> dict[str, Any]:
    """The services of a directory's compose file, variables filled in by Compose itself from its `.env`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHWRIGHT_", "COMPOSE"))}
    done = subprocess.run(
        [*compose_command(), "--file", str(directory / "docker-compose.yml"), "config"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"compose refuses the file: {done.stderr}")
    services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return services


def service(value: Mapping[str, Any], *, project: str, directory: Path) -> Service:
    """The service as `docker run` takes it; named volumes get the project's name before theirs."""
    options: list[str] = []
    for key, item in value.items():
        if key in LEFT_TO_THE_CALLER or key == "command":
            continue
        if key not in _TRANSLATIONS:
            raise AssertionError(f"the compose file has a key that is not tried here: {key}")
        options += _TRANSLATIONS[key](item, project, directory)
    command = value.get("command") or []
    # Compose shows a dollar sign doubled, as it must be written
    words = [str(word).replace("$$", "$") for word in (shlex.split(command) if isinstance(command, str) else command)]
    return Service(str(value["image"]), tuple(options), tuple(words))


def _repeated(flag: str) -> Any:
    return lambda items, _project, _directory: [f"{flag}={item}" for item in items]


def _single(flag: str) -> Any:
    return lambda item, _project, _directory: [f"{flag}={str(item).lower() if isinstance(item, bool) else item}"]


def _environment(items: Mapping[str, object], _project: str, _directory: Path) -> list[str]:
    return [f"--env={name}={'' if value is None else value}" for name, value in items.items()]


def _volumes(items: list[Any], project: str, _directory: Path) -> list[str]:
    return [f"--volume={_volume(item, project)}" for item in items]


def _volume(item: str | Mapping[str, Any], project: str) -> str:
    """Compose 1 shows volumes as `source:target:mode`, Compose 2 as objects."""
    if isinstance(item, str):
        source, target, mode = [*item.split(":"), "rw"][:3]
    else:
        source, target, mode = item["source"], item["target"], "ro" if item.get("read_only") else "rw"
    return f"{source if source.startswith('/') else f'{project}_{source}'}:{target}:{mode}"


def _security(items: list[str], _project: str, directory: Path) -> list[str]:
    options = []
    for item in items:
        name, separator, value = item.partition("=")
        if name == "seccomp" and value.startswith("."):
            value = str(directory / value)
        options.append(f"--security-opt={name}{separator}{value}")
    return options


def _health(item: Mapping[str, Any], _project: str, _directory: Path) -> list[str]:
    kind, *words = (str(word).replace("$$", "$") for word in item["test"])
    command = words[0] if kind == "CMD-SHELL" else shlex.join(words)
    return [
        f"--health-cmd={command}",
        f"--health-interval={item['interval']}",
        f"--health-timeout={item['timeout']}",
        f"--health-retries={item['retries']}",
    ]


def _grace(item: str, _project: str, _directory: Path) -> list[str]:
    found = re.fullmatch(r"(\d+)s", item)
    if not found:
        raise AssertionError(f"stop_grace_period: expected whole seconds, found {item!r}")
    return [f"--stop-timeout={found[1]}"]


_TRANSLATIONS: Mapping[str, Any] = {
    "user": _single("--user"),
    "environment": _environment,
    "volumes": _volumes,
    "tmpfs": _repeated("--tmpfs"),
    "cap_drop": _repeated("--cap-drop"),
    "security_opt": _security,
    "read_only": _single("--read-only"),
    "pids_limit": _single("--pids-limit"),
    "init": _single("--init"),
    "restart": _single("--restart"),
    "stop_grace_period": _grace,
    "healthcheck": _health,
}
