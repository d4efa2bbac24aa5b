"""The distribution API as the executor needs it: images in, images out, nothing believed that was not checked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import BinaryIO, TypeVar

from executor.errors import (
    RegistryAuthError,
    RegistryContentError,
    RegistryNotFoundError,
    RegistryUnavailableError,
    UsageError,
)
from executor.image import Image, check_bytes, parse_image_manifest
from executor.oci import (
    CONFIG_LIMIT_BYTES,
    INDEX_TYPES,
    MANIFEST_LIMIT_BYTES,
    Descriptor,
    Digest,
    Index,
    OciError,
    Platform,
)
from executor.reference import Reference
from executor.registry.auth import Authorizer
from executor.registry.blobs import Blobs, Progress, Receiver
from executor.registry.exchange import Exchange
from executor.registry.hosts import HostRules
from executor.registry.manifests import Manifests, about
from executor.registry.mirrors import Endpoint, MirrorRules, push_endpoint
from executor.registry.platforms import candidates, fits
from executor.registry.retry import RetryPolicy
from executor.registry.transport import Transport
from executor.spec import RegistryOptions

T = TypeVar("T")
ProgressObserver = Callable[[str, str, int, int], None]

MAX_INDEX_DEPTH = 3
MAX_MANIFESTS_TRIED = 16
MAX_TAG_PAGES = 100
# a mirror is a convenience: it is not waited for as the registry itself is
MIRROR_RETRIES = 1
_log = logging.getLogger(__name__)


def _ignore_progress(what: str, item: str, done_bytes: int, total_bytes: int, /) -> None:
    """Nobody watches."""


class RegistryClient:
    """Speaks to every registry that `options` describe; safe to use from any thread, to be closed at the end.

    `on_progress` is called with `pull` or `push`, a blob's short digest, bytes done and bytes in all, unless a call
    is given a `progress` of its own. `proxies` maps `http`, `https`, `all` and `no`, or the variables of those names
    (`HTTPS_PROXY`), to their values. Pulls go by mirrors; `direct` calls, tags and everything that writes go to the
    named registry itself.
    """

    def __init__(
        self,
        options: RegistryOptions,
        *,
        on_progress: ProgressObserver | None = None,
        proxies: Mapping[str, str] | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._mirrors = MirrorRules(options)
        self._transport = Transport(HostRules(options), proxies=proxies)
        exchange = Exchange(self._transport, Authorizer(self._transport, options.credentials))
        self._blobs = Blobs(exchange)
        self._manifests = Manifests(exchange)
        self._retry = retry or RetryPolicy(retries=options.retries)
        self._on_progress = on_progress or _ignore_progress
        self._lock = threading.Lock()
        self._answered: dict[str, Endpoint] = {}

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def resolve(self, reference: Reference, *, direct: bool = False) -> Descriptor:
        """What a tag or digest stands for now."""
        return self._pull(reference, lambda at, _: self._manifests.resolve(at, reference), direct=direct)

    def get_manifest(self, reference: Reference, *, direct: bool = False) -> tuple[Descriptor, bytes]:
        """A manifest or index and its very bytes; digest, size, media type and form are checked."""
        return self._pull(reference, lambda at, _: self._manifests.get(at, reference), direct=direct)

    def pull_image(self, reference: Reference, platform: Platform) -> Image:
        """The image for `platform`: its manifest and config, without the layers.

        A tag is resolved once: all that follows is fetched by digest, and first from where the tag was answered.
        """
        descriptor, data = _ImageSearch(self, reference, platform).image()
        with about(f"pulling {reference}"):
            manifest = parse_image_manifest(data, descriptor.media_type)
            if manifest.config.size > CONFIG_LIMIT_BYTES:
                raise OciError(f"config: expected at most {CONFIG_LIMIT_BYTES} bytes, found {manifest.config.size}")
        config = bytearray()
        self.fetch_blob(reference, manifest.config, config.extend)
        with about(f"pulling {reference}"):
            image = Image.parse(descriptor, data, bytes(config))
            if not fits(image.config.platform, platform):
                raise RegistryContentError(
                    f"expected an image for {platform}, found one for {image.config.platform}",
                    code="platform-mismatch",
                    hint="choose an image that has this platform, or another platform",
                )
        return image

    def fetch_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        write: Callable[[bytes], object],
        progress: Progress | None = None,
    ) -> None:
        """Write a blob's bytes; digest and size are checked at the end, so a caller keeps nothing when this raises.

        A download that breaks off is resumed where it stopped, at the next mirror too.
        """
        receiver = Receiver(descriptor, write, self._watch("pull", descriptor, progress))
        # the download counts its attempts itself, because it knows which of them came further
        self._in_order(reference, lambda at, policy: self._blobs.download(at, receiver, policy), direct=False)

    def has_blob(self, reference: Reference, digest: Digest) -> bool:
        """Whether the repository has a blob."""
        return self._retry.run(lambda: self._blobs.exists(push_endpoint(reference), digest))

    def mount_blob(self, target: Reference, digest: Digest, from_repository: str) -> bool:
        """Whether `target`'s registry took a blob over from another of its repositories; if not, push it."""
        return self._retry.run(lambda: self._blobs.mount(push_endpoint(target), digest, from_repository))

    def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        open_stream: Callable[[], BinaryIO],
        progress: Progress | None = None,
    ) -> bool:
        """Send a blob unless the registry has it, and tell whether it was sent; each attempt opens a stream anew."""
        watch, at = self._watch("push", descriptor, progress), push_endpoint(reference)
        return self._retry.run(lambda: self._blobs.upload(at, descriptor, open_stream, watch))

    def put_manifest(self, reference: Reference, media_type: str, data: bytes) -> Descriptor:
        """Put a manifest under the reference's tag, or by its digest when the reference has no tag."""
        descriptor = Descriptor(media_type, Digest.of(data), len(data))
        if reference.digest not in {None, descriptor.digest}:
            raise UsageError(f"{reference}: the manifest has digest {descriptor.digest}", code="digest-mismatch")
        if len(data) > MANIFEST_LIMIT_BYTES:
            raise UsageError(
                f"{reference}: expected a manifest of at most {MANIFEST_LIMIT_BYTES} bytes, found {len(data)}",
                code="manifest-too-large",
            )
        name, at = reference.tag or str(descriptor.digest), push_endpoint(reference)
        self._retry.run(lambda: self._manifests.put(at, name, media_type, data))
        return descriptor

    def delete_manifest(self, reference: Reference) -> None:
        """Delete a manifest by digest, with every tag on it, or a tag alone where the registry can."""
        name = reference.digest or reference.tag
        if name is None:
            raise UsageError(f"{reference}: expected a tag or a digest to delete", code="reference-invalid")
        self._retry.run(lambda: self._manifests.delete(push_endpoint(reference), name))

    def list_tags(self, reference: Reference) -> list[str]:
        """Every tag of the repository, in the registry's order."""
        at = push_endpoint(reference)
        url: str | None = self._manifests.first_tag_page(at)
        tags: dict[str, None] = {}
        for _ in range(MAX_TAG_PAGES):
            page, url = self._tag_page(at, url) if url else ([], None)
            tags.update(dict.fromkeys(page))
            if url is None:
                return list(tags)
        raise RegistryContentError(
            f"listing the tags of {at.name}: more than {MAX_TAG_PAGES} pages", code="too-many-tags"
        )

    def _tag_page(self, at: Endpoint, url: str) -> tuple[list[str], str | None]:
        return self._retry.run(lambda: self._manifests.tag_page(at, url))

    def _pull(self, reference: Reference, ask: Callable[[Endpoint, RetryPolicy], T], *, direct: bool) -> T:
        return self._in_order(reference, lambda at, policy: policy.run(lambda: ask(at, policy)), direct=direct)

    def _in_order(self, reference: Reference, ask: Callable[[Endpoint, RetryPolicy], T], *, direct: bool) -> T:
        """The first good answer of the places to pull from; the one that answered last time is asked first."""
        places = (push_endpoint(reference),) if direct else self._mirrors.pull_endpoints(reference)
        with self._lock:
            first = None if direct else self._answered.get(reference.name)
        *others, last = sorted(places, key=lambda place: place != first)

        def ask_at(place: Endpoint, policy: RetryPolicy) -> T:
            answer = ask(place, policy)
            if not direct:
                with self._lock:
                    self._answered[reference.name] = place
            return answer

        for place in others:
            try:
                return ask_at(place, self._retry.but_at_most(MIRROR_RETRIES))
            except (RegistryNotFoundError, RegistryUnavailableError, RegistryAuthError) as error:
                _log.warning("%s; trying the next place", error.message)
        return ask_at(last, self._retry)

    def _watch(self, what: str, descriptor: Descriptor, progress: Progress | None) -> Progress:
        if progress is not None:
            return progress
        item = descriptor.digest.hex[:12]
        return lambda done, total: self._on_progress(what, item, done, total)


