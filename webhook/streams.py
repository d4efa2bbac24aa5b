"""A build's log as an answer: JSON lines or text, of what there is or until the build is over."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from executor.errors import PushwrightError
from executor.log_text import LogText
from tasks.lifecycle import Build
from tasks.logs import Logs
from tasks.records import Records
from webhook.problems import problem

WAIT_MS = 2000
KEEPALIVE_SECONDS = 5.0
# a build that is over has its last lines within moments, unless its worker died
LAST_WORDS_MS = 1000

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LogSource:
    """One build's log and record."""

    records: Records
    logs: Logs
    build_id: str

    def items(self, after: str, *, follow: bool, is_stopping: Callable[[], bool]) -> Iterator[Item | None]:
        """Events with cursors, then the end when the build is over; None now and then while nothing happens.

        Redis going away ends it with an error, after which one may ask again from the last cursor.
        """
        try:
            yield from self._items(after, follow=follow, is_stopping=is_stopping)
        except PushwrightError as error:
            yield {"error": problem(error)}

    def _items(self, after: str, *, follow: bool, is_stopping: Callable[[], bool]) -> Iterator[Item | None]:
        cursor, quiet_since = after, time.monotonic()
        while not is_stopping():
            # the record is read before the log: whatever is over has nothing left to say that the log lacks
            build = self.records.get(self.build_id)
            archived = self.logs.archived(self.build_id, cursor)
            if archived is not None:
                yield from ({"cursor": place, "event": dict(event)} for place, event in archived)
                yield _end(self.records.get(self.build_id))
                return
            page = self.logs.read(self.build_id, cursor, block_ms=self._wait_ms(build, follow))
            for cursor, event in page.events:
                yield {"cursor": cursor, "event": dict(event)}
            if page.events:
                quiet_since = time.monotonic()
                continue
            if build.state.is_final:
                yield _end(build)
                return
            if not follow:
                return
            if time.monotonic() - quiet_since > KEEPALIVE_SECONDS:
                quiet_since = time.monotonic()
                yield None

    @staticmethod
    def _wait_ms(build: Build, follow: bool) -> int:
        if not follow:
            return 0
        return LAST_WORDS_MS if build.state.is_final else WAIT_MS


def _end(build: Build) -> Item:
    return {"end": {"state": str(build.state), "reason": build.reason}}


def has_left(connection: socket.socket | None) -> bool:
    """Whether the client closed its connection, which without a byte to send is noticed in no other way."""
    if connection is None:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def as_ndjson(items: Iterator[Item | None]) -> Iterator[bytes]:
    """One object per line; an empty line shows that the connection lives."""
    for item in items:
        yield b"\n" if item is None else json.dumps(item, separators=(",", ":")).encode() + b"\n"


def as_text(items: Iterator[Item | None]) -> Iterator[bytes]:
    """What a person reads, without cursors, and without what could drive a terminal."""
    text = LogText()
    # the head goes out with the first piece, and a build may be silent for long
    yield b""
    for item in items:
        if item is None:
            continue
        if "event" in item:
            shown = text.event(item["event"])
        elif "end" in item:
            shown = text.end(item["end"])
        else:
            shown = f"the log broke off: {item['error']['detail']}\n"
        if shown:
            yield shown.encode("utf-8", "replace")
