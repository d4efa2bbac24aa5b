"""Writing a build's log in chunks from a thread of its own, so that a slow or absent Redis never holds a build up."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from executor.progress import EVENT_VERSION
from tasks.errors import RedisUnavailableError
from tasks.logs import LOG_LIMIT_BYTES, Logs

CHUNK_BYTES = 64 * 1024
CHUNK_SECONDS = 0.2
RETRY_SECONDS = 0.5
# how long the end of a build waits for an absent Redis to take the last lines
FLUSH_SECONDS = 5.0
CLOSE_SECONDS = 10.0


class LogWriter:
    """Takes events of one attempt from any thread and appends them to the build's log.

    While Redis is away events are kept, up to the size that a log may have. Leaving the context writes what is left.
    """

    def __init__(self, logs: Logs, build_id: str, attempt: int) -> None:
        self._logs = logs
        self._build_id = build_id
        self._attempt = attempt
        self._seq = 0
        self._token = secrets.token_hex(8)
        self._chunks = 0
        self._lines: list[str] = []
        self._bytes = 0
        self._full = False
        self._writing = False
        self._closed = False
        self._give_up_at = float("inf")
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"log-{build_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._give_up_at = time.monotonic() + CLOSE_SECONDS
            self._changed.notify()
        self._thread.join()

    def write(self, event: Mapping[str, Any]) -> None:
        """Adds one event of the executor, numbered anew and marked with the attempt."""
        with self._changed:
            if self._full or self._bytes > LOG_LIMIT_BYTES:
                return
            line = self._line(event)
            self._seq += 1
            self._lines.append(line)
            self._bytes += len(line)
            if self._bytes >= CHUNK_BYTES:
                self._changed.notify()

    def say(self, event_type: str, /, **fields: Any) -> None:
        """Adds an event of the worker's own."""
        self.write({**fields, "v": EVENT_VERSION, "ts": round(time.time(), 6), "type": event_type})

    def flush(self) -> None:
        """Waits until all that was written is in the log, but not long for an absent Redis."""
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._lines and not self._writing, FLUSH_SECONDS)

    def _line(self, event: Mapping[str, Any]) -> str:
        numbered = {**event, "seq": self._seq + 1, "attempt": self._attempt}
        line = json.dumps(numbered, ensure_ascii=False, separators=(",", ":"))
        # a lone surrogate is legal in JSON and not in UTF-8
        return line.encode("utf-8", "replace").decode()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._closed and self._bytes < CHUNK_BYTES:
                    self._changed.wait(CHUNK_SECONDS)
                chunk = self._take_chunk()
                if not chunk and self._closed:
                    return
                self._writing = bool(chunk)
            if chunk and not self._append(chunk):
                return
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _take_chunk(self) -> list[str]:
        taken, size = 0, 0
        while taken < len(self._lines) and (taken == 0 or size + len(self._lines[taken]) <= CHUNK_BYTES):
            size += len(self._lines[taken])
            taken += 1
        chunk, self._lines = self._lines[:taken], self._lines[taken:]
        self._bytes -= size
        return chunk

    def _append(self, chunk: list[str]) -> bool:
        """Whether there is any use in going on."""
        with self._changed:
            last_words = self._last_words()
            self._chunks += 1
            name = f"{self._token}:{self._chunks}"
        while True:
            try:
                written = self._logs.append(self._build_id, "\n".join(chunk), last_words, name)
            except RedisUnavailableError:
                with self._changed:
                    if time.monotonic() > self._give_up_at:
                        return False
                    self._changed.wait(RETRY_SECONDS)
                continue
            if not written:
                with self._changed:
                    self._full, self._lines, self._bytes = True, [], 0
            return True

    def _last_words(self) -> str:
        message = f"log truncated: it reached {LOG_LIMIT_BYTES // (1024 * 1024)} MB"
        event = {"v": EVENT_VERSION, "ts": round(time.time(), 6), "type": "warning", "code": "log-truncated"}
        return self._line({**event, "message": message})
