"""A push and a project in, what to build out; and which deliveries were answered already."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.connection import Client, redis_errors
from tasks.forges.event import Ignored, PushEvent, RefChange
from tasks.lifecycle import BuildRequest
from tasks.projects import Project
from tasks.refs import shown

DELIVERY_SECONDS = 30 * 24 * 3600
# gives the place of this push among those of its ref
Sequence = Callable[[str], int]


def decide(event: PushEvent, project: Project, registry: str, sequence: Sequence) -> tuple[BuildRequest, ...] | Ignored:
    """What a push means for a project: the builds to be made, or why there are none.

    Every image gets its commit's full id as its tag; `registry` is where images of projects without an own one go.
    """
    if differs := _other_repository(event, project):
        return differs
    reasons = [(change, _refusal(change, project)) for change in event.refs]
    wanted = [change for change, refusal in reasons if refusal is None]
    if not wanted:
        refusals = [refusal for _, refusal in reasons if refusal is not None]
        return refusals[0] if refusals else Ignored("ref-not-built", "the push moved no ref")
    return tuple(build_request(project, registry, change.after, change.ref, sequence(change.ref)) for change in wanted)


def build_request(project: Project, registry: str, commit: str, ref: str, sequence: int) -> BuildRequest:
    """One commit of a project, as it is configured now."""
    return BuildRequest(
        project=project.name,
        repository=project.repository(registry),
        commit=commit,
        ref=ref,
        sequence=sequence,
        config_digest=project.config_digest,
        config=project.config,
    )


def _refusal(change: RefChange, project: Project) -> Ignored | None:
    if change.kind == "tag":
        # the id may be that of an annotated tag, not of a commit
        return Ignored("tag-not-built", f"{shown(change.ref)} is a tag; only pushes to {project.branch} are built")
    if change.kind == "other":
        return Ignored("ref-not-built", f"{shown(change.ref)} is no branch; only pushes to {project.branch} are built")
    if change.ref != project.ref:
        return Ignored(
            "branch-not-built", f"{shown(change.ref)} is not the branch of this project, which is {project.branch}"
        )
    if change.deleted:
        return Ignored("branch-deleted", f"{shown(change.ref)} was deleted; its images stay")
    return None


def _other_repository(event: PushEvent, project: Project) -> Ignored | None:
    """A delivery about another repository of the same host, for instance a fork whose hook was set up by mistake.

    Its commit could even be had from the registered repository: GitHub serves a fork's objects there.
    """
    url = urlsplit(project.url)
    registered = unquote(url.path).strip("/").removesuffix(".git")
    if not event.repository or not event.host or event.host != url.hostname:
        return None
    if event.repository.lower() == registered.lower():
        return None
    return Ignored(
        "repository-differs",
        f"the push is to {shown(event.repository)}, the project is {shown(registered)}; was the repository renamed?",
    )


class Deliveries:
    """What was answered to which delivery, so that the same one again builds nothing again."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis

    def recall(self, project: Project, delivery_id: str) -> Mapping[str, Any] | None:
        """The answer that this delivery got; none when its project was registered anew since."""
        if not delivery_id:
            return None
        with redis_errors():
            text = self._redis.hget(_key(project, delivery_id), "answer")
        return None if text is None else dict(json.loads(text))

    def remember(self, project: Project, delivery_id: str, answer: Mapping[str, Any]) -> None:
        """Keeps the answer for 30 days; to be called once everything is stored that it promises."""
        if delivery_id:
            self._put(_key(project, delivery_id), "answer", json.dumps(answer))

    def sequence(self, project: Project, delivery_id: str, ref: str, following: Sequence) -> int:
        """The place of this delivery among the pushes of a ref; the same one when it is delivered twice at once."""
        number = following(ref)
        if not delivery_id:
            return number
        key, name = _key(project, delivery_id), f"sequence:{ref}"
        self._put(key, name, str(number), replace=False)
        with redis_errors():
            return int(self._redis.hget(key, name) or number)

    def _put(self, key: str, name: str, value: str, *, replace: bool = True) -> None:
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=True)
            if replace:
                pipeline.hset(key, name, value)
            else:
                pipeline.hsetnx(key, name, value)
            pipeline.expire(key, DELIVERY_SECONDS)
            pipeline.execute()


def _key(project: Project, delivery_id: str) -> str:
    # a project that was removed and registered anew has another history
    return f"pw:delivery:{project.name}:{project.created}:{delivery_id}"
