"""Reading what a client sends: within a size and a time, and as JSON only where JSON is meant."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from flask import Request
from werkzeug.exceptions import ClientDisconnected

from tasks.forges.event import PayloadError, decode_object
from webhook.problems import RequestError

API_LIMIT_BYTES = 1024 * 1024
# a body that trickles in keeps a thread of the server busy
BODY_SECONDS = 60.0
_CHUNK = 64 * 1024


def read_body(request: Request) -> bytes:
    """The raw bytes, as they were signed; `request.max_content_length` bounds them also when sent in chunks."""
    parts: list[bytes] = []
    late = threading.Event()
    try:
        with _deadline(request, late):
            while part := request.stream.read(_CHUNK):
                parts.append(part)
    except (ClientDisconnected, OSError) as error:
        # the deadline, the socket's own bound on silence, or the client is gone
        raise RequestError("the body did not arrive whole, or not in time", code="request-timeout") from error
    if late.is_set():
        raise RequestError("the body did not arrive in time", code="request-timeout")
    return b"".join(parts)


@contextmanager
def _deadline(request: Request, late: threading.Event) -> Iterator[None]:
    """Ends the reading of a body that trickles in, which no bound on silence does: nothing more is received then.

    The server asks the socket until it has what was asked for, so that this cannot be noticed between two reads.
    """
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        yield
        return

    def end() -> None:
        late.set()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RD)

    timer = threading.Timer(BODY_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
