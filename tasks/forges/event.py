"""What a delivery says, in our words: a push, a ping, or something to leave alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from executor.errors import UsageError
from tasks.refs import COMMIT_PATTERN, RefKind, check_ref, is_zero, ref_kind, shown

# one push event of a forge names at most a few refs; more is not a push
MAX_REFS = 100
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}(?:/[A-Za-z0-9._-]{1,100}){0,20}")


class PayloadError(UsageError):
    """A delivery whose signature is right and whose body is not what its event promises."""

    code = "payload-invalid"


class Headers(Mapping[str, str]):
    """A request's headers, looked up without regard to case; of one sent twice the values are joined (RFC 9110 5.3)."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            before = self._values.get(name.lower())
            self._values[name.lower()] = value if before is None else f"{before}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, slots=True)
class RefChange:
    """One ref moved; `before` is "" for a new ref, `after` is "" for a deleted one."""

    ref: str
    before: str
    after: str
    kind: RefKind
    created: bool
    deleted: bool
    forced: bool = False


@dataclass(frozen=True, slots=True)
class PushEvent:
    """Refs moved in a repository. `repository` and `host` tell only which repository it claims to be.

    What is built comes from the registered project; nothing here is ever cloned.
    """

    forge: str
    delivery_id: str
    repository: str
    refs: tuple[RefChange, ...]
    host: str = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """The forge asks whether somebody listens."""

    forge: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing to build; `code` is stable, `reason` is for the person who looks at the forge's list of deliveries."""

    code: str
    reason: str


Delivery = PushEvent | Ping | Ignored


def decode_object(body: bytes, where: str = "body") -> Mapping[str, Any]:
    """A JSON object from hostile bytes: strict UTF-8, no NaN, no repeated member, no depth that Python refuses."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_members)
    except RecursionError as error:
        raise PayloadError(f"{where}: expected JSON of sane depth, found deeper nesting than Python reads") from error
    except UnicodeDecodeError as error:
        raise PayloadError(f"{where}: expected UTF-8, found another byte at {error.start}") from error
    except json.JSONDecodeError as error:
        raise PayloadError(f"{where}: expected JSON: {error.msg} at line {error.lineno}") from error
    except ValueError as error:
        raise PayloadError(f"{where}: expected JSON: a number is too long to be one") from error
    if not isinstance(value, dict):
        raise PayloadError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def read_change(
    ref: object, before: object, after: object, *, forced: bool = False, deleted: bool = False
) -> RefChange:
    """A ref change from a payload's values, each checked."""
    try:
        checked = check_ref(ref)
    except UsageError as error:
        raise PayloadError(error.message) from error
    old, new = _commit(before, "before"), _commit(after, "after")
    gone = deleted or not new
    if gone and not old and not deleted:
        raise PayloadError("after: expected a commit id, found the zero id on both sides")
    return RefChange(
        ref=checked,
        before=old,
        after="" if gone else new,
        kind=ref_kind(checked),
        created=not old and not gone,
        deleted=gone,
        forced=forced,
    )


def read_repository(value: object, where: str) -> str:
    """A repository's name as forges write it, `owner/name` and deeper."""
    if not isinstance(value, str) or not _REPOSITORY.fullmatch(value):
        raise PayloadError(f"{where}: expected a repository's name, found {shown(value)}")
    return value


def read_flag(payload: Mapping[str, Any], name: str) -> bool:
    """A member that is true or false, false when absent."""
    value = payload.get(name, False)
    if not isinstance(value, bool):
        raise PayloadError(f"{name}: expected true or false, found {shown(value)}")
    return value


def _commit(value: object, where: str) -> str:
    """A commit id; "" for the zero id."""
    if not isinstance(value, str) or not COMMIT_PATTERN.fullmatch(value):
        raise PayloadError(f"{where}: expected 40 or 64 lower-case hex digits, found {shown(value)}")
    return "" if is_zero(value) else value


def _unique_members(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    listed = list(pairs)
    members = dict(listed)
    if len(members) != len(listed):
        raise PayloadError("body: expected each member once, found one twice")
    return members


def _refuse_constant(text: str) -> NoReturn:
    raise PayloadError(f"body: expected JSON, found {text}")
