"""What the gateway lets through, in both directions, without git."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.context.gateway import Bounds, Gateway, Origin
from tests.support.git_server import GitServer, Repository, git_server

INFO = "/app.git/info/refs?service=git-upload-pack"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path) as state:
        Repository(tmp_path / "app.git").commit({"a": b"1"})
        yield state


@contextlib.contextmanager
def gateway(port: int, *, idle_seconds: float = 10.0, seconds: float = 10.0) -> Iterator[Gateway]:
    origin = Origin("http", "git.example.com", port, ("127.0.0.1",), "Basic c2VjcmV0")
    with Gateway(origin, Bounds(idle_seconds, time.monotonic() + seconds, 1 << 20)) as running:
        yield running


def get(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=data), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_answer_passes_and_the_credential_is_added(server: GitServer) -> None:
    with gateway(server.port) as running:
        status, data = get(running.url(INFO))
        assert running.failure is None
        assert running.received_bytes == len(data)
    assert status == 200
    assert data.startswith(b"001e# service=git-upload-pack")
    assert server.seen[0].headers["Authorization"] == "Basic c2VjcmV0"
    assert server.seen[0].headers["Host"] == f"git.example.com:{server.port}"


def test_who_does_not_know_the_path_gets_nothing(server: GitServer) -> None:
    with gateway(server.port) as running:
        known = running.url("")
        base, _, token = known.rpartition("/")
        for url in (base + INFO, f"{base}/{'x' * len(token)}{INFO}", f"{base}/{token[:-1]}{INFO}", f"{known}x{INFO}"):
            assert get(url) == (404, b"")
        assert running.failure is None
    assert server.seen == []


def test_two_gateways_do_not_share_a_path(server: GitServer) -> None:
    with gateway(server.port) as one, gateway(server.port) as two:
        assert one.url("").rpartition("/")[2] != two.url("").rpartition("/")[2]


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/app.git/HEAD", None),
        ("/api/v4/user", None),
        ("/app.git/info/refs?service=git-receive-pack", None),
        ("/app.git/git-receive-pack", b""),
        ("/app.git/git-upload-pack", None),
        (INFO, b"x"),
    ],
)
def test_nothing_but_reading_by_the_smart_protocol_is_passed_on(
    server: GitServer, path: str, data: bytes | None
) -> None:
    with gateway(server.port) as running:
        assert get(running.url(path), data) == (404, b"")
    assert server.seen == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"\xff / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_damaged_requests_end_quietly(server: GitServer, request_bytes: bytes) -> None:
    with gateway(server.port) as running:
        port = int(running.url("").split(":")[2].partition("/")[0])
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        # the gateway may refuse before it has read all, and the kernel then resets the connection
        with client, contextlib.suppress(ConnectionError):
            client.sendall(request_bytes)
            # "not connected", when it was reset already
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)
            assert client.recv(100).partition(b"\r\n")[0] == b"HTTP/1.1 404 Not Found"
        assert running.failure is None
        assert get(running.url(INFO))[0] == 200


def speak(listener: socket.socket, answer: bytes, *, pause: float = 0.0) -> None:
    """Accept one connection, read a little, and send `answer`; with a pause, byte after byte."""
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            for number in range(len(answer)) if pause else ():
                connection.sendall(answer[number : number + 1])
                time.sleep(pause)
            if not pause:
                connection.sendall(answer)


@contextlib.contextmanager
def scripted(answer: bytes, *, pause: float = 0.0) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak, args=(listener, answer), kwargs={"pause": pause})
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", "unreachable"),
        (b"garbage\r\n\r\n", "unreachable"),
        (b"HTTP/1.1 999999 x\r\n\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "unreachable"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "redirect"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://git.example.com/x\r\n\r\n", "redirect"),
        (b"HTTP/1.1 302 Found\r\nLocation: gopher://x:y/\r\n\r\n", "redirect"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "status"),
        (b"HTTP/1.1 500 Oh\x1b[31m\r\n\r\n", "status"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (2 << 20), "too-large"),
    ],
)  # fmt: skip
def test_what_a_server_does_wrong_is_named(answer: bytes, kind: str) -> None:
    with scripted(answer) as port, gateway(port) as running:
        with contextlib.suppress(Exception):
            get(running.url(INFO))
        failure = running.failure
    assert failure is not None
    assert failure.kind == kind
    assert failure.message.isprintable()


def test_a_server_that_drips_is_stopped_at_the_deadline() -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000
    with scripted(answer, pause=0.02) as port, gateway(port, idle_seconds=5.0, seconds=1.0) as running:
        with contextlib.suppress(Exception):
            get(running.url(INFO))
        failure = running.failure
    assert failure is not None
    assert failure.kind == "timeout"


def test_no_thread_is_left_behind(server: GitServer) -> None:
    before = threading.active_count()
    with gateway(server.port) as running:
        get(running.url(INFO))
        port = int(running.url("").split(":")[2].partition("/")[0])
        waiting = socket.create_connection(("127.0.0.1", port))
    waiting.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("git-gateway")] == []
    assert threading.active_count() <= before + 2


def test_the_credential_is_not_shown() -> None:
    assert "c2VjcmV0" not in repr(Origin("http", "h", 80, (), "Basic c2VjcmV0"))
