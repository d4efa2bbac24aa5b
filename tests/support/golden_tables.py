"""Tables of golden cases: lines of columns between bars, the first in backticks; `#` begins a comment."""

from __future__ import annotations

import re
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "golden"


def rows(name: str, columns: int) -> list[tuple[str, ...]]:
    """The rows of a table below tests/golden."""
    found: list[tuple[str, ...]] = []
    for number, line in enumerate((GOLDEN / name).read_text("utf-8").splitlines(), start=1):
        if line.startswith("#") or not line:
            continue
        match = re.fullmatch(r"`(.*)` \| (.*)", line)
        assert match, f"{name}:{number}: expected `word` | columns"
        row = (match[1], *match[2].split(" | "))
        assert len(row) == columns, f"{name}:{number}: expected {columns} columns"
        found.append(row)
    assert found
    return found
