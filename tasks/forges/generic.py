"""A push told by anybody who has the secret: `{"ref", "after"[, "before"][, "repository"]}`, signed as GitHub signs."""

from __future__ import annotations

from tasks.forges.event import Delivery, Headers, PayloadError, PushEvent, decode_object, read_change, read_repository
from tasks.refs import shown

NAME = "generic"
SIGNATURE_HEADERS = ("X-Hub-Signature-256", "X-Pushwright-Signature")
DELIVERY_HEADER = "X-Pushwright-Delivery"
MEMBERS = frozenset({"ref", "after", "before", "repository"})
ZERO = "0" * 40


def parse(headers: Headers, body: bytes, delivery_id: str) -> Delivery:
    """What a verified delivery says; members that are not ours are refused, lest a forge's payload be misread."""
    payload = decode_object(body)
    if unknown := sorted(set(payload) - MEMBERS):
        raise PayloadError(
            f"body: expected only {', '.join(sorted(MEMBERS))}, found {shown(unknown[0])}",
            hint="a forge's own payload needs that forge's event header, for example X-GitHub-Event",
        )
    repository = payload.get("repository")
    change = read_change(payload.get("ref"), payload.get("before", ZERO), payload.get("after"))
    return PushEvent(
        forge=NAME,
        delivery_id=delivery_id,
        repository="" if repository is None else read_repository(repository, "repository"),
        refs=(change,),
    )
