"""`.dockerignore` (moby/patternmatcher): which files of a build context are left out.

A pattern is cut at `/`; parts are matched without backtracking, and `**` by walking the set of places in the pattern
that the path can have reached. So matching costs at most pattern times path, whatever the pattern.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

from executor.errors import ContextError

IGNORE_LIMIT_BYTES = 1024 * 1024
PATTERN_LIMIT = 10_000
IGNORE_NAME = ".dockerignore"


@dataclass(frozen=True, slots=True)
class _Unit:
    """One element of a part: a run of any characters, or one character among `ranges` (all when None)."""

    run: bool = False
    ranges: tuple[tuple[str, str], ...] | None = None
    negated: bool = False

    def accepts(self, character: str) -> bool:
        if self.ranges is None:
            return True
        return any(low <= character <= high for low, high in self.ranges) != self.negated


_RUN = _Unit(run=True)


@dataclass(frozen=True, slots=True)
class _Part:
    """What stands between two slashes; `units` None is `**`. `literal` spares the matching where there is no wildcard."""

    units: tuple[_Unit, ...] | None
    literal: str | None = None

    def matches(self, name: str) -> bool:
        if self.literal is not None:
            return name == self.literal
        return self.units is None or _match_units(self.units, name)


@dataclass(frozen=True, slots=True)
class _Rule:
    parts: tuple[_Part, ...]
    negated: bool

    def matches_or_is_above(self, names: list[str]) -> bool:
        """Whether the pattern matches the path or a directory above it."""
        states = _spread(self.parts, {0})
        for name in names:
            states = _advance(self.parts, states, name)
            if len(self.parts) in states:
                return True
            if not states:
                return False
        return False

    def may_match_below(self, names: list[str]) -> bool:
        """Whether the pattern can match something below the directory."""
        states = _spread(self.parts, {0})
        for name in names:
            states = _advance(self.parts, states, name)
        return bool(states)


def _spread(parts: tuple[_Part, ...], states: set[int]) -> set[int]:
    """`**` also stands for no directory at all, unless it is the last part: then it wants something below."""
    found = set(states)
    for state in sorted(states):
        place = state
        while place < len(parts) - 1 and parts[place].units is None:
            place += 1
            found.add(place)
    return found


def _advance(parts: tuple[_Part, ...], states: set[int], name: str) -> set[int]:
    found: set[int] = set()
    for state in states:
        if state == len(parts):
            continue
        part = parts[state]
        if part.units is None and part.literal is None:
            found.add(state)
            if state == len(parts) - 1:
                found.add(state + 1)
        elif part.matches(name):
            found.add(state + 1)
    return _spread(parts, found)


def _match_units(units: tuple[_Unit, ...], name: str) -> bool:
    """Wildcard matching that only ever goes back to the last `*`."""
    position = unit = 0
    mark = resume = -1
    while position < len(name):
        if unit < len(units) and not units[unit].run and units[unit].accepts(name[position]):
            position, unit = position + 1, unit + 1
        elif unit < len(units) and units[unit].run:
            mark, resume = unit, position
            unit += 1
        elif mark >= 0:
            resume += 1
            position, unit = resume, mark + 1
        else:
            return False
    return all(item.run for item in units[unit:])


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of one ignore file, in order; the last that matches decides."""

    rules: tuple[_Rule, ...] = ()

    @classmethod
    def parse(cls, text: str, file: str = IGNORE_NAME) -> IgnoreRules:
        """The rules of an ignore file's text; `ContextError` names the line of a bad pattern."""
        if len(text) > IGNORE_LIMIT_BYTES:
            raise ContextError(
                f"{file}: expected at most {IGNORE_LIMIT_BYTES} bytes, found more", code="ignore-file-too-large"
            )
        lines = text.removeprefix("\ufeff").split("\n")
        rules = [rule for number, line in enumerate(lines, start=1) if (rule := _parse_line(line, f"{file}:{number}"))]
        if len(rules) > PATTERN_LIMIT:
            raise ContextError(f"{file}: expected at most {PATTERN_LIMIT} patterns", code="ignore-file-too-large")
        return cls(tuple(rules))

    @classmethod
    def from_patterns(cls, patterns: Iterable[str], where: str) -> IgnoreRules:
        """The same rules from single patterns, as COPY --exclude gives them."""
        return cls(tuple(rule for pattern in patterns if (rule := _parse_line(pattern, where))))

    def excludes(self, path: str) -> bool:
        """Whether the context-relative `path` is left out: by itself, or with a directory above it."""
        names = _names(path)
        excluded = False
        for rule in self.rules:
            # a rule of the other kind than the present verdict is the only one that can change it
            if rule.negated == excluded and rule.matches_or_is_above(names):
                excluded = not excluded
        return excluded

    def may_descend(self, path: str) -> bool:
        """Whether anything below the directory `path` can be part of the context."""
        if not self.excludes(path):
            return True
        names = _names(path)
        return any(rule.negated and rule.may_match_below(names) for rule in self.rules)


