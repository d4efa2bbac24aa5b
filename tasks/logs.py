"""Logs of builds: a Redis stream while the build lives, one compressed value afterwards, read in the same way.

A stream's entry is a chunk of events, one JSON document per line. An event's cursor is `<entry>.<number in the chunk>`;
it stays valid in the archive.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

from redis.client import NEVER_DECODE

from executor.errors import UsageError
from tasks.connection import Client, redis_errors

LOG_LIMIT_BYTES = 16 * 1024 * 1024
OPEN = "pw:logs:open"
# a reader waits less than the client's socket timeout, and looks again
LONGEST_WAIT_MS = 2000
PAGE_ENTRIES = 64
UNPACK_BYTES = 256 * 1024
BEGINNING = (0, 0, -1)
CURSOR = re.compile(r"([0-9]{1,15})-([0-9]{1,15})\.([0-9]{1,9})")
Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogPage:
    """Events with their cursors; with `is_end` no further ones will come."""

    events: tuple[tuple[str, Event], ...]
    is_end: bool


class Logs:
    """The logs of one Redis."""

    def __init__(self, redis: Client, *, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
        self._redis = redis
        self._limit_bytes = limit_bytes
        self._append = redis.register_script(_script_text("append"))
        self._archive = redis.register_script(_script_text("archive"))

    def append(self, build_id: str, chunk: str, last_words: str, name: str = "") -> bool:
        """Adds lines of events; past the limit `last_words` are written once instead, and nothing after them.

        With a `name` of its own a chunk may be sent again when it is not known whether it arrived.
        """
        with redis_errors():
            arguments = [build_id, self._limit_bytes, chunk, last_words, name]
            return bool(self._append(keys=_keys(build_id), args=arguments))

    def archive(self, build_id: str) -> None:
        """Ends the log: the stream becomes one compressed value; doing it twice changes nothing."""
        with redis_errors():
            if self._redis.exists(_keys(build_id)[1]):
                return
        compressor = zlib.compressobj(6)
        parts = [
            compressor.compress(f"{cursor}\t{line}\n".encode()) for cursor, line in self._stream_lines(build_id, "-")
        ]
        with redis_errors():
            self._archive(keys=_keys(build_id), args=[build_id, b"".join([*parts, compressor.flush()])])

    def unarchived(self) -> list[str]:
        """Builds whose log has not been ended."""
        with redis_errors():
            return sorted(self._redis.smembers(OPEN))

    def read(self, build_id: str, after: str = "", *, block_ms: int = 0, limit: int = 1000) -> LogPage:
        """Events after the cursor `after`, or from the beginning; waits up to `block_ms` where there is none yet.

        A page may be empty although the log goes on. The cursor of a page's last event is where the next begins; an
        ended log is read faster by `archived`.
        """
        archived = self.archived(build_id, after)
        if archived is not None:
            page = tuple(itertools.islice(archived, limit))
            return LogPage(page, is_end=len(page) < limit)
        since = _cursor_key(after) if after else BEGINNING
        events = self._read_stream(build_id, since, limit)
        if not events and block_ms > 0:
            with redis_errors():
                self._redis.xread(
                    {_keys(build_id)[0]: f"{since[0]}-{since[1]}"}, count=1, block=min(block_ms, LONGEST_WAIT_MS)
                )
            events = self._read_stream(build_id, since, limit)
        return LogPage(tuple(events), is_end=False)

    def archived(self, build_id: str, after: str = "") -> Iterator[tuple[str, Event]] | None:
        """All events of an ended log after the cursor `after`, unpacked as they are read; None while it is open."""
        with redis_errors():
            data = self._redis.execute_command("GET", _keys(build_id)[1], **{NEVER_DECODE: True})
        return None if data is None else _archived_events(data, _cursor_key(after) if after else BEGINNING)

    def _read_stream(self, build_id: str, since: tuple[int, int, int], limit: int) -> list[tuple[str, Event]]:
        events: list[tuple[str, Event]] = []
        for cursor, line in self._stream_lines(build_id, f"{since[0]}-{since[1]}"):
            if _cursor_key(cursor) <= since:
                continue
            if len(events) == limit:
                break
            events.append((cursor, json.loads(line)))
        return events

    def _stream_lines(self, build_id: str, start: str) -> Iterator[tuple[str, str]]:
        while True:
            with redis_errors():
                entries = cast(
                    list[tuple[str, dict[str, str]]],
                    self._redis.xrange(_keys(build_id)[0], min=start, max="+", count=PAGE_ENTRIES),
                )
            for entry, fields in entries:
                for number, line in enumerate(fields["e"].split("\n")):
                    yield f"{entry}.{number}", line
            if len(entries) < PAGE_ENTRIES:
                return
            start = f"({entries[-1][0]}"


def _archived_events(data: bytes, since: tuple[int, int, int]) -> Iterator[tuple[str, Event]]:
    for line in _unpacked_lines(data):
        cursor, _, text = line.decode().partition("\t")
        if _cursor_key(cursor) > since:
            yield cursor, json.loads(text)


def _unpacked_lines(data: bytes) -> Iterator[bytes]:
    decompressor = zlib.decompressobj()
    rest = b""
    while not decompressor.eof:
        unpacked = decompressor.decompress(data, UNPACK_BYTES)
        *lines, rest = (rest + unpacked).split(b"\n")
        yield from lines
        if not unpacked and not decompressor.unconsumed_tail:
            return
        data = decompressor.unconsumed_tail


def _keys(build_id: str) -> list[str]:
    return [f"pw:log:{build_id}", f"pw:logarchive:{build_id}", f"pw:logstate:{build_id}", OPEN]


def _cursor_key(cursor: str) -> tuple[int, int, int]:
    match = CURSOR.fullmatch(cursor)
    if not match:
        raise UsageError(f"cursor: expected one that came with a log event, found {cursor[:60]!r}")
    return int(match[1]), int(match[2]), int(match[3])


def _script_text(name: str) -> str:
    return resources.files("tasks").joinpath(f"log_{name}.lua").read_text(encoding="utf-8")
