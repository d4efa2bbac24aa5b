"""A gateway inside this process: what libgit2 is told to fetch from, instead of the git server itself.

libgit2 resolves names itself, follows redirects, keeps credentials, and uses a proxy for https only (libgit2 issue
5650). So it is handed a loopback URL with an unguessable path, and this gateway speaks to the server: it dials only
addresses that were checked, verifies the certificate, adds the credential to requests for the one origin it is bound
to, refuses every redirect to elsewhere, and bounds what a server may take in time and bytes. libgit2 never learns the
credential, and no byte of it can reach another host.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Literal, Self
from urllib.parse import urljoin, urlsplit

from executor.context.hosts import DEFAULT_PORTS
from executor.context.printable import printable

CONNECT_SECONDS = 15.0
CHUNK_BYTES = 256 * 1024
# a request names the wanted commits, 50 bytes each: enough for every branch of a very large repository
REQUEST_LIMIT_BYTES = 64 * 1024 * 1024

# of libgit2's request only these are passed on; Authorization is the gateway's own
_REQUEST_FIELDS = ("User-Agent", "Accept", "Content-Type", "Git-Protocol")
# the smart HTTP protocol for reading (gitprotocol-http): nothing else is asked through the gateway
_REQUESTS = (("GET", "/info/refs?service=git-upload-pack"), ("POST", "/git-upload-pack"))

FailureKind = Literal["redirect", "unreachable", "certificate", "timeout", "too-large", "status"]


@dataclass(frozen=True, slots=True)
class Origin:
    """The one server that is spoken to: its name in a URL, the addresses dialled, the credential it may see."""

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]
    authorization: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{name}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long the server may be silent, when (monotonic clock) all must be over, and how much it may send."""

    idle_seconds: float
    deadline: float
    max_bytes: int

    def patience(self) -> float:
        """For how long to wait for the next byte, now."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise GivenUpError("timeout", "the whole transfer took longer than it may")
        return min(self.idle_seconds, left)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request was given up; `status` is the server's HTTP status where that is the reason."""

    kind: FailureKind
    message: str
    status: int = 0


