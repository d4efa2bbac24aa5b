"""HTTP as registries need it: one exchange at a time, streamed both ways, nothing sent where it does not belong.

The rules that hold for every request: `Authorization` goes to the origin it was made for and to no other; a redirect
is followed by hand, at most five times and never from HTTPS to HTTP; no environment variable, netrc file or cookie
has a part in it; a body is read against a limit and against a lowest speed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import urljoin

import requests
import requests.adapters
import urllib3
from requests.exceptions import RequestException, SSLError
from urllib3.exceptions import HTTPError

from executor.errors import (
    RegistryAuthError,
    RegistryContentError,
    RegistryError,
    RegistryUnavailableError,
    StoreError,
    UsageError,
)
from executor.registry.answers import ERROR_BODY_LIMIT, printable, refusal
from executor.registry.hosts import HostRules, Origin, proxy_for

CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 60.0
# a registry in front of an object store copies a finished upload before it answers
UPLOAD_TIMEOUT_SECONDS = 600.0
MAX_REDIRECTS = 5
CONNECTIONS_PER_HOST = 8
CHUNK_BYTES = 256 * 1024
# a body slower than this for a whole window is a server that keeps us waiting on purpose
PACE_WINDOW_SECONDS = 60.0
PACE_WINDOW_BYTES = 16 * 1024
SYSTEM_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """A request body of known size, opened once it is needed."""

    open_stream: Callable[[], BinaryIO]
    size: int
    progress: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `doing` is what an error message says was being done."""

    method: str
    url: str
    doing: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Upload | None = field(default=None, repr=False)
    follow_redirects: bool = False


