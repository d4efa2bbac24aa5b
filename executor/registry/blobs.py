"""Blobs to and from one registry: downloads that resume, uploads that begin anew."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from typing import BinaryIO
from urllib.parse import urlencode, urlsplit, urlunsplit

from executor.errors import RegistryContentError, RegistryError, RegistryUnavailableError
from executor.oci import Descriptor, Digest
from executor.registry.exchange import Exchange, pull_scopes, push_scopes
from executor.registry.hosts import Origin
from executor.registry.mirrors import Endpoint
from executor.registry.retry import RetryPolicy
from executor.registry.transport import Request, Response, Upload

# a download that got this far since it last broke off is not counted as failing
PROGRESS_BYTES = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)")

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)


class Receiver:
    """Takes one blob's bytes, in order and over several answers; lets none past its size, and checks its digest."""

    def __init__(self, descriptor: Descriptor, write: Callable[[bytes], object], progress: Progress) -> None:
        self.descriptor = descriptor
        self.received = 0
        self._write = write
        self._progress = progress
        self._hash = hashlib.sha256()

    def take(self, data: bytes, doing: str) -> None:
        if self.received + len(data) > self.descriptor.size:
            raise RegistryContentError(
                f"{doing}: expected {self.descriptor.size} bytes, found more", code="size-mismatch"
            )
        self._hash.update(data)
        self._write(data)
        self.received += len(data)
        self._progress(self.received, self.descriptor.size)

    def check(self, doing: str) -> None:
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self.descriptor.digest:
            raise RegistryContentError(
                f"{doing}: expected digest {self.descriptor.digest}, found {found}", code="digest-mismatch"
            )


