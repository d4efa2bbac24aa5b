"""The nearest name to a misspelt one, as BuildKit suggests it (`util/suggest`): at most two edits away."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

_TOO_FAR = 3
# a stage has tens of variables; whoever writes thousands does not wait for suggestions
CANDIDATES_LIMIT = 128


def nearest(found: str, known: Iterable[str]) -> str:
    """The first of the nearest of `known`, or nothing."""
    best, best_distance = "", _TOO_FAR
    for name in islice(known, CANDIDATES_LIMIT):
        # the difference in length is a lower bound, and sorts out nearly everything
        if abs(len(name) - len(found)) < best_distance:
            distance = _distance(found, name, best_distance)
            if distance < best_distance:
                best, best_distance = name, distance
    return best


def _distance(first: str, second: str, limit: int) -> int:
    """Insertions, removals and replacements from one to the other; `limit` stands for anything from it upwards.

    Only the cells near the diagonal are looked at, so that long names cost their length and not its square.
    """
    if abs(len(first) - len(second)) >= limit:
        return limit
    row = {column: column for column in range(min(limit, len(second)) + 1)}
    for number, character in enumerate(first, start=1):
        following: dict[int, int] = {}
        for column in range(max(0, number - limit), min(len(second), number + limit) + 1):
            options = [row.get(column, limit) + 1]
            if column:
                options += [
                    following.get(column - 1, limit) + 1,
                    row.get(column - 1, limit) + (second[column - 1] != character),
                ]
            following[column] = min(limit, *options)
        if min(following.values()) >= limit:
            return limit
        row = following
    return row.get(len(second), limit)
