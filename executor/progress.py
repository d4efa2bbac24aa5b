"""The events of a build: what an observer sees, and the JSON lines that carry them over a pipe.

An event is `{v, seq, ts, type, …}`: `v` is 1, `seq` counts from 1 without gaps, `ts` is seconds since the epoch.

==================  ===========================================================================================
type                further fields
==================  ===========================================================================================
build-started       level, snapshotter, platform, network
step-started        step (whole number), stage, name (what people read), line (of the Dockerfile, or 0)
step-log            step, stream (`stdout` or `stderr`), data (text; bytes that are not UTF-8 are replaced)
step-progress       step, what (`pull`, `push`, `clone`), item (short name), done_bytes, total_bytes (0: unknown)
step-finished       step, seconds, and error (a code) when it failed
warning             code, message, and file, line where they apply
result              the fields of `spec.BuildResult`
error               the fields of `PushwrightError.to_dict`, and exit_status
==================  ===========================================================================================

Steps of pulling, cloning and pushing are steps like those of the Dockerfile. `result` or `error` is the last event.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from executor.errors import PushwrightError, UsageError

EVENT_VERSION = 1
# the fields that every event has
ENVELOPE = frozenset({"v", "seq", "ts", "type"})
EVENT_TYPES = frozenset(
    {
        "build-started",
        "step-started",
        "step-log",
        "step-progress",
        "step-finished",
        "warning",
        "result",
        "error",
    }
)
_NUMBER = (int, float)
# whoever builds reads hostile bytes: what it sends is believed only in this form
_FIELD_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "seq": int,
    "ts": _NUMBER,
    "step": int,
    "line": int,
    "seconds": _NUMBER,
    "done_bytes": int,
    "total_bytes": int,
    "exit_status": int,
    **dict.fromkeys(
        ("name", "stream", "data", "what", "item", "code", "message", "hint", "file", "fixable_by", "error", "level"),
        str,
    ),
}
_REQUIRED: Mapping[str, frozenset[str]] = {
    "step-started": frozenset({"step", "name"}),
    "step-log": frozenset({"step", "stream", "data"}),
    "step-finished": frozenset({"step"}),
    "warning": frozenset({"code", "message"}),
    "error": frozenset({"code", "message"}),
}
# a longer line in an event stream is damage, not an event; a manifest is at most 4 MiB and JSON doubles it at worst
EVENT_LIMIT_BYTES = 16 * 1024 * 1024


class Observer(Protocol):
    """Whoever watches a build; called from any thread."""

    def __call__(self, event_type: str, /, **fields: Any) -> None: ...


def ignore_events(event_type: str, /, **fields: Any) -> None:
    """The observer that looks away."""


class Masker:
    """Replaces secret values in texts, also when a secret is split over two chunks of one stream.

    `mask(stream, text)` holds back the tail of `text` that could be the beginning of a secret, until the next chunk
    of the same stream or `flush` tells.
    """

    REPLACEMENT = "***"

    def __init__(self, secrets: Iterable[str]) -> None:
        # the longest first: of two that begin at one place, it is the one that is meant
        self._secrets = sorted({item for item in secrets if len(item) >= 4}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._secrets)))
        self._first = frozenset(item[0] for item in self._secrets)
        self._held: dict[object, str] = {}

    def mask(self, stream: object, text: str) -> str:
        if not self._secrets:
            return text
        text = self._held.pop(stream, "") + text
        shown, done = [], 0
        while True:
            begun = self._unfinished(text, done)
            found = self._pattern.search(text, done)
            if found is None or found.start() >= begun:
                # what is whole at `begun` may yet be the beginning of a longer one
                break
            shown += [text[done : found.start()], self.REPLACEMENT]
            done = found.end()
        shown.append(text[done:begun])
        if begun < len(text):
            self._held[stream] = text[begun:]
        return "".join(shown)

    def flush(self, stream: object) -> str:
        return self.mask_whole(self._held.pop(stream, ""))

    def mask_whole(self, text: str) -> str:
        return self._pattern.sub(self.REPLACEMENT, text) if self._secrets else text

    def _unfinished(self, text: str, start: int) -> int:
        """Where the first part begins, from `start`, that could be a secret whose rest has not come yet."""
        earliest = max(start, len(text) - len(self._secrets[0]) + 1)
        tails = (position for position in range(earliest, len(text)) if self._begins_secret(text[position:]))
        return next(tails, len(text))

    def _begins_secret(self, tail: str) -> bool:
        return tail[0] in self._first and any(
            len(tail) < len(secret) and secret.startswith(tail) for secret in self._secrets
        )


class EventWriter:
    """An observer that numbers events and writes them as JSON lines, secrets masked."""

    def __init__(self, write: Callable[[bytes], object], masker: Masker) -> None:
        self._write = write
        self._masker = masker
        self._lock = threading.Lock()
        self._seq = 0

    def __call__(self, event_type: str, /, **fields: Any) -> None:
        with self._lock:
            if event_type == "step-log":
                stream = (fields.get("step"), fields.get("stream"))
                fields = {**fields, "data": self._masker.mask(stream, fields["data"])}
                if not fields["data"]:
                    return
            elif event_type == "step-finished":
                self._flush_step(fields["step"])
            self._emit(event_type, fields)

    def _flush_step(self, step: object) -> None:
        for stream in ("stdout", "stderr"):
            if held := self._masker.flush((step, stream)):
                self._emit("step-log", {"step": step, "stream": stream, "data": held})

    def _emit(self, event_type: str, fields: Mapping[str, Any]) -> None:
        self._seq += 1
        event = {"v": EVENT_VERSION, "seq": self._seq, "ts": round(time.time(), 6), "type": event_type}
        # a result's bytes are what the registry now serves: masking them would break their digest
        shown = fields if event_type == "result" else {key: self._masked(value) for key, value in fields.items()}
        event.update(shown)
        self._write(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n")

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._masker.mask_whole(value)
        if isinstance(value, list | tuple):
            return [self._masked(item) for item in value]
        if isinstance(value, dict):
            return {key: self._masked(item) for key, item in value.items()}
        return value


def parse_event(line: bytes) -> dict[str, Any]:
    """One event from a line, its fields of the types that their readers count on; `UsageError` when it is none."""
    try:
        event = json.loads(line, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"event: not JSON: {error}", code="event-invalid") from error
    if not isinstance(event, dict) or event.get("v") != EVENT_VERSION or not _is_known(event.get("type")):
        raise UsageError("event: expected an object of version 1 with a known type", code="event-invalid")
    for name in event.keys() & _FIELD_TYPES.keys():
        # a boolean is an int to Python
        if not isinstance(event[name], _FIELD_TYPES[name]) or isinstance(event[name], bool):
            raise UsageError(f"event: {name}: found {type(event[name]).__name__}", code="event-invalid")
    if missing := _REQUIRED.get(event["type"], frozenset()) - event.keys():
        raise UsageError(f"event: expected {', '.join(sorted(missing))} in {event['type']}", code="event-invalid")
    return event


def _is_known(event_type: object) -> bool:
    return isinstance(event_type, str) and event_type in EVENT_TYPES


def _finite(text: str) -> float:
    """A number that JSON knows: Python would read NaN and Infinity, and hand them on to whoever does not."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected a number, found {text[:20]}")
    return number


def error_fields(error: PushwrightError) -> dict[str, Any]:
    """The fields of the `error` event."""
    return {**error.to_dict(), "exit_status": error.exit_status}
