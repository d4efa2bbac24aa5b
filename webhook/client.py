"""The client of the HTTP interface (docs/api.md): what the commands about projects and builds speak through.

::

    PushwrightError
    ├── UsageError
    │   ├── RequestRefusedError   the server does not take the request        exit status 2
    │   └── NotKnownError         no such project, build or commit            exit status 6
    └── HostError
        ├── ServerAwayError       not reachable, or it says "later"           exit status 3 (retryable)
        └── ServerFailedError     an answer that makes no sense               exit status 3
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlsplit

from executor.errors import HostError, PushwrightError, UsageError
from webhook.embedded.directories import is_held
from webhook.listen import is_loopback

if TYPE_CHECKING:
    import requests

API = "/api/v1"
SERVER_FILE = "server.json"
EXIT_UNKNOWN = 6
_ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
# an event is at most 16 MiB (executor.progress); its line has a cursor beside it
_LINE_LIMIT_BYTES = 17 * 1024 * 1024
_CONNECT_SECONDS = 10.0
# a followed log sends an empty line every few seconds, and every other answer is immediate
_READ_SECONDS = 60.0


class RequestRefusedError(UsageError):
    """The server understood the request and refuses it; `problem` is its whole answer."""

    code = "request-refused"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.problem: Mapping[str, Any] = problem or {}


class NotKnownError(RequestRefusedError):
    """The server knows no such project, build or commit."""

    code = "not-found"
    exit_status: ClassVar[int] = EXIT_UNKNOWN


class ServerAwayError(HostError):
    """The server cannot be reached, or answers that it cannot serve now."""

    code = "server-away"
    retryable = True


class ServerFailedError(HostError):
    """The server's answer is an error of its own, or not what its interface promises."""

    code = "server-failed"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is, and the token it wants ("" for none)."""

    url: str
    token: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str, token: str = "") -> ServerAddress:
        try:
            parts = urlsplit(url)
            port_is_valid = parts.port is None or parts.port > 0
        except ValueError:
            parts, port_is_valid = urlsplit(""), False
        if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_valid or parts.username:
            raise UsageError(
                "server: expected a URL such as http://127.0.0.1:8080, found "
                # what stands before an @ may be a password
                + ("a user name in it" if "@" in url else repr(url)),
                hint="give it with --server or PUSHWRIGHT_SERVER, and the token with PUSHWRIGHT_TOKEN",
            )
        return cls(url=url.rstrip("/"), token=token)


def find_server(url: str, token: str, environment: Mapping[str, str], data: Callable[[], Path]) -> ServerAddress:
    """The server to speak to: as told, else of the environment, else the one that is up on the data directory.

    `data` gives the data directory, and is asked only when it matters. The token of its file goes to the URL of that
    file only.
    """
    url = url or environment.get("PUSHWRIGHT_SERVER", "")
    token = token or environment.get("PUSHWRIGHT_TOKEN", "")
    if not url:
        local = local_server(data())
        return ServerAddress(local.url, token or local.token)
    address = ServerAddress.parse(url, token)
    if not token:
        try:
            local = local_server(data())
        except PushwrightError:
            return address
        if local.url == address.url:
            return local
    return address


def local_server(data: Path) -> ServerAddress:
    """The address that a running `up` left in its data directory.

    A file that an `up` left behind when it was killed does not count: by now anybody may listen at its address, and
    would be sent the token.
    """
    path = data / SERVER_FILE
    if path.exists() and not is_held(data):
        raise ServerAwayError(
            f"no server is up on {data}; the last one was killed",
            code="server-unknown",
            hint="start it again with `pushwright up`, or name another with --server URL or PUSHWRIGHT_SERVER",
        )
    return _read_server_file(path)


def _read_server_file(path: Path) -> ServerAddress:
    try:
        value = json.loads(path.read_bytes())
        return ServerAddress.parse(str(value["url"]), str(value.get("token") or ""))
    except FileNotFoundError as error:
        raise ServerAwayError(
            f"no server is known: {path} does not exist",
            code="server-unknown",
            hint="start one with `pushwright up`, or name one with --server URL or PUSHWRIGHT_SERVER",
        ) from error
    except OSError as error:
        raise HostError(
            f"{path}: cannot be read: {error.strerror}",
            code="server-unknown",
            hint="run as the user who started the server, or give --server and PUSHWRIGHT_TOKEN",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HostError(f"{path}: expected an object with `url` and `token`", code="server-unknown") from error


def api_path(*parts: str) -> str:
    """A path of the interface from names that are not trusted to be path segments."""
    return "/".join((API, *(quote(part, safe="") for part in parts)))


class Client:
    """One server, spoken to in JSON; every failure is a `PushwrightError`."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self._session = _session(address)

    def get(self, path: str, parameters: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        return self._json("GET", path, parameters=parameters)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._json("POST", path, body=body or {})

    def delete(self, path: str) -> None:
        with self._request("DELETE", path) as response:
            self._check(response)

    def lines(self, path: str, parameters: Mapping[str, str | int]) -> Iterator[dict[str, Any]]:
        """The objects of an answer in JSON lines, as they arrive; lines that are empty only show that it lives."""
        from requests.exceptions import RequestException

        with self._request("GET", path, parameters=parameters) as response:
            self._check(response)
            try:
                for line in _split_lines(response.iter_content(chunk_size=None)):
                    if line.strip():
                        yield self._decoded(line)
            except RequestException as error:
                raise self._away("the answer broke off", error) from error

    def _json(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        with self._request(method, path, parameters=parameters, body=body) as response:
            self._check(response)
            return self._decoded(self._body(response))

    def _request(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> requests.Response:
        from requests.exceptions import RequestException

        try:
            return self._session.request(
                method,
                self.address.url + path,
                params=dict(parameters) if parameters else None,
                json=body,
                timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                # a redirect would take the token along
                allow_redirects=False,
                stream=True,
            )
        except RequestException as error:
            raise self._away("cannot be reached", error) from error

    def _body(self, response: requests.Response) -> bytes:
        from requests.exceptions import RequestException

        body = bytearray()
        try:
            for chunk in response.iter_content(64 * 1024):
                body += chunk
                if len(body) > _ANSWER_LIMIT_BYTES:
                    raise ServerFailedError(f"{self.address.url}: an answer of more than {_ANSWER_LIMIT_BYTES} bytes")
        except RequestException as error:
            raise self._away("the answer broke off", error) from error
        return bytes(body)

    def _decoded(self, body: bytes) -> dict[str, Any]:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise self._not_pushwright("not JSON") from error
        if not isinstance(value, dict):
            raise self._not_pushwright("not an object")
        return value

    def _check(self, response: requests.Response) -> None:
        if 200 <= response.status_code < 300:
            return
        if not response.headers.get("Content-Type", "").startswith("application/problem+json"):
            raise self._not_pushwright(f"status {response.status_code} without a problem in JSON")
        raise problem_error(self._decoded(self._body(response)))

    def _away(self, what: str, error: Exception) -> ServerAwayError:
        return ServerAwayError(
            f"server {self.address.url}: {what}: {_cause(error)}",
            hint="is it running? start it with `pushwright up`, or name another with --server",
        )

    def _not_pushwright(self, found: str) -> ServerFailedError:
        return ServerFailedError(
            f"server {self.address.url}: expected an answer of Pushwright's interface, found {found}",
            hint="check --server and PUSHWRIGHT_SERVER",
        )


def problem_error(problem: Mapping[str, Any]) -> PushwrightError:
    """The error that a problem of the interface (RFC 9457) means."""
    status = problem.get("status")
    message = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    code, hint = str(problem.get("code") or "request-refused"), str(problem.get("hint") or "") or None
    if status == 503:
        return ServerAwayError(message, code=code, hint=hint or "try again in a moment")
    if not isinstance(status, int) or not 400 <= status < 500:
        return ServerFailedError(message, code=code, hint=hint)
    if status == 404:
        return NotKnownError(message, code=code, hint=hint, problem=problem)
    if status == 401:
        hint = (
            hint
            or "give the server's token with PUSHWRIGHT_TOKEN or --token; on its machine `pushwright token` shows it"
        )
    return RequestRefusedError(message, code=code, hint=hint, problem=problem)


def _session(address: ServerAddress) -> requests.Session:
    import requests

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if address.token:
            request.headers["Authorization"] = f"Bearer {address.token}"
        return request

    session = requests.Session()
    # set even without a token: with no authentication of its own, requests would send what ~/.netrc has for the host
    session.auth = authorize
    # a proxy of the environment cannot reach this machine's loopback
    session.trust_env = not is_loopback(urlsplit(address.url).hostname or "")
    session.headers["Accept-Encoding"] = "identity"
    return session


def _split_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines from chunks; a last line without its end was cut off and is not given."""
    held = b""
    for chunk in chunks:
        *lines, held = (held + chunk).split(b"\n")
        yield from lines
        if len(held) > _LINE_LIMIT_BYTES:
            raise ServerFailedError(f"a line of more than {_LINE_LIMIT_BYTES} bytes in the server's answer")


def _cause(error: Exception) -> str:
    """The innermost reason, without the layers of objects that the HTTP libraries wrap around it."""
    seen: BaseException = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    return getattr(seen, "strerror", None) or str(seen) or type(seen).__name__
