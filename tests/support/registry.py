"""A registry in memory that speaks real HTTP on loopback, is strict about what it is sent, and misbehaves when told.

What it refuses, a lax registry would let pass: uploads without `Content-Length` or with a wrong digest, manifests
whose blobs are not there or whose media type is not the one they are sent as, requests outside a token's scope.
"""

from __future__ import annotations

import base64
import binascii
import copy
import json
import re
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from executor.oci import INDEX_TYPES, Digest
from tests.support.certificates import ServerCertificate

_ROUTE = re.compile(r"/v2/(?P<repository>.+?)/(?P<kind>manifests|blobs/uploads|blobs|tags)/(?P<name>[^/]*)")


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived; header names are lower-case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@dataclass(slots=True)
class Answer:
    """What the server says.

    After `cut_after` bytes of body the connection is closed; `endless` repeats the body until the client hangs up;
    `unmeasured` leaves the length out.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    endless: bool = False
    unmeasured: bool = False


Behaviour = Callable[[Seen, Answer], Answer]


def error(status: int, code: str, message: str = "", **headers: str) -> Answer:
    """An answer in the distribution-spec's error form."""
    body = json.dumps({"errors": [{"code": code, "message": message or code.lower()}]}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"Content-Type": "application/json", **named}, body)


@dataclass(slots=True)
class _Rule:
    method: str
    path: re.Pattern[str]
    behaviour: Behaviour | Answer
    times: int


