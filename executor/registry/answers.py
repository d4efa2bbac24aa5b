"""A registry's refusals as errors: the status, and what the body says in the distribution-spec's error form."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any

from executor.errors import RegistryAuthError, RegistryError, RegistryNotFoundError
from executor.registry.retry import RetryLaterError

ERROR_BODY_LIMIT = 64 * 1024
_SHOWN_ERRORS = 3
_SHOWN_CHARACTERS = 300


def error_details(body: bytes) -> str:
    """`CODE: message` of each error in a body (distribution-spec, "Error Codes"); empty when there is none to read."""
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    errors = decoded.get("errors") if isinstance(decoded, dict) else None
    shown = [_one_error(item) for item in (errors if isinstance(errors, list) else [])[:_SHOWN_ERRORS]]
    return "; ".join(item for item in shown if item)


def _one_error(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    parts = [item.get("code"), item.get("message")]
    return ": ".join(printable(part) for part in parts if isinstance(part, str) and part)


def printable(text: str) -> str:
    """Text from outside on one line, capped, with nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text[:_SHOWN_CHARACTERS]).strip()


def refusal(status: int, headers: Mapping[str, str], body: bytes, doing: str, *, anonymous: bool) -> RegistryError:
    """The error for an answer that is not a success; `doing` names the action, the repository and the host."""
    details = error_details(body)
    message = f"{doing}: the registry answered {status}" + (f" ({details})" if details else "")
    if status == 401:
        hint = "no credentials are configured for this registry" if anonymous else "the credentials were not accepted"
        return RegistryAuthError(message, hint=hint)
    if status == 403:
        return RegistryAuthError(message, code="registry-denied", hint="these credentials do not grant this action")
    if status == 404:
        return RegistryNotFoundError(message)
    if status == 429:
        return RetryLaterError(message, code="registry-rate-limited", after_seconds=retry_after(headers))
    if status == 408 or (status >= 500 and status != 501):
        return RetryLaterError(message, code="registry-unavailable", after_seconds=retry_after(headers))
    # what Go's servers say (net/http, server.go); loopback registries are taken for plain HTTP
    spoken_plainly = status == 400 and b"HTTP request to an HTTPS server" in body
    return RegistryError(message, hint="it speaks TLS: give its certificate" if spoken_plainly else None)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After` (RFC 9110, section 10.2.3), which is a number or a date; None when it is neither."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
