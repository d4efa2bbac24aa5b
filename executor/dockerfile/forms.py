"""The forms that arguments come in: list, JSON or shell, one text, pairs (BuildKit `parser/line_parsers.go`)."""

from __future__ import annotations

import re

from executor.dockerfile.instructions import ArgDefinition, CommandLine, KeyValue
from executor.dockerfile.json_form import parse_json_form
from executor.dockerfile.words import split_words
from executor.errors import DockerfileError, Location

_BLANKS = re.compile(r"[\t\v\f\r ]+")


def list_form(text: str) -> tuple[str, ...]:
    """Words split at blanks; quotes do not group here."""
    return tuple(_BLANKS.split(text)) if text else ()


def list_or_json(text: str, location: Location) -> tuple[str, ...]:
    """The strings of the JSON form, else the words of the list form."""
    strings = parse_json_form(text, location)
    return list_form(text) if strings is None else strings


def command_line(text: str, location: Location) -> CommandLine:
    """The JSON form's arguments, else the whole text for a shell."""
    strings = parse_json_form(text, location)
    if strings is not None:
        return CommandLine(strings, in_shell=False)
    return CommandLine((text,) if text else (), in_shell=True)


def pairs(text: str, escape: str, keyword: str, location: Location) -> tuple[KeyValue, ...]:
    """The pairs of ENV and LABEL: `key=value ...`, or the old form `key the rest`."""
    words = split_words(text, escape)
    if not words:
        raise DockerfileError(f"{keyword} requires at least one argument", location=location)
    if "=" not in words[0]:
        parts = _BLANKS.split(text, maxsplit=1)
        if len(parts) < 2:
            raise DockerfileError(
                f"{keyword} must have two arguments: expected {keyword} key=value, found {text[:80]!r}",
                location=location,
            )
        return (KeyValue(parts[0], parts[1], legacy=True),)
    found: list[KeyValue] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(
                f"{keyword}: expected name=value, found {word[:80]!r}",
                location=location,
                hint="a value with blanks must be quoted",
            )
        if not key:
            raise DockerfileError(f"{keyword}: a name before = must not be blank", location=location)
        found.append(KeyValue(key, value))
    return tuple(found)


def arg_definitions(text: str, escape: str, location: Location) -> tuple[ArgDefinition, ...]:
    """The names of an ARG with their defaults, still unexpanded."""
    found: list[ArgDefinition] = []
    for word in split_words(text, escape):
        name, equals, default = word.partition("=")
        if not name:
            raise DockerfileError("ARG: a name before = must not be blank", location=location)
        found.append(ArgDefinition(name, default if equals else None))
    if not found:
        raise DockerfileError("ARG requires at least one argument", location=location)
    return tuple(found)
