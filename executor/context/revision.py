"""What names a commit: the full object name, and the full ref it was pushed to."""

from __future__ import annotations

import re

from executor.errors import GitError

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
# git-check-ref-format(1), rules 1 to 10
_REF_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[/.]\Z")
MAX_REF_LENGTH = 1024


def check_commit(commit: str) -> None:
    """A full object name in lower case; libgit2 reads repositories of SHA-1 only."""
    if not _COMMIT.match(commit):
        raise GitError(
            f"commit: expected 40 lower-case hexadecimal digits, found {commit[:80]!r}", code="git-commit-invalid"
        )
    if len(commit) == 64:
        raise GitError(
            f"commit {commit}: expected a SHA-1 repository, found a SHA-256 object name",
            code="git-object-format",
            hint="libgit2 does not read SHA-256 repositories yet",
        )


def check_ref(ref: str) -> None:
    """A full ref name (git-check-ref-format)."""
    if not ref.startswith("refs/") or len(ref) > MAX_REF_LENGTH or _REF_FORBIDDEN.search(ref) or not ref.isprintable():
        raise GitError(
            f"ref: expected a full name such as refs/heads/main, found {ref[:80]!r}",
            code="git-ref-invalid",
            hint="see git-check-ref-format for what a name may contain",
        )