class GivenUpError(Exception):
    """Ends one request; recorded as the gateway's `failure`."""

    def __init__(self, kind: FailureKind, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.failure = Failure(kind, printable(message), status)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    fields: http.client.HTTPMessage
    body: bytes


class Gateway:
    """The gateway, listening on a free loopback port while its `with` block runs."""

    def __init__(self, origin: Origin, bounds: Bounds) -> None:
        self._origin = origin
        self._bounds = bounds
        # other processes of this machine can reach the port, and must not read a private repository through it
        self._prefix = "/" + secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        self._failure: Failure | None = None
        self._received = 0
        self._open: set[socket.socket] = set()
        self._serving: list[threading.Thread] = []
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=8)
        self._accepting = threading.Thread(target=self._accept, name="git-gateway", daemon=True)

    def url(self, path: str) -> str:
        """The URL under which the server's `path` is reached through the gateway."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}{self._prefix}{path}"

    @property
    def failure(self) -> Failure | None:
        """The first reason for which a request was given up; None while all went well."""
        with self._lock:
            return self._failure

    @property
    def received_bytes(self) -> int:
        """How much the server sent so far."""
        with self._lock:
            return self._received

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closing = True
            connections = list(self._open)
        for item in (self._listener, *connections):
            # shutdown, because closing a descriptor does not wake a thread that waits in accept or recv
            with contextlib.suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for thread in self._serving:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), name="git-gateway-request", daemon=True)
            self._serving.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        # an OSError here is libgit2's end that closed: it tells its own story
        with client, contextlib.suppress(OSError), self._tracked(client):
            client.settimeout(self._bounds.idle_seconds)
            with client.makefile("rb") as stream:
                request = _read_request(stream)
            path = self._upstream_path(request) if request else ""
            if not request or not path:
                client.sendall(_head(404))
                return
            client.settimeout(None)
            try:
                self._forward(client, request, path)
            except GivenUpError as error:
                self._record(error.failure)
                client.sendall(_head(error.failure.status or 502))

    def _upstream_path(self, request: _Request) -> str:
        prefix, path = request.target[: len(self._prefix)], request.target[len(self._prefix) :]
        if not hmac.compare_digest(prefix.encode(), self._prefix.encode()) or not path.startswith("/"):
            return ""
        known = any(request.method == method and path.endswith(end) for method, end in _REQUESTS)
        return path if known else ""

    def _forward(self, client: socket.socket, request: _Request, path: str) -> None:
        with contextlib.ExitStack() as stack:
            upstream = stack.enter_context(self._dial())
            stack.enter_context(self._tracked(upstream))
            # closed by itself: it holds the socket's descriptor open beyond the socket's own end
            answer = stack.enter_context(contextlib.closing(self._ask(upstream, request, path)))
            if 300 <= answer.status < 400:
                client.sendall(_head(answer.status, ("Location", self._redirected(path, answer))))
                return
            if answer.status != 200:
                raise GivenUpError("status", f"it answered {answer.status} {answer.reason[:80]}", answer.status)
            kind = answer.getheader("Content-Type", "").partition("\n")[0]
            client.sendall(_head(200, ("Content-Type", kind), ("Transfer-Encoding", "chunked")))
            try:
                self._stream(client, upstream, answer)
            except GivenUpError as error:
                # in the middle of an answer: an end without the last chunk is all that can be said
                self._record(error.failure)

    def _ask(self, upstream: socket.socket, request: _Request, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._origin.host, self._origin.port)
        connection.sock = upstream
        fields = {name: value for name in _REQUEST_FIELDS if (value := request.fields.get(name))}
        fields |= {"Host": self._origin.url.partition("://")[2], "Connection": "close"}
        if self._origin.authorization:
            fields["Authorization"] = self._origin.authorization
        with _upstream_errors():
            upstream.settimeout(self._bounds.patience())
            connection.request(request.method, path, body=request.body or None, headers=fields)
            return connection.getresponse()

    def _stream(self, client: socket.socket, upstream: socket.socket, answer: http.client.HTTPResponse) -> None:
        while True:
            with _upstream_errors():
                upstream.settimeout(self._bounds.patience())
                data = answer.read1(CHUNK_BYTES)
                if not data and answer.length:
                    raise GivenUpError("unreachable", f"it closed the connection {answer.length} bytes too early")
            self._count(len(data))
            client.sendall(b"%x\r\n%b\r\n" % (len(data), data))
            if not data:
                return

    def _redirected(self, path: str, answer: http.client.HTTPResponse) -> str:
        """Where the answer redirects to, as a URL of the gateway; only the same origin will do."""
        location = answer.getheader("Location", "")
        if not location:
            raise GivenUpError("redirect", "it redirects to nowhere")
        try:
            parts = urlsplit(urljoin(self._origin.url + path, location))
            found = (parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme), parts.username)
        except ValueError:
            raise GivenUpError("redirect", "it redirects to what is no URL") from None
        if found != (self._origin.scheme, self._origin.host, self._origin.port, None):
            shown = f"{found[0]}://{found[1]}:{found[2]}"
            raise GivenUpError("redirect", f"it redirects to {shown}")
        return self.url(parts.path) + (f"?{parts.query}" if parts.query else "")

    def _dial(self) -> socket.socket:
        problem: OSError | None = None
        end = time.monotonic() + min(CONNECT_SECONDS, self._bounds.patience())
        for number, address in enumerate(self._origin.addresses):
            share = (end - time.monotonic()) / (len(self._origin.addresses) - number)
            try:
                plain = socket.create_connection((address, self._origin.port), timeout=max(share, 0.1))
            except OSError as error:
                problem = error
                continue
            with _upstream_errors(), contextlib.ExitStack() as stack:
                stack.callback(plain.close)
                plain.settimeout(self._bounds.patience())
                tls = self._origin.tls
                upstream = tls.wrap_socket(plain, server_hostname=self._origin.host) if tls else plain
                stack.pop_all()
                return upstream
        raise _connection_failure(problem)

    def _count(self, size: int) -> None:
        with self._lock:
            self._received += size
            received = self._received
        if received > self._bounds.max_bytes:
            raise GivenUpError("too-large", f"it sent more than {self._bounds.max_bytes} bytes")

    @contextlib.contextmanager
    def _tracked(self, item: socket.socket) -> Iterator[None]:
        """Known to `__exit__` while in the block; an OSError when that has begun."""
        with self._lock:
            if self._closing:
                raise OSError("the gateway is closing")
            self._open.add(item)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(item)

    def _record(self, failure: Failure) -> None:
        with self._lock:
            if self._failure is None and not self._closing:
                self._failure = failure


def _read_request(stream: BinaryIO) -> _Request | None:
    """One request with a body of declared length; None when it is not one libgit2 would send."""
    line = stream.readline(64 * 1024)
    try:
        method, target, version = line.decode("ascii").split()
        fields = http.client.parse_headers(stream)
        size = int(fields.get("Content-Length", "0"))
    except (ValueError, http.client.HTTPException):
        return None
    if not version.startswith("HTTP/1.") or "Transfer-Encoding" in fields or not 0 <= size <= REQUEST_LIMIT_BYTES:
        return None
    body = stream.read(size)
    return _Request(method, target, fields, body) if len(body) == size else None


def _head(status: int, *fields: tuple[str, str]) -> bytes:
    """An answer's head; without a transfer encoding its body is empty."""
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if not any(name == "Transfer-Encoding" for name, _ in fields):
        lines.append("Content-Length: 0")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1", "replace")


@contextlib.contextmanager
def _upstream_errors() -> Iterator[None]:
    """Whatever goes wrong in speaking to the server, as `GivenUpError`."""
    try:
        yield
    except TimeoutError as error:
        raise GivenUpError("timeout", "it was silent for too long") from error
    except ssl.SSLCertVerificationError as error:
        raise GivenUpError("certificate", error.verify_message) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _connection_failure(error) from error


def _connection_failure(error: Exception | None) -> GivenUpError:
    if isinstance(error, TimeoutError):
        return GivenUpError("timeout", "no connection was made in time")
    reason = getattr(error, "strerror", None) or (f"{type(error).__name__}: {error}" if error else "no address")
    return GivenUpError("unreachable", f"the connection failed: {reason}")
