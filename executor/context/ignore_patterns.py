"""The patterns of ignore files: `*`, `?`, `[...]`, `\\x` within a name, `**` for any number of directories.

The meaning is that of moby/patternmatcher: `**` alone between slashes is any depth, none included; glued to other
characters it still stands for whole directories (`a**b` is `ab` or `a…/b`), but `**name` at the beginning is any path
that ends so, and `name**` at the end any that begins so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from executor.errors import ContextError

PATTERN_LIMIT_CHARACTERS = 4096

_STAR = "*"
_DIRECTORIES = "**"
_EVERYTHING = ".*"


def bad_pattern(text: str, fault: str, where: str) -> ContextError:
    return ContextError(f"{where}: bad pattern {text[:80]!r}: {fault}", code="ignore-pattern")


@dataclass(frozen=True, slots=True)
class Unit:
    """One element: one character as a regular expression, or a wildcard of any length."""

    regex: str = ""
    wildcard: str = ""


@dataclass(frozen=True)
class Part:
    """What stands between two slashes; without units it is `**`."""

    units: tuple[Unit, ...]

    @property
    def any_depth(self) -> bool:
        return not self.units

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(_part_regex(self.units), re.DOTALL)


def parse_parts(pattern: str, where: str) -> tuple[Part, ...] | None:
    """The parts of a cleaned pattern; None when `**` is glued to something else."""
    if len(pattern) > PATTERN_LIMIT_CHARACTERS:
        raise bad_pattern(pattern, f"it has more than {PATTERN_LIMIT_CHARACTERS} characters", where)
    parts: list[Part] = []
    for units in _split(parse_units(pattern, where)):
        wildcards = [unit.wildcard for unit in units]
        if wildcards == [_DIRECTORIES]:
            # `**/**` is no more than `**`
            if not parts or not parts[-1].any_depth:
                parts.append(Part(()))
        elif _DIRECTORIES in wildcards:
            return None
        else:
            parts.append(Part(tuple(units)))
    return tuple(parts)


def _split(units: Iterable[Unit]) -> list[list[Unit]]:
    found: list[list[Unit]] = [[]]
    for unit in units:
        if unit.regex == "/":
            found.append([])
        else:
            found[-1].append(unit)
    return found


def parse_units(pattern: str, where: str) -> list[Unit]:
    """The elements of a pattern, slashes included."""
    units: list[Unit] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            double = pattern.startswith("*", position)
            position += double
            wildcard = _DIRECTORIES if double else _STAR
            if not units or units[-1].wildcard != wildcard:
                units.append(Unit(wildcard=wildcard))
        elif character == "?":
            units.append(Unit("[^/]"))
        elif character == "[":
            regex, position = _class(pattern, position, where)
            units.append(Unit(regex))
        elif character == "\\":
            if position == len(pattern):
                raise bad_pattern(pattern, "a backslash at its end", where)
            units.append(Unit(re.escape(pattern[position])))
            position += 1
        else:
            units.append(Unit(re.escape(character)))
    return units


def _class(pattern: str, position: int, where: str) -> tuple[str, int]:
    """A bracket expression of Go's `filepath.Match`: `^` negates, and `-` and `]` must be escaped in it."""
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while not ranges or not pattern.startswith("]", position):
        low, position = _class_character(pattern, position, where)
        high = low
        if pattern.startswith("-", position):
            high, position = _class_character(pattern, position + 1, where)
        if high < low:
            raise bad_pattern(pattern, f"the range {low}-{high} counts downwards", where)
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"(?!/)[{'^' if negated else ''}{''.join(ranges)}]", position + 1


def _class_character(pattern: str, position: int, where: str) -> tuple[str, int]:
    escaped = pattern.startswith("\\", position)
    position += escaped
    if position >= len(pattern) or (not escaped and pattern[position] in "-]"):
        raise bad_pattern(pattern, "'[' without a proper list of characters and ']' behind it", where)
    return pattern[position], position + 1


