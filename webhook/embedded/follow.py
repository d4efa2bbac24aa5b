"""Shows what children write into their log files, as it comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

_READ_BYTES = 256 * 1024


class LogFollower:
    """Reads on in some log files and says every whole line, with the name of who wrote it."""

    def __init__(self, logs: Mapping[str, Path], say: Callable[[str], None]) -> None:
        self._logs = dict(logs)
        self._say = say
        self._offsets = {name: path.stat().st_size if path.exists() else 0 for name, path in logs.items()}

    def show_new_lines(self) -> None:
        for name, path in self._logs.items():
            for line in self._new_lines(name, path):
                self._say(f"{name} | {line}")

    def _new_lines(self, name: str, path: Path) -> list[str]:
        try:
            with path.open("rb") as log:
                offset = self._offsets[name]
                if log.seek(0, os.SEEK_END) < offset:
                    # a new file under the old name
                    offset = 0
                log.seek(offset)
                chunk = log.read(_READ_BYTES)
        except FileNotFoundError:
            return []
        whole = chunk.rfind(b"\n") + 1 or (len(chunk) if len(chunk) == _READ_BYTES else 0)
        self._offsets[name] = offset + whole
        return chunk[:whole].decode("utf-8", "replace").splitlines()
