"""The lines of a Dockerfile around a mistake, the guilty ones marked, fit for any terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from executor.context.printable import printable
from executor.errors import DockerfileError, Location

CONTEXT_LINES = 2
# a here-document can have thousands of lines
MARKED_LIMIT = 10
LINE_LIMIT_CHARACTERS = 160

_MARK = ">>>"


def excerpt(text: bytes, location: Location, context: int = CONTEXT_LINES) -> tuple[str, ...]:
    """Lines as `   3 | >>> COPYY a b`, those of `location` marked, `context` more on either side.

    Of many marked lines the first are shown. Characters that a terminal would act on are written as escapes, and long
    lines are cut. Nothing for a place that the text does not have.
    """
    lines = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    first, last = location.line, max(location.end_line or location.line, location.line)
    if not 1 <= first <= len(lines):
        return ()
    last = min(last, len(lines))
    shown_last = min(last, first + MARKED_LIMIT - 1)
    left_out = last - shown_last
    numbers = [*range(max(1, first - context), shown_last + 1)]
    after = [*range(last + 1, min(len(lines), last + context) + 1)]
    width = max(4, len(str((after or numbers)[-1])))
    found = [_line(number, lines[number - 1], width, marked=number >= first) for number in numbers]
    if left_out:
        found.append(f"{'':{width}} | {_MARK} … {left_out} more lines")
    return tuple(found + [_line(number, lines[number - 1], width, marked=False) for number in after])


def _line(number: int, data: bytes, width: int, *, marked: bool) -> str:
    text = data[: 4 * LINE_LIMIT_CHARACTERS].decode("utf-8", "replace").rstrip("\r").expandtabs(4)
    cut = text[:LINE_LIMIT_CHARACTERS]
    shown = printable(cut, 10 * LINE_LIMIT_CHARACTERS) + ("…" if len(text) > len(cut) else "")
    return f"{number:{width}} | {_MARK if marked else '   '} {shown}".rstrip()


@contextmanager
def with_excerpts(text: bytes, file: str) -> Iterator[None]:
    """Gives every `DockerfileError` about `file` that leaves the block the lines it is about."""
    try:
        yield
    except DockerfileError as error:
        if error.location is not None and error.location.file == file and not error.excerpt:
            error.excerpt = excerpt(text, error.location)
        raise
