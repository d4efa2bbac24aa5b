"""Builds in Redis: every write is one Lua script that checks state and fence, so no two writers can disagree.

The scripts lie beside this module. Times are Redis's own, so clocks of workers do not matter.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from tasks.connection import Client, redis_errors
from tasks.errors import BuildNotFoundError
from tasks.lifecycle import (
    MAX_ATTEMPTS,
    TRANSITIONS,
    Build,
    BuildRequest,
    Claim,
    Overdue,
    Renewal,
    State,
    TagRequest,
    Written,
    config_digest,
)

__all__ = [
    "MAX_ATTEMPTS",
    "QUEUE",
    "TRANSITIONS",
    "Build",
    "BuildRequest",
    "Claim",
    "Overdue",
    "Records",
    "Renewal",
    "State",
    "TagRequest",
    "Written",
    "config_digest",
]

QUEUE = "pushwright.build"
ID_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SCRIPTS = ("create", "claim", "renew", "image", "finish", "put_back", "cancel", "overdue")
SWEEP_BATCH = 200
WORKER_LOST = {
    "code": "worker-lost",
    "message": f"the worker was lost during each of {MAX_ATTEMPTS} attempts",
    "fixable_by": "host",
    "retryable": False,
    "hint": "look for an out-of-memory kill or a crash in the workers' logs",
}


class Records:
    """The builds of one Redis."""

    def __init__(self, redis: Client, *, announce_seconds: float = 10.0) -> None:
        self._redis = redis
        self._announce_ms = round(announce_seconds * 1000)
        shared = _script_text("shared")
        self._scripts = {name: redis.register_script(shared + _script_text(name)) for name in SCRIPTS}

    def create(self, request: BuildRequest, *, force: bool = False) -> tuple[Build, bool]:
        """The build of this request, and whether it was made now.

        A second request for the same project, repository, commit and configuration gets the build there is, to which
        its tag requests are added; when that has succeeded already, a further build carries its image to those tags.
        """
        chosen = "".join(secrets.choice(ID_ALPHABET) for _ in range(16))
        unique = json.dumps([request.project, request.repository, request.commit, request.config_digest])
        content = {"ref": request.ref, "sequence": request.sequence, "config": dict(request.config)}
        build_id, made = self._run(
            "create",
            chosen,
            request.project,
            request.repository,
            request.commit,
            request.config_digest,
            _encode(content),
            _encode([item.to_json() for item in request.tags]),
            "1" if force else "0",
            self._announce_ms,
            "pw:unique:" + hashlib.sha256(unique.encode()).hexdigest(),
            _words(state for state in State if state.is_final and state is not State.SUCCEEDED),
        )
        return self.get(build_id), bool(made)

    def next_sequence(self, project: str, ref: str) -> int:
        """The place of a push that was just received among the pushes of its ref."""
        with redis_errors():
            return int(self._redis.hincrby(f"pw:sequences:{project}", ref, 1))

    def get(self, build_id: str) -> Build:
        """The build with this id; `BuildNotFoundError` when there is none."""
        with redis_errors():
            record = self._redis.hgetall(f"pw:build:{build_id}")
        if not record:
            raise BuildNotFoundError(f"expected the id of a build, found {build_id[:40]!r}, which names none")
        return Build.from_record(record)

    def claim(self, build_id: str, owner: str, lease_seconds: float) -> Claim | None:
        """The right to run this build, when it is queued and due, or its last worker's lease is over."""
        unique_owner = f"{owner}/{secrets.token_hex(8)}"
        flat = self._run(
            "claim",
            build_id,
            unique_owner,
            round(lease_seconds * 1000),
            _words(_before(State.RUNNING)),
            MAX_ATTEMPTS,
            _encode(WORKER_LOST),
        )
        if not flat:
            return None
        build = Build.from_record(dict(zip(flat[::2], flat[1::2], strict=True)))
        return Claim(build, unique_owner, fence=build.fence)

    def renew(self, claim: Claim, lease_seconds: float) -> Renewal:
        """Lengthens the lease; a lease that is over is not revived."""
        held, cancel = self._run("renew", claim.build.id, claim.fence, round(lease_seconds * 1000))
        return Renewal(bool(held), bool(cancel))

    def record_image(self, claim: Claim, result: Mapping[str, Any]) -> Written:
        """Keeps the executor's result, so that a later attempt publishes it instead of building again."""
        return Written(self._run("image", claim.build.id, claim.fence, _encode(dict(result))))

    def finish(
        self,
        claim: Claim,
        state: State,
        reason: str = "",
        *,
        results: Iterable[Mapping[str, Any]] = (),
        error: Mapping[str, Any] | None = None,
        met: Iterable[TagRequest] | None = None,
    ) -> Written:
        """Ends the build; with `met`, only when no tag was asked for besides those, else `Written.TAGS_ADDED`."""
        return Written(
            self._run(
                "finish",
                claim.build.id,
                claim.fence,
                str(state),
                reason,
                _encode([dict(item) for item in results]),
                "" if error is None else _encode(dict(error)),
                "" if met is None else _encode([item.to_json() for item in met]),
                _words(_before(state)),
            )
        )

    def put_back(
        self,
        claim: Claim,
        reason: str,
        *,
        delay_seconds: float = 0.0,
        error: Mapping[str, Any] | None = None,
        counted: bool = True,
    ) -> Written:
        """Queues the build again; without `counted` the run that ends here is no attempt lost."""
        return Written(
            self._run(
                "put_back",
                claim.build.id,
                claim.fence,
                reason,
                round(delay_seconds * 1000),
                "" if error is None else _encode(dict(error)),
                "1" if counted else "0",
            )
        )

    def request_cancel(self, build_id: str) -> Build:
        """Cancels a queued build at once and asks the worker of a running one to; a finished one stays as it is."""
        self._run("cancel", build_id, _words({State.QUEUED} & _before(State.CANCELLED)))
        return self.get(build_id)

    def list_builds(self, project: str | None = None, before: str | None = None, limit: int = 50) -> list[Build]:
        """Builds, newest first, of one project or all; `before` is the id at which the last page ended."""
        key = "pw:builds" if project is None else f"pw:builds:{project}"
        start = "+" if before is None else f"({before}"
        with redis_errors():
            ids = self._redis.zrevrangebylex(key, start, "-", start=0, num=limit)
        return self._builds(ids)

    def commits_matching(self, project: str, prefix: str, limit: int = 10) -> list[str]:
        """Known commits of a project that begin with `prefix`, in order."""
        with redis_errors():
            found = self._redis.zrangebylex(f"pw:commits:{project}", f"[{prefix}", f"[{prefix}\x7f", start=0, num=limit)
        return list(found)

    def builds_of_commit(self, project: str, commit: str, limit: int = 200) -> list[Build]:
        """Builds of one commit, newest first."""
        with redis_errors():
            ids = self._redis.zrevrangebylex(f"pw:commit:{project}:{commit}", "+", "-", start=0, num=limit)
        return self._builds(ids)

    def overdue(self) -> Overdue:
        """Settles builds whose lease is over, and gives the queued ones that need to be announced (again)."""
        retaken, ended, announce, queued = self._run(
            "overdue", MAX_ATTEMPTS, _encode(WORKER_LOST), self._announce_ms, SWEEP_BATCH, QUEUE
        )
        return Overdue(tuple(retaken), tuple(ended), tuple(announce), int(queued))

    def _builds(self, ids: Iterable[str]) -> list[Build]:
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for build_id in ids:
                pipeline.hgetall(f"pw:build:{build_id}")
            records = pipeline.execute()
        return [Build.from_record(record) for record in records if record]

    def _run(self, name: str, *arguments: str | int) -> Any:
        with redis_errors():
            return self._scripts[name](args=list(arguments))


def _script_text(name: str) -> str:
    return resources.files("tasks").joinpath(f"record_{name}.lua").read_text(encoding="utf-8")


def _encode(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # a lone surrogate is legal in JSON and not in UTF-8: an ending that cannot be sent would leave its build running
    return text.encode("utf-8", "replace").decode()


def _before(state: State) -> set[State]:
    return {origin for origin, targets in TRANSITIONS.items() if state in targets}


def _words(states: Iterable[State]) -> str:
    return " ".join(sorted(states))
