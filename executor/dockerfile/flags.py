"""Flags of instructions: `--name=value` right behind the keyword (BuildKit `split_command.go`, `bflag.go`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from executor.dockerfile.suggest import did_you_mean
from executor.dockerfile.words import SPACE
from executor.errors import DockerfileError, Location

FlagKind = Literal["text", "texts", "switch"]


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags given to one instruction, checked against those it knows."""

    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    switches: Mapping[str, bool] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.texts.get(name, ("",))[-1]

    def all(self, name: str) -> tuple[str, ...]:
        return self.texts.get(name, ())

    def switch(self, name: str) -> bool:
        return self.switches.get(name, False)


def split_flags(rest: str) -> tuple[list[str], str]:
    """The leading words that begin with `--`, quotes and escapes removed, and the arguments behind them.

    A bare `--` ends the flags. Backslash escapes here, whatever the escape directive says.
    """
    flags: list[str] = []
    position = 0
    while True:
        while position < len(rest) and rest[position] in SPACE:
            position += 1
        if not rest.startswith("--", position):
            return flags, rest[position:].strip(SPACE)
        word, position = _flag_word(rest, position)
        if word == "--":
            return flags, rest[position:].strip(SPACE)
        flags.append(word)


def _flag_word(rest: str, position: int) -> tuple[str, int]:
    word: list[str] = []
    quote = ""
    while position < len(rest):
        character = rest[position]
        if not quote and character in SPACE:
            break
        position += 1
        if character == quote:
            quote = ""
        elif not quote and character in {"'", '"'}:
            quote = character
        elif character == "\\":
            word.append(rest[position : position + 1])
            position += 1
        else:
            word.append(character)
    return "".join(word), min(position, len(rest))


def parse_flags(words: list[str], known: Mapping[str, FlagKind], keyword: str, location: Location) -> Flags:
    """The flags of one instruction; unknown, repeated and malformed ones are errors."""
    texts: dict[str, list[str]] = {}
    switches: dict[str, bool] = {}
    for word in words:
        name, equals, value = word[2:].partition("=")
        kind = known.get(name)
        if kind is None:
            _refuse_unknown(name, known, keyword, location)
        if kind != "texts" and (name in texts or name in switches):
            raise DockerfileError(f"{keyword}: flag --{name} is given twice", location=location)
        if kind == "switch":
            switches[name] = _switch(name, equals, value, keyword, location)
        elif not equals:
            raise DockerfileError(
                f"{keyword}: missing a value on flag --{name}: expected --{name}=value", location=location
            )
        else:
            texts.setdefault(name, []).append(value)
    return Flags({name: tuple(values) for name, values in texts.items()}, switches)


def _refuse_unknown(name: str, known: Mapping[str, FlagKind], keyword: str, location: Location) -> None:
    shown = ", ".join(f"--{item}" for item in sorted(known)) or "none"
    raise DockerfileError(
        f"{keyword}: unknown flag --{name[:60]}",
        location=location,
        hint=did_you_mean(name, known, prefix="--") or f"{keyword} knows: {shown}",
    )


def _switch(name: str, equals: str, value: str, keyword: str, location: Location) -> bool:
    if not equals:
        return True
    if value.lower() not in {"true", "false"}:
        raise DockerfileError(
            f"{keyword}: flag --{name}: expected true or false, found {value[:60]!r}", location=location
        )
    return value.lower() == "true"