def _names(path: str) -> list[str]:
    cleaned = posixpath.normpath("/" + path).lstrip("/")
    return cleaned.split("/") if cleaned else []


def _parse_line(line: str, where: str) -> _Rule | None:
    """One rule, or None for a comment or blank line; only a `#` in the first column begins a comment."""
    if line.startswith("#"):
        return None
    pattern = line.strip()
    negated = pattern.startswith("!")
    if negated:
        pattern = pattern[1:].strip()
        if not pattern:
            raise ContextError(
                f"{where}: expected a pattern behind '!', found nothing", code="ignore-pattern", hint="remove the line"
            )
    if not pattern:
        return None
    cleaned = posixpath.normpath(pattern)
    # normpath keeps two leading slashes, which POSIX lets mean something
    cleaned = cleaned.lstrip("/") if cleaned.strip("/") else "."
    return _Rule(tuple(_parse_part(part, where) for part in cleaned.split("/")), negated)


def _parse_part(text: str, where: str) -> _Part:
    if text == "**":
        return _Part(None)
    units: list[_Unit] = []
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "*":
            if not units or not units[-1].run:
                units.append(_RUN)
        elif character == "?":
            units.append(_Unit())
        elif character == "[":
            unit, position = _parse_class(text, position, where)
            units.append(unit)
        else:
            if character == "\\":
                if position == len(text):
                    raise _bad_pattern(text, "a backslash at its end", where)
                character = text[position]
                position += 1
            units.append(_Unit(ranges=((character, character),)))
    plain = [unit.ranges[0][0] for unit in units if unit.ranges and not unit.negated and _is_single(unit)]
    return _Part(tuple(units), "".join(plain) if len(plain) == len(units) else None)


def _is_single(unit: _Unit) -> bool:
    return unit.ranges is not None and len(unit.ranges) == 1 and unit.ranges[0][0] == unit.ranges[0][1]


def _parse_class(text: str, position: int, where: str) -> tuple[_Unit, int]:
    negated = text[position : position + 1] == "^"
    position += negated
    ranges: list[tuple[str, str]] = []
    while position < len(text) and (text[position] != "]" or not ranges):
        low, position = _class_character(text, position, where)
        high = low
        if text[position : position + 1] == "-" and text[position + 1 : position + 2] not in {"]", ""}:
            high, position = _class_character(text, position + 1, where)
        if high < low:
            raise _bad_pattern(text, f"the range {low}-{high} counts downwards", where)
        ranges.append((low, high))
    if position >= len(text):
        raise _bad_pattern(text, "'[' without ']'", where)
    return _Unit(ranges=tuple(ranges), negated=negated), position + 1


def _class_character(text: str, position: int, where: str) -> tuple[str, int]:
    if text[position] == "\\":
        position += 1
        if position >= len(text):
            raise _bad_pattern(text, "a backslash at its end", where)
    return text[position], position + 1


def _bad_pattern(text: str, fault: str, where: str) -> ContextError:
    return ContextError(f"{where}: bad pattern {text[:80]!r}: {fault}", code="ignore-pattern")