class Response:
    """A status, headers, and a body still to be read; close it, or use it in `with`."""

    def __init__(self, response: requests.Response, request: Request, clock: Callable[[], float]) -> None:
        self._response = response
        self._clock = clock
        self.doing = request.doing
        self.url = request.url
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.authorization = request.headers.get("Authorization")

    def __enter__(self) -> Response:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._drain()
        self._response.close()

    def _drain(self) -> None:
        """Read what little is left, because only a connection read to the end of an answer can be used again."""
        left = self._response.raw.length_remaining
        if left is not None and left <= ERROR_BODY_LIMIT:
            with contextlib.suppress(HTTPError, OSError, ValueError):
                self._response.raw.read(decode_content=False)

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes; `RegistryUnavailableError` when it breaks off, is too slow, or the connection goes."""
        raw = self._response.raw
        # read1 gives what has arrived, so that a trickle is seen as one; urllib3 before 2.3 cannot
        read: Callable[[int], bytes] = getattr(raw, "read1", raw.read)
        spent, received = 0.0, 0
        while True:
            began = self._clock()
            try:
                data = read(CHUNK_BYTES)
            except (HTTPError, OSError, ValueError) as error:
                raise _unavailable(self.doing, f"the answer broke off: {_reason(error)}") from error
            if not data:
                return
            spent, received = spent + self._clock() - began, received + len(data)
            if spent >= PACE_WINDOW_SECONDS:
                if received < PACE_WINDOW_BYTES:
                    raise _unavailable(self.doing, f"{received} bytes came in {spent:.0f} s", code="registry-too-slow")
                spent, received = 0.0, 0
            yield data

    def read(self, limit: int) -> bytes:
        """The whole body, which is refused above `limit` bytes."""
        data = bytearray()
        for chunk in self.chunks():
            data += chunk
            if len(data) > limit:
                raise RegistryContentError(
                    f"{self.doing}: expected at most {limit} bytes, found more", code="body-too-large"
                )
        return bytes(data)

    def refusal(self, *, anonymous: bool = False) -> RegistryError:
        """This answer, which is no success, as an error; `anonymous` when no credential of ours is behind it."""
        body = b""
        try:
            for chunk in self.chunks():
                body += chunk
                if len(body) > ERROR_BODY_LIMIT:
                    break
        except RegistryUnavailableError as error:
            _log.debug("%s", error.message)  # the status alone has to do
        anonymous = anonymous or self.authorization is None
        return refusal(self.status, self.headers, body[:ERROR_BODY_LIMIT], self.doing, anonymous=anonymous)


class Transport:
    """Sends requests over pooled connections; safe to use from any thread."""

    def __init__(
        self,
        rules: HostRules,
        *,
        proxies: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self._proxies = {name.lower().removesuffix("_proxy"): url for name, url in (proxies or {}).items()}
        self._clock = clock
        self._lock = threading.Lock()
        self._adapters: dict[str, _Adapter] = {}
        self._user_agent = f"pushwright/{_version()}"

    def send(self, request: Request) -> Response:
        """The answer to `request`, whatever its status; redirects followed where the request allows it."""
        asked = request
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(request)
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                return response
            with response:
                if not asked.follow_redirects:
                    raise RegistryError(
                        f"{asked.doing}: expected no redirect, found {response.status}", code="redirect-refused"
                    )
                request = self.moved(request, response.headers["Location"])
        raise RegistryError(f"{asked.doing}: more than {MAX_REDIRECTS} redirects", code="redirect-refused")

    def moved(self, request: Request, location: str) -> Request:
        """`request` to where a server sent us; without `Authorization` unless the origin is the same."""
        try:
            url = urljoin(request.url, location)
        except ValueError as error:
            raise RegistryError(
                f"{request.doing}: the registry names a place that is no URL: {error}", code="url-invalid"
            ) from error
        asked, target = Origin.of_url(request.url), Origin.of_url(url)
        if target.scheme == "http" and target != asked and not self.rules.allows_http(target, asked):
            raise RegistryError(
                f"{request.doing}: {asked} sent us to {target}, which is plain HTTP",
                code="redirect-insecure",
                hint=f"declare {target.host} as an insecure registry if its network is trusted"
                if asked.scheme == "http"
                else "from HTTPS nothing is followed to plain HTTP; the registry's external URL may be misconfigured",
            )
        headers = dict(request.headers)
        if target != asked:
            headers.pop("Authorization", None)
        return Request(request.method, url, request.doing, headers, request.body, request.follow_redirects)

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            adapters, self._adapters = list(self._adapters.values()), {}
        for adapter in adapters:
            adapter.close()

    def _exchange(self, request: Request) -> Response:
        origin = Origin.of_url(request.url)
        source = _Source(request.body, request.doing) if isinstance(request.body, Upload) else None
        proxy = proxy_for(origin, self._proxies)
        read_timeout = UPLOAD_TIMEOUT_SECONDS if source else READ_TIMEOUT_SECONDS
        try:
            response = self._adapter(origin).send(
                self._prepare(request, source),
                stream=True,
                timeout=(CONNECT_TIMEOUT_SECONDS, read_timeout),
                proxies={origin.scheme: proxy} if proxy else None,
            )
        except (RequestException, HTTPError, OSError, ValueError) as error:
            raise _connection_error(request.doing, origin, error) from error
        finally:
            if source:
                source.close()
        return Response(response, request, self._clock)

    def _prepare(self, request: Request, source: _Source | None) -> requests.PreparedRequest:
        # a compressed blob is content, not transfer: nothing may be decoded on the way (RFC 9110, section 12.5.3)
        headers = {"User-Agent": self._user_agent, "Accept-Encoding": "identity", **request.headers}
        prepared = requests.Request(request.method, request.url, headers=headers).prepare()
        if source:
            prepared.headers["Content-Length"] = str(source.size)
            # requests' type does not know that any object with `read` is sent as it is
            prepared.body = source if source.size else b""  # type: ignore[assignment]
        elif isinstance(request.body, bytes):
            prepared.body = request.body
            prepared.headers["Content-Length"] = str(len(request.body))
        return prepared

    def _adapter(self, origin: Origin) -> _Adapter:
        certificate = self.rules.certificate(origin.host)
        unverified = self.rules.is_unverified(origin.host)
        of_its_own = origin.scheme == "https" and (unverified or certificate is not None)
        key = origin.host if of_its_own else origin.scheme
        with self._lock:
            if key not in self._adapters:
                # reading the system's authorities takes longer than a request on loopback
                trust = None if key == "http" else _trust(origin.host, certificate, unverified=unverified)
                self._adapters[key] = _Adapter(trust)
            return self._adapters[key]


class _Adapter(requests.adapters.HTTPAdapter):
    """requests' adapter with our own TLS context, and pools that wait for a free connection instead of opening more."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._pool_options = {"blocksize": CHUNK_BYTES, **({"ssl_context": context} if context else {})}
        super().__init__(pool_connections=32, pool_maxsize=CONNECTIONS_PER_HOST, max_retries=0, pool_block=True)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **self._pool_options, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, **self._pool_options, **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave the trust to the context: requests would add the bundle of certifi to it."""
        if self._context:
            conn.cert_reqs = "CERT_NONE" if self._context.verify_mode is ssl.CERT_NONE else "CERT_REQUIRED"


class _Source:
    """An upload's stream as the connection reads it."""

    def __init__(self, upload: Upload, doing: str) -> None:
        self.size = upload.size
        self._upload = upload
        self._doing = doing
        self._sent = 0
        self._stream: BinaryIO | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            return self._read(size)
        except OSError as error:
            # not an OSError any more, so that the connection does not take it for one of its own
            raise StoreError(f"{self._doing}: cannot read what is to be sent: {error.strerror or error}") from error

    def _read(self, size: int) -> bytes:
        if self._stream is None:
            self._stream = self._upload.open_stream()
        left = self.size - self._sent
        if not left:
            return b""
        data = self._stream.read(min(size, left) if size >= 0 else left)
        if not data:
            raise StoreError(
                f"{self._doing}: expected {self.size} bytes to send, found {self._sent}", code="blob-truncated"
            )
        self._sent += len(data)
        self._upload.progress(self._sent)
        return data

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _trust(host: str, certificate: str | None, *, unverified: bool) -> ssl.SSLContext:
    if SYSTEM_CA_BUNDLE.is_file():
        bundle = str(SYSTEM_CA_BUNDLE)
    else:
        import certifi

        bundle = certifi.where()
    context = ssl.create_default_context(cafile=bundle)
    if certificate:
        try:
            context.load_verify_locations(cadata=certificate)
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(
                f"the certificate for {host}: expected a PEM bundle: {error}", code="certificate-invalid"
            ) from error
    if unverified:
        _log.warning("the certificate of %s is not checked, as asked", host)
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _connection_error(doing: str, origin: Origin, error: Exception) -> RegistryError:
    if isinstance(error, SSLError):
        reason = _reason(error)
        plain = "WRONG_VERSION_NUMBER" in reason or "wrong version number" in reason.lower()
        return RegistryError(
            f"{doing}: no trusted TLS connection to {origin.host}: {reason}",
            code="registry-tls",
            hint=f"{origin.host} seems to speak plain HTTP: declare it as an insecure registry"
            if plain
            else "give the certificate of its authority, or check the host name",
        )
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader):
        return RegistryError(f"{doing}: {_reason(error)}", code="url-invalid")
    if isinstance(error, requests.exceptions.ProxyError) and "407" in str(error):
        return RegistryAuthError(f"{doing}: the proxy asks for credentials", code="proxy-unauthorized")
    return _unavailable(doing, _reason(error))


def _unavailable(doing: str, reason: str, *, code: str = "registry-unavailable") -> RegistryUnavailableError:
    return RegistryUnavailableError(
        f"{doing}: {reason}", code=code, hint="check the registry's name, the network and the proxy settings"
    )


def _reason(error: BaseException) -> str:
    """The innermost cause in words: requests and urllib3 wrap it in object addresses and pool names."""
    seen: BaseException = error
    for _ in range(8):
        wrapped = (getattr(seen, "reason", None), *seen.args, seen.__cause__)
        inner = next((item for item in wrapped if isinstance(item, BaseException)), None)
        if inner is None:
            break
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return printable(seen.strerror)
    # the texts of urllib3 begin with the connection's address or host
    return printable(str(seen).rpartition("): ")[2] or type(seen).__name__)


def _version() -> str:
    try:
        return importlib.metadata.version("pushwright")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
