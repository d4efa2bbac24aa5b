"""GitHub's deliveries (docs.github.com, "Validating webhook deliveries" and "Webhook events and payloads")."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from tasks.forges.event import (
    Delivery,
    Headers,
    Ignored,
    PayloadError,
    Ping,
    PushEvent,
    decode_object,
    read_change,
    read_flag,
    read_repository,
)
from tasks.refs import shown

NAME = "github"
SIGNATURE_HEADERS = ("X-Hub-Signature-256",)
DELIVERY_HEADER = "X-GitHub-Delivery"
EVENT_HEADER = "X-GitHub-Event"


def parse(headers: Headers, body: bytes, delivery_id: str) -> Delivery:
    """What a verified delivery says. Only `push` builds: `create` and `delete` come in addition to it."""
    event = headers.get(EVENT_HEADER, "")
    payload = decode_object(_json_of(headers, body))
    if event == "ping":
        return Ping(NAME)
    if event != "push":
        return Ignored("event-not-push", f"the event {shown(event)} does not build anything; only push does")
    repository = payload.get("repository")
    if not isinstance(repository, dict):
        raise PayloadError(f"repository: expected an object, found {shown(repository)}")
    change = read_change(
        payload.get("ref"),
        payload.get("before"),
        payload.get("after"),
        forced=read_flag(payload, "forced"),
        deleted=read_flag(payload, "deleted"),
    )
    return PushEvent(
        forge=NAME,
        delivery_id=delivery_id,
        repository=read_repository(repository.get("full_name"), "repository.full_name"),
        refs=(change,),
        host=_host_of(repository.get("clone_url")),
    )


def _json_of(headers: Headers, body: bytes) -> bytes:
    """The JSON in the body; a form carries it as `payload` (content_type "form" of the hook's settings).

    The form is read from the raw bytes that were verified, not by the web framework, whose reader consumes them and
    has a limit of its own.
    """
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return body
    try:
        fields = parse_qsl(body.decode("ascii"), strict_parsing=True, max_num_fields=16, errors="strict")
    except ValueError as error:
        raise PayloadError("body: expected a form with the field payload, found another encoding") from error
    values = [value for name, value in fields if name == "payload"]
    if len(values) != 1:
        raise PayloadError(f"body: expected the field payload once, found it {len(values)} times")
    return values[0].encode()


def _host_of(url: object) -> str:
    try:
        return (urlsplit(url).hostname or "") if isinstance(url, str) else ""
    except ValueError:
        return ""
