"""Physical lines to logical lines: what BuildKit's `parser/parser.go` does, with dockerfile-parse as structure reader.

dockerfile-parse knows no here-documents, no blank lines in continuations and only half of the directives. So the text
is first rewritten to one of the same number of lines, in which each instruction stands joined on its first line,
ended by a sentinel, and all else is blank; what dockerfile-parse then reads is right, and so are its line numbers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from executor.dockerfile.directives import frontend_warnings, read_directives
from executor.dockerfile.flags import split_flags
from executor.dockerfile.heredocs import opened_heredocs, read_body
from executor.dockerfile.instructions import DockerfileWarning, Heredoc
from executor.dockerfile.json_form import parse_json_form
from executor.dockerfile.words import SPACE
from executor.errors import DockerfileError, Location

# what a Dockerfile may be at most; BuildKit takes no message above 4 MiB from its client
DOCKERFILE_LIMIT_BYTES = 4 * 1024 * 1024
# BuildKit's scanner refuses longer ones (bufio.MaxScanTokenSize less the line end)
LINE_LIMIT_BYTES = 65_535
INSTRUCTION_LIMIT = 20_000

# the code of the warning about a blank line in a continuation; its location ends before any here-document
EMPTY_CONTINUATION = "dockerfile-empty-continuation"

_SENTINEL = "\x01"
_KEYWORD_SPACE = "\t\v\f\r "
_HEREDOC_KEYWORDS = frozenset({"RUN", "COPY", "ADD"})


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """One instruction as text: its upper-cased keyword, what follows it, the whole, and its here-documents."""

    keyword: str
    rest: str
    text: str
    location: Location
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What `read` gives: the logical lines in order, and what the top of the file says."""

    lines: tuple[LogicalLine, ...]
    directives: Mapping[str, str]
    escape: str
    warnings: tuple[DockerfileWarning, ...]


@dataclass(frozen=True, slots=True)
class _Joined:
    start: int
    text_end: int
    end: int
    text: str
    heredocs: tuple[Heredoc, ...]
    blank_inside: bool


def read(text: bytes, file: str) -> Reading:
    """The logical lines of a Dockerfile; bytes that are not UTF-8 become surrogates (`surrogateescape`)."""
    physical = _physical_lines(text, file)
    directives = read_directives(physical, file)
    escape = directives["escape"].value if "escape" in directives else "\\"
    joined = {item.start: item for item in _join(physical, escape, file)}
    if len(joined) > INSTRUCTION_LIMIT:
        raise _too_large(f"more than {INSTRUCTION_LIMIT} instructions", file)
    if not joined:
        raise DockerfileError(
            "expected instructions, found none", location=Location(file, 1), hint="a Dockerfile begins with FROM"
        )
    lines = tuple(_logical_line(joined[start], value, file) for start, value in _structure(joined, len(physical)))
    blank = [
        DockerfileWarning(
            EMPTY_CONTINUATION,
            "blank line inside a continued instruction",
            Location(file, item.start + 1, item.text_end),
        )
        for item in joined.values()
        if item.blank_inside
    ]
    values = {name: directive.value for name, directive in directives.items()}
    return Reading(lines, values, escape, (*frontend_warnings(directives), *blank))


def _too_large(found: str, file: str, line: int = 1) -> DockerfileError:
    return DockerfileError(
        f"the Dockerfile is too large: {found}", code="dockerfile-too-large", location=Location(file, line)
    )


