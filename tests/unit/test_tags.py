from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executor.errors import PushwrightError
from executor.oci import MANIFEST_OCI, Descriptor, Digest
from executor.spec import BuildResult
from tasks.connection import Client
from tasks.errors import TagConflictError
from tasks.lease import InterruptedBuild, Interruption
from tasks.lifecycle import Build, BuildRequest, TagRequest
from tasks.records import Records
from tasks.tags import Image, MovingTags, Tagging, TagLockedError, is_embedded
from tests.support.redis_server import RedisServer

MAIN = "refs/heads/main"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Client]:
    client = server.client()
    client.flushall()
    yield client
    client.close()


class MemoryPublisher:
    """Tags in memory, with what happened in order; `during_put` runs before each write."""

    def __init__(self) -> None:
        self.tags: dict[str, Digest] = {}
        self.puts: list[str] = []
        self.during_put: Any = lambda tag: None

    def put_tag(self, repository: str, tag: str, descriptor: Descriptor, data: bytes) -> None:
        self.during_put(tag)
        self.tags[tag] = descriptor.digest
        self.puts.append(tag)

    def tag_digest(self, repository: str, tag: str) -> Digest | None:
        return self.tags.get(tag)


class Site:
    def __init__(self, redis: Client) -> None:
        self.records = Records(redis)
        self.moving = MovingTags(redis)
        self.publisher = MemoryPublisher()
        self.images: dict[str, Image] = {}

    def build(self, commit: str, *tags: TagRequest, force: bool = False) -> Build:
        request = BuildRequest("demo", "demo", commit * 40, MAIN, 1, "d", {}, tags)
        build, _ = self.records.create(request, force=force)
        self.images[build.id] = image(build.id)
        return build

    def tagging(self, check: Any = lambda: None) -> Tagging:
        return Tagging(self.publisher, self.moving, self.images.__getitem__, check)

    def publish(self, build: Build, check: Any = lambda: None) -> tuple[str, ...]:
        return self.tagging(check).publish(build, self.images[build.id]).tags


@pytest.fixture
def site(redis: Client) -> Site:
    return Site(redis)


def image(text: str) -> Image:
    data = text.encode()
    return Image(Descriptor(MANIFEST_OCI, Digest.of(data), len(data)), data)


def main(sequence: int, ref: str = MAIN) -> TagRequest:
    return TagRequest("main", moving=True, ref=ref, sequence=sequence)


def test_the_commit_s_tag_comes_first(site: Site) -> None:
    build = site.build("a", main(1), TagRequest("v1", moving=False, ref=MAIN, sequence=1))
    assert site.publish(build) == ("a" * 40, "v1", "main")
    assert site.publisher.puts == ["a" * 40, "v1", "main"]


def test_publishing_again_writes_nothing_immutable_again(site: Site) -> None:
    build = site.build("a")
    assert site.publish(build) == site.publish(build)
    assert site.publisher.puts == ["a" * 40]


def test_a_commit_s_tag_is_never_overwritten(site: Site) -> None:
    build = site.build("a", main(1))
    planted = site.publisher.tags["a" * 40] = Digest.of(b"somebody else's")
    with pytest.raises(TagConflictError) as caught:
        site.publish(build)
    assert site.publisher.tags == {"a" * 40: planted}
    assert not caught.value.retryable


def test_a_rebuild_has_a_tag_of_its_own(site: Site) -> None:
    site.publish(site.build("a"))
    assert site.publish(site.build("a", force=True)) == ("a" * 40 + "-r1",)


def test_without_a_lease_nothing_is_written(site: Site) -> None:
    build = site.build("a", main(1))

    def lost() -> None:
        raise InterruptedBuild(Interruption.LEASE_LOST)

    with pytest.raises(InterruptedBuild):
        site.publish(build, lost)
    assert site.publisher.puts == []


def test_a_moving_tag_goes_forward_whatever_order_builds_end_in(site: Site) -> None:
    first, second, third = (site.build(commit, main(number)) for number, commit in enumerate("abc", 1))
    assert "main" in site.publish(second)
    published = site.tagging().publish(first, site.images[first.id])
    assert published.tags == ("a" * 40,)
    assert "later push" in published.held_back["main"]
    assert site.publisher.tags["main"] == site.images[second.id].descriptor.digest
    assert "main" in site.publish(third)
    assert site.publisher.tags["main"] == site.images[third.id].descriptor.digest


