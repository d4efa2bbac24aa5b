"""What the query and the fragment of a git URL say (BuildKit `dfgitutil/git_ref.go`, `gitutil/git_url.go`)."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from executor.dockerfile.mountvalues import parse_truth
from executor.dockerfile.suggest import did_you_mean
from executor.errors import DockerfileError, Location

_KEYS = ("ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir", "submodules")
_SWITCHES = frozenset({"keep-git-dir", "submodules"})
_COMMIT = re.compile(r"[0-9a-f]{1,64}")
# git-check-ref-format(1); what begins with a dash could be taken for an option
_REF_FORBIDDEN = re.compile(r"^[-/]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|[/.]$")
_REF_LIMIT_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class GitOptions:
    """Which commit of a repository, and what of it; `keep_git_dir` is None when the URL does not say."""

    ref: str = ""
    subdir: str = ""
    commit: str = ""
    keep_git_dir: bool | None = None
    submodules: bool = True


def git_options(fragment: str, query: str, location: Location) -> GitOptions:
    """The options of a URL: a fragment `ref:subdir`, decoded, and a query, which is not."""
    ref, _, subdir = fragment.partition(":")
    given = _parse_query(query, location)
    ref = _agreed("ref", ref, given.get("ref", ""), location)
    tag, branch = given.get("tag", ""), given.get("branch", "")
    if tag and branch:
        raise _error("branch contradicts tag", location, "keep one of them")
    if tag:
        ref = _agreed("ref", ref, _full(tag, "refs/tags/"), location)
    if branch:
        ref = _agreed("ref", ref, _full(branch, "refs/heads/"), location)
    commit = _agreed("checksum", given.get("checksum", ""), given.get("commit", ""), location)
    if commit and not _COMMIT.fullmatch(commit):
        raise _error(f"checksum: expected hexadecimal digits, found {commit[:60]!r}", location, "write a commit's name")
    ref = ref or commit
    if len(ref) > _REF_LIMIT_CHARACTERS or _REF_FORBIDDEN.search(ref):
        raise _error(f"expected the name of a branch or tag, found {ref[:60]!r}", location, "see git-check-ref-format")
    keep = given.get("keep-git-dir")
    return GitOptions(
        ref=ref,
        subdir=_inside(_agreed("subdir", subdir, given.get("subdir", ""), location), location),
        commit=commit,
        keep_git_dir=None if keep is None else _truth("keep-git-dir", keep, location),
        submodules=_truth("submodules", given.get("submodules", ""), location),
    )


def _parse_query(query: str, location: Location) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=100)
    except ValueError as error:
        raise _error("the query has too many parts", location, f"known are {', '.join(_KEYS)}") from error
    for key, value in pairs:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f"known are {', '.join(_KEYS)}"
            raise _error(f"unknown query {key[:60]!r}", location, hint)
        if key in found:
            raise _error(f"query {key} is given twice", location, "keep one of them")
        if not value and key not in _SWITCHES:
            raise _error(f"query {key} has no value", location, f"write {key}=value")
        found[key] = value
    return found


def _agreed(what: str, first: str, second: str, location: Location) -> str:
    if first and second and first != second:
        raise _error(f"{what} is given twice: {first[:60]!r} and {second[:60]!r}", location, "keep one of them")
    return first or second


def _full(name: str, prefix: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def _inside(subdir: str, location: Location) -> str:
    """The directory, clean and relative: no `..` of it leads out of the repository."""
    if "\0" in subdir:
        raise _error("subdir contains a NUL character", location, "write a path inside the repository")
    return posixpath.normpath("/" + subdir).lstrip("/") if subdir else ""


def _truth(key: str, value: str, location: Location) -> bool:
    truth = parse_truth(value) if value else True
    if truth is None:
        raise _error(f"query {key}: expected true or false, found {value[:60]!r}", location, f"correct or remove {key}")
    return truth


def _error(message: str, location: Location, hint: str) -> DockerfileError:
    return DockerfileError(f"git URL: {message}", location=location, hint=hint)
