"""What the commands print: tables, fields and JSON, with hostile text made harmless."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

# control characters could move the cursor, recolour or retitle a terminal; surrogates cannot be printed at all
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
SHORT_COMMIT = 12


def printable(value: object) -> str:
    """A value as one line of harmless text; nothing and "" are shown as a dash."""
    text = "" if value is None else str(value)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) or "-"


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=True))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell."""
    cells = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, object]) -> None:
    """One name and value per line; of a list, one line each."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        values = value if isinstance(value, list | tuple) else [value]
        for number, item in enumerate(values or [None]):
            print(f"{'' if number else name:<{width}}  {printable(item)}")


def time_text(milliseconds: object) -> str:
    """A time of the API as people read it, in UTC."""
    if not isinstance(milliseconds, int | float):
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def duration_text(start: object, end: object) -> str:
    """The time between two times of the API."""
    if not isinstance(start, int | float) or not isinstance(end, int | float):
        return ""
    seconds = max(0.0, (end - start) / 1000)
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}m{seconds:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def short_ref(ref: object) -> str:
    """A ref as people call it."""
    return str(ref or "").removeprefix("refs/heads/").removeprefix("refs/tags/")


def error_lines(error: object) -> list[str]:
    """A build's error as the lines that `show` and `tags` print."""
    if not isinstance(error, dict):
        return []
    place = f"{error['file']}:{error.get('line', '')}: " if error.get("file") else ""
    lines = [f"{place}{error.get('message', '')} [{error.get('code', '')}]"]
    if error.get("hint"):
        lines.append(f"hint: {error['hint']}")
    lines += [f"| {line}" for line in error.get("tail", ())]
    return lines


def image_references(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every `repository:tag` of some results."""
    return [f"{result['repository']}:{tag}" for result in results for tag in result.get("tags", ())]
