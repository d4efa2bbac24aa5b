from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.connection import Client, connect
from tasks.records import QUEUE
from tasks.watch import LOOKS, ConsumerWatch
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Client]:
    client = server.client()
    client.flushall()
    yield client
    client.close()


def looks(watch: ConsumerWatch, count: int) -> list[bool]:
    return [watch.is_stuck() for _ in range(count)]


def test_without_messages_an_idle_worker_is_well(redis: Client) -> None:
    assert not any(looks(ConsumerWatch(redis, 1), 3 * LOOKS))


def test_messages_beside_a_free_slot_for_long_enough(redis: Client) -> None:
    redis.lpush(QUEUE, "message")
    assert looks(ConsumerWatch(redis, 1), LOOKS) == [False] * (LOOKS - 1) + [True]


def test_a_full_worker_is_well(redis: Client) -> None:
    redis.lpush(QUEUE, "message")
    watch = ConsumerWatch(redis, 2)
    with watch.running(), watch.running():
        assert not any(looks(watch, 3 * LOOKS))
    assert any(looks(watch, 2 * LOOKS))


def test_a_worker_that_goes_through_messages_is_well(redis: Client) -> None:
    redis.lpush(QUEUE, "message")
    watch = ConsumerWatch(redis, 1)
    for _ in range(3 * LOOKS):
        with watch.running():
            pass
        assert not watch.is_stuck()


def test_an_absent_redis_is_not_the_consumer_s_fault(tmp_path: Path) -> None:
    assert not any(looks(ConsumerWatch(connect(f"unix://{tmp_path}/nothing"), 1), 2 * LOOKS))


def test_running_builds_are_asked_to_stop_before_the_restart(redis: Client) -> None:
    redis.lpush(QUEUE, "message")
    watch = ConsumerWatch(redis, 2)
    stopping, order = threading.Event(), []

    def build() -> None:
        with watch.running():
            begun.set()
            stopping.wait()
            order.append("build given back")

    begun = threading.Event()
    thread = threading.Thread(target=build)
    thread.start()
    begun.wait()
    watch.run(0.001, stopping, lambda: order.append("restart"))
    thread.join()
    assert order == ["build given back", "restart"]
