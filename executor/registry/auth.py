"""Who we are to a registry: Basic, or the Bearer tokens of distribution's token specification.

A credential goes to the registry it is for, and to the server that issues its tokens when that server belongs to the
registry: the same host name, or one under the registry's parent domain (`auth.docker.io` for `registry-1.docker.io`),
in HTTPS unless the registry itself is spoken to in plain HTTP. Any other server sees it only when the same credential
is configured for that server's host as well.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from executor.errors import RegistryAuthError, RegistryError
from executor.oci import decode_json
from executor.registry.docker_config import credential_for, credential_key, credentials_from_docker_config
from executor.registry.hosts import Origin, is_address, is_loopback, shares_domain
from executor.registry.mirrors import Endpoint
from executor.registry.transport import Request, Response, Transport
from executor.spec import Credential

__all__ = ["Authorizer", "Challenge", "credentials_from_docker_config", "parse_challenges"]

TOKEN_LIMIT_BYTES = 1024 * 1024
# distribution's token specification, "Token Response Fields": 60 s unless the server says otherwise
TOKEN_LIFETIME_SECONDS = 60.0
TOKEN_MARGIN_SECONDS = 10.0
CLIENT_ID = "pushwright"
_TOKEN_PATTERN = re.compile(r"[!-~]+")
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9_-]*)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a `WWW-Authenticate` header; scheme and parameter names are lower-case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges of a `WWW-Authenticate` header (RFC 9110, section 11.6.1); what does not parse ends the list."""
    found: list[Challenge] = []
    at = 0
    while match := _SCHEME.match(header, at):
        at = match.end()
        parameters: dict[str, str] = {}
        while item := _PARAMETER.match(header, at):
            at = item.end()
            quoted, plain = item[2], item[3]
            parameters[item[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
        found.append(Challenge(match[1].lower(), parameters))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    expires: float


@dataclass(frozen=True, slots=True)
class _Realm:
    """What a registry's Bearer challenge said; one answer serves every repository there."""

    url: str
    service: str


class Authorizer:
    """Answers challenges and remembers tokens, by registry and scope; safe to use from any thread."""

    def __init__(
        self,
        transport: Transport,
        credentials: Mapping[str, Credential],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._credentials = {credential_key(key): value for key, value in credentials.items()}
        self._clock = clock
        self._lock = threading.Lock()
        self._schemes: dict[Origin, _Realm | None] = {}  # None stands for Basic
        self._tokens: dict[tuple[Origin, str, tuple[str, ...]], _Token] = {}

    def header(self, endpoint: Endpoint, scopes: tuple[str, ...]) -> str | None:
        """What to send before being asked: a token still good, or Basic where the registry is known to want it."""
        origin = self._transport.rules.origin(endpoint.registry)
        with self._lock:
            if origin not in self._schemes:
                return None
            realm = self._schemes[origin]
            token = self._tokens.get((origin, endpoint.repository, scopes))
        if realm is None:
            return self._basic(endpoint)
        if token and token.expires > self._clock():
            return f"Bearer {token.value}"
        return self._fetch(endpoint, origin, realm, scopes)

    def answer(self, endpoint: Endpoint, scopes: tuple[str, ...], refused: Response) -> str | None:
        """What to send after a 401; None when there is nothing better to say than what was said."""
        origin = self._transport.rules.origin(endpoint.registry)
        challenges = parse_challenges(refused.headers.get("WWW-Authenticate", ""))
        bearer = next((item for item in challenges if item.scheme == "bearer" and "realm" in item.parameters), None)
        if bearer:
            realm = _Realm(bearer.parameters["realm"], bearer.parameters.get("service", ""))
            value = self._fetch(endpoint, origin, realm, scopes)
            with self._lock:
                self._schemes[origin] = realm
            return value
        if not any(item.scheme == "basic" for item in challenges):
            return None
        basic = self._basic(endpoint)
        # a Basic answer that was refused once is refused again
        if basic is None or basic == refused.authorization:
            return None
        with self._lock:
            self._schemes[origin] = None
        return basic

    def has_credential(self, endpoint: Endpoint) -> bool:
        """Whether any credential is configured for a repository."""
        return credential_for(self._credentials, endpoint.registry, endpoint.repository) is not None

    def _basic(self, endpoint: Endpoint) -> str | None:
        credential = credential_for(self._credentials, endpoint.registry, endpoint.repository)
        if credential is None or not credential.username:
            return None
        return _basic_header(credential)

    def _fetch(self, endpoint: Endpoint, origin: Origin, realm: _Realm, scopes: tuple[str, ...]) -> str:
        credential = self._credential_for_realm(endpoint, origin, realm)
        request = _token_request(realm, scopes, credential, f"fetching a token for {endpoint.name}")
        with self._transport.send(request) as response:
            if response.status != 200:
                raise _token_refusal(response.refusal())
            body = response.read(TOKEN_LIMIT_BYTES)
        value, lifetime = _parse_token(body, request.doing)
        expires = self._clock() + max(lifetime - TOKEN_MARGIN_SECONDS, lifetime / 2)
        with self._lock:
            self._tokens[origin, endpoint.repository, scopes] = _Token(value, expires)
        return f"Bearer {value}"

    def _credential_for_realm(self, endpoint: Endpoint, origin: Origin, realm: _Realm) -> Credential | None:
        """The credential that the realm may see; the realm's URL comes from the network and is checked here."""
        try:
            target = Origin.of_url(realm.url)
        except RegistryError as error:
            raise RegistryAuthError(
                f"{endpoint.registry}: token realm: {error.message}", code="realm-invalid"
            ) from error
        if target.scheme == "http" and not self._transport.rules.allows_http(target, origin):
            raise RegistryAuthError(
                f"{endpoint.registry}: expected a token realm in HTTPS, found {target}",
                code="token-realm-insecure",
            )
        credential = credential_for(self._credentials, endpoint.registry, endpoint.repository)
        # an entry of the realm's own host does not do alone: any registry could then name that host as its realm, and
        # would be handed a token for the other's repository of the same name
        declared = credential is not None and self._credentials.get(target.host) == credential
        if declared or shares_domain(origin.hostname, target.hostname):
            return credential
        if credential is not None:
            raise RegistryAuthError(
                f"{endpoint.registry}: asks for its credentials to be sent to {target.host}, which is another host",
                code="token-realm-foreign",
                hint=f"if that server issues this registry's tokens, give the same credentials for {target.host} too",
            )
        if is_address(target.hostname) or is_loopback(target.hostname):
            # the answer is handed to the registry: it must not be able to have inner services asked for it
            raise RegistryAuthError(
                f"{endpoint.registry}: expected a token realm of its own, found {target.host}",
                code="token-realm-foreign",
            )
        return None


def _token_refusal(error: RegistryError) -> RegistryError:
    """A token server's refusal; its 404 says nothing about the image."""
    if error.retryable or isinstance(error, RegistryAuthError):
        return error
    return RegistryAuthError(error.message, hint="the registry's token server does not give tokens for this")


def _basic_header(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _token_request(realm: _Realm, scopes: tuple[str, ...], credential: Credential | None, doing: str) -> Request:
    """The request of distribution's token specification: GET, or the OAuth2 POST that identity tokens need."""
    headers = {"Accept": "application/json"}
    if credential and credential.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": realm.service,
            "client_id": CLIENT_ID,
            "scope": " ".join(scopes),
            "refresh_token": credential.identity_token,
        }
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return Request("POST", realm.url.partition("#")[0], doing, headers, urlencode(form).encode())
    parts = urlsplit(realm.url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    query += [("service", realm.service)] if realm.service else []
    query += [("scope", scope) for scope in scopes]
    if credential:
        headers["Authorization"] = _basic_header(credential)
    return Request("GET", urlunsplit(parts._replace(query=urlencode(query), fragment="")), doing, headers)


def _parse_token(body: bytes, doing: str) -> tuple[str, float]:
    """The token and its lifetime in seconds."""
    answer: Any = decode_json(body, "token response")
    fields: Mapping[str, Any] = answer if isinstance(answer, dict) else {}
    value = fields.get("token") or fields.get("access_token")
    if not isinstance(value, str) or not _TOKEN_PATTERN.fullmatch(value):
        raise RegistryAuthError(f"{doing}: expected a token in the answer, found none", code="token-invalid")
    lifetime = fields.get("expires_in")
    known = isinstance(lifetime, int | float) and not isinstance(lifetime, bool) and lifetime > 0
    return value, float(lifetime) if known and lifetime is not None else TOKEN_LIFETIME_SECONDS
