"""The web server as its own process, under gunicorn, on a free loopback port."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[2]


@dataclass
class WebServer:
    """A running server; `socket` opens a connection on which anything can be written."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    token: str = ""

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = dict(options.pop("headers", {}))
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

    def json(self, method: str, path: str, **options: Any) -> Any:
        response = self.request(method, path, **options)
        assert response.ok, response.text
        return response.json()

    def raw(self, data: bytes, *, half_close: bool = False) -> tuple[int, dict[str, Any]]:
        """The status and JSON of the answer to exactly these bytes."""
        with self.connect() as connection:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_answer(connection)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def read_answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """One answer with a length, as JSON; {} when it has no JSON."""
    stream = connection.makefile("rb")
    status = int(stream.readline().split()[1])
    length = 0
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = stream.read(length)
    stream.close()
    return status, json.loads(body) if body.startswith(b"{") else {}


@contextmanager
def web_server(
    redis: RedisServer, directory: Path, *arguments: str, environ: Mapping[str, str] | None = None, program: str = ""
) -> Iterator[WebServer]:
    """A server over this Redis, or a `program` that starts one; stopped, by its pid, at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": redis.url,
        "PUSHWRIGHT_HOME": str(directory / "data"),
        **(environ or {}),
    }
    empty = directory / "empty"
    empty.mkdir(exist_ok=True)
    log = directory / "web.log"
    start = ("-c", program) if program else ("-m", "webhook.serve")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", *start, "--fd", str(listener.fileno()), *arguments],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=empty,
        )
    listener.close()
    server = WebServer(f"http://127.0.0.1:{port}", port, process, log, environment.get("PUSHWRIGHT_API_TOKEN", ""))
    try:
        _await_answer(server)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _await_answer(server: WebServer) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            if server.request("GET", "/healthz").ok:
                return
        except requests.ConnectionError:
            pass
        if server.process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"web server: {server.log.read_text()[-4000:]}")
        time.sleep(0.05)
