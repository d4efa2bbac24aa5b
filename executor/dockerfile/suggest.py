"""The nearest right word for a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(found: str, known: Iterable[str], *, prefix: str = "") -> str | None:
    """`did you mean X?` when one of `known` is near enough, else None; case does not count."""
    import difflib

    # matching costs the product of the lengths, and no known word is long
    if len(found) > 60:
        return None
    by_folded = {item.lower(): item for item in known}
    near = difflib.get_close_matches(found.lower(), by_folded, n=1, cutoff=0.6)
    return f"did you mean {prefix}{by_folded[near[0]]}?" if near else None
