"""Answers about commits: which image was built from this one, with which tags, and if none, why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from executor.errors import UsageError
from tasks.lifecycle import Build, State
from tasks.records import Records
from tasks.refs import check_commit_prefix
from tasks.tags import is_embedded

CANDIDATES_LIMIT = 20
# a commit with more rebuilds than this shows the newest
BUILDS_LIMIT = 200


class CommitUnknownError(UsageError):
    """No build of such a commit is on record."""

    code = "commit-unknown"


class CommitAmbiguousError(UsageError):
    """Several commits begin with these digits; `more` says whether there are others than `candidates`."""

    code = "commit-ambiguous"

    def __init__(self, message: str, candidates: Sequence[str], *, more: bool) -> None:
        super().__init__(message, hint="give more digits")
        self.candidates = tuple(candidates)
        self.more = more


@dataclass(frozen=True, slots=True)
class CommitAnswer:
    """All builds of a commit, newest first; never empty."""

    project: str
    commit: str
    builds: tuple[Build, ...]

    @property
    def decisive(self) -> Build:
        """The build that says how the commit stands: the newest with an image, else the newest."""
        return next((build for build in self.builds if _is_published(build)), self.builds[0])

    @property
    def images(self) -> tuple[Mapping[str, Any], ...]:
        """What the builds of this commit published, newest first."""
        return tuple(result for build in self.builds if _is_published(build) for result in build.results)

    def to_json(self, registry: str) -> dict[str, Any]:
        """The answer as JSON values; images of the embedded registry are shown at `registry`."""
        build = self.decisive
        image = shown_result(build.results[0], registry) if _is_published(build) else {}
        return {
            "project": self.project,
            "commit": self.commit,
            "state": str(build.state),
            "reason": build.reason,
            "build": build.id,
            **{name: image.get(name) for name in ("repository", "digest", "media_type", "size", "platform")},
            "tags": self._tags_of(image.get("digest"), build.repository),
            "images": [shown_result(result, registry) for result in self.images],
            "error": None if build.error is None else dict(build.error),
        }

    def _tags_of(self, digest: object, repository: str) -> list[str]:
        """Every tag of this commit that names the image: a further build may have carried it to further tags."""
        if digest is None:
            return []
        tags = (
            tag
            for result in self.images
            if result.get("digest") == digest and result.get("repository") == repository
            for tag in result.get("tags", ())
        )
        return list(dict.fromkeys(tags))


def answer_commit(records: Records, project: str, prefix: str) -> CommitAnswer:
    """The builds of the one commit that begins with `prefix`, which has at least 4 hex digits."""
    digits = check_commit_prefix(prefix)
    commits = records.commits_matching(project, digits, CANDIDATES_LIMIT + 1)
    if not commits:
        raise CommitUnknownError(
            f"no push of a commit {digits} to {project} is on record", hint="only commits that were pushed are known"
        )
    if len(commits) > 1 and digits not in commits:
        raise CommitAmbiguousError(
            f"several commits begin with {digits}", commits[:CANDIDATES_LIMIT], more=len(commits) > CANDIDATES_LIMIT
        )
    commit = digits if digits in commits else commits[0]
    builds = records.builds_of_commit(project, commit, BUILDS_LIMIT)
    if not builds:
        raise CommitUnknownError(f"no build of commit {commit} is on record any more")
    return CommitAnswer(project, commit, tuple(builds))


def shown_repository(repository: str, registry: str) -> str:
    """A repository as it is pulled: with the host of the embedded registry when it has none."""
    return f"{registry}/{repository}" if registry and is_embedded(repository) else repository


def shown_result(result: Mapping[str, Any], registry: str) -> dict[str, Any]:
    """A build's result with its repository as it is pulled."""
    return {**result, "repository": shown_repository(str(result.get("repository", "")), registry)}


def shown_build(build: Build, registry: str) -> dict[str, Any]:
    """A build as JSON values, its repositories as they are pulled and times that are not yet as null."""
    value = build.to_json()
    value["repository"] = shown_repository(build.repository, registry)
    value["results"] = [shown_result(result, registry) for result in build.results]
    value.update({name: value[name] or None for name in ("created", "queued", "started", "finished")})
    return value


def _is_published(build: Build) -> bool:
    return build.state is State.SUCCEEDED and bool(build.results)
