"""The shell patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and escapes, nothing else (shell/lex.go).

Matched without a backtracking regular expression, so that a hostile pattern costs at most pattern times value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Token:
    """`kind` is `text`, `any` (one character) or `run` (any number of them)."""

    kind: str
    text: str = ""


# pattern length times value length, above which a substitution is refused
WORK_LIMIT = 50_000_000


class PatternError(ValueError):
    """A pattern that is not understood, or too costly."""


def _tokens(pattern: str) -> list[_Token]:
    found: list[_Token] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            if not found or found[-1].kind != "run":
                found.append(_Token("run"))
        elif character == "?":
            found.append(_Token("any"))
        elif character == "\\":
            following = pattern[position : position + 1]
            # `}` and `/` are escaped for the sake of the enclosing ${...}
            if following not in {"*", "?", "\\", "}", "/"} or not following:
                raise PatternError(f"invalid escape '\\{following}' in pattern")
            position += 1
            found.append(_Token("text", following))
        else:
            found.append(_Token("text", character))
    return found


def _step(tokens: list[_Token], states: set[int], character: str) -> set[int]:
    following: set[int] = set()
    for state in states:
        if state == len(tokens):
            continue
        token = tokens[state]
        # Go's `.` does not match a newline
        if token.kind == "run" and character != "\n":
            following.add(state)
        elif (token.kind == "any" and character != "\n") or (token.kind == "text" and token.text == character):
            following.add(state + 1)
    return following


def _closure(tokens: list[_Token], states: set[int]) -> set[int]:
    return states | {state + 1 for state in states if state < len(tokens) and tokens[state].kind == "run"}


def _prefix_length(tokens: list[_Token], value: str, start: int, longest: bool) -> int | None:
    """How many characters from `start` match the whole pattern, or None."""
    states = _closure(tokens, {0})
    best = 0 if len(tokens) in states else None
    if best is not None and not longest:
        return best
    for offset in range(start, len(value)):
        states = _closure(tokens, _step(tokens, states, value[offset]))
        if not states:
            break
        if len(tokens) in states:
            best = offset + 1 - start
            if not longest:
                break
    return best


def _check_work(tokens: list[_Token], value: str, times: int = 1) -> None:
    if (len(tokens) + 1) * len(value) * times > WORK_LIMIT:
        raise PatternError("pattern and value are too long")


def trim_prefix(pattern: str, value: str, longest: bool) -> str:
    """`value` without the shortest or longest prefix that matches."""
    tokens = _tokens(pattern)
    _check_work(tokens, value)
    length = _prefix_length(tokens, value, 0, longest)
    return value if length is None else value[length:]


def trim_suffix(pattern: str, value: str, longest: bool) -> str:
    """`value` without the shortest or longest suffix that matches."""
    tokens = _tokens(pattern)[::-1]
    _check_work(tokens, value)
    length = _prefix_length(tokens, value[::-1], 0, longest)
    return value if length is None else value[: len(value) - length]


def replace(pattern: str, value: str, replacement: str, every: bool) -> str:
    """The leftmost longest match of `pattern`, or every one, replaced.

    With `every`, `$1`, `${name}` and `$$` in the replacement mean what they mean to Go's regexp.ReplaceAllString:
    there are no groups, so all but `$0` are empty, and `$$` is `$`.
    """
    tokens = _tokens(pattern)
    pieces: list[str] = []
    position = 0
    copied = 0
    budget = WORK_LIMIT
    previous_end = -1
    while position <= len(value):
        length = _prefix_length(tokens, value, position, longest=True)
        budget -= (len(tokens) + 1) * max(length or 0, 1)
        if length is None and tokens and tokens[0].kind == "run":
            budget -= (len(tokens) + 1) * (len(value) - position)
        if budget < 0:
            raise PatternError("pattern and value are too long")
        # an empty match right behind the previous one is none (Go regexp)
        if length is None or (length == 0 and position == previous_end):
            position += 1
            continue
        matched = value[position : position + length]
        pieces += [value[copied:position], _template(replacement, matched) if every else replacement]
        copied = position = previous_end = position + length
        if not every:
            break
        if length == 0:
            position += 1
    return "".join([*pieces, value[copied:]])


_TEMPLATE = re.compile(r"\$(?:(\$)|\{([0-9A-Za-z_]+)\}|([0-9A-Za-z_]+))")


def _template(replacement: str, matched: str) -> str:
    def substitute(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        name = found[2] or found[3]
        return matched if name.isdigit() and int(name[:9]) == 0 else ""

    return _TEMPLATE.sub(substitute, replacement)
