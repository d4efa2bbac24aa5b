"""The values of a build's life: what was asked for, what is known of it, and which states may follow which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self

from tasks.errors import RecordDamagedError

RECORD_VERSION = 1
MAX_ATTEMPTS = 3


class State(StrEnum):
    """Where a build is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    SKIPPED = "skipped"

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.SUPERSEDED, State.SKIPPED}),
        State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SUPERSEDED, State.QUEUED}),
        State.SUCCEEDED: frozenset(),
        State.FAILED: frozenset(),
        State.CANCELLED: frozenset(),
        State.SUPERSEDED: frozenset(),
        State.SKIPPED: frozenset(),
    }
)


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 over the configuration as canonical JSON: what makes two builds of one commit the same build."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TagRequest:
    """A tag that the image gets besides its commit's own; a moving one only ever goes forward by `sequence`."""

    tag: str
    moving: bool
    ref: str
    sequence: int

    def to_json(self) -> dict[str, Any]:
        return {"tag": self.tag, "moving": self.moving, "ref": self.ref, "sequence": self.sequence}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(str(value["tag"]), value["moving"] is True, str(value["ref"]), int(value["sequence"]))


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """One commit of one project to be built into one repository.

    `repository` is where the image goes, with its registry's host or, for the embedded registry, without one.
    `sequence` is the place of this push among those of `ref` (`Records.next_sequence`). `config` is what the build is
    made from (dockerfile, context, build args, …) as JSON values. `tags` are those besides the commit's own tag, which
    every build gets.
    """

    project: str
    repository: str
    commit: str
    ref: str
    sequence: int
    config_digest: str
    config: Mapping[str, Any]
    tags: tuple[TagRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class Build:
    """A build's record as it was when read; times are milliseconds of Redis's clock and 0 where not yet."""

    id: str
    project: str
    repository: str
    commit: str
    config_digest: str
    state: State
    reason: str
    attempt: int
    fence: int
    owner: str
    lease_until: int
    cancel: bool
    not_before: int
    ref: str
    sequence: int
    config: Mapping[str, Any]
    tags: tuple[TagRequest, ...]
    rebuild: int
    image: Mapping[str, Any] | None
    results: tuple[Mapping[str, Any], ...]
    error: Mapping[str, Any] | None
    created: int
    queued: int
    started: int
    finished: int

    @property
    def commit_tag(self) -> str:
        """The immutable tag of this build: the commit, or `<commit>-rN` for its N-th rebuild."""
        return f"{self.commit}-r{self.rebuild}" if self.rebuild else self.commit

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """A build from the hash in Redis; `RecordDamagedError` where that is of another version or broken."""
        if record.get("v") != str(RECORD_VERSION):
            raise RecordDamagedError(
                f"build {record.get('id', '?')}: expected a record of version {RECORD_VERSION}, "
                f"found {record.get('v')!r}",
                hint="a newer Pushwright has written it; use that version",
            )
        try:
            return cls(**_fields(record))
        except (KeyError, TypeError, ValueError) as error:
            raise RecordDamagedError(f"build {record.get('id', '?')}: the record does not read: {error!r}") from error

    def to_json(self) -> dict[str, Any]:
        """What people and programs are shown of a build; the lease and its owner stay inside."""
        return {
            "id": self.id,
            "project": self.project,
            "repository": self.repository,
            "commit": self.commit,
            "ref": self.ref,
            "config_digest": self.config_digest,
            "state": str(self.state),
            "reason": self.reason,
            "attempt": self.attempt,
            "cancel_requested": self.cancel,
            "commit_tag": self.commit_tag,
            "tags": [item.to_json() for item in self.tags],
            "results": [dict(item) for item in self.results],
            "error": None if self.error is None else dict(self.error),
            "created": self.created,
            "queued": self.queued,
            "started": self.started,
            "finished": self.finished,
        }


def _fields(record: Mapping[str, str]) -> dict[str, Any]:
    request = json.loads(record["request"])
    texts = ("id", "project", "repository", "commit", "config_digest", "reason", "owner")
    numbers = ("attempt", "fence", "lease_until", "not_before", "rebuild", "created", "queued", "started", "finished")
    return {
        **{name: record[name] for name in texts},
        **{name: int(record[name]) for name in numbers},
        "state": State(record["state"]),
        "cancel": record["cancel"] == "1",
        "ref": str(request["ref"]),
        "sequence": int(request["sequence"]),
        "config": request["config"],
        "tags": tuple(TagRequest.from_json(item) for item in json.loads(record["tags"])),
        "image": json.loads(record["image"]) if record["image"] else None,
        "results": tuple(json.loads(record["results"])),
        "error": json.loads(record["error"]) if record["error"] else None,
    }


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run one build until its lease ends; `fence` is what every write is checked against."""

    build: Build
    owner: str
    fence: int = field(kw_only=True)

    @property
    def attempt(self) -> int:
        return self.build.attempt


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a heartbeat: whether the claim still holds, and whether somebody asked to cancel."""

    held: bool
    cancel: bool


class Written(StrEnum):
    """How a write under a claim went."""

    DONE = "done"
    LOST = "lost"
    TAGS_ADDED = "tags-added"


@dataclass(frozen=True, slots=True)
class Overdue:
    """What a sweep found: builds put back in the queue, builds given up, and queued builds to announce."""

    retaken: tuple[str, ...]
    ended: tuple[str, ...]
    unannounced: tuple[str, ...]
    queued: int
