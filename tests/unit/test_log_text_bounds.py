"""Output without end of line, as people read it: shown in parts, never gathered whole."""

from __future__ import annotations

import tracemalloc

from executor.log_text import LogText


def _log(data: str) -> dict[str, object]:
    return {"type": "step-log", "step": 1, "stream": "stdout", "data": data}


def test_a_line_without_end_is_shown_in_parts() -> None:
    text = LogText()
    tracemalloc.start()
    try:
        shown = sum(text.event(_log("a" * 65_536)).count("a") for _ in range(200))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    shown += text.event({"type": "step-finished", "step": 1, "seconds": 0}).count("a")
    assert shown == 200 * 65_536
    assert most < 8 * 65_536


def test_what_comes_in_small_pieces_is_one_line() -> None:
    text = LogText()
    assert [text.event(_log(piece)) for piece in ("one ", "line", "\nand")] == ["", "", "#1 | one line\n"]
    assert text.event({"type": "step-finished", "step": 1, "seconds": 1.25}) == "#1 | and\n#1 done 1.2s\n"
