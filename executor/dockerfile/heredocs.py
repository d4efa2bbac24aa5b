"""Here-documents: which words of a line open one, and where its body ends (BuildKit `parser/parser_heredoc.go`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from executor.dockerfile.instructions import Heredoc
from executor.dockerfile.words import Expander
from executor.errors import DockerfileError, Location

_HEREDOC = re.compile(r"([0-9]*)<<(-?)\s*([^<]*)")
# a line is lexed for here-documents with backslash, whatever the escape directive says
_RAW = Expander(quotes="keep", keep_unset=True, keep_escapes=True)
_PLAIN = Expander(keep_unset=True)


def parse_heredoc(word: str) -> Heredoc | None:
    """The here-document that `word` opens, its body still empty, or None."""
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[3]:
        return None
    try:
        plain, raw = _PLAIN.expand_words(match[3], {}), _RAW.expand_words(match[3], {})
    except DockerfileError:
        return None
    if len(plain) != 1 or len(raw) != 1:
        return None
    quoted = _quotes(plain[0]) != _quotes(raw[0])
    return Heredoc(plain[0], "", not quoted, bool(match[2]), int(match[1][:9] or "0"))


def _quotes(word: str) -> int:
    return word.count("'") + word.count('"')


def opened_heredocs(line: str) -> list[Heredoc]:
    """The here-documents that a logical line opens; none when its quotes are not closed."""
    if "<<" not in line:
        return []
    try:
        words = _RAW.expand_words(line, {})
    except DockerfileError:
        return []
    return [heredoc for word in words if (heredoc := parse_heredoc(word)) is not None]


def read_body(heredoc: Heredoc, lines: Sequence[str], position: int, location: Location) -> tuple[Heredoc, int]:
    """The here-document with its body, and the index of the line behind its end; `lines` keep their line ends."""
    for end in range(position, len(lines)):
        candidate = lines[end].rstrip("\r\n")
        if (candidate.lstrip("\t") if heredoc.strip_tabs else candidate) == heredoc.name:
            return replace(heredoc, content="".join(lines[position:end])), end + 1
    raise DockerfileError(
        f"unterminated here-document: expected a line {heredoc.name!r}, found the end of the file",
        location=location,
        hint="the line that ends it must hold nothing else, not even a trailing blank",
    )
