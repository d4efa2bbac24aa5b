"""Where two images differ, as a flat mapping from the place to both values."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from tests.support.image_contents import ImageContents, Inode, Tree, hard_links

# times of the builds themselves; others were given to files on purpose
_BUILD_TIMES = range(1_262_304_000, 4_102_444_800)  # 2010 to 2100

_CONFIG_FIELDS = (
    "Env",
    "Cmd",
    "Entrypoint",
    "User",
    "WorkingDir",
    "Labels",
    "ExposedPorts",
    "Volumes",
    "Shell",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
)
Differences = Mapping[str, tuple[Any, Any]]


def differences(theirs: ImageContents, ours: ImageContents) -> Differences:
    """Every difference of configuration, history, number of layers, and of the tree behind each layer."""
    found = {**_config(theirs.config, ours.config), **_history(theirs.config, ours.config)}
    if len(theirs.layers) != len(ours.layers):
        found["layers"] = (len(theirs.layers), len(ours.layers))
        return {**found, **_trees("tree", theirs.trees[-1], ours.trees[-1])}
    seen: set[tuple[str, Any, Any]] = set()
    for number, (their_tree, our_tree) in enumerate(zip(theirs.trees, ours.trees, strict=True)):
        for place, (left, right) in _trees("", their_tree, our_tree).items():
            # a difference lasts through the layers above; it is told where it begins
            if (place, left, right) not in seen:
                found[f"layer {number}{place}"] = (left, right)
                seen.add((place, left, right))
    return found


def _config(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    pairs: dict[str, tuple[Any, Any]] = {
        name: (theirs["config"].get(name) or None, ours["config"].get(name) or None) for name in _CONFIG_FIELDS
    }
    pairs |= {name: (theirs.get(name), ours.get(name)) for name in ("architecture", "os", "author")}
    return {f"config {name}": pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _history(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    lines = [
        [
            (item.get("created_by"), item.get("comment"), item.get("empty_layer", False))
            for item in config.get("history") or []
        ]
        for config in (theirs, ours)
    ]
    pairs = enumerate(zip_longest(*lines))
    return {
        f"history {number}": (list(left) if left else None, list(right) if right else None)
        for number, (left, right) in pairs
        if left != right
    }


def _trees(prefix: str, theirs: Tree, ours: Tree) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for path in sorted({*theirs, *ours}):
        left, right = theirs.get(path), ours.get(path)
        shown = ascii(path)[1:-1]
        if left is None or right is None:
            found[f"{prefix} /{shown}"] = (_presence(left), _presence(right))
            continue
        found |= {f"{prefix} /{shown} {name}": pair for name, pair in _inodes(left, right)}
    left_links, right_links = hard_links(theirs), hard_links(ours)
    for path in sorted({*left_links, *right_links}):
        if left_links.get(path) != right_links.get(path):
            found[f"{prefix} /{ascii(path)[1:-1]} hard links"] = (left_links.get(path), right_links.get(path))
    return found


def _presence(inode: Inode | None) -> str | None:
    return oct(inode.mode) if inode else None


def _inodes(left: Inode, right: Inode) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if left.mode != right.mode:
        yield "mode", (oct(left.mode), oct(right.mode))
    for name in ("uid", "gid", "size", "link", "content", "capability"):
        pair = (getattr(left, name), getattr(right, name))
        if pair[0] != pair[1]:
            yield name, pair
    times = (math.floor(left.mtime), math.floor(right.mtime))
    if (
        stat.S_IFMT(left.mode) == stat.S_IFMT(right.mode)
        and times[0] != times[1]
        and not all(time in _BUILD_TIMES for time in times)
    ):
        yield "mtime", times
