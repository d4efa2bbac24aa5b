from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.connection import Client
from tasks.logs import Logs
from tasks.logwriter import LogWriter
from tasks.records import BuildRequest, Records, State
from tasks.settings import Settings
from tasks.sweep import Sweeper
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


class Site:
    def __init__(self, redis: Client) -> None:
        self.redis = redis
        self.records = Records(redis, announce_seconds=0.01)
        self.logs = Logs(redis)
        self.announced: list[str] = []
        self.cleanings = 0

    def sweeper(self, sweep_seconds: float = 0.02) -> Sweeper:
        return Sweeper(
            self.redis,
            self.records,
            self.logs,
            settings=Settings(Path("/data"), sweep_seconds=sweep_seconds),
            announce=self.announced.append,
            clean_store=self.clean,
        )

    def clean(self) -> None:
        self.cleanings += 1

    def build(self, commit: str = "a") -> str:
        request = BuildRequest("demo", "demo", commit * 40, "refs/heads/main", 1, "d", {})
        build_id = self.records.create(request)[0].id
        with LogWriter(self.logs, build_id, 1) as writer:
            writer.say("step-log", data="x")
        return build_id


@pytest.fixture
def site(server: RedisServer) -> Iterator[Site]:
    client = server.client()
    client.flushall()
    yield Site(client)
    client.close()


def test_of_two_sweepers_one_sweeps(site: Site) -> None:
    first, second = site.sweeper(60), site.sweeper(60)
    assert [first.sweep(), second.sweep()] == [True, False]


def test_queued_builds_are_announced(site: Site) -> None:
    build = site.build()
    time.sleep(0.03)
    site.sweeper().sweep()
    assert site.announced == [build]


def test_a_lost_build_that_is_given_up_has_its_log_archived(site: Site) -> None:
    build = site.build()
    for _ in range(3):
        assert site.records.claim(build, "w", 0.01)
        time.sleep(0.03)
        site.sweeper().sweep()
        time.sleep(0.03)
    assert site.records.get(build).state is State.FAILED
    assert site.logs.read(build).is_end


def test_a_log_left_open_is_archived_after_a_while(site: Site) -> None:
    open_log, left_open = site.build("a"), site.build("b")
    claim = site.records.claim(left_open, "w", 30)
    assert claim
    site.records.finish(claim, State.SUCCEEDED)
    site.redis.hset(f"pw:build:{left_open}", "finished", "1")
    site.sweeper().sweep()
    assert not site.logs.read(open_log).is_end
    assert site.logs.read(left_open).is_end


def test_it_goes_on_after_redis_was_away() -> None:
    with RedisServer(keeps_data=True) as server:
        site = Site(server.client())
        sweeper = site.sweeper()
        stopping = threading.Event()
        thread = threading.Thread(target=sweeper.run, args=(stopping,))
        thread.start()
        server.stop()
        time.sleep(0.2)
        server.start()
        build = site.build()
        end = time.monotonic() + 30
        while build not in site.announced and time.monotonic() < end:
            time.sleep(0.02)
        stopping.set()
        thread.join()
        assert build in site.announced
        assert site.cleanings == 1