class FakeRegistry:
    """The registry's content, what it has seen, and how it is to misbehave; set `username` or `tokens` to guard it."""

    def __init__(self) -> None:
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.seen: list[Seen] = []
        self.origin = ""
        self.connections = 0
        self.username = ""
        self.password = ""
        self.identity_token = ""
        self.tokens = False
        self.realm = ""
        self.page_size = 1000
        self._granted: dict[str, set[str]] = {}
        self._uploads: set[str] = set()
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self.origin.partition("://")[2]

    def misbehave(self, method: str, path: str, behaviour: Behaviour | Answer, *, times: int = 1 << 30) -> None:
        """Answer the next `times` requests of `method` whose path matches `path` by `behaviour`.

        A fixed answer is given without doing what was asked. A function gets the request and, after the request was
        obeyed, the answer that would be right; it gives the one to send.
        """
        with self._lock:
            self._rules.append(_Rule(method, re.compile(path), behaviour, times))

    def add_blob(self, repository: str, data: bytes) -> Digest:
        digest = Digest.of(data)
        self.blobs.setdefault(repository, {})[digest] = data
        return digest

    def add_manifest(self, repository: str, data: bytes, media_type: str, *tags: str) -> Digest:
        digest = Digest.of(data)
        self.manifests.setdefault(repository, {})[digest] = (media_type, data)
        for tag in tags:
            self.tags.setdefault(repository, {})[tag] = digest
        return digest

    def revoke_tokens(self) -> None:
        """Let every token that was given out expire at once."""
        self._granted.clear()

    def requests(self, method: str = "", path: str = "") -> list[Seen]:
        """The requests seen, of `method` where given, whose path matches `path`."""
        with self._lock:
            found = list(self.seen)
        return [item for item in found if method in {"", item.method} and re.search(path, item.path)]

    def answer(self, seen: Seen) -> Answer:
        """The answer to send, misbehaviour included."""
        with self._lock:
            self.seen.append(seen)
            rule = next(
                (r for r in self._rules if r.method == seen.method and r.path.search(seen.path) and r.times), None
            )
            if rule:
                rule.times -= 1
                if isinstance(rule.behaviour, Answer):
                    return copy.deepcopy(rule.behaviour)
            right = self._route(seen)
        return rule.behaviour(seen, right) if rule and callable(rule.behaviour) else right

    def _route(self, seen: Seen) -> Answer:
        parts = urlsplit(seen.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        if parts.path == "/token":
            return self._token(seen, parse_qs(parts.query))
        match = _ROUTE.fullmatch(parts.path)
        if not match:
            return error(404, "NAME_UNKNOWN")
        repository, kind, name = match["repository"], match["kind"], match["name"]
        if refused := self._refusal(seen, repository, query):
            return refused
        handlers: dict[tuple[str, str], Callable[[], Answer]] = {
            ("GET", "manifests"): lambda: self.get_manifest(repository, name),
            ("HEAD", "manifests"): lambda: self.get_manifest(repository, name),
            ("PUT", "manifests"): lambda: self._put_manifest(repository, name, seen),
            ("DELETE", "manifests"): lambda: self._delete_manifest(repository, name),
            ("GET", "blobs"): lambda: self._get_blob(repository, name, seen),
            ("HEAD", "blobs"): lambda: self._get_blob(repository, name, seen),
            ("POST", "blobs/uploads"): lambda: self.begin_upload(repository, query),
            ("PUT", "blobs/uploads"): lambda: self._end_upload(repository, name, query, seen),
            ("DELETE", "blobs/uploads"): lambda: self._cancel_upload(name),
            ("GET", "tags"): lambda: self._list_tags(repository, query),
        }
        handler = handlers.get((seen.method, kind))
        return handler() if handler else error(405, "UNSUPPORTED")

    def _refusal(self, seen: Seen, repository: str, query: Mapping[str, str]) -> Answer | None:
        scheme, _, value = (seen.authorization or "").partition(" ")
        if self.tokens:
            action = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(seen.method, "push")
            if "/blobs/uploads/" in seen.path:
                action = "push"
            wanted = {f"repository:{repository}:{action}"}
            if query.get("mount"):
                wanted.add(f"repository:{query['from']}:pull")
            if scheme == "Bearer" and wanted <= self._granted.get(value, set()):
                return None
            realm = self.realm or f"{self.origin}/token"
            challenge = f'Bearer realm="{realm}",service="fake",scope="{" ".join(sorted(wanted))}"'
            return error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)
        if self.username and (scheme != "Basic" or not self._is_user(value)):
            return error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate='Basic realm="fake"')
        return None

    def _is_user(self, value: str) -> bool:
        try:
            return base64.b64decode(value, validate=True).decode() == f"{self.username}:{self.password}"
        except (binascii.Error, ValueError):
            return False

    def _token(self, seen: Seen, query: Mapping[str, list[str]]) -> Answer:
        if seen.method == "POST":
            form = parse_qs(seen.body.decode(), strict_parsing=True)
            allowed = form["grant_type"] == ["refresh_token"] and form["refresh_token"] == [self.identity_token]
            scopes = form["scope"][0].split()
        else:
            scheme, _, value = (seen.authorization or "").partition(" ")
            allowed = not self.username or (scheme == "Basic" and self._is_user(value))
            scopes = query.get("scope", [])
        if not allowed:
            return error(401, "UNAUTHORIZED", "who are you?")
        token = secrets.token_urlsafe(16)
        granted = self._granted.setdefault(token, set())
        for scope in scopes:
            kind, name, actions = scope.split(":")
            granted.update(f"{kind}:{name}:{action}" for action in actions.split(","))
        key = "access_token" if seen.method == "POST" else "token"
        return _json({key: token, "expires_in": 300})

    def get_manifest(self, repository: str, name: str) -> Answer:
        """The answer that is right for a manifest."""
        digest = self.tags.get(repository, {}).get(name, name)
        if digest not in self.manifests.get(repository, {}):
            return error(404, "MANIFEST_UNKNOWN")
        media_type, data = self.manifests[repository][digest]
        return Answer(200, {"Content-Type": media_type, "Docker-Content-Digest": digest}, data)

    def _put_manifest(self, repository: str, name: str, seen: Seen) -> Answer:
        digest = Digest.of(seen.body)
        media_type = seen.headers.get("content-type", "")
        fields = json.loads(seen.body)
        if fields.get("mediaType", media_type) != media_type or (":" in name and name != digest):
            return error(400, "MANIFEST_INVALID")
        if media_type in INDEX_TYPES:
            known, needed = set(self.manifests.get(repository, {})), fields["manifests"]
        else:
            known, needed = set(self.blobs.get(repository, {})), [fields["config"], *fields["layers"]]
        if missing := [item["digest"] for item in needed if item["digest"] not in known]:
            return error(404, "MANIFEST_BLOB_UNKNOWN", missing[0])
        self.add_manifest(repository, seen.body, media_type, *([] if ":" in name else [name]))
        return Answer(201, {"Docker-Content-Digest": digest, "Location": f"/v2/{repository}/manifests/{digest}"})

    def _delete_manifest(self, repository: str, name: str) -> Answer:
        if self.manifests.get(repository, {}).pop(name, None) is None:
            return error(404, "MANIFEST_UNKNOWN")
        tags = self.tags.get(repository, {})
        self.tags[repository] = {tag: digest for tag, digest in tags.items() if digest != name}
        return Answer(202)

    def _get_blob(self, repository: str, digest: str, seen: Seen) -> Answer:
        data = self.blobs.get(repository, {}).get(digest)
        if data is None:
            return error(404, "BLOB_UNKNOWN")
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"}
        match = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", ""))
        if not match:
            return Answer(200, headers, data)
        begins = int(match[1])
        if begins >= len(data):
            return error(416, "RANGE_INVALID")
        return Answer(206, {**headers, "Content-Range": f"bytes {begins}-{len(data) - 1}/{len(data)}"}, data[begins:])

    def begin_upload(self, repository: str, query: Mapping[str, str] = MappingProxyType({})) -> Answer:
        """The answer that is right for the beginning of an upload, or for a mount."""
        mounted = self.blobs.get(query.get("from", ""), {}).get(query.get("mount", ""))
        if mounted is not None:
            digest = self.add_blob(repository, mounted)
            return Answer(201, {"Location": f"/v2/{repository}/blobs/{digest}"})
        upload = secrets.token_hex(8)
        self._uploads.add(upload)
        return Answer(202, {"Location": f"/v2/{repository}/blobs/uploads/{upload}?_state=x%2By"})

    def _end_upload(self, repository: str, upload: str, query: Mapping[str, str], seen: Seen) -> Answer:
        if upload not in self._uploads or query.get("_state", "x+y") != "x+y":
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        if seen.headers.get("content-length") != str(len(seen.body)):
            return error(400, "SIZE_INVALID", "an upload in one piece has a Content-Length")
        digest = Digest.of(seen.body)
        if query.get("digest") != digest:
            return error(400, "DIGEST_INVALID")
        self._uploads.discard(upload)
        self.add_blob(repository, seen.body)
        return Answer(201, {"Docker-Content-Digest": digest, "Location": f"/v2/{repository}/blobs/{digest}"})

    def _cancel_upload(self, upload: str) -> Answer:
        known = upload in self._uploads
        self._uploads.discard(upload)
        return Answer(204) if known else error(404, "BLOB_UPLOAD_UNKNOWN")

    @property
    def open_uploads(self) -> int:
        """Uploads that were begun and neither ended nor cancelled."""
        return len(self._uploads)

    def _list_tags(self, repository: str, query: Mapping[str, str]) -> Answer:
        if repository not in self.manifests:
            return error(404, "NAME_UNKNOWN")
        tags = [tag for tag in sorted(self.tags.get(repository, {})) if tag > query.get("last", "")]
        size = min(int(query.get("n", self.page_size)), self.page_size)
        answer = _json({"name": repository, "tags": tags[:size]})
        if len(tags) > size:
            answer.headers["Link"] = f'</v2/{repository}/tags/list?n={size}&last={tags[size - 1]}>; rel="next"'
        return answer


