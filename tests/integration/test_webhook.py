"""The web server under gunicorn over a real Redis: what only real sockets, threads and signals can show."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from executor.store import Store
from tasks.records import QUEUE, Records, State
from tests.support.redis_server import RedisServer
from tests.support.web import COMMIT, OTHER_COMMIT, sign
from tests.support.web_server import ROOT, WebServer, read_answer, web_server

THREADS = 6
BODY = json.dumps({"ref": "refs/heads/main", "after": COMMIT}).encode()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(keeps_data=True) as running:
        yield running


@pytest.fixture(scope="module")
def server(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    with web_server(redis, tmp_path_factory.mktemp("web"), "--threads", str(THREADS)) as running:
        yield running


@pytest.fixture
def secret(redis: RedisServer, server: WebServer) -> str:
    """The secret of a project on an empty Redis."""
    with redis.client() as client:
        client.flushall()
    project = server.json("POST", "/api/v1/projects", json={"name": "demo", "url": "https://git.example/a/demo.git"})
    return str(project["secret"])


def deliver(server: WebServer, secret: str, commit: str = COMMIT, **headers: str) -> requests.Response:
    body = json.dumps({"ref": "refs/heads/main", "after": commit}).encode()
    signed = {"Content-Type": "application/json", "X-Hub-Signature-256": sign(body, secret), **headers}
    return server.request("POST", "/hooks/demo", data=body, headers=signed)


def head(body: bytes, *lines: str, length: bool = True) -> bytes:
    """The head of a raw delivery."""
    fields = ["POST /hooks/demo HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *lines]
    if length:
        fields.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*fields, "", ""]).encode("latin-1")


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


# --- deliveries -----------------------------------------------------------------------------------------------------


def test_a_push_reaches_the_workers_queue_as_an_id_and_nothing_else(
    redis: RedisServer, server: WebServer, secret: str
) -> None:
    response = deliver(server, secret)
    assert response.status_code == 202
    build_id = response.json()["builds"][0]["id"]
    with redis.client() as client:
        (message,) = client.lrange(QUEUE, 0, -1)
        assert Records(client).get(build_id).state is State.QUEUED
    envelope = json.loads(message)
    assert envelope["headers"]["task"] == "tasks.build.run"
    assert envelope["content-type"] == "application/json"
    assert secret not in message and "git.example" not in message
    assert build_id in envelope["headers"]["argsrepr"]


def test_many_deliveries_of_one_push_at_once_make_one_build(redis: RedisServer, server: WebServer, secret: str) -> None:
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: deliver(server, secret, **{"X-Pushwright-Delivery": "one"}), range(48)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({answer.json()["builds"][0]["id"] for answer in answers}) == 1
    with redis.client() as client:
        assert len(Records(client).list_builds()) == 1
        assert client.llen(QUEUE) == 1


def test_two_signature_headers_are_refused(server: WebServer, secret: str) -> None:
    right, wrong = (f"X-Hub-Signature-256: {sign(BODY, text)}" for text in (secret, "wrong"))
    for lines in ((right, wrong), (wrong, right), (right, right)):
        assert server.raw(head(BODY, *lines) + BODY)[0] == 401
    assert server.raw(head(BODY, right) + BODY)[0] == 202


def test_a_signature_of_other_bytes_is_refused(server: WebServer, secret: str) -> None:
    prefix = f"X-Hub-Signature-256: {sign(BODY, secret)}"
    assert server.raw(head(BODY, prefix[:-1] + "\xfc") + BODY)[0] == 401
    status, _ = server.raw(head(BODY, "X-Hub-Signature-256: \x01" + sign(BODY, secret)) + BODY)
    assert status in {400, 401}


def test_a_body_in_chunks_is_verified_whole(server: WebServer, secret: str) -> None:
    signature = f"X-Hub-Signature-256: {sign(BODY, secret)}"
    opening = head(BODY, signature, "Transfer-Encoding: chunked", length=False)
    assert server.raw(opening + chunked(BODY[:10], BODY[10:], b""))[0] == 202
    assert server.raw(opening + chunked(BODY[:10], BODY[10:], b"x", b""))[0] == 401


def test_a_body_in_chunks_has_a_cap_as_well(server: WebServer, secret: str) -> None:
    with server.connect() as connection:
        connection.sendall(head(BODY, "Transfer-Encoding: chunked", length=False))
        sent = 0
        piece = chunked(b" " * 1_000_000)
        try:
            while sent < 200 * len(piece):
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            # the server has stopped reading
            pass
        assert sent < 100 * len(piece)
    assert deliver(server, secret).status_code == 202


def test_length_and_chunks_together_are_refused(server: WebServer, secret: str) -> None:
    opening = head(BODY, f"X-Hub-Signature-256: {sign(BODY, secret)}", "Transfer-Encoding: chunked")
    assert server.raw(opening + chunked(BODY, b""), half_close=True)[0] == 400


def test_a_length_above_the_cap_is_refused_before_the_body(server: WebServer) -> None:
    opening = head(b"", "Content-Length: 26000001", length=False)
    assert server.raw(opening)[0] == 413


def test_a_body_that_stops_in_the_middle_stores_nothing(redis: RedisServer, server: WebServer, secret: str) -> None:
    opening = head(BODY, f"X-Hub-Signature-256: {sign(BODY, secret)}")
    status, answer = server.raw(opening + BODY[:-5], half_close=True)
    assert status in {400, 401, 408}
    with redis.client() as client:
        assert Records(client).list_builds() == []
    assert answer.get("code") in {None, "request-invalid", "signature-invalid", "request-timeout"}


def test_a_compressed_body_is_not_unpacked(server: WebServer, secret: str) -> None:
    body = gzip.compress(BODY)
    opening = head(body, f"X-Hub-Signature-256: {sign(body, secret)}", "Content-Encoding: gzip")
    assert server.raw(opening + body)[0] == 400
    plain = head(body, f"X-Hub-Signature-256: {sign(BODY, secret)}", "Content-Encoding: gzip")
    assert server.raw(plain + body)[0] == 401


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000])
def test_json_of_any_depth_does_not_end_the_server(server: WebServer, secret: str, body: bytes) -> None:
    pid = server.process.pid
    for project in ("/hooks/demo", "/api/v1/projects"):
        headers = {"Content-Type": "application/json", "X-Hub-Signature-256": sign(body, secret)}
        response = server.request("POST", project, data=body, headers=headers)
        assert response.status_code == 400
    assert server.process.poll() is None and server.process.pid == pid


@pytest.mark.parametrize(
    "target",
    [
        "/v2/../../etc/passwd",
        "/v2/demo/../../../etc/passwd/manifests/x",
        "/v2/%2e%2e/%2e%2e/manifests/x",
        "/hooks/../api/v1/projects",
        "/api/v1/projects/..%2f..%2fx",
        "/api/v1/builds/%00/logs",
        "//evil.example/v2/",
        "/v2//",
        "/\xff",
        "*",
    ],
)
def test_hostile_targets_are_answered_and_give_nothing(server: WebServer, secret: str, target: str) -> None:
    data = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode("latin-1")
    with server.connect() as connection:
        connection.sendall(data)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    status = int(answer.split()[1])
    assert 200 <= status < 500
    assert b"root:" not in answer and b"git.example" not in answer


def test_redis_away_for_a_while_loses_nothing(redis: RedisServer, server: WebServer, secret: str) -> None:
    deliver(server, secret)
    redis.stop()
    response = deliver(server, secret, OTHER_COMMIT, **{"X-Pushwright-Delivery": "late"})
    assert (response.status_code, response.json()["code"]) == (503, "redis-unavailable")
    assert server.request("GET", "/readyz").status_code == 503
    assert server.request("GET", "/healthz").status_code == 200
    redis.start()
    again = deliver(server, secret, OTHER_COMMIT, **{"X-Pushwright-Delivery": "late"})
    assert (again.status_code, again.json()["builds"][0]["created"]) == (202, True)
    assert server.request("GET", "/readyz").status_code == 200
    with redis.client() as client:
        assert [build.commit for build in Records(client).list_builds()] == [OTHER_COMMIT, COMMIT]


# --- streams --------------------------------------------------------------------------------------------------------


def append(redis: RedisServer, build_id: str, text: str) -> None:
    from tasks.logs import Logs

    event = {"v": 1, "seq": 1, "ts": 1.0, "type": "step-log", "step": 1, "stream": "stdout", "data": text}
    with redis.client() as client:
        assert Logs(client).append(build_id, json.dumps(event), "{}")


def follow(server: WebServer, build_id: str) -> Iterator[dict[str, Any]]:
    with server.request("GET", f"/api/v1/builds/{build_id}/logs?follow=1", stream=True) as response:
        assert response.status_code == 200
        for line in response.iter_lines(chunk_size=1):
            if line:
                yield json.loads(line)


def test_a_log_arrives_while_its_build_runs(redis: RedisServer, server: WebServer, secret: str) -> None:
    build_id = deliver(server, secret).json()["builds"][0]["id"]
    entries = follow(server, build_id)
    # each line is written only after the one before it was read: nothing is held back until the end
    for text in ("one\n", "two\n", "three\n"):
        append(redis, build_id, text)
        assert next(entries)["event"]["data"] == text
    assert server.json("POST", f"/api/v1/builds/{build_id}/cancel")["state"] == "cancelled"
    assert list(entries) == [{"end": {"state": "cancelled", "reason": "cancelled"}}]


def test_followed_logs_leave_threads_for_everybody_else(redis: RedisServer, server: WebServer, secret: str) -> None:
    build_id = deliver(server, secret).json()["builds"][0]["id"]
    append(redis, build_id, "one\n")
    streams = [follow(server, build_id) for _ in range(THREADS // 2)]
    for stream in streams:
        next(stream)
    refused = server.request("GET", f"/api/v1/builds/{build_id}/logs?follow=1")
    assert (refused.status_code, refused.json()["code"]) == (503, "too-many-streams")
    assert deliver(server, secret, OTHER_COMMIT).status_code == 202
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    server.json("POST", f"/api/v1/builds/{build_id}/cancel")
    # the server notices with its next write that they are gone
    until = time.monotonic() + 30
    while server.request("GET", f"/api/v1/builds/{build_id}/logs?follow=1").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_reader_of_text_who_left_gives_the_place_back(redis: RedisServer, server: WebServer, secret: str) -> None:
    build_id = deliver(server, secret).json()["builds"][0]["id"]
    path = f"/api/v1/builds/{build_id}/logs?follow=1"
    for _ in range(THREADS // 2):
        with server.connect() as connection:
            connection.sendall(f"GET {path}&format=text HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            # before there is a line to be read, it is known that the question was understood
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    # nothing is ever written to them: the build waits, and text has no line that means nothing
    until = time.monotonic() + 30
    while True:
        response = server.request("GET", path, stream=True)
        response.close()
        if response.status_code == 200:
            return
        assert time.monotonic() < until
        time.sleep(0.2)


def test_heads_that_trickle_in_do_not_stop_the_others_for_ever(server: WebServer, secret: str) -> None:
    done = threading.Event()
    slow = [server.connect() for _ in range(THREADS)]

    def trickle() -> None:
        while not done.wait(0.5):
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")

    for connection in slow:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: x")
    sender = threading.Thread(target=trickle)
    sender.start()
    try:
        assert deliver(server, secret).status_code == 202
    finally:
        done.set()
        sender.join()
        for connection in slow:
            connection.close()


def test_connections_that_say_nothing_do_not_stop_the_others(server: WebServer, secret: str) -> None:
    silent = [server.connect() for _ in range(THREADS)]
    try:
        assert deliver(server, secret).status_code == 202
    finally:
        for connection in silent:
            connection.close()


def test_a_blob_is_downloaded_and_taken_up_again(tmp_path: Path, redis: RedisServer) -> None:
    from tests.unit.test_webhook_registry import LAYER, publish

    layer = LAYER * 400
    image = publish(Store.create(tmp_path / "data" / "store"), "demo", "v1", layer)
    with web_server(redis, tmp_path) as server:
        path = f"/v2/demo/blobs/{image.layer}"
        assert server.request("GET", path).content == layer
        rest = server.request("GET", path, headers={"Range": "bytes=1000000-"})
        assert (rest.status_code, rest.content) == (206, layer[1_000_000:])
        assert server.request("HEAD", path).headers["Content-Length"] == str(len(layer))
        assert server.request("PUT", "/v2/demo/manifests/v1", data=b"{}").status_code == 405
        assert server.stop() == 0


# --- starting and stopping ------------------------------------------------------------------------------------------


def test_a_stop_ends_followed_logs_and_finishes_answers(tmp_path: Path, redis: RedisServer, secret: str) -> None:
    with redis.client() as client:
        client.flushall()
    with web_server(redis, tmp_path) as server:
        project = server.json("POST", "/api/v1/projects", json={"name": "demo", "url": "https://git.example/d.git"})
        build_id = deliver(server, project["secret"]).json()["builds"][0]["id"]
        append(redis, build_id, "one\n")
        entries = follow(server, build_id)
        next(entries)
        rest: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: rest.extend(entries))
        reader.start()
        assert server.stop() == 0
        reader.join(30)
        # ended in order, without a word: one asks again with the last cursor
        assert not reader.is_alive() and rest == []
        assert "Traceback" not in server.log.read_text()


def test_a_restart_keeps_projects_and_their_secrets(tmp_path: Path, redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()
    with web_server(redis, tmp_path) as server:
        project = server.json("POST", "/api/v1/projects", json={"name": "demo", "url": "https://git.example/d.git"})
        server.stop()
    with web_server(redis, tmp_path) as server:
        assert deliver(server, project["secret"]).status_code == 202
    assert (tmp_path / "data" / "secret.key").stat().st_mode & 0o777 == 0o600
    assert project["secret"] not in (tmp_path / "web.log").read_text()


def test_a_token_guards_a_real_server(tmp_path: Path, redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()
    token = "0123456789abcdef0123456789abcdef"
    with web_server(redis, tmp_path, environ={"PUSHWRIGHT_API_TOKEN": token}) as server:
        assert server.request("GET", "/api/v1/projects").status_code == 200
        assert server.request("GET", "/api/v1/projects", headers={"Authorization": "Bearer x"}).status_code == 401
        assert requests.get(f"{server.url}/v2/", auth=("any", token), timeout=60).status_code == 200
        assert token not in server.log.read_text()


def run_serve(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ}
    command = [sys.executable, "-P", "-m", "webhook.serve", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_an_open_address_without_a_token_is_refused(tmp_path: Path, redis: RedisServer, address: str) -> None:
    done = run_serve("--listen", address, environ={"REDIS_URL": redis.url, "PUSHWRIGHT_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "refused without a token" in done.stderr and "Traceback" not in done.stderr


def test_an_open_socket_that_is_handed_over_is_refused_as_well(tmp_path: Path, redis: RedisServer) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": redis.url,
            "PUSHWRIGHT_HOME": str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, "-P", "-m", "webhook.serve", "--fd", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, "refused without a token" in done.stderr) == (2, True)


def test_what_is_missing_is_said_plainly(tmp_path: Path) -> None:
    done = run_serve(environ={"PUSHWRIGHT_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.startswith("error: REDIS_URL") and "hint:" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_serve(
            "--listen", address, environ={"REDIS_URL": "redis://127.0.0.1:1", "PUSHWRIGHT_HOME": str(tmp_path)}
        )
    assert done.returncode == 3
    assert "cannot listen" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("bound", "pause"),
    [("webhook.serve.SOCKET_SECONDS", 0.0), ("webhook.bodies.BODY_SECONDS", 0.2)],
    ids=["silent", "slow"],
)
def test_a_client_that_keeps_a_thread_waiting_is_given_up(
    tmp_path: Path, redis: RedisServer, bound: str, pause: float
) -> None:
    """The bounds, here of a second: on silence, and on the time that a whole body takes."""
    module, _, name = bound.rpartition(".")
    program = f"import {module} as m, webhook.serve as s; m.{name} = 1; raise SystemExit(s.main())"
    with web_server(redis, tmp_path, program=program) as server, server.connect() as connection:
        connection.sendall(head(b" " * 10_000))
        stop = threading.Event()

        def trickle() -> None:
            while pause and not stop.wait(pause):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            status, answer = read_answer(connection)
        finally:
            stop.set()
            sender.join()
    assert (status, answer["code"]) == (408, "request-timeout")
