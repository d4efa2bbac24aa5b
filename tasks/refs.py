"""What a git ref and a commit id may look like; anything else is refused before it is stored or handed to git."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from executor.errors import UsageError

RefKind = Literal["branch", "tag", "other"]

COMMIT_PATTERN = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})")
PREFIX_PATTERN = re.compile(r"[0-9a-f]{4,64}")
REF_LIMIT_BYTES = 250
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
# Cf holds the marks that reverse the direction of text, so that a name reads as another one
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})


def check_ref(text: object, where: str = "ref") -> str:
    """A full ref (`refs/…`) by the rules of git-check-ref-format(1), without invisible characters."""
    if not isinstance(text, str) or not text.startswith("refs/"):
        raise _invalid_ref(where, text, "a full ref such as refs/heads/main")
    if _FORBIDDEN.search(text) or text.endswith(("/", ".")) or any(_is_hidden(item) for item in text):
        raise _invalid_ref(where, text, "a ref that git-check-ref-format accepts")
    if len(text.encode()) > REF_LIMIT_BYTES:
        raise _invalid_ref(where, text, f"at most {REF_LIMIT_BYTES} bytes")
    parts = text.split("/")
    if len(parts) < 3 or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts):
        raise _invalid_ref(where, text, "a ref that git-check-ref-format accepts")
    if text.startswith("refs/heads/") and (parts[2].startswith("-") or text == "refs/heads/HEAD"):
        raise _invalid_ref(where, text, "a branch that git-branch accepts")
    return text


def check_branch(text: object, where: str = "branch") -> str:
    """A branch's short name (`main`, `feature/x`)."""
    if not isinstance(text, str) or text.startswith("refs/"):
        raise _invalid_ref(where, text, "a branch's short name such as main")
    check_ref(f"refs/heads/{text}", where)
    return text


def check_commit(text: object, where: str = "commit") -> str:
    """A full commit id: 40 lower-case hex digits, or 64 of a SHA-256 repository; never the zero id."""
    if not isinstance(text, str) or not COMMIT_PATTERN.fullmatch(text) or is_zero(text):
        raise UsageError(
            f"{where}: expected a full commit id of 40 or 64 lower-case hex digits, found {shown(text)}",
            code="commit-invalid",
        )
    return text


def check_commit_prefix(text: str, where: str = "commit") -> str:
    """The beginning of a commit id, 4 digits at least; capitals are accepted, since people type it."""
    if not PREFIX_PATTERN.fullmatch(text.lower()):
        raise UsageError(f"{where}: expected 4 to 64 hex digits, found {shown(text)}", code="commit-invalid")
    return text.lower()


def is_zero(commit: str) -> bool:
    """Whether this is the id by which forges say that a ref did not exist, or exists no longer."""
    return set(commit) == {"0"}


def ref_kind(ref: str) -> RefKind:
    """What a ref points from, by its name space."""
    if ref.startswith("refs/heads/"):
        return "branch"
    return "tag" if ref.startswith("refs/tags/") else "other"


def short_name(ref: str) -> str:
    """The name people use: `main` for `refs/heads/main`."""
    return ref.removeprefix("refs/heads/").removeprefix("refs/tags/")


def shown(value: object) -> str:
    """A hostile value made fit for a message: short, and escaped to ASCII."""
    if not isinstance(value, str):
        return "nothing" if value is None else type(value).__name__
    return ascii(value if len(value) <= 80 else value[:77] + "...")


def _is_hidden(character: str) -> bool:
    return not character.isascii() and unicodedata.category(character) in _HIDDEN_CATEGORIES


def _invalid_ref(where: str, text: object, expected: str) -> UsageError:
    return UsageError(f"{where}: expected {expected}, found {shown(text)}", code="ref-invalid")
