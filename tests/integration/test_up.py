"""`pushwright up` with its real Redis, worker and web server."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.up_process import (
    COMMAND,
    Up,
    clean_environment,
    descendants,
    is_running,
    run_command,
    running_up,
    until,
)
from webhook.embedded.redis_server import find_redis_server

TOKEN = "a-token-that-somebody-chose"
LISTEN_ANYWHERE = ("--listen", "127.0.0.1:0")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up` for the tests that only look at it."""
    with running_up(tmp_path_factory.mktemp("up") / "data", ("--listen", "127.0.0.1:0", "-v")) as up:
        yield up


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = (os.readlink(item) for item in Path(f"/proc/{pid}/fd").iterdir())
    return {item.removeprefix("socket:[").removesuffix("]") for item in found if item.startswith("socket:")}


def redis_runtime(up: Up) -> Path:
    """Where the socket of its Redis is, as the kernel has it."""
    pid = up.child("redis-server")
    inodes = open_sockets(pid)
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[6] in inodes and len(fields) > 7 and fields[7].endswith("/redis.sock"):
            return Path(fields[7]).parent
    raise AssertionError("no socket")


class TestRunning:
    def test_what_it_leaves_is_for_its_owner_only(self, shared_up: Up) -> None:
        assert mode(shared_up.data) == 0o700
        for name in ("server.json", "api.token", "secret.key", "up.lock", "logs/web.log"):
            assert mode(shared_up.data / name) == 0o600, name

    def test_no_secret_is_among_the_arguments_of_a_process(self, shared_up: Up) -> None:
        configuration = redis_runtime(shared_up) / "redis.conf"
        words = configuration.read_text().split()
        password = words[words.index("requirepass") + 1]
        assert (mode(configuration), mode(configuration.parent)) == (0o600, 0o700)
        secrets = (password, shared_up.server["token"], (shared_up.data / "secret.key").read_text().strip())
        for pid in (shared_up.process.pid, *descendants(shared_up.process.pid)):
            arguments = Path(f"/proc/{pid}/cmdline").read_text()
            assert not any(secret in arguments for secret in secrets)

    def test_redis_listens_on_its_socket_only_and_wants_the_password(self, shared_up: Up) -> None:
        pid = shared_up.child("redis-server")
        sockets = open_sockets(pid)
        tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
        inodes = {line.split()[9] for table in tables for line in table.splitlines()[1:]}
        assert not sockets & inodes
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(redis_runtime(shared_up) / "redis.sock"))
            connection.sendall(b"PING\r\n")
            assert connection.recv(100).startswith(b"-NOAUTH")

    def test_the_commands_find_it_by_its_data_directory(self, shared_up: Up) -> None:
        assert shared_up.command("token").stdout.strip() == shared_up.server["token"]
        assert shared_up.json("builds") == {"builds": [], "next": None}

    def test_the_api_wants_the_token(self, shared_up: Up) -> None:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{shared_up.url}/api/v1/projects", timeout=30)
        assert caught.value.code == 401
        caught.value.close()
        environment = clean_environment(shared_up.data, PUSHWRIGHT_TOKEN="another-token-altogether")
        done = run_command(shared_up.data, "project", "list", environment=environment)
        assert (done.returncode, done.stderr.startswith("error: expected the API token")) == (2, True)

    def test_verbose_shows_what_the_children_write(self, shared_up: Up) -> None:
        until(
            lambda: "redis | " in shared_up.said() and "worker | " in shared_up.said() and "web | " in shared_up.said()
        )

    def test_a_second_one_says_who_the_first_is(self, shared_up: Up) -> None:
        done = run_command(shared_up.data, "up", *LISTEN_ANYWHERE)
        assert done.returncode == 3
        assert f"already up on this data directory: process {shared_up.process.pid} at {shared_up.url}" in done.stderr
        assert shared_up.command("builds").returncode == 0

    def test_a_wrong_signature_and_an_unknown_project_are_not_told_apart(self, shared_up: Up) -> None:
        assert shared_up.command("project", "add", "known", "--url", "https://git.example/known.git").returncode == 0
        answers = []
        for name in ("known", "unknown"):
            request = urllib.request.Request(
                f"{shared_up.url}/hooks/{name}",
                data=b"{}",
                headers={"X-Hub-Signature-256": "sha256=" + "0" * 64, "Content-Type": "application/json"},
            )
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=30)
            with contextlib.closing(caught.value) as answer:
                answers.append((answer.code, json.loads(answer.read())["code"]))
        assert answers == [(401, "signature-invalid")] * 2


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_stops_everything_in_order(self, number: signal.Signals, data: Path) -> None:
        with running_up(data) as up:
            family = descendants(up.process.pid)
            assert len(family) >= 3
            url = up.url
            assert up.stop(number) == 0
            assert not [pid for pid in family if is_running(pid)]
            assert not (data / "server.json").exists()
            assert f"{number.name}: stopping web, worker, redis\n" in up.said()
            with pytest.raises(urllib.error.URLError):
                urllib.request.urlopen(f"{url}/healthz", timeout=30)
        assert "Traceback" not in up.said() + "".join(log.read_text() for log in (data / "logs").iterdir())

    def test_state_survives_a_restart(self, data: Path) -> None:
        with running_up(data) as up:
            before = up.json("project", "add", "demo", "--url", "https://git.example/demo.git")
            token = up.server["token"]
            assert up.stop() == 0
        with running_up(data) as up:
            after = up.json("project", "show", "demo")
            assert (after["config_digest"], after["created"]) == (before["config_digest"], before["created"])
            assert up.server["token"] == token

    def test_nothing_outlives_a_supervisor_that_is_killed(self, data: Path) -> None:
        with running_up(data) as up:
            assert up.command("project", "add", "demo", "--url", "https://git.example/demo.git").returncode == 0
            family = descendants(up.process.pid)
            runtime = redis_runtime(up)
            up.process.kill()
            up.process.wait()
            until(lambda: not any(map(is_running, family)), "the end of the children")
        with running_up(data) as up:
            assert not runtime.exists()
            assert [item["name"] for item in up.json("project", "list")["projects"]] == ["demo"]

    def test_a_redis_that_still_writes_gets_no_second_one_beside_it(self, data: Path) -> None:
        with running_up(data) as up:
            redis = up.child("redis-server")
            os.kill(redis, signal.SIGSTOP)
            up.process.kill()
            up.process.wait()
            (data / "server.json").unlink()
            # asked to end by the kernel, it cannot yet
            second = start_up(data)
            try:
                time.sleep(3)
                assert second.poll() is None
                assert is_running(redis)
                assert len(redis_servers_on(data / "redis")) == 1
                os.kill(redis, signal.SIGCONT)
                until((data / "server.json").exists, "the second one")
                until(lambda: not is_running(redis), "the end of the first Redis")
                assert len(redis_servers_on(data / "redis")) == 1
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(redis, signal.SIGCONT)
                second.send_signal(signal.SIGTERM)
                assert second.wait(60) == 0

    def test_it_can_be_stopped_while_it_waits_for_the_redis_of_another(self, data: Path) -> None:
        (data / "redis").mkdir(mode=0o700, parents=True)
        data.chmod(0o700)
        with (data / "redis" / "server.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            waiting = start_up(data)
            time.sleep(3)
            assert waiting.poll() is None
            waiting.send_signal(signal.SIGINT)
            assert waiting.wait(60) == 0
        assert redis_servers_on(data / "redis") == []

    def test_a_terminal_that_is_gone_does_not_stop_it(self, data: Path) -> None:
        reader, writer = os.pipe()
        with subprocess.Popen(
            [*COMMAND, "up", *LISTEN_ANYWHERE, "-v"], stderr=writer, stdout=writer, env=clean_environment(data)
        ) as process:
            os.close(writer)
            until((data / "server.json").exists, "the server")
            os.close(reader)
            web = next(pid for pid in descendants(process.pid) if b"webhook.serve" in arguments(pid))
            # it says that a child ended, to nobody
            os.kill(web, signal.SIGKILL)
            until(lambda: any(b"webhook.serve" in arguments(pid) for pid in descendants(process.pid) if pid != web))
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def start_up(data: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, "up", *LISTEN_ANYWHERE], stderr=subprocess.DEVNULL, env=clean_environment(data))


