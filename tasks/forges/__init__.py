"""Forges: which one sent a delivery, whether it is genuine, and what it says. Pure functions over raw bytes."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Protocol, cast

from executor.errors import UsageError
from tasks.forges import generic, github
from tasks.forges.event import Delivery, Headers, Ignored, PayloadError, Ping, PushEvent, RefChange

__all__ = [
    "Delivery",
    "Forge",
    "Headers",
    "Ignored",
    "PayloadError",
    "Ping",
    "PushEvent",
    "RefChange",
    "delivery_id",
    "detect",
    "sign",
    "verify",
]

_DELIVERY_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Gitea, Forgejo and Gogs also send X-GitHub-Event, so that these come first
_UNSUPPORTED = (
    ("X-Forgejo-Event", "Forgejo"),
    ("X-Gitea-Event", "Gitea"),
    ("X-Gogs-Event", "Gogs"),
    ("X-Gitee-Event", "Gitee"),
    ("X-Gitlab-Event", "GitLab"),
    ("X-Event-Key", "Bitbucket"),
)


class Forge(Protocol):
    """What a module of this package offers."""

    NAME: str
    SIGNATURE_HEADERS: tuple[str, ...]
    DELIVERY_HEADER: str

    def parse(self, headers: Headers, body: bytes, delivery_id: str) -> Delivery: ...


def detect(headers: Headers) -> Forge:
    """The forge that these headers are of."""
    for header, name in _UNSUPPORTED:
        if header in headers:
            raise UsageError(
                f"deliveries of {name} are not supported yet",
                code="forge-unsupported",
                hint="send the generic signed push from a job of that forge instead",
            )
    return cast(Forge, github if github.EVENT_HEADER in headers else generic)


def sign(body: bytes, secret: bytes) -> str:
    """The value of the signature header: `sha256=` and the HMAC in lower-case hex."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def verify(forge: Forge, headers: Headers, body: bytes, secrets: Sequence[bytes]) -> bool:
    """Whether the raw body was signed with one of the secrets.

    The whole header is compared, prefix included, as bytes and in constant time; each secret is tried whatever the
    others gave. No secret, or an empty one, verifies nothing.
    """
    found = [headers[name] for name in forge.SIGNATURE_HEADERS if name in headers]
    claimed = found[0].encode("utf-8", "surrogateescape") if len(found) == 1 else b""
    genuine = False
    for secret in secrets:
        expected = sign(body, secret).encode("ascii")
        genuine |= hmac.compare_digest(expected, claimed) and bool(secret)
    return genuine


def delivery_id(forge: Forge, headers: Headers) -> str:
    """The sender's id of this delivery, "" when it gave none."""
    value = headers.get(forge.DELIVERY_HEADER, "")
    if value and not _DELIVERY_ID.fullmatch(value):
        raise UsageError(
            f"{forge.DELIVERY_HEADER}: expected at most 128 letters, digits and . _ : -, found another text",
            code="request-invalid",
        )
    return value
