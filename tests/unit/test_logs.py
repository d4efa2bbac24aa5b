from __future__ import annotations

import json
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from executor.errors import UsageError
from tasks.connection import Client
from tasks.logs import LOG_LIMIT_BYTES, Logs
from tasks.logwriter import LogWriter
from tests.support.redis_server import RedisServer

BUILD = "01M83RBBS1YZN9S5019KKW7NPC"


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


@pytest.fixture
def logs(redis: Client) -> Logs:
    return Logs(redis)


def write(logs: Logs, *texts: str, attempt: int = 1) -> None:
    with LogWriter(logs, BUILD, attempt) as writer:
        for text in texts:
            writer.say("step-log", step=1, stream="stdout", data=text)


def texts(logs: Logs, after: str = "") -> list[str]:
    return [str(event["data"]) for _, event in logs.read(BUILD, after).events]


def test_events_come_back_in_order_numbered_and_marked(logs: Logs) -> None:
    write(logs, "one", "two")
    write(logs, "three", attempt=2)
    page = logs.read(BUILD)
    assert [(event["data"], event["seq"], event["attempt"]) for _, event in page.events] == [
        ("one", 1, 1),
        ("two", 2, 1),
        ("three", 1, 2),
    ]
    assert not page.is_end


def test_an_unknown_log_is_empty_and_not_over(logs: Logs) -> None:
    assert logs.read(BUILD) == logs.read(BUILD, "1-1.0")
    assert logs.read(BUILD).events == ()


def test_stream_and_archive_read_alike_from_every_cursor(logs: Logs, redis: Client) -> None:
    for number in range(5):
        write(logs, *(f"{number}.{item}" for item in range(40)))
    before = logs.read(BUILD).events
    cursors = ["", *(cursor for cursor, _ in before)]
    tails = [logs.read(BUILD, cursor).events for cursor in cursors]
    logs.archive(BUILD)
    assert [logs.read(BUILD, cursor).events for cursor in cursors] == tails
    assert [len(tail) for tail in tails] == list(range(200, -1, -1))
    assert logs.read(BUILD).is_end
    assert redis.exists(f"pw:log:{BUILD}", f"pw:logstate:{BUILD}") == 0
    assert logs.unarchived() == []


def test_pages_join_to_the_whole(logs: Logs) -> None:
    write(logs, *map(str, range(25)))
    for _ in range(2):
        found: list[str] = []
        cursor = ""
        while page := logs.read(BUILD, cursor, limit=7).events:
            found += [str(event["data"]) for _, event in page]
            cursor = page[-1][0]
        assert found == [str(number) for number in range(25)]
        logs.archive(BUILD)
    assert not logs.read(BUILD, limit=7).is_end


def test_archiving_twice_and_writing_afterwards_change_nothing(logs: Logs) -> None:
    write(logs, "kept")
    logs.archive(BUILD)
    write(logs, "too late")
    logs.archive(BUILD)
    assert texts(logs) == ["kept"]
    assert logs.unarchived() == []


def test_a_waiting_reader_is_woken(logs: Logs, server: RedisServer) -> None:
    woken: list[str] = []

    def follow() -> None:
        reader = Logs(server.client())
        while not woken:
            woken.extend(str(event["data"]) for _, event in reader.read(BUILD, block_ms=60_000).events)

    thread = threading.Thread(target=follow)
    thread.start()
    write(logs, "news")
    thread.join(30)
    assert woken == ["news"]


def test_an_endless_log_is_cut_with_a_word(redis: Client) -> None:
    logs = Logs(redis, limit_bytes=10_000)
    with LogWriter(logs, BUILD, 1) as writer:
        for _ in range(20):
            writer.say("step-log", data="x" * 1000)
            time.sleep(0.03)
    write(logs, "of a second attempt", attempt=2)
    events = [event for _, event in logs.read(BUILD).events]
    assert [event["code"] for event in events if event["type"] == "warning"] == ["log-truncated"]
    assert events[-1]["type"] == "warning"
    assert len(events) < 12


def test_a_flood_is_held_in_bounds(logs: Logs, redis: Client) -> None:
    line = "x" * 60_000
    with LogWriter(logs, BUILD, 1) as writer:
        for _ in range(LOG_LIMIT_BYTES // len(line) + 200):
            writer.say("step-log", data=line)
    assert redis.memory_usage(f"pw:log:{BUILD}", samples=0) or 2 * LOG_LIMIT_BYTES > 0
    logs.archive(BUILD)
    archive = redis.execute_command("STRLEN", f"pw:logarchive:{BUILD}")
    assert archive < LOG_LIMIT_BYTES // 100


def test_texts_of_every_kind_survive(logs: Logs) -> None:
    hostile = ["a\nb", "\t\x00\x1b[31m", "é\u2028\u2029", '"}\n{"', ""]
    write(logs, *hostile)
    assert texts(logs) == hostile
    logs.archive(BUILD)
    assert texts(logs) == hostile
    write_surrogate = json.loads('"\\ud800"')
    with LogWriter(logs, "2" * 26, 1) as writer:
        writer.say("step-log", data=write_surrogate)
    assert [event["data"] for _, event in logs.read("2" * 26).events] == ["?"]


@pytest.mark.parametrize("cursor", ["x", "1-1", "1-1.1.1", "-", "1-1.٣", "9" * 40 + "-1.1", "1-1.1\n"])
def test_a_cursor_that_is_none_is_refused(logs: Logs, cursor: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        logs.read(BUILD, cursor)


def test_lines_written_while_redis_is_away_arrive(tmp_path: object) -> None:
    with RedisServer(keeps_data=True) as server:
        logs = Logs(server.client())
        with LogWriter(logs, BUILD, 1) as writer:
            writer.say("step-log", data="before")
            time.sleep(0.5)
            server.stop()
            writer.say("step-log", data="during")
            time.sleep(1)
            server.start()
            writer.say("step-log", data="after")
        assert texts(logs) == ["before", "during", "after"]


def test_the_archive_is_compressed(logs: Logs, redis: Client) -> None:
    write(logs, "x" * 50_000)
    logs.archive(BUILD)
    raw = redis.execute_command("GET", f"pw:logarchive:{BUILD}", NEVER_DECODE=True)
    assert len(raw) < 1000
    assert len(zlib.decompress(raw)) > 50_000


def test_a_chunk_that_is_sent_again_is_in_the_log_once(logs: Logs) -> None:
    for name in ("w:1", "w:1", "w:2"):
        assert logs.append(BUILD, json.dumps({"data": name}), "{}", name)
    assert texts(logs) == ["w:1", "w:2"]


def test_what_was_flushed_can_be_read(logs: Logs) -> None:
    with LogWriter(logs, BUILD, 1) as writer:
        for number in range(50):
            writer.say("step-log", step=1, stream="stdout", data=str(number))
            writer.flush()
            assert texts(logs)[-1] == str(number)


def test_an_archive_is_unpacked_as_it_is_read(logs: Logs) -> None:
    # highly compressible, and far larger than what is unpacked at a time
    line = json.dumps({"data": "x" * 1000})
    for number in range(80):
        assert logs.append(BUILD, "\n".join([line] * 60), "{}", str(number))
    logs.archive(BUILD)
    tracemalloc.start()
    found = logs.archived(BUILD)
    assert found is not None
    assert sum(1 for _ in found) == 4800
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_000_000
