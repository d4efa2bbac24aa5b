"""`.dockerignore` (moby/patternmatcher and its `ignorefile`): which files of a build context are left out.

A pattern becomes a regular expression whose every wildcard is settled for good once what stands behind it is found
(atomic groups), or, where `**` is glued to other characters, an automaton: no pattern can make matching explode.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from executor.context.ignore_patterns import Automaton, Part, bad_pattern, compile_parts, parse_parts
from executor.errors import ContextError

IGNORE_LIMIT_BYTES = 1024 * 1024
PATTERN_LIMIT = 10_000
IGNORE_NAME = ".dockerignore"


@dataclass(frozen=True, slots=True)
class IgnoreRule:
    """One pattern; `negated` is that of a leading `!`. `parts` is None for an irregular pattern."""

    negated: bool
    matcher: re.Pattern[str] | Automaton
    parts: tuple[Part, ...] | None

    def matches(self, path: str) -> bool:
        """Whether the pattern matches the cleaned path, or a directory above it."""
        return self.matcher.match(path) is not None

    def may_match_below(self, names: list[str]) -> bool:
        """Whether the pattern can match something below the directory with these names."""
        if self.parts is None:
            return True
        places = _spread(self.parts, {0})
        for name in names:
            places = _advance(self.parts, places, name)
        return any(place < len(self.parts) for place in places)


def _spread(parts: tuple[Part, ...], places: set[int]) -> set[int]:
    """`**` also stands for no directory at all, unless it is the last part: then it wants something below."""
    found = set(places)
    for place in places:
        while place < len(parts) - 1 and parts[place].any_depth:
            place += 1  # noqa: PLW2901
            found.add(place)
    return found


def _advance(parts: tuple[Part, ...], places: set[int], name: str) -> set[int]:
    found: set[int] = set()
    for place in places:
        if place < len(parts) and parts[place].any_depth:
            found.add(place)
        elif place < len(parts) and parts[place].regex.fullmatch(name):
            found.add(place + 1)
    return _spread(parts, found)


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of one ignore file, in order; the last that matches decides."""

    rules: tuple[IgnoreRule, ...] = ()

    @classmethod
    def parse(cls, text: str, file: str = IGNORE_NAME) -> IgnoreRules:
        """The rules of an ignore file's text; `ContextError` names the line of a bad pattern."""
        if len(text) > IGNORE_LIMIT_BYTES:
            raise ContextError(
                f"{file}: expected at most {IGNORE_LIMIT_BYTES} bytes, found more", code="ignore-file-too-large"
            )
        lines = text.removeprefix("\ufeff").split("\n")
        rules = [rule for number, line in enumerate(lines, start=1) if (rule := parse_line(line, f"{file}:{number}"))]
        if len(rules) > PATTERN_LIMIT:
            raise ContextError(f"{file}: expected at most {PATTERN_LIMIT} patterns", code="ignore-file-too-large")
        return cls(tuple(rules))

    @classmethod
    def from_patterns(cls, patterns: Iterable[str], where: str) -> IgnoreRules:
        """The same rules from single patterns, as COPY --exclude gives them; `where` is told in errors."""
        return cls(tuple(rule for pattern in patterns if (rule := parse_line(pattern, where))))

    def excludes(self, path: str) -> bool:
        """Whether the context-relative `path` is left out: by itself, or with a directory above it."""
        cleaned = _clean(path)
        if not cleaned:
            return False
        excluded = False
        for rule in self.rules:
            # only a rule of the other kind can change the verdict so far
            if rule.negated == excluded and rule.matches(cleaned):
                excluded = not excluded
        return excluded

    def may_descend(self, path: str) -> bool:
        """Whether anything below the directory `path` can be part of the context."""
        if not self.excludes(path):
            return True
        names = _clean(path).split("/")
        return any(rule.negated and rule.may_match_below(names) for rule in self.rules)


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path).lstrip("/")


def parse_line(line: str, where: str) -> IgnoreRule | None:
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
    if "\0" in pattern:
        raise bad_pattern(pattern, "it contains a NUL character", where)
    # like the root itself, a pattern that cleans to nothing matches nothing
    cleaned = posixpath.normpath(pattern).lstrip("/") or "."
    parts = parse_parts(cleaned, where)
    if parts is None:
        return IgnoreRule(negated, Automaton(cleaned, where), None)
    return IgnoreRule(negated, compile_parts(parts), parts)
