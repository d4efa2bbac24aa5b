"""The lines around a mistake: which ones, marked how, and harmless on a terminal."""

from __future__ import annotations

import pytest

from executor.dockerfile.excerpt import LINE_LIMIT_CHARACTERS, MARKED_LIMIT, excerpt, with_excerpts
from executor.dockerfile.parse import parse
from executor.errors import DockerfileError, Location
from executor.log_text import LogText
from executor.progress import error_fields

TEXT = b"FROM scratch\n\nCOPYY a b\nRUN x\nRUN y\nRUN z\n"


def at(line: int, end: int | None = None) -> Location:
    return Location("Dockerfile", line, end)


def test_the_guilty_line_is_marked_between_its_neighbours() -> None:
    assert excerpt(TEXT, at(3)) == (
        "   1 |     FROM scratch",
        "   2 |",
        "   3 | >>> COPYY a b",
        "   4 |     RUN x",
        "   5 |     RUN y",
    )


def test_a_range_is_marked_whole() -> None:
    assert excerpt(TEXT, at(4, 5), context=1) == (
        "   3 |     COPYY a b",
        "   4 | >>> RUN x",
        "   5 | >>> RUN y",
        "   6 |     RUN z",
    )


def test_first_and_last_line_have_neighbours_on_one_side() -> None:
    assert excerpt(TEXT, at(1), context=1) == ("   1 | >>> FROM scratch", "   2 |")
    assert excerpt(TEXT, at(6), context=1) == ("   5 |     RUN y", "   6 | >>> RUN z")


def test_of_a_long_range_the_first_lines_are_shown() -> None:
    text = b"".join(b"line %d\n" % number for number in range(1, 101))
    found = excerpt(text, at(2, 90))
    assert found[0] == "   1 |     line 1"
    assert found[MARKED_LIMIT] == f"  {MARKED_LIMIT + 1} | >>> line {MARKED_LIMIT + 1}"
    assert found[MARKED_LIMIT + 1] == f"     | >>> … {89 - MARKED_LIMIT} more lines"
    assert found[-2:] == ("  91 |     line 91", "  92 |     line 92")


@pytest.mark.parametrize("location", [at(7), at(0), at(-1), at(10**6)])
def test_a_place_that_is_not_there_gives_nothing(location: Location) -> None:
    assert excerpt(TEXT, location) == ()


def test_an_empty_text_has_no_place() -> None:
    assert excerpt(b"", at(1)) == ()


def test_an_end_behind_the_end_is_cut() -> None:
    assert excerpt(TEXT, at(6, 99), context=0) == ("   6 | >>> RUN z",)


def test_nothing_reaches_a_terminal_that_it_would_act_on() -> None:
    text = b"ENV a=\x1b[2J\x07\xff\xc2\x9b\xe2\x80\xae\tb\r\n"
    (line,) = excerpt(text, at(1))
    assert line.isprintable()
    assert line == "   1 | >>> ENV a=\\x1b[2J\\x07\ufffd\\x9b\\u202e  b"


def test_a_long_line_is_cut_and_a_hostile_one_stays_bounded() -> None:
    (line,) = excerpt(b"x" * 60_000, at(1))
    assert line.endswith("x…")
    assert len(line) < LINE_LIMIT_CHARACTERS + 20
    (line,) = excerpt("\U000e0001".encode() * 10_000, at(1))
    assert line.isprintable()
    assert len(line) < 11 * LINE_LIMIT_CHARACTERS


def test_a_byte_order_mark_is_not_shown() -> None:
    assert excerpt(b"\xef\xbb\xbfFORM x\n", at(1)) == ("   1 | >>> FORM x",)


def test_errors_that_leave_the_block_carry_their_lines() -> None:
    with pytest.raises(DockerfileError) as caught, with_excerpts(TEXT, "Dockerfile"):
        parse(TEXT, "Dockerfile")
    fields = error_fields(caught.value)
    assert fields["excerpt"] == list(excerpt(TEXT, at(3)))
    shown = LogText().event({"type": "error", **fields})
    assert shown.splitlines()[:4] == [
        "error: Dockerfile:3: unknown instruction 'COPYY'",
        "   1 |     FROM scratch",
        "   2 |",
        "   3 | >>> COPYY a b",
    ]
    assert shown.splitlines()[-1] == "hint: did you mean COPY?"


def test_errors_about_another_file_are_left_alone() -> None:
    error = DockerfileError("x", location=Location("other", 1))
    with pytest.raises(DockerfileError) as caught, with_excerpts(TEXT, "Dockerfile"):
        raise error
    assert caught.value.excerpt == ()
    assert "excerpt" not in caught.value.to_dict()