def test_a_branch_that_was_set_back_moves_its_tag_to_the_old_commit(site: Site) -> None:
    old = site.build("a", main(1))
    site.publish(old)
    site.publish(site.build("b", main(2)))
    site.publish(replace(old, tags=(main(3),)))
    assert site.publisher.tags["main"] == site.images[old.id].descriptor.digest


def test_two_refs_do_not_fight_over_one_tag(site: Site) -> None:
    site.publish(site.build("a", main(1)))
    other = site.build("b", main(9, "refs/heads/ma-in"))
    published = site.tagging().publish(other, site.images[other.id])
    assert MAIN in published.held_back["main"]
    assert site.publisher.tags["main"] != site.images[other.id].descriptor.digest


def test_a_tag_that_is_being_moved_is_waited_for_by_trying_again(site: Site) -> None:
    build = site.build("a", main(1))
    with site.moving.locked("demo", "main"), pytest.raises(TagLockedError) as caught:
        site.publish(build)
    assert caught.value.retryable
    assert "main" in site.publish(build)


def test_a_lock_that_ran_out_is_not_taken_from_its_next_holder(site: Site, redis: Client) -> None:
    with site.moving.locked("demo", "main"):
        redis.set("pw:taglock:demo:main", "next holder")
    assert redis.get("pw:taglock:demo:main") == "next holder"


def test_a_write_that_came_too_late_is_put_right(site: Site, redis: Client) -> None:
    """Stopped between asking and writing for longer than the lock lasts, while a later build moved the tag."""
    early, late = site.build("a", main(1)), site.build("b", main(2))

    def overtaken(tag: str) -> None:
        if tag == "main":
            site.publisher.during_put = lambda tag: None
            redis.delete("pw:taglock:demo:main")
            site.publish(late)

    site.publisher.during_put = overtaken
    assert "main" not in site.publish(early)
    assert site.publisher.tags["main"] == site.images[late.id].descriptor.digest


def test_builds_that_end_at_once_leave_the_latest(site: Site, server: RedisServer) -> None:
    builds = [site.build(commit, main(number)) for number, commit in enumerate("abcdef", 1)]

    def publish(build: Build) -> None:
        tagging = Tagging(site.publisher, MovingTags(server.client()), site.images.__getitem__, lambda: None)
        while True:
            try:
                tagging.publish(build, site.images[build.id])
                return
            except TagLockedError:
                continue

    threads = [threading.Thread(target=publish, args=(build,)) for build in builds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.publisher.tags["main"] == site.images[builds[-1].id].descriptor.digest


class TestImage:
    def result(self, **changes: Any) -> dict[str, Any]:
        manifest = '{"é": 1}'
        data = manifest.encode()
        fields = {
            "digest": str(Digest.of(data)),
            "size": len(data),
            "media_type": MANIFEST_OCI,
            "manifest": manifest,
            "config_digest": "sha256:" + "0" * 64,
            "platform": "linux/amd64",
            **changes,
        }
        return BuildResult(**fields).to_json()

    def test_a_result_gives_the_very_bytes(self) -> None:
        found = Image.from_result(self.result())
        assert found.data == '{"é": 1}'.encode()
        assert found.descriptor.digest == Digest.of(found.data)

    @pytest.mark.parametrize(
        "changes", [{"manifest": "{}"}, {"digest": "sha256:" + "0" * 64}, {"size": 1}, {"digest": "sha256:../../x"}]
    )
    def test_a_result_that_does_not_fit_its_digest_is_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(PushwrightError):
            Image.from_result(self.result(**changes))


@pytest.mark.parametrize(
    ("repository", "embedded"),
    [
        ("demo", True),
        ("team/demo", True),
        ("registry.example/demo", False),
        ("localhost/demo", False),
        ("host:5000/demo", False),
        ("docker.io/library/demo", False),
    ],
)
def test_a_repository_without_a_host_is_the_embedded_registry_s(repository: str, embedded: bool) -> None:
    assert is_embedded(repository) is embedded


def test_the_store_keeps_tags(tmp_path: Path) -> None:
    from executor.oci import Manifest
    from executor.store import Store
    from tasks.tags import StorePublisher

    store = Store.create(tmp_path / "store")
    config = store.put_blob(b"{}")
    manifest = Manifest(Descriptor("application/vnd.oci.image.config.v1+json", config, 2), ()).encode()
    descriptor = Descriptor(MANIFEST_OCI, store.put_blob(manifest), len(manifest))
    publisher = StorePublisher(store)
    assert publisher.tag_digest("demo", "a" * 40) is None
    publisher.put_tag("demo", "a" * 40, descriptor, manifest)
    assert publisher.tag_digest("demo", "a" * 40) == descriptor.digest
