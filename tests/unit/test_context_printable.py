"""Hostile text in messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.context.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ü", "plain ü"), ("a\x1b[31m\n", "a\\x1b[31m\\n"), ("\u202e", "\\u202e"), ("\udcff", "\\udcff")],
)
def test_what_a_terminal_acts_on_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_the_end_of_a_long_text_is_kept() -> None:
    assert printable("x" * 500 + "end", 10) == "…" + "x" * 7 + "end"


@given(st.text(alphabet=st.characters(codec=None)), st.integers(1, 50))
def test_the_result_is_printable_and_short(text: str, limit: int) -> None:
    assert printable(text, limit).isprintable()
    assert len(printable(text, limit)) <= limit + 1
