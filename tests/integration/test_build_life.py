"""The life of builds with a real Redis and real workers' processes; only the executor is scripted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tasks.app import announce, create_app
from tasks.connection import Client
from tasks.logs import Logs
from tasks.records import QUEUE, Build, BuildRequest, Records, State, TagRequest
from tasks.settings import Settings
from tests.support.build_worker import read_puts
from tests.support.redis_server import RedisServer

PATIENCE_SECONDS = 60.0
MAIN = "refs/heads/main"
T = TypeVar("T")


def until(condition: Callable[[], T], what: str) -> T:
    """Waits for something that must come to pass; how long it takes is not what is tested."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"did not come to pass: {what}")


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Site:
    """One Redis, any number of workers, and what they leave behind."""

    def __init__(self, redis: RedisServer, directory: Path, **settings: str) -> None:
        self.server = redis
        self.directory = directory
        self.tags = directory / "tags"
        self.ledger = directory / "ledger"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "REDIS_URL": redis.url,
            "PUSHWRIGHT_HOME": str(directory / "data"),
            "PUSHWRIGHT_CONCURRENCY": "2",
            "PUSHWRIGHT_LEASE_SECONDS": "3",
            "PUSHWRIGHT_HEARTBEAT_SECONDS": "0.5",
            "PUSHWRIGHT_SWEEP_SECONDS": "0.5",
            "PUSHWRIGHT_ANNOUNCE_SECONDS": "1",
            "PUSHWRIGHT_RETRY_SECONDS": "0.3,0.6",
            "WORKER_TAGS": str(self.tags),
            **settings,
        }
        self.settings = Settings.from_environ(self.environ)
        self.redis: Client = redis.client()
        self.records = Records(self.redis, announce_seconds=self.settings.announce_seconds)
        self.logs = Logs(self.redis)
        self.app = create_app(self.settings)

    def start_worker(self) -> subprocess.Popen[bytes]:
        with (self.directory / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.support.build_worker"], env=self.environ, stdout=log, stderr=log
            )
        self.workers.append(worker)
        until(lambda: b" ready." in self.worker_log(worker), "the worker is ready")
        return worker

    def worker_log(self, worker: subprocess.Popen[bytes]) -> bytes:
        return (self.directory / f"worker-{self.workers.index(worker)}.log").read_bytes()

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        self.redis.close()
        self.app.close()

    def create(self, *script: list[Any], commit: str = "a", tags: tuple[TagRequest, ...] = (), **config: str) -> Build:
        content = {"script": json.dumps(script), "ledger": str(self.ledger), **config}
        request = BuildRequest("demo", "demo", commit * 40, MAIN, 1, "digest", content, tags)
        return self.records.create(request)[0]

    def push(self, *script: list[Any], **options: Any) -> Build:
        """A build that is stored and announced, as the receiver does it."""
        build = self.create(*script, **options)
        assert announce(self.app, build.id)
        return build

    def state(self, build: Build) -> State:
        return self.records.get(build.id).state

    def ended(self, build: Build) -> Build:
        def final() -> Build | None:
            now = self.records.get(build.id)
            return now if now.state.is_final else None

        ended = until(final, f"build {build.id} ends; it is {self.state(build)}")
        assert ended is not None
        return ended

    def entries(self, word: str) -> list[tuple[int, str]]:
        """Pids of executors and what they noted, for lines that begin with a word."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        parts = [line.split() for line in lines]
        return [(int(part[0]), part[2]) for part in parts if part[1] == word]

    def begun(self, count: int = 1) -> list[int]:
        until(lambda: len(self.entries("begin")) >= count, f"{count} executors have begun")
        return [pid for pid, _ in self.entries("begin")]

    def grandchild(self) -> int:
        return int(until(lambda: self.entries("spawned"), "a grandchild was started")[0][1])

    def puts(self) -> list[str]:
        return [line["tag"] for line in read_puts(self.tags)]

    def log(self, build: Build) -> list[dict[str, Any]]:
        """The whole log, once it is archived."""
        until(lambda: self.logs.read(build.id).is_end, "the log ends")
        return [dict(event) for _, event in self.logs.read(build.id).events]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    with contextlib.ExitStack() as stack:

        def make(*, keeps_data: bool = False, **settings: str) -> Site:
            site = Site(stack.enter_context(RedisServer(keeps_data=keeps_data)), tmp_path, **settings)
            stack.callback(site.close)
            return site

        yield make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


def test_a_build_becomes_a_tag(site: Site) -> None:
    site.start_worker()
    build = site.push(["log", "hello"], ["result"])
    ended = site.ended(build)
    assert (ended.state, ended.reason, ended.attempt) == (State.SUCCEEDED, "", 1)
    assert site.puts() == ["a" * 40]
    (result,) = ended.results
    assert ended.image
    assert (result["digest"], result["tags"], result["repository"]) == (ended.image["digest"], ["a" * 40], "demo")
    log = site.log(build)
    assert [event["type"] for event in log] == ["step-log", "result"]
    assert log[0]["data"] == "hello"
    assert "manifest" not in log[1]


def test_the_executor_gets_nothing_of_the_worker_s(site: Site) -> None:
    site.environ["A_SECRET"] = "hunter2"
    site.start_worker()
    (event, _) = site.log(site.push(["environment"], ["result"]))
    seen = json.loads(event["data"])
    assert sorted(seen["environ"]) == ["LANG", "PATH"]
    assert os.listdir(seen["cwd"]) == []
    assert seen["argv"][1:4] == ["--protocol", "--lease-seconds", "3"]
    assert len(seen["fds"]) == 5, seen["fds"]
    assert seen["sid"] in site.begun()


def test_no_child_holds_the_control_pipe_of_another(site: Site) -> None:
    worker = site.start_worker()
    site.push(["sleep", 30], commit="a")
    site.push(["sleep", 30], commit="b")
    first, second = site.begun(2)
    held = [
        {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")} - {"/dev/null"}
        for pid in (first, second)
    ]
    assert not held[0] & held[1]
    worker.kill()
    until(lambda: not is_alive(first) and not is_alive(second), "both executors have ended")


def test_many_messages_for_one_build_run_it_once(site: Site) -> None:
    build = site.create(["sleep", 0.5], ["result"])
    for _ in range(5):
        announce(site.app, build.id)
    site.start_worker()
    site.start_worker()
    assert site.ended(build).state is State.SUCCEEDED
    until(lambda: site.redis.llen(QUEUE) == 0, "every message is consumed")
    assert len(site.entries("begin")) == 1
    assert site.puts() == ["a" * 40]


def test_a_message_that_was_never_sent_is_made_up_for(site: Site) -> None:
    site.start_worker()
    build = site.create(["result"])
    assert site.ended(build).state is State.SUCCEEDED


def test_a_message_that_is_no_build_is_dropped(site: Site) -> None:
    site.start_worker()
    for hostile in (None, 7, ["x"], {"a": 1}, "../../etc/passwd", "x" * 10_000):
        site.app.send_task("tasks.build.run", args=[hostile])
    assert site.ended(site.push(["result"])).state is State.SUCCEEDED


def test_pickle_is_never_read(site: Site, tmp_path: Path) -> None:
    import base64
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    worker = site.start_worker()
    body = base64.b64encode(pickle.dumps(([Bomb()], {}, {}))).decode()
    properties = {
        "correlation_id": "x",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "x",
    }
    headers = {"lang": "py", "task": "tasks.build.run", "id": "x"}
    message = {
        "body": body,
        "content-encoding": "binary",
        "content-type": "application/x-python-serialize",
        "headers": headers,
        "properties": properties,
    }
    site.redis.lpush(QUEUE, json.dumps(message))
    assert site.ended(site.push(["result"])).state is State.SUCCEEDED
    assert b"Refusing" in site.worker_log(worker) or b"ContentDisallowed" in site.worker_log(worker)
    assert not (tmp_path / "pwned").exists()


def test_a_busy_worker_reserves_no_second_message(make_site: Callable[..., Site]) -> None:
    site = make_site(PUSHWRIGHT_CONCURRENCY="1")
    site.start_worker()
    site.push(["wait-file", str(site.directory / "go")], ["result"], commit="a")
    site.begun()
    waiting = site.push(["result"], commit="b")
    # the second message would be fetched within a tick of the worker's event loop, which is a second
    time.sleep(2.5)
    assert site.redis.llen(QUEUE) == 1
    assert site.redis.exists("unacked") == 0
    site.start_worker()
    assert site.ended(waiting).state is State.SUCCEEDED
    (site.directory / "go").touch()
    until(lambda: all(build.state.is_final for build in site.records.list_builds()), "both builds end")


def test_kill_9_of_the_worker(site: Site) -> None:
    first = site.start_worker()
    build = site.push(["spawn"], ["log", "working"], ["sleep", 8], ["result"])
    (executor,) = site.begun()
    grandchild = site.grandchild()
    first.kill()
    first.wait()
    site.start_worker()
    ended = site.ended(build)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2)
    assert not is_alive(executor)
    assert not is_alive(grandchild)
    assert site.puts() == ["a" * 40]
    assert any(event.get("code") == "retaken" and event["attempt"] == 2 for event in site.log(build))


def test_a_worker_stopped_beyond_its_lease(site: Site) -> None:
    first = site.start_worker()
    build = site.push(["spawn"], ["sleep", 5], ["result"])
    (executor,) = site.begun()
    grandchild = site.grandchild()
    first.send_signal(signal.SIGSTOP)
    try:
        site.start_worker()
        until(lambda: len(site.entries("begin")) == 2, "the second worker has taken the build")
        assert not is_alive(executor)
        assert not is_alive(grandchild)
    finally:
        first.send_signal(signal.SIGCONT)
    ended = site.ended(build)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2)
    (put,) = read_puts(site.tags)
    assert put["pid"] == site.workers[1].pid
    # the first is a worker like any other again
    site.workers[1].kill()
    assert site.ended(site.push(["result"], commit="b")).state is State.SUCCEEDED


def test_an_executor_that_does_not_listen_is_killed_with_its_session(site: Site) -> None:
    site.start_worker()
    build = site.push(["deaf"], ["sleep", 600], ["result"])
    (executor,) = site.begun()
    site.records.request_cancel(build.id)
    assert site.ended(build).state is State.CANCELLED
    assert not is_alive(executor)
    assert site.puts() == []


def test_cancel_of_a_running_build(site: Site) -> None:
    site.start_worker()
    build = site.push(["spawn"], ["sleep", 600], ["result"])
    (executor,) = site.begun()
    grandchild = site.grandchild()
    site.records.request_cancel(build.id)
    ended = site.ended(build)
    assert (ended.state, ended.reason) == (State.CANCELLED, "cancelled")
    assert not is_alive(executor)
    assert not is_alive(grandchild)
    assert site.puts() == []
    assert site.log(build)[-1]["code"] == "cancelled"


def test_the_user_s_error_is_not_tried_again(site: Site) -> None:
    site.start_worker()
    error = {"code": "dockerfile-syntax", "message": "no FROM", "retryable": False, "file": "Dockerfile", "line": 3}
    build = site.push(["error", error])
    ended = site.ended(build)
    assert (ended.state, ended.reason, ended.attempt) == (State.FAILED, "dockerfile-syntax", 1)
    assert ended.error == {"fixable_by": "user", **error}
    assert len(site.entries("begin")) == 1
    assert site.log(build)[-1]["message"] == "no FROM"


def test_a_passing_error_is_tried_three_times_and_then_said(site: Site) -> None:
    site.start_worker()
    error = {"code": "registry-unavailable", "message": "connection refused", "retryable": True}
    build = site.push(["error", error])
    ended = site.ended(build)
    assert (ended.state, ended.reason, ended.attempt) == (State.FAILED, "registry-unavailable", 3)
    assert len(site.entries("begin")) == 3
    assert [event["code"] for event in site.log(build) if event["type"] == "warning"].count("will-retry") == 2
    assert site.puts() == []


def test_an_executor_that_dies_is_tried_again_and_explained(site: Site) -> None:
    site.start_worker()
    build = site.push(["stderr", "Fatal Python error: out of luck"], ["die"])
    ended = site.ended(build)
    assert (ended.state, ended.reason, ended.attempt) == (State.FAILED, "executor-died", 3)
    assert ended.error
    assert "SIGKILL" in ended.error["message"]
    assert "out of luck" in ended.error["message"]


def test_a_process_left_behind_does_not_hold_the_build_up(site: Site) -> None:
    site.start_worker()
    build = site.push(["hold"], ["die"])
    try:
        assert site.ended(build).reason == "executor-died"
    finally:
        for _, pid in site.entries("spawned"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def test_a_build_over_its_deadline_fails(make_site: Callable[..., Site]) -> None:
    site = make_site(PUSHWRIGHT_BUILD_DEADLINE_SECONDS="1")
    site.start_worker()
    ended = site.ended(site.push(["sleep", 600], ["result"]))
    assert (ended.state, ended.reason, ended.attempt) == (State.FAILED, "deadline-exceeded", 1)
    assert [word for _, word in site.entries("begin")]


def test_a_registry_that_is_away_at_the_end_costs_no_second_build(site: Site) -> None:
    site.tags.with_suffix(".down").touch()
    site.start_worker()
    build = site.push(["result"])
    until(lambda: site.records.get(build.id).reason == "registry-unavailable", "the build waits for the registry")
    site.tags.with_suffix(".down").unlink()
    ended = site.ended(build)
    assert ended.state is State.SUCCEEDED
    assert ended.attempt > 1
    assert len(site.entries("begin")) == 1
    assert site.puts() == ["a" * 40]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_running_builds_back(site: Site, number: signal.Signals) -> None:
    first = site.start_worker()
    build = site.push(["spawn"], ["wait-file", str(site.directory / "go")], ["result"])
    (executor,) = site.begun()
    grandchild = site.grandchild()
    first.send_signal(number)
    assert first.wait(PATIENCE_SECONDS) == (0 if number == signal.SIGTERM else 1)
    back = site.records.get(build.id)
    assert (back.state, back.reason, back.attempt) == (State.QUEUED, "worker-stopping", 0)
    assert not is_alive(executor)
    assert not is_alive(grandchild)
    (site.directory / "go").touch()
    site.start_worker()
    ended = site.ended(build)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)


def test_redis_away_for_ten_seconds(make_site: Callable[..., Site]) -> None:
    site = make_site(
        keeps_data=True,
        PUSHWRIGHT_CONCURRENCY="1",
        PUSHWRIGHT_LEASE_SECONDS="30",
        PUSHWRIGHT_HEARTBEAT_SECONDS="1",
    )
    site.start_worker()
    running = site.push(["log", "before"], ["sleep", 6], ["log", "during"], ["sleep", 8], ["result"], commit="a")
    queued = [site.push(["result"], commit=digit) for digit in "bcd"]
    site.begun()
    site.server.stop()
    time.sleep(10)
    site.server.start()
    builds = [site.ended(build) for build in (running, *queued)]
    assert [(build.state, build.attempt) for build in builds] == [(State.SUCCEEDED, 1)] * 4
    assert sorted(site.puts()) == [digit * 40 for digit in "abcd"]
    assert len(site.entries("begin")) == 4
    assert [event["data"] for event in site.log(running) if event["type"] == "step-log"] == ["before", "during"]


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_redis_away_beyond_the_lease_while_workers_wait_for_messages(make_site: Callable[..., Site], how: str) -> None:
    site = make_site(keeps_data=True)
    worker = site.start_worker()
    build = site.push(["spawn"], ["sleep", 4], ["result"])
    (executor,) = site.begun()
    grandchild = site.grandchild()
    getattr(site.server, how)()
    until(lambda: not is_alive(executor) and not is_alive(grandchild), "the executor without a lease has ended")
    time.sleep(3)
    site.server.start()
    ended = site.ended(build)
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2)
    assert site.puts() == ["a" * 40]
    # the worker is still the same one, and consumes
    assert worker.poll() is None
    assert site.ended(site.push(["result"], commit="b")).state is State.SUCCEEDED


@pytest.mark.parametrize("away_seconds", [1.5, 6.0])
def test_redis_away_while_a_tag_is_put(make_site: Callable[..., Site], away_seconds: float) -> None:
    """Shorter than the lease, and longer: then another attempt publishes the recorded image, and none is built."""
    site = make_site(keeps_data=True)
    site.start_worker()
    held = site.tags.with_suffix(".held")
    held.touch()
    build = site.push(["result"])
    until(held.with_suffix(".waits").exists, "the tag is about to be put")
    site.server.kill()
    held.unlink()
    time.sleep(away_seconds)
    site.server.start()
    ended = site.ended(build)
    assert (ended.state, [result["tags"] for result in ended.results]) == (State.SUCCEEDED, [["a" * 40]])
    assert site.puts() == ["a" * 40]
    assert len(site.entries("begin")) == 1


def test_whoever_sees_the_end_finds_the_whole_log(site: Site) -> None:
    site.start_worker()
    for number in range(5):
        error = {"code": "dockerfile-syntax", "message": "the reason", "retryable": False}
        build = site.push(["error", error], n=str(number), commit="abcde"[number])
        site.ended(build)
        assert [event["message"] for _, event in site.logs.read(build.id).events] == ["the reason"]


def test_a_hostile_error_is_the_build_s_end_and_no_more(site: Site) -> None:
    site.start_worker()
    error = {
        "code": "x-\ud800",
        "message": "\x1b]0;owned\x07\ud800" + "m" * 1_000_000,
        "retryable": False,
    }
    ended = site.ended(site.push(["error", error]))
    assert (ended.state, ended.reason, ended.attempt) == (State.FAILED, "x-?", 1)
    assert ended.error
    assert len(str(ended.error)) < 10_000


def test_a_tag_asked_for_during_the_build_is_put_too(site: Site) -> None:
    site.start_worker()
    build = site.push(["wait-file", str(site.directory / "go")], ["result"])
    site.begun()
    again = site.create(
        ["wait-file", str(site.directory / "go")], ["result"], tags=(TagRequest("main", True, MAIN, 1),)
    )
    assert again.id == build.id
    (site.directory / "go").touch()
    assert site.ended(build).results[0]["tags"] == ["a" * 40, "main"]
    later = site.push(["exit", 1], tags=(TagRequest("next", True, "refs/heads/next", 1),))
    assert later.id != build.id
    assert site.ended(later).results[0]["tags"] == ["a" * 40, "next"]
    assert len(site.entries("begin")) == 1
    assert site.puts() == ["a" * 40, "main", "next"]


def test_a_worker_that_takes_no_messages_starts_itself_anew(site: Site) -> None:
    site.environ["WORKER_DEAF_ONCE"] = str(site.directory / "deaf")
    worker = site.start_worker()
    builds = [site.push(["result"], commit=digit) for digit in "ab"]
    # the first may have been asked for before the consumer went deaf
    assert [site.ended(build).state for build in builds] == [State.SUCCEEDED] * 2
    assert b"starts anew" in site.worker_log(worker)
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(PATIENCE_SECONDS) == 0
