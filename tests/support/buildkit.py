"""BuildKit as it is in Debian's Docker engine, asked for builds without the client that Debian does not have for it.

The engine's own API takes a context as a tar stream and builds it with BuildKit when asked for `version=2`. The stream
is made by Docker's classic client, which knows the ignore file; it is caught on its way to a daemon that there is not.
"""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests.support.docker_engine import SERVER_PATH, DockerEngine

_API_VERSION = "1.41"


class BuildKitError(Exception):
    """A build failed; the message is BuildKit's."""


@contextmanager
def context_catcher() -> Iterator[ContextCatcher]:
    """A daemon for Docker's client that keeps the context it is sent."""
    # a short path: a Unix socket's has 108 bytes
    with tempfile.TemporaryDirectory(prefix="pwc-", dir="/tmp") as directory:
        catcher = ContextCatcher(Path(directory))
        thread = threading.Thread(target=catcher.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield catcher
        finally:
            catcher.shutdown()
            catcher.server_close()
            thread.join(10)


class ContextCatcher(socketserver.ThreadingUnixStreamServer):
    """Answers just enough of the engine's API for the classic client to send a context."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "config").mkdir()
        super().__init__(str(directory / "catcher.sock"), _Handler)
        self.caught = directory / "context.tar"

    def pack(self, context: Path) -> Path:
        """The tar stream that Docker's client makes of a context; good until the next one."""
        done = subprocess.run(
            ["docker", "--host", f"unix://{self.server_address}", "build", str(context)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": SERVER_PATH, "DOCKER_CONFIG": str(self.directory / "config"), "DOCKER_BUILDKIT": "0"},
        )
        if done.returncode:
            raise BuildKitError(done.stderr[-2000:])
        return self.caught


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ContextCatcher

    def do_GET(self) -> None:
        self._answer(b"OK")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        with self.server.caught.open("wb") as output:
            while size := int(self.rfile.readline(), 16):
                output.write(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        self._answer(b'{"stream":""}\n')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Api-Version", _API_VERSION)
        self.send_header("Ostype", "linux")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def build(engine: DockerEngine, context: Path, name: str, *, target: str, build_args: Mapping[str, str]) -> None:
    """Build the context in the tar file `context`, without a network, as the engine's image `name`."""
    query = {
        "version": "2",
        "t": name,
        "networkmode": "none",
        # the cache knows no modification times
        "nocache": "1",
        "target": target,
        "buildargs": json.dumps(dict(build_args)),
    }
    connection = _UnixConnection(engine.host.removeprefix("unix://"))
    try:
        with context.open("rb") as body:
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(context.stat().st_size)}
            connection.request("POST", f"/v{_API_VERSION}/build?{urlencode(query)}", body, headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
    finally:
        connection.close()
    if answer.status != 200:
        raise BuildKitError(text)
    for line in text.splitlines():
        if message := json.loads(line).get("error"):
            raise BuildKitError(message)
