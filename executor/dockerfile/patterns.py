"""The shell patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and escapes, nothing else (shell/lex.go).

A pattern is run as an automaton whose states are the bits of one integer: no backtracking, so that a hostile pattern
costs no more than the length of the value times the words its states fill.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PATTERN_LIMIT_TOKENS = 4096

ANY = "?"
RUN = "*"


class PatternError(ValueError):
    """A pattern that is not understood, or too long; or a result that is too long."""


def _tokens(pattern: str) -> list[tuple[str, str]]:
    """Pairs of a kind (`ANY`, `RUN` or empty for a literal) and the literal character; runs of `*` become one."""
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character in {ANY, RUN}:
            if character == ANY or not found or found[-1][0] != RUN:
                found.append((character, ""))
            continue
        if character == "\\":
            character = pattern[position : position + 1]
            # `}` and `/` are escaped for the sake of the enclosing ${...}
            if not character or character not in "*?\\}/":
                raise PatternError(
                    f"invalid escape '\\{character}' in a pattern: expected one of \\* \\? \\\\ \\/ \\}}"
                )
            position += 1
        found.append(("", character))
    if len(found) > PATTERN_LIMIT_TOKENS:
        raise PatternError(f"a pattern has more than {PATTERN_LIMIT_TOKENS} characters")
    return found


class _Automaton:
    """The states of a pattern as bits: bit n is set when the first n tokens have matched."""

    def __init__(self, tokens: Sequence[tuple[str, str]]) -> None:
        self._literals: dict[str, int] = {}
        self._any = 0
        self._runs = 0
        for number, (kind, character) in enumerate(tokens):
            bit = 1 << number
            if kind == RUN:
                self._runs |= bit
            elif kind == ANY:
                self._any |= bit
            else:
                self._literals[character] = self._literals.get(character, 0) | bit
        self.accept = 1 << len(tokens)
        self.start = self._close(1)

    def _close(self, states: int) -> int:
        return states | (states & self._runs) << 1

    def step(self, states: int, character: str) -> int:
        literals = self._literals.get(character, 0)
        # the wildcards are Go's `.`, which is not a newline
        if character == "\n":
            return self._close((states & literals) << 1)
        return self._close((states & (literals | self._any)) << 1 | states & self._runs)

    def prefix_length(self, value: str, start: int, longest: bool) -> int | None:
        """How many characters from `start` on the whole pattern matches, or None."""
        states = self.start
        best = 0 if states & self.accept else None
        for position in range(start, len(value)):
            if not states or (best is not None and not longest):
                break
            states = self.step(states, value[position])
            if states & self.accept:
                best = position + 1 - start
        return best


def trim_prefix(pattern: str, value: str, longest: bool) -> str:
    """`value` without the shortest or longest prefix that matches."""
    length = _Automaton(_tokens(pattern)).prefix_length(value, 0, longest)
    return value[length or 0 :]


def trim_suffix(pattern: str, value: str, longest: bool) -> str:
    """`value` without the shortest or longest suffix that matches."""
    length = _Automaton(_tokens(pattern)[::-1]).prefix_length(value[::-1], 0, longest)
    return value[: len(value) - (length or 0)]


def _match_starts(tokens: Sequence[tuple[str, str]], value: str) -> list[int]:
    """Where in `value` a match can begin: the reversed pattern, run backwards from every end at once."""
    backwards = _Automaton(tokens[::-1])
    states = backwards.start
    starts = [len(value)] if states & backwards.accept else []
    for position in range(len(value) - 1, -1, -1):
        states = backwards.step(states, value[position]) | backwards.start
        if states & backwards.accept:
            starts.append(position)
    return starts[::-1]


def replace(pattern: str, value: str, replacement: str, every: bool, limit: int) -> str:
    """The leftmost longest match of `pattern`, or every one, replaced; `PatternError` above `limit` characters.

    With `every`, `$1`, `${name}` and `$$` in the replacement mean what they mean to Go's regexp.ReplaceAllString:
    there are no groups, so `$0` is the match, `$$` is `$` and every other name is empty.
    """
    tokens = _tokens(pattern)
    forwards = _Automaton(tokens)
    pieces: list[str] = []
    copied, size, previous_end = 0, len(value), -1
    for start in _match_starts(tokens, value):
        if start < copied:
            continue
        length = forwards.prefix_length(value, start, longest=True) or 0
        # an empty match right behind the one before is none (Go regexp)
        if length == 0 and start == previous_end:
            continue
        text = _fill(replacement, value[start : start + length]) if every else replacement
        size += len(text) - length
        if size > limit:
            raise PatternError(f"it expands to more than {limit} characters")
        pieces += [value[copied:start], text]
        copied = previous_end = start + length
        if not every:
            break
    return "".join([*pieces, value[copied:]])


_TEMPLATE = re.compile(r"\$(?:(\$)|\{([0-9A-Za-z_]+)\}|([0-9A-Za-z_]+))")


def _fill(replacement: str, matched: str) -> str:
    def substitute(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        return matched if (found[2] or found[3]) == "0" else ""

    return _TEMPLATE.sub(substitute, replacement)