class _ImageSearch:
    """Finds a platform's image manifest behind a reference, below indexes too, within bounds on depth and requests."""

    def __init__(self, client: RegistryClient, reference: Reference, platform: Platform) -> None:
        self._client = client
        self._reference = reference
        self._platform = platform
        self._left = MAX_MANIFESTS_TRIED
        self._offered: dict[str, None] = {}

    def image(self) -> tuple[Descriptor, bytes]:
        descriptor, data = self._client.get_manifest(self._reference)
        if found := self._below(descriptor, data, depth=0):
            return found
        offered = ", ".join(self._offered) or "none"
        raise RegistryNotFoundError(
            f"{self._reference}: expected an image for {self._platform}, found {offered}",
            code="platform-not-found",
            hint="choose one of these platforms, or another image",
        )

    def _below(self, descriptor: Descriptor, data: bytes, depth: int) -> tuple[Descriptor, bytes] | None:
        if descriptor.media_type not in INDEX_TYPES:
            return descriptor, data
        if depth >= MAX_INDEX_DEPTH:
            raise RegistryContentError(
                f"{self._reference}: expected indexes at most {MAX_INDEX_DEPTH} deep, found more", code="index-too-deep"
            )
        index = Index.parse(data, descriptor.media_type)
        self._offered.update({str(item.platform)[:40]: None for item in index.manifests[:64] if item.platform})
        for entry in candidates(index, self._platform):
            if found := self._below(*self._fetch(entry), depth=depth + 1):
                return found
        return None

    def _fetch(self, entry: Descriptor) -> tuple[Descriptor, bytes]:
        self._left -= 1
        if self._left < 0 or entry.size > MANIFEST_LIMIT_BYTES:
            raise RegistryContentError(
                f"{self._reference}: expected at most {MAX_MANIFESTS_TRIED} manifests of {MANIFEST_LIMIT_BYTES} bytes "
                "to look through, found more",
                code="index-too-large",
            )
        found, data = self._client.get_manifest(self._reference.with_digest(entry.digest))
        with about(f"pulling {self._reference}"):
            if found.media_type != entry.media_type:
                raise OciError(
                    f"manifest: expected media type {entry.media_type}, found {found.media_type}",
                    code="media-type-mismatch",
                )
            check_bytes(entry, data, "manifest")
        return found, data