def _physical_lines(data: bytes, file: str) -> list[str]:
    """The lines with their ends; only a line feed ends one."""
    if len(data) > DOCKERFILE_LIMIT_BYTES:
        raise _too_large(f"expected at most {DOCKERFILE_LIMIT_BYTES} bytes, found {len(data)} or more", file)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DockerfileError(
            "expected UTF-8, found UTF-16", location=Location(file, 1), hint="save the file in the encoding UTF-8"
        )
    lines = list(io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")))
    for number, line in enumerate(lines, start=1):
        if len(line.rstrip(b"\n")) > LINE_LIMIT_BYTES:
            raise _too_large(f"line {number} has more than {LINE_LIMIT_BYTES} bytes", file, number)
    return [line.decode("utf-8", "surrogateescape") for line in lines]


def _continues(line: str, escape: str) -> bool:
    """Whether the line ends in one escape character (two are none), blanks behind it allowed."""
    bare = line.rstrip(" \t")
    return bare.endswith(escape) and not bare.endswith(escape * 2)


def _join(physical: Sequence[str], escape: str, file: str) -> Iterator[_Joined]:
    """The instructions with continuations, comments and here-documents taken in."""
    position = 0
    while position < len(physical):
        start = position
        line = physical[position].rstrip("\r\n").lstrip(SPACE)
        position += 1
        if not line or line.startswith("#"):
            continue
        parts = [line]
        blank_inside = False
        while _continues(parts[-1], escape):
            parts[-1] = parts[-1].rstrip(" \t")[:-1]
            following, position, blank = _next_content(physical, position)
            blank_inside = blank_inside or blank
            if following is None:
                break
            parts.append(following)
        text = "".join(parts)
        location = Location(file, start + 1, position)
        if "\0" in text:
            raise DockerfileError(
                "the instruction contains a NUL byte", location=location, hint="save the file as plain UTF-8 text"
            )
        heredocs: list[Heredoc] = []
        text_end = position
        for opened in _openers(text, location):
            heredoc, position = read_body(opened, physical, position, location)
            heredocs.append(heredoc)
        yield _Joined(start, text_end, position, text, tuple(heredocs), blank_inside)


def _next_content(physical: Sequence[str], position: int) -> tuple[str | None, int, bool]:
    """The next line inside a continuation that is neither comment nor blank, and whether blank ones were skipped."""
    blank = False
    while position < len(physical):
        line = physical[position].rstrip("\r\n")
        position += 1
        stripped = line.lstrip(SPACE)
        if stripped and not stripped.startswith("#"):
            return line, position, blank
        blank = blank or not stripped
    return None, position, blank


def _openers(text: str, location: Location) -> list[Heredoc]:
    """The here-documents of a logical line: of RUN, COPY and ADD, or ONBUILD of these, not in JSON form."""
    if "<<" not in text:
        return []
    keyword, rest = split_keyword(text)
    if keyword == "ONBUILD":
        keyword, rest = split_keyword(rest)
    if keyword not in _HEREDOC_KEYWORDS:
        return []
    _, arguments = split_flags(rest)
    if parse_json_form(arguments, location) is not None:
        return []
    return opened_heredocs(text)


def split_keyword(text: str) -> tuple[str, str]:
    """The upper-cased keyword of an instruction, and the rest without the blanks around it."""
    text = text.strip(SPACE)
    end = next((number for number, character in enumerate(text) if character in _KEYWORD_SPACE), len(text))
    return text[:end].upper(), text[end:].strip(SPACE)


def _structure(joined: Mapping[int, _Joined], total: int) -> Iterator[tuple[int, str]]:
    """Start line and value of each instruction, as dockerfile-parse reads the rewritten text."""
    from dockerfile_parse import DockerfileParser

    rewritten = "".join(f"{joined[number].text} {_SENTINEL}\n" if number in joined else "\n" for number in range(total))
    # a text stream: odd bytes have become surrogates, which a byte stream could not carry
    for item in DockerfileParser(fileobj=io.StringIO(rewritten, newline="\n"), env_replace=False).structure:
        yield item["startline"], f"{item['instruction']} {item['value'].removesuffix(_SENTINEL)}"


def _logical_line(item: _Joined, read_text: str, file: str) -> LogicalLine:
    keyword, rest = split_keyword(read_text)
    # dockerfile-parse ends a keyword at any Unicode space, BuildKit at ASCII blanks only
    if keyword != (own := split_keyword(item.text))[0]:
        keyword, rest = own
    return LogicalLine(keyword, rest, item.text.strip(SPACE), _place(item, file), item.heredocs)


def _place(item: _Joined, file: str) -> Location:
    return Location(file, item.start + 1, item.end)
