"""Reading what a client sends: within a size and a time, and as JSON only where JSON is meant."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from flask import Request

from tasks.forges.event import PayloadError, decode_object
from webhook.problems import RequestError

API_LIMIT_BYTES = 1024 * 1024
# a body that trickles in keeps a thread of the server busy
BODY_SECONDS = 60.0
_CHUNK = 64 * 1024


def read_body(request: Request) -> bytes:
    """The raw bytes, as they were signed; `request.max_content_length` bounds them also when sent in chunks."""
    deadline = time.monotonic() + BODY_SECONDS
    parts: list[bytes] = []
    try:
        while part := request.stream.read(_CHUNK):
            parts.append(part)
            if time.monotonic() > deadline:
                raise RequestError("the body did not arrive in time", code="request-timeout")
    except OSError as error:
        # the socket's own timeout, or the client is gone
        raise RequestError("the body did not arrive whole", code="request-timeout") from error
    return b"".join(parts)


def read_object(request: Request) -> Mapping[str, Any]:
    """The JSON object that an API request carries; {} when it carries nothing."""
    request.max_content_length = API_LIMIT_BYTES
    body = read_body(request)
    if not body:
        return {}
    # any other type could be sent by a form of another site, without the browser asking first
    if request.mimetype != "application/json":
        raise RequestError("expected Content-Type: application/json", code="media-type-unsupported")
    try:
        return decode_object(body)
    except PayloadError as error:
        raise RequestError(error.message) from error


def only_members(value: Mapping[str, Any], *names: str) -> None:
    """Refuses members that would otherwise be silently ignored."""
    if unknown := sorted(set(value) - set(names)):
        known = ", ".join(names) or "none"
        raise RequestError(f"body: expected only the members {known}, found {unknown[0][:40]!a}")