def redis_servers_on(directory: Path) -> list[int]:
    """Redis servers that run in a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and b"redis-server" in arguments(int(entry.name)):
                found += [int(entry.name)] if (entry / "cwd").readlink() == directory else []
    return found


class TestMending:
    def test_what_is_killed_is_started_again_on_the_same_data_and_address(self, data: Path) -> None:
        with running_up(data) as up:
            url = up.url
            assert up.command("project", "add", "demo", "--url", "https://git.example/demo.git").returncode == 0
            for name, module in (("web", "webhook.serve"), ("worker", "tasks.worker"), ("redis", "redis-server")):
                pid = up.child(module)
                os.kill(pid, signal.SIGKILL)
                until(lambda name=name: f"{name} was started again" in up.said(), f"another {name}")  # type: ignore[misc]
                assert f"{name} (pid {pid}) ended: killed by SIGKILL" in up.said()
                assert up.child(module) != pid

            def is_as_before() -> bool:
                return [item["name"] for item in up.json("project", "list")["projects"]] == ["demo"]

            until(lambda: up.command("project", "list").returncode == 0, "an answer")
            assert is_as_before()
            assert up.url == url
            assert up.stop() == 0


class TestRefusals:
    def test_another_address_needs_a_token_that_somebody_chose(self, data: Path) -> None:
        done = run_command(data, "up", "--listen", "0.0.0.0:0")
        assert done.returncode == 2
        assert done.stderr.startswith("error: listening on 0.0.0.0 is refused without a token")
        assert not (data / "redis").exists()

    def test_another_address_with_a_token(self, data: Path, tmp_path: Path) -> None:
        token_file = tmp_path / "token"
        token_file.write_text(TOKEN + "\n")
        with running_up(data, ("--listen", "0.0.0.0:0", "--token", f"@{token_file}")) as up:
            assert up.server["token"] == TOKEN
            assert up.command("builds").returncode == 0
            # nothing keeps a token that was chosen for this run
            assert not (data / "api.token").exists()

    def test_a_token_that_is_too_short(self, data: Path) -> None:
        environment = clean_environment(data, TOO_SHORT="short")
        done = run_command(data, "up", *LISTEN_ANYWHERE, "--token", "env:TOO_SHORT", environment=environment)
        assert done.returncode == 2
        assert "expected at least 16" in done.stderr

    @pytest.mark.parametrize(
        "words",
        [("--token", TOKEN), ("--redis", f"redis://:{TOKEN}@127.0.0.1:1/0"), ("--redis", f"unix://:{TOKEN}@/x")],
    )
    def test_a_secret_among_the_arguments(self, data: Path, words: tuple[str, ...]) -> None:
        done = run_command(data, "up", *LISTEN_ANYWHERE, *words)
        assert done.returncode == 2
        assert "everyone here can see arguments" in done.stderr
        assert TOKEN not in done.stderr + done.stdout
        assert not data.exists()

    def test_an_address_that_is_taken(self, data: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            done = run_command(data, "up", "--listen", f"127.0.0.1:{port}")
        assert done.returncode == 3
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr

    def test_a_setting_that_is_wrong_is_named(self, data: Path) -> None:
        environment = clean_environment(data, PUSHWRIGHT_LEASE_SECONDS="soon")
        done = run_command(data, "up", *LISTEN_ANYWHERE, environment=environment)
        assert (done.returncode, "PUSHWRIGHT_LEASE_SECONDS" in done.stderr) == (2, True)

    def test_a_redis_that_does_not_start_shows_why(self, data: Path, tmp_path: Path) -> None:
        program = tmp_path / "bin" / "redis-server"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\necho 'Bad file format reading the append only file'\nexit 1\n")
        program.chmod(0o755)
        environment = clean_environment(data, PATH=f"{program.parent}:{os.environ['PATH']}")
        done = run_command(data, "up", *LISTEN_ANYWHERE, environment=environment)
        assert done.returncode == 3
        assert "error: redis: ended while it was being started: exit status 1" in done.stderr
        assert "redis | Bad file format reading the append only file" in done.stderr
        assert f"hint: the whole log is {data}/logs/redis.log" in done.stderr

    def test_a_redis_of_yours_that_is_away(self, data: Path, tmp_path: Path) -> None:
        done = run_command(data, "up", *LISTEN_ANYWHERE, "--redis", f"unix://{tmp_path}/no.sock")
        assert done.returncode == 3
        assert done.stderr.startswith("error: redis did not answer")


def test_a_redis_of_yours(data: Path, tmp_path: Path) -> None:
    binary = find_redis_server(os.environ)
    path = Path("/tmp") / f"pushwright-test-{os.getpid()}-{time.monotonic_ns()}.sock"
    command = [str(binary), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as redis:
        try:
            until(path.exists, "Redis")
            with running_up(data, (*LISTEN_ANYWHERE, "--redis", f"unix://{path}?db=3")) as up:
                assert up.command("project", "add", "demo", "--url", "https://git.example/demo.git").returncode == 0
                assert not (data / "redis").exists()
                assert up.stop() == 0
            assert redis.poll() is None
        finally:
            redis.terminate()


def test_a_data_directory_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    data = tmp_path / ("a" * 100) / ("b" * 100) / 'c "d'
    data.parent.mkdir(parents=True)
    with running_up(data) as up:
        assert up.command("builds").returncode == 0
        assert up.stop() == 0


def test_modules_of_where_it_is_started_are_not_imported(data: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    for name in ("celery", "flask", "redis", "requests", "gunicorn", "executor", "tasks", "webhook", "json"):
        (planted / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r} + ' ')\n")
    with running_up(data, cwd=planted) as up:
        assert up.command("builds").returncode == 0
        for pid in descendants(up.process.pid):
            assert Path(f"/proc/{pid}/cwd").readlink() != planted
        assert up.stop() == 0
    assert not (tmp_path / "imported").exists()


def test_what_a_killed_one_left_is_not_believed(data: Path) -> None:
    with running_up(data) as up:
        up.process.kill()
        up.process.wait()
        assert (data / "server.json").exists()
        done = up.command("builds")
        assert (done.returncode, "the last one was killed" in done.stderr) == (3, True)
    with running_up(data) as up:
        assert up.command("builds").returncode == 0
