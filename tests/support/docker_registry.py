"""Debian's `docker-registry` on a free loopback port, with password and TLS where a test asks for them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.certificates import ServerCertificate

BINARY = "/usr/bin/docker-registry"
START_SECONDS = 20.0
USERNAME = "pusher"
PASSWORD = "correct horse"
# bcrypt of the password, as `htpasswd -B` makes it: the only kind of hash that the registry reads
HTPASSWD = "pusher:$2y$05$XxfwLBPHLZpC4KDIIODx2OfbE.Gitx2pREMmpe4M9dByH2DBRD2iO\n"


@dataclass(frozen=True, slots=True)
class DockerRegistry:
    """A running registry; `host` is `name:port` as in references, `root` is where it keeps its files."""

    host: str
    root: Path


@contextmanager
def docker_registry(
    directory: Path,
    *,
    htpasswd: str | None = None,
    tls: ServerCertificate | None = None,
    hostname: str = "localhost",
    port: int | None = None,
) -> Iterator[DockerRegistry]:
    """A registry that runs until the block ends.

    `htpasswd` is the text of an htpasswd file, such as `HTPASSWD`. A given `port` lets a test stop a registry and
    start it again at the same place.
    """
    if shutil.which(BINARY) is None:
        raise RuntimeError(f"{BINARY} is needed: install Debian's docker-registry")
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config = directory / "config.json"  # JSON is YAML
    config.write_text(json.dumps(_config(directory, port, htpasswd, tls)))
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen([BINARY, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait(process, port, directory / "log")
            yield DockerRegistry(f"{hostname}:{port}", directory / "data")
        finally:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _config(directory: Path, port: int, htpasswd: str | None, tls: ServerCertificate | None) -> dict[str, Any]:
    http: dict[str, Any] = {"addr": f"127.0.0.1:{port}", "secret": "shared by nobody"}
    if tls:
        http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": http,
    }
    if htpasswd is not None:
        file = directory / "htpasswd"
        file.write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(file)}}
    return config


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"docker-registry did not start: {log.read_text(errors='replace')[-2000:]}")
