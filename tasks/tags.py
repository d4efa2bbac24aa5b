"""Which tags an image gets, and putting them: the commit's own never moves, a branch's only goes forward."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

from executor.errors import PushwrightError, RegistryNotFoundError
from executor.oci import Descriptor, Digest
from executor.reference import Reference
from executor.spec import BuildResult
from tasks.connection import Client, redis_errors
from tasks.errors import TagConflictError
from tasks.lifecycle import Build, TagRequest

if TYPE_CHECKING:
    from executor.registry.client import RegistryClient
    from executor.store import Store

LOCK_MS = 120_000


class TagLockedError(PushwrightError):
    """Another build is moving this tag right now."""

    code = "tag-locked"
    retryable = True


class Publisher(Protocol):
    """Where tags live: a registry, or the embedded store."""

    def put_tag(self, repository: str, tag: str, descriptor: Descriptor, data: bytes) -> None: ...

    def tag_digest(self, repository: str, tag: str) -> Digest | None: ...


@dataclass(frozen=True, slots=True)
class Image:
    """What is put under a tag: a manifest's descriptor and bytes."""

    descriptor: Descriptor
    data: bytes

    @classmethod
    def from_result(cls, value: object) -> Image:
        """From the executor's result, whose manifest must have the digest and size that it claims."""
        result = BuildResult.from_json(value)
        data = result.manifest.encode("utf-8", "surrogatepass")
        digest = Digest.parse(result.digest, "result.digest")
        if Digest.of(data) != digest or len(data) != result.size:
            raise PushwrightError(
                f"the executor's result: expected a manifest with digest {digest}, found {Digest.of(data)}",
                code="result-invalid",
            )
        return cls(Descriptor(result.media_type, digest, result.size), data)


class RegistryPublisher:
    """Tags in a registry, over the distribution API."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    def put_tag(self, repository: str, tag: str, descriptor: Descriptor, data: bytes) -> None:
        self._client.put_manifest(Reference.parse(repository).with_tag(tag), descriptor.media_type, data)

    def tag_digest(self, repository: str, tag: str) -> Digest | None:
        try:
            # a mirror may lag behind the registry itself
            return self._client.resolve(Reference.parse(repository).with_tag(tag), direct=True).digest
        except RegistryNotFoundError:
            return None


class StorePublisher:
    """Tags in the local store, which the embedded registry serves."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put_tag(self, repository: str, tag: str, descriptor: Descriptor, data: bytes) -> None:
        self._store.put_reference(repository, tag, descriptor)

    def tag_digest(self, repository: str, tag: str) -> Digest | None:
        found = self._store.reference(repository, tag)
        return None if found is None else found.digest


def is_embedded(repository: str) -> bool:
    """Whether a record's repository is one of the embedded registry: it names no registry's host (Docker's rule)."""
    first, slash, _ = repository.partition("/")
    return not (slash and ("." in first or ":" in first or first == "localhost"))


class MovingTags:
    """What every moving tag was last set to, and the lock under which it moves."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._advance = redis.register_script(_script_text("advance"))
        self._unlock = redis.register_script(_script_text("unlock"))

    def current(self, repository: str, tag: str) -> Mapping[str, Any] | None:
        """`{ref, sequence, build, digest}` of the push that set the tag, or None when this was never done here."""
        with redis_errors():
            text = self._redis.hget(f"pw:tags:{repository}", tag)
        return None if text is None else json.loads(text)

    def advance(self, repository: str, request: TagRequest, build_id: str, digest: Digest) -> Mapping[str, Any]:
        """Remembers that a push set its tag, unless a later one has by now; gives what stands afterwards."""
        value = {"ref": request.ref, "sequence": request.sequence, "build": build_id, "digest": str(digest)}
        with redis_errors():
            stands = self._advance(keys=[f"pw:tags:{repository}"], args=[request.tag, json.dumps(value)])
        return dict(json.loads(stands))

    @contextmanager
    def locked(self, repository: str, tag: str) -> Iterator[None]:
        """Holds the tag's lock; `TagLockedError` (retryable) when somebody else does."""
        key, token = f"pw:taglock:{repository}:{tag}", secrets.token_hex(16)
        with redis_errors():
            taken = self._redis.set(key, token, nx=True, px=LOCK_MS)
        if not taken:
            raise TagLockedError(f"tag {tag} of {repository} is being moved by another build")
        try:
            yield
        finally:
            with redis_errors():
                self._unlock(keys=[key], args=[token])


@dataclass(frozen=True, slots=True)
class Published:
    """The tags that name the image now, and for each that does not, why."""

    tags: tuple[str, ...]
    held_back: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tagging:
    """Puts the tags of builds.

    `check` raises when the build's lease no longer holds; it is asked before every write, because a registry cannot
    compare a fence. `image_of` gives the image of another build.
    """

    publisher: Publisher
    moving: MovingTags
    image_of: Callable[[str], Image]
    check: Callable[[], None]

    def publish(self, build: Build, image: Image) -> Published:
        """Puts the commit's tag, then those that do not move, then those that do."""
        tags: list[str] = []
        held_back: dict[str, str] = {}
        for tag in (build.commit_tag, *(item.tag for item in build.tags if not item.moving)):
            self._put_immutable(build.repository, tag, image)
            tags.append(tag)
        for request in (item for item in build.tags if item.moving):
            with self.moving.locked(build.repository, request.tag):
                refusal = self._move(build, request, image)
            if refusal:
                held_back[request.tag] = refusal
            else:
                tags.append(request.tag)
        return Published(tuple(dict.fromkeys(tags)), held_back)

    def _put_immutable(self, repository: str, tag: str, image: Image) -> None:
        existing = self.publisher.tag_digest(repository, tag)
        if existing is not None and existing != image.descriptor.digest:
            raise TagConflictError(
                f"{repository}:{tag}: expected no such tag or {image.descriptor.digest}, found {existing}",
                hint="a commit's tag is never overwritten; a forced rebuild publishes <commit>-rN",
            )
        if existing is None:
            self.check()
            self.publisher.put_tag(repository, tag, image.descriptor, image.data)

    def _move(self, build: Build, request: TagRequest, image: Image) -> str:
        """Moves one tag forward; gives why it does not move, or nothing."""
        current = self.moving.current(build.repository, request.tag)
        if current is not None and current["ref"] != request.ref:
            return f"it belongs to {current['ref']}"
        if current is not None and current["sequence"] > request.sequence:
            return "a later push has set it"
        self.check()
        self.publisher.put_tag(build.repository, request.tag, image.descriptor, image.data)
        stands = self.moving.advance(build.repository, request, build.id, image.descriptor.digest)
        if stands["build"] == build.id:
            return ""
        # we were stopped for longer than the lock lasts, and our write came after a later one: put that back
        later = self.image_of(stands["build"])
        self.publisher.put_tag(build.repository, request.tag, later.descriptor, later.data)
        return "a later push has set it"


def _script_text(name: str) -> str:
    return resources.files("tasks").joinpath(f"tag_{name}.lua").read_text(encoding="utf-8")
