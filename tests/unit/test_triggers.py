"""What a push means for a project, and that a delivery counts once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tasks.connection import Client
from tasks.forges import Ignored, PushEvent, RefChange
from tasks.forges.event import read_change
from tasks.lifecycle import BuildRequest
from tasks.projects import Project
from tasks.triggers import Deliveries, decide
from tests.support.redis_server import RedisServer

COMMIT = "a" * 40
BEFORE = "b" * 40
ZERO = "0" * 40
PROJECT = Project(name="demo", url="https://git.example/acme/demo.git", created=7)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Client]:
    with server.client() as client:
        client.flushall()
        yield client


def change(ref: str = "refs/heads/main", after: str = COMMIT, **options: Any) -> RefChange:
    return read_change(ref, BEFORE, after, **options)


def pushed(*refs: RefChange, repository: str = "acme/demo", host: str = "git.example") -> PushEvent:
    return PushEvent("github", "id-1", repository, refs or (change(),), host)


def decided(event: PushEvent, project: Project = PROJECT, registry: str = "") -> tuple[BuildRequest, ...] | Ignored:
    asked: list[str] = []

    def sequence(ref: str) -> int:
        asked.append(ref)
        return 100 + len(asked)

    return decide(event, project, registry, sequence)


def test_a_push_to_the_projects_branch_is_built_as_registered() -> None:
    assert decided(pushed()) == (
        BuildRequest(
            project="demo",
            repository="demo",
            commit=COMMIT,
            ref="refs/heads/main",
            sequence=101,
            config_digest=PROJECT.config_digest,
            config={"url": PROJECT.url, "dockerfile": "Dockerfile", "context": ""},
        ),
    )


def test_where_the_image_goes_is_the_servers_or_the_projects_word() -> None:
    requests = decided(pushed(), registry="registry.example/team")
    assert not isinstance(requests, Ignored) and requests[0].repository == "registry.example/team/demo"
    own = decided(pushed(), replace(PROJECT, image="other.example/x"), "registry.example")
    assert not isinstance(own, Ignored) and own[0].repository == "other.example/x"


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        (change("refs/heads/other"), "branch-not-built"),
        (change("refs/heads/main2"), "branch-not-built"),
        (change("refs/heads/Main"), "branch-not-built"),
        (change(after=ZERO), "branch-deleted"),
        (change(deleted=True), "branch-deleted"),
        (change("refs/heads/other", after=ZERO), "branch-not-built"),
        (change("refs/tags/main"), "tag-not-built"),
        (change("refs/tags/v1", after=ZERO), "tag-not-built"),
        (change("refs/pull/7/head"), "ref-not-built"),
        (change("refs/merge-requests/7/head"), "ref-not-built"),
        (change("refs/notes/heads/main"), "ref-not-built"),
    ],
)
def test_other_pushes_are_left_alone_with_a_reason(refused: RefChange, code: str) -> None:
    verdict = decided(pushed(refused))
    assert isinstance(verdict, Ignored)
    assert verdict.code == code and verdict.reason


def test_of_several_refs_those_that_count_are_built() -> None:
    requests = decided(pushed(change("refs/tags/v1"), change(), change("refs/heads/other")))
    assert not isinstance(requests, Ignored)
    assert [(item.ref, item.sequence) for item in requests] == [("refs/heads/main", 101)]


def test_a_push_without_refs_is_ignored() -> None:
    verdict = decide(PushEvent("github", "", "acme/demo", ()), PROJECT, "", lambda _: 1)
    assert isinstance(verdict, Ignored) and verdict.code == "ref-not-built"


def test_a_hook_set_up_on_a_fork_builds_nothing() -> None:
    verdict = decided(pushed(repository="mallory/demo"))
    assert isinstance(verdict, Ignored) and verdict.code == "repository-differs"


@pytest.mark.parametrize(
    ("repository", "host", "url"),
    [
        ("ACME/Demo", "git.example", PROJECT.url),
        ("acme/demo", "git.example", "https://git.example/acme/demo"),
        ("acme/demo", "git.example", "https://git.example/acme/demo/"),
        # the registered URL is that of a mirror: there is nothing to compare
        ("acme/demo", "git.example", "https://mirror.example/x/y.git"),
        ("", "", PROJECT.url),
    ],
)
def test_the_same_repository_is_known_under_its_spellings(repository: str, host: str, url: str) -> None:
    assert not isinstance(decided(pushed(repository=repository, host=host), replace(PROJECT, url=url)), Ignored)


# --- deliveries -----------------------------------------------------------------------------------------------------


def test_a_delivery_is_remembered_for_its_project_and_for_a_while(redis: Client) -> None:
    deliveries = Deliveries(redis)
    assert deliveries.recall(PROJECT, "one") is None
    deliveries.remember(PROJECT, "one", {"builds": [1]})
    assert deliveries.recall(PROJECT, "one") == {"builds": [1]}
    assert deliveries.recall(PROJECT, "two") is None
    assert deliveries.recall(replace(PROJECT, name="other"), "one") is None
    assert deliveries.recall(replace(PROJECT, created=8), "one") is None
    (key,) = redis.keys("pw:delivery:*")
    assert 29 * 86400 < redis.ttl(key) <= 30 * 86400


def test_a_delivery_without_an_id_is_not_remembered(redis: Client) -> None:
    deliveries = Deliveries(redis)
    deliveries.remember(PROJECT, "", {"builds": [1]})
    assert deliveries.recall(PROJECT, "") is None
    assert redis.keys("*") == []


def test_the_same_delivery_twice_has_one_place_among_the_pushes(redis: Client) -> None:
    deliveries = Deliveries(redis)
    numbers = iter(range(1, 100))

    def following(_: str) -> int:
        return next(numbers)

    assert deliveries.sequence(PROJECT, "a", "refs/heads/main", following) == 1
    assert deliveries.sequence(PROJECT, "b", "refs/heads/main", following) == 2
    # delivered again after b: it does not become the later push
    assert deliveries.sequence(PROJECT, "a", "refs/heads/main", following) == 1
    assert deliveries.sequence(PROJECT, "a", "refs/heads/other", following) == 4
    assert deliveries.sequence(PROJECT, "", "refs/heads/main", following) == 5
    assert deliveries.recall(PROJECT, "a") is None
