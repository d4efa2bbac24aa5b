"""Manifests and tags at one registry: what is served is believed only as far as it can be checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

from executor.errors import RegistryContentError, RegistryError
from executor.image import check_bytes
from executor.oci import (
    INDEX_DOCKER,
    INDEX_OCI,
    INDEX_TYPES,
    MANIFEST_DOCKER,
    MANIFEST_LIMIT_BYTES,
    MANIFEST_OCI,
    MANIFEST_TYPES,
    Descriptor,
    Digest,
    Index,
    Manifest,
    OciError,
    decode_json,
)
from executor.reference import TAG_PATTERN, Reference
from executor.registry.answers import printable
from executor.registry.blobs import check_digest_header
from executor.registry.exchange import Exchange, delete_scopes, pull_scopes, push_scopes
from executor.registry.hosts import Origin
from executor.registry.mirrors import Endpoint
from executor.registry.transport import Request, Response

ACCEPTED_MANIFESTS = ", ".join((MANIFEST_OCI, INDEX_OCI, MANIFEST_DOCKER, INDEX_DOCKER))
SCHEMA_1_TYPES = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
TAG_PAGE = 1000
TAG_LIST_LIMIT_BYTES = 4 * 1024 * 1024
_NEXT_LINK = re.compile(r'<([^<>]{1,4096})>\s*;[^,]*\brel="?next"?')


class Manifests:
    """The manifest and tag requests of the distribution-spec; nothing is tried twice here."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def resolve(self, endpoint: Endpoint, reference: Reference) -> Descriptor:
        """What a tag or digest stands for, by HEAD where the registry answers it in full."""
        request = self._request("HEAD", endpoint, reference)
        with self._exchange.send(endpoint, request, pull_scopes(endpoint)) as response:
            if response.status == 200 and (descriptor := _described(response)):
                if reference.digest is not None:
                    check_digest_header(response, reference.digest)
                return descriptor
            if response.status not in {200, 400, 405, 501}:
                raise response.refusal()
        # without these headers, or without HEAD, the manifest itself has to tell
        return self.get(endpoint, reference)[0]

    def get(self, endpoint: Endpoint, reference: Reference) -> tuple[Descriptor, bytes]:
        """A manifest or index and its bytes, checked against the reference's digest and the one the registry names."""
        request = self._request("GET", endpoint, reference)
        with self._exchange.expect(endpoint, request, pull_scopes(endpoint), {200}) as response:
            media_type = _manifest_type(response)
            data = response.read(MANIFEST_LIMIT_BYTES)
            digest = Digest.of(data)
            check_digest_header(response, digest)
        with about(request.doing):
            check_bytes(Descriptor(media_type, reference.digest or digest, len(data)), data, "manifest")
            (Index if media_type in INDEX_TYPES else Manifest).parse(data, media_type)
        return Descriptor(media_type, digest, len(data)), data

    def put(self, endpoint: Endpoint, name: str, media_type: str, data: bytes) -> None:
        """Put a manifest under a tag or its digest ("Pushing Manifests")."""
        doing = f"pushing manifest {name[:60]} to {endpoint.name}"
        url = self._exchange.url(endpoint, f"manifests/{name}")
        request = Request("PUT", url, doing, {"Content-Type": media_type}, data)
        with self._exchange.expect(endpoint, request, push_scopes(endpoint), {200, 201, 202, 204}) as response:
            check_digest_header(response, Digest.of(data))

    def delete(self, endpoint: Endpoint, name: str) -> None:
        """Delete a manifest by digest, or a tag ("Content Management")."""
        doing = f"deleting manifest {name[:60]} of {endpoint.name}"
        request = Request("DELETE", self._exchange.url(endpoint, f"manifests/{name}"), doing)
        with self._exchange.send(endpoint, request, delete_scopes(endpoint)) as response:
            if response.status in {200, 202, 204}:
                return
            error = response.refusal()
        if response.status in {400, 405}:
            raise RegistryError(
                error.message, code="delete-unsupported", hint="this registry does not delete, or not by tag"
            )
        raise error

    def first_tag_page(self, endpoint: Endpoint) -> str:
        """The URL of the first page of tags."""
        return self._exchange.url(endpoint, f"tags/list?{urlencode({'n': TAG_PAGE})}")

    def tag_page(self, endpoint: Endpoint, url: str) -> tuple[list[str], str | None]:
        """A page of tags, and the URL of the next ("Listing Tags")."""
        request = Request("GET", url, f"listing the tags of {endpoint.name}")
        with self._exchange.expect(endpoint, request, pull_scopes(endpoint), {200}) as response:
            body = response.read(TAG_LIST_LIMIT_BYTES)
            link = _NEXT_LINK.search(response.headers.get("Link", ""))
        with about(request.doing):
            decoded = decode_json(body, "tags")
            found = (decoded.get("tags") or []) if isinstance(decoded, dict) else None
            if not isinstance(found, list) or not all(isinstance(t, str) and TAG_PATTERN.fullmatch(t) for t in found):
                raise OciError("expected a list of tags, found something else", code="tags-invalid")
        following = self._exchange.moved(request, link[1]) if link else None
        if following and Origin.of_url(following) != Origin.of_url(url):
            raise RegistryContentError(f"{request.doing}: the next page is on another host", code="tags-invalid")
        return found, following

    def _request(self, method: str, endpoint: Endpoint, reference: Reference) -> Request:
        name = reference.digest or reference.or_latest().tag
        return Request(
            method,
            self._exchange.url(endpoint, f"manifests/{name}"),
            f"fetching the manifest {str(name)[:60]} of {endpoint.name}",
            {"Accept": ACCEPTED_MANIFESTS},
            follow_redirects=True,
        )


@contextmanager
def about(doing: str) -> Iterator[None]:
    """Say in an error about content which image it is about."""
    try:
        yield
    except RegistryContentError as error:
        raise type(error)(f"{doing}: {error.message}", code=error.code, hint=error.hint) from error


def _described(response: Response) -> Descriptor | None:
    """The descriptor that a HEAD's headers make up; None when they are not all there."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    digest = response.headers.get("Docker-Content-Digest", "")
    size = response.headers.get("Content-Length", "")
    if media_type not in MANIFEST_TYPES | INDEX_TYPES or not digest or not (size.isascii() and size.isdigit()):
        return None
    with about(response.doing):
        return Descriptor.parse(
            {"mediaType": media_type, "digest": digest, "size": int(size[:18])}, "the answer's headers"
        )


def _manifest_type(response: Response) -> str:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type in SCHEMA_1_TYPES:
        raise RegistryContentError(
            f"{response.doing}: the image is in Docker's schema 1, which is not supported",
            code="schema1-unsupported",
            hint="pull and push it with a current Docker, or ask its publisher to",
        )
    if media_type not in MANIFEST_TYPES | INDEX_TYPES:
        raise RegistryContentError(
            f"{response.doing}: expected the media type of a manifest or an index, found {printable(media_type)!r}",
            code="media-type-unknown",
        )
    return media_type