def _part_regex(units: Sequence[Unit]) -> str:
    """One name. Each `*` but the last ends at the first place where what stands behind it fits, and stays there."""
    chunks = [""]
    for unit in units:
        if unit.wildcard:
            chunks.append("")
        else:
            chunks[-1] += unit.regex
    if len(chunks) == 1:
        return chunks[0]
    middle = "".join(f"(?>[^/]*?{chunk})" for chunk in chunks[1:-1])
    return f"{chunks[0]}{middle}[^/]*{chunks[-1]}(?![^/])"


def compile_parts(parts: Sequence[Part]) -> re.Pattern[str]:
    """A regular expression that matches a path, or a directory above it, from its beginning.

    Each `**` but the last ends, like each `*`, at the first place where the names behind it fit.
    """
    groups: list[list[str]] = [[]]
    for part in parts:
        if part.any_depth:
            groups.append([])
        else:
            groups[-1].append(_part_regex(part.units))
    if len(groups) == 1:
        return re.compile("/".join(groups[0]) + "(?![^/])", re.DOTALL)
    first = "".join(f"{name}/" for name in groups[0])
    middle = "".join(f"(?>(?:[^/]*/)*?{'/'.join(names)}/)" for names in groups[1:-1])
    # a `**` at the end is whatever lies below
    last = f"(?:[^/]*/)*?{'/'.join(groups[-1])}(?![^/])" if groups[-1] else "[^/]"
    return re.compile(first + middle + last, re.DOTALL)


class Automaton:
    """An irregular pattern, run over a path with a set of places in the pattern."""

    def __init__(self, pattern: str, where: str) -> None:
        self._steps = _irregular_steps(parse_units(pattern, where))

    def match(self, path: str) -> bool | None:
        """True when the pattern matches the path or a directory above it, else None (as a regex would)."""
        places = self._spread({0})
        for character in path:
            if character == "/" and len(self._steps) in places:
                return True
            places = self._spread(self._advance(places, character))
            if not places:
                return None
        return True if len(self._steps) in places else None

    def _spread(self, places: set[int]) -> set[int]:
        found = set(places)
        for place in sorted(places):
            following = place
            # a wildcard may stand for nothing, but one that is inside a directory's name must first see its slash
            while following < len(self._steps) and self._steps[following].wildcard in {
                _STAR,
                _EVERYTHING,
                _DIRECTORIES,
            }:
                following += 2 if self._steps[following].wildcard == _DIRECTORIES else 1
                found.add(following)
        return found

    def _advance(self, places: set[int], character: str) -> set[int]:
        found: set[int] = set()
        for place in places:
            if place == len(self._steps):
                continue
            step = self._steps[place]
            if step.wildcard == _DIRECTORIES:
                found.add(place + 1)
                if character == "/":
                    found.add(place + 2)
            elif step.wildcard == _INSIDE:
                found.add(place)
                if character == "/":
                    found.add(place + 1)
            elif step.wildcard:
                if step.wildcard == _EVERYTHING or character != "/":
                    found.add(place)
            elif re.fullmatch(step.regex, character, re.DOTALL):
                found.add(place + 1)
        return found


_INSIDE = "**/"


def _irregular_steps(units: Sequence[Unit]) -> tuple[Unit, ...]:
    """The units with each `**` as two places: before it, and inside it until a slash."""
    plain = not any(unit.wildcard or unit.regex.startswith(("[", "(?")) for unit in units[1:])
    steps: list[Unit] = []
    for number, unit in enumerate(units):
        if unit.wildcard != _DIRECTORIES:
            # a slash behind `**` belongs to it
            if not (unit.regex == "/" and number and units[number - 1].wildcard == _DIRECTORIES):
                steps.append(unit)
        elif number == len(units) - 1 or (number == 0 and plain):
            steps.append(Unit(wildcard=_EVERYTHING))
        else:
            steps += [unit, Unit(wildcard=_INSIDE)]
    return tuple(steps)