def _json(value: Any) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 20
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        body = b""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.send_error(411)
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(self.server.registry.answer(Seen(self.command, self.path, headers, body)))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.endless or answer.unmeasured:
            self.close_connection = True
        elif "Content-Length" not in answer.headers and "Transfer-Encoding" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(answer.body[: answer.cut_after])
        if answer.cut_after is not None:
            self.close_connection = True
        while answer.endless and answer.body:
            self.wfile.write(answer.body)  # until the client hangs up

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the registry remembers what it saw."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], registry: FakeRegistry, tls: ServerCertificate | None) -> None:
        super().__init__(address, _Handler)
        self.registry = registry
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls.certificate, tls.key)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.registry.connections += 1
        # the handshake belongs to the connection's own thread, so that a client that never ends it blocks nobody
        if self._context:
            try:
                request = self._context.wrap_socket(request, server_side=True)
            except OSError:
                return
        try:
            super().finish_request(request, client_address)
        except OSError:
            return  # the client hung up, as it may
        finally:
            if self._context:
                request.close()


@contextmanager
def fake_registry(*, tls: ServerCertificate | None = None, hostname: str = "localhost") -> Iterator[FakeRegistry]:
    """A registry that serves on a free port of 127.0.0.1 until the block ends; `hostname` is how it calls itself."""
    registry = FakeRegistry()
    server = _Server(("127.0.0.1", 0), registry, tls)
    registry.origin = f"{'https' if tls else 'http'}://{hostname}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
