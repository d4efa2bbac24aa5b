"""The events of a build (executor.progress) as the lines that people read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

# what may move the cursor, retitle a terminal or ring it; colours (SGR) and tabs stay
_HARMFUL = re.compile(
    r"\x1b\[[0-9;]*m"
    # control sequences (CSI), strings up to their end (OSC and its like), other escapes, other control characters
    r"|(\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[^\[]?|[\x00-\x08\x0b-\x1f\x7f-\x9f])"
)
_SGR_RESET = "\x1b[0m"
_LINE_CHARACTERS = 16_384
# dockerfile/excerpt gives fewer
_EXCERPT_LINES = 20


class LogText:
    """Renders events one by one; output that ends within a line is held until its rest comes."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], str] = {}
        self._renderers: dict[object, Callable[[Mapping[str, Any]], str]] = {
            "build-started": self._build_started,
            "step-started": self._step_started,
            "step-log": self._step_log,
            "step-finished": self._step_finished,
            "warning": self._warning,
            "error": self._error,
            "result": self._result,
        }

    def event(self, event: Mapping[str, Any]) -> str:
        """The lines of one event; "" for those that only programs read."""
        render = self._renderers.get(event.get("type"))
        return render(event) if render else ""

    def end(self, end: Mapping[str, Any]) -> str:
        """The last line, once the build is over."""
        reason = f" ({_clean(end['reason'])})" if end.get("reason") else ""
        return f"{self._flush_all()}build {_clean(end.get('state'))}{reason}\n"

    def _build_started(self, event: Mapping[str, Any]) -> str:
        names = ("level", "snapshotter", "platform", "network")
        return "build started: " + ", ".join(f"{name} {_clean(event.get(name))}" for name in names) + "\n"

    def _step_started(self, event: Mapping[str, Any]) -> str:
        return f"#{_clean(event.get('step'))} {_clean(event.get('name'))}\n"

    def _step_log(self, event: Mapping[str, Any]) -> str:
        step, stream = str(event.get("step")), str(event.get("stream"))
        *lines, rest = (self._held.pop((step, stream), "") + str(event.get("data", ""))).split("\n")
        if len(rest) > _LINE_CHARACTERS:
            # to wait for the end of a line without one would be to hold, and to search, all of it again and again
            lines.append(rest)
        elif rest:
            self._held[step, stream] = rest
        return "".join(_output_line(step, line) for line in lines)

    def _step_finished(self, event: Mapping[str, Any]) -> str:
        step, seconds = str(event.get("step")), event.get("seconds")
        outcome = f"error: {_clean(event['error'])}" if event.get("error") else "done"
        took = f"{seconds:.1f}s" if isinstance(seconds, int | float) else ""
        return f"{self._flush(step)}#{_clean(step)} {outcome} {took}\n"

    def _warning(self, event: Mapping[str, Any]) -> str:
        return f"warning: {_place(event)}{_clean(event.get('message'))}\n"

    def _error(self, event: Mapping[str, Any]) -> str:
        text = f"error: {_place(event)}{_clean(event.get('message'))}\n"
        excerpt = event.get("excerpt")
        for line in excerpt[:_EXCERPT_LINES] if isinstance(excerpt, list) else ():
            text += f"{_clean(line)}\n"
        return self._flush_all() + text + (f"hint: {_clean(event['hint'])}\n" if event.get("hint") else "")

    def _result(self, event: Mapping[str, Any]) -> str:
        return f"{self._flush_all()}image {_clean(event.get('digest'))}\n"

    def _flush(self, step: str) -> str:
        keys = [key for key in self._held if key[0] == step]
        return "".join(_output_line(step, self._held.pop(key)) for key in keys)

    def _flush_all(self) -> str:
        return "".join(self._flush(step) for step in dict.fromkeys(key[0] for key in self._held))


def _output_line(step: str, line: str) -> str:
    # a line that a carriage return would have overwritten is a progress bar: only its last state is of use
    text = _clean(line.rstrip("\r").rpartition("\r")[2])
    return f"#{_clean(step)} | {text}{_SGR_RESET if chr(27) in text else ''}\n"


def _place(event: Mapping[str, Any]) -> str:
    return f"{_clean(event['file'])}:{_clean(event.get('line'))}: " if event.get("file") else ""


def _clean(text: object) -> str:
    """Text with everything removed that a terminal would obey, except for colours."""
    kept = _HARMFUL.sub(lambda match: "" if match[1] else match[0], str(text or ""))
    return kept.encode("utf-8", "replace").decode("utf-8")
