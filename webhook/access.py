"""Who may ask: the API token, and without one loopback only, also against web pages in a browser on this machine."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Request, request

from executor.errors import UsageError
from tasks.settings import Settings
from webhook.listen import is_loopback
from webhook.problems import RequestError

# the signature decides about a delivery, and whoever watches the process learns nothing
OPEN_ENDPOINTS = frozenset({"hooks.receive", "healthz", "readyz"})
TOKEN_LENGTH = 16
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def read_token(settings: Settings) -> str:
    """The configured API token, or "" for none; a token that is too short or not one word is a `UsageError`."""
    token = settings.api_token or _read_token_file(settings.api_token_file)
    if token and (len(token) < TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token):
        raise UsageError(
            f"PUSHWRIGHT_API_TOKEN: expected at least {TOKEN_LENGTH} ASCII characters without spaces",
            hint="make one: openssl rand -hex 32",
        )
    return token


def check_bind(host: str, token: str) -> None:
    """Refuses to listen where others reach it without a token; "" and paths (`/…`, `unix:…`) are Unix sockets."""
    if token or not host or host.startswith(("/", "unix:")) or is_loopback(host):
        return
    raise UsageError(
        f"listening on {host} is refused without a token: whoever reaches it could build and read everything",
        code="token-missing",
        hint="set PUSHWRIGHT_API_TOKEN or PUSHWRIGHT_API_TOKEN_FILE, or listen on 127.0.0.1",
    )


def guard(app: Flask, token: str) -> None:
    """Checks every request before its view runs."""
    expected = hashlib.sha256(token.encode()).digest() if token else b""

    def check() -> None:
        if request.endpoint in OPEN_ENDPOINTS:
            return
        if expected:
            _check_token(request, expected)
        else:
            _check_host(request)
        _check_origin(request)

    app.before_request(check)


def _check_token(asked: Request, expected: bytes) -> None:
    shown = hashlib.sha256(_shown_token(asked.headers.get("Authorization", ""))).digest()
    if not hmac.compare_digest(shown, expected):
        raise RequestError(
            "expected the API token, found none or another",
            code="token-required",
            hint="`pushwright token` shows it on the server's machine; docker login takes it as the password",
        )


def _shown_token(header: str) -> bytes:
    """The token of a Bearer header, or the password of a Basic one (RFC 7617), which is what docker login sends."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() != "basic":
        return b""
    try:
        login = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
    return login.partition(b":")[2]


def _check_host(asked: Request) -> None:
    """Without a token only a loopback name is answered: a page of another origin may point its own name here."""
    host = _host_name(asked.headers.get("Host", ""))
    if not is_loopback(host):
        raise RequestError(
            "expected a loopback host, found another in the Host header",
            code="host-refused",
            hint="ask http://127.0.0.1, or configure an API token",
        )


def _check_origin(asked: Request) -> None:
    """A browser says where a request comes from; another site may not change anything here."""
    if asked.method in _SAFE_METHODS:
        return
    origin = asked.headers.get("Origin")
    is_own = origin is None or _authority(origin) == asked.headers.get("Host", "").lower()
    if not is_own or asked.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        raise RequestError("requests from other sites change nothing here", code="origin-refused")


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_name(header: str) -> str:
    """The host of a Host header, without its port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _read_token_file(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"PUSHWRIGHT_API_TOKEN_FILE: expected a readable text file, found {path}: {error}") from error
    if not text:
        # an empty file would silently mean that there is no token
        raise UsageError(f"PUSHWRIGHT_API_TOKEN_FILE: expected a token in {path}, found an empty file")
    return text
