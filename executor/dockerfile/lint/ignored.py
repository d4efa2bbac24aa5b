"""COPY sources that the ignore file keeps out of the context (BuildKit `validations.go`, validateCopySourcePath)."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from executor.context.ignore import IgnoreRule, IgnoreRules

_STAR = "*"


def ignored_sources(rules: IgnoreRules, sources: Iterable[str]) -> Iterator[str]:
    """The sources, cleaned, that are left out; none where a `!` makes it hard to say, as in BuildKit.

    BuildKit overlooks sources with a leading slash; they are left out just the same.
    """
    if any(rule.negated for rule in rules.rules):
        return
    for source in sources:
        if _is_remote(source):
            continue
        path = posixpath.normpath(source)
        # the context itself is no file that could be left out, except when everything is
        if path.strip("/") in {"", "."}:
            excluded = any(_is_everything(rule) for rule in rules.rules)
        else:
            excluded = rules.excludes(path)
        if excluded:
            yield path


def _is_everything(rule: IgnoreRule) -> bool:
    """`*`, `**` or `**/*`."""
    if rule.parts is None or not rule.parts:
        return False
    *directories, last = rule.parts
    stars = last.any_depth or [unit.wildcard for unit in last.units] == [_STAR]
    return stars and all(part.any_depth for part in directories)


def _is_remote(source: str) -> bool:
    return source.startswith(("http://", "https://", "git://", "git@", "ssh://"))