class Blobs:
    """The blob requests of the distribution-spec."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def download(self, endpoint: Endpoint, receiver: Receiver, policy: RetryPolicy) -> None:
        """Fetch what `receiver` still lacks; when an answer breaks off, ask for the rest."""
        attempt = 0
        while True:
            before = receiver.received
            try:
                return self._download_once(endpoint, receiver)
            except RegistryUnavailableError as error:
                if receiver.received - before >= PROGRESS_BYTES:
                    attempt = 0
                if attempt >= policy.retries:
                    raise
                policy.wait(attempt, error)
            attempt += 1

    def _download_once(self, endpoint: Endpoint, receiver: Receiver) -> None:
        digest, size = receiver.descriptor.digest, receiver.descriptor.size
        doing = f"fetching blob {digest[:19]} of {endpoint.name}"
        # a server that closes after the last byte leaves nothing to ask for
        if receiver.received < size or size == 0:
            headers = {"Range": f"bytes={receiver.received}-"} if receiver.received else {}
            request = Request(
                "GET", self._exchange.url(endpoint, f"blobs/{digest}"), doing, headers, follow_redirects=True
            )
            with self._exchange.expect(endpoint, request, pull_scopes(endpoint), {200, 206}) as response:
                skip = _bytes_to_skip(response, receiver)
                for chunk in response.chunks():
                    if data := chunk[skip:]:
                        receiver.take(data, doing)
                    skip = max(skip - len(chunk), 0)
        if receiver.received < size:
            raise RegistryUnavailableError(f"{doing}: the answer ended at byte {receiver.received} of {size}")
        receiver.check(doing)

    def exists(self, endpoint: Endpoint, digest: Digest) -> bool:
        """Whether the registry has a blob (distribution-spec, "Checking if content exists")."""
        doing = f"asking for blob {digest[:19]} of {endpoint.name}"
        url = self._exchange.url(endpoint, f"blobs/{digest}")
        request = Request("HEAD", url, doing, follow_redirects=True)
        with self._exchange.send(endpoint, request, push_scopes(endpoint)) as response:
            if response.status in {200, 404}:
                return response.status == 200
            # object stores refuse HEAD on a link signed for GET: then the blob is sent again, which does no harm
            if Origin.of_url(response.url) != Origin.of_url(url):
                return False
            raise response.refusal()

    def mount(self, endpoint: Endpoint, digest: Digest, from_repository: str) -> bool:
        """Whether the registry took a blob over from another of its repositories ("Mounting a blob").

        A refusal is a no: what we may not read there can still be pushed here, and pushing says what is wrong.
        """
        doing = f"mounting blob {digest[:19]} of {from_repository} in {endpoint.name}"
        query = urlencode({"mount": str(digest), "from": from_repository})
        request = Request("POST", f"{self._exchange.url(endpoint, 'blobs/uploads/')}?{query}", doing, body=b"")
        scopes = (*push_scopes(endpoint), *pull_scopes(Endpoint(endpoint.registry, from_repository)))
        try:
            with self._exchange.expect(endpoint, request, scopes, {201, 202}) as response:
                if response.status == 201:
                    return True
                location = response.headers.get("Location", "")
            self._cancel(endpoint, request, location)
        except RegistryError as error:
            if error.retryable:
                raise
            _log.info("%s", error.message)
        return False

    def upload(
        self, endpoint: Endpoint, descriptor: Descriptor, open_stream: Callable[[], BinaryIO], progress: Progress
    ) -> bool:
        """Send a blob in one PUT unless the registry has it; whether it was sent ("POST then PUT")."""
        if self.exists(endpoint, descriptor.digest):
            return False
        doing = f"pushing blob {descriptor.digest[:19]} to {endpoint.name}"
        begin = Request("POST", self._exchange.url(endpoint, "blobs/uploads/"), doing, body=b"")
        with self._exchange.expect(endpoint, begin, push_scopes(endpoint), {202}) as response:
            location = response.headers.get("Location", "")
        if not location:
            raise RegistryError(f"{doing}: expected a Location for the upload, found none", code="upload-invalid")
        url = _with_digest(self._exchange.moved(begin, location), descriptor.digest)
        body = Upload(open_stream, descriptor.size, lambda sent: progress(sent, descriptor.size))
        request = Request("PUT", url, doing, {"Content-Type": "application/octet-stream"}, body)
        with self._exchange.expect(endpoint, request, push_scopes(endpoint), {200, 201, 204}) as response:
            check_digest_header(response, descriptor.digest)
        return True

    def _cancel(self, endpoint: Endpoint, begun: Request, location: str) -> None:
        """Give an unwanted upload up; the registry collects what nobody cancels, so its answer does not matter."""
        if location:
            request = Request("DELETE", self._exchange.moved(begun, location), begun.doing)
            with self._exchange.send(endpoint, request, push_scopes(endpoint)) as response:
                _log.debug("%s: cancelled, %d", begun.doing, response.status)


def check_digest_header(response: Response, expected: Digest) -> None:
    """Refuse an answer whose `Docker-Content-Digest` is of other content than `expected`."""
    said = response.headers.get("Docker-Content-Digest")
    if said is not None and said != expected:
        raise RegistryContentError(
            f"{response.doing}: expected digest {expected}, the registry says {said[:90]!r}", code="digest-mismatch"
        )


def _bytes_to_skip(response: Response, receiver: Receiver) -> int:
    """How many bytes of the body were received before; a server may ignore `Range` (RFC 9110, section 14.2)."""
    size, received = receiver.descriptor.size, receiver.received
    begins = 0
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        begins = int(match[1]) if match else -1
        if not received or begins != received:
            raise RegistryContentError(
                f"{response.doing}: expected the bytes from {received} on, found another range", code="range-invalid"
            )
    length = response.headers.get("Content-Length", "")
    if length and (not length.isascii() or not length.isdigit() or int(length[:20]) != size - begins):
        raise RegistryContentError(
            f"{response.doing}: expected {size - begins} bytes, found {length[:20]}", code="size-mismatch"
        )
    return received - begins


def _with_digest(url: str, digest: Digest) -> str:
    parts = urlsplit(url)
    addition = urlencode({"digest": str(digest)})
    return urlunsplit(parts._replace(query=f"{parts.query}&{addition}" if parts.query else addition, fragment=""))
