"""`POST /hooks/<project>`: verify, parse, decide, store, answer."""

from __future__ import annotations

import logging
from typing import Any

from flask import Blueprint, Request, request
from flask.typing import ResponseReturnValue

from tasks import forges
from tasks.forges import Forge, Headers, Ignored, Ping, PushEvent
from tasks.projects import Project, ProjectUnknownError
from tasks.triggers import decide
from tasks.vault import VaultError
from webhook.bodies import read_body
from webhook.problems import RequestError
from webhook.services import Services, services
from webhook.shapes import build_links

logger = logging.getLogger(__name__)
blueprint = Blueprint("hooks", __name__)

BODY_LIMIT_BYTES = 26_000_000
_TYPES = {"github": ("application/json", "application/x-www-form-urlencoded"), "generic": ("application/json",)}


@blueprint.post("/hooks/<project>")
def receive(project: str) -> ResponseReturnValue:
    """One delivery: 202 with its builds, or 200 with the reason why there are none."""
    at = services()
    request.max_content_length = BODY_LIMIT_BYTES
    headers = Headers(request.headers)
    forge = forges.detect(headers)
    body = read_body(request)
    registered = _verified(at, project, forge, headers, body)
    _check_type(forge, request)
    delivery_id = forges.delivery_id(forge, headers)
    delivery = forge.parse(headers, body, delivery_id)
    answer, status = _answer(at, registered, delivery, delivery_id)
    logger.info("delivery %s to %s: %s", delivery_id or "-", registered.name, _summary(answer))
    return answer, status


def _verified(at: Services, name: str, forge: Forge, headers: Headers, body: bytes) -> Project:
    """The project, if the body was signed with its secret; else the same refusal whether it exists or not."""
    try:
        secrets = at.projects.hook_secrets(name)
    except VaultError as error:
        # the sender must not learn from it that the project exists
        logger.error("delivery to %s refused: %s", ascii(name)[:80], error)
        secrets = ()
    if forges.verify(forge, headers, body, secrets):
        try:
            return at.projects.get(name)
        except ProjectUnknownError:
            logger.info("delivery to %s: removed meanwhile", ascii(name)[:80])
    raise RequestError(
        "expected a signature with the project's secret, found none or another",
        code="signature-invalid",
        hint=f"sign the raw body: {forge.SIGNATURE_HEADERS[-1]}: sha256=<hex of HMAC-SHA256>",
    )


def _check_type(forge: Forge, asked: Request) -> None:
    if asked.mimetype not in _TYPES[forge.NAME]:
        raise RequestError(f"expected {' or '.join(_TYPES[forge.NAME])}", code="media-type-unsupported")


def _answer(at: Services, project: Project, delivery: forges.Delivery, delivery_id: str) -> tuple[dict[str, Any], int]:
    if isinstance(delivery, Ping):
        return {"ok": True, "event": "ping"}, 200
    if isinstance(delivery, Ignored):
        return _ignored(delivery), 200
    if known := at.deliveries.recall(project, delivery_id):
        return {**known, "duplicate": True}, 200
    return _store(at, project, delivery)


def _store(at: Services, project: Project, event: PushEvent) -> tuple[dict[str, Any], int]:
    """Stores what the push asks for, and only then tells the workers."""

    def sequence(ref: str) -> int:
        return at.deliveries.sequence(
            project, event.delivery_id, ref, lambda name: at.records.next_sequence(project.name, name)
        )

    requests = decide(event, project, at.settings.registry, sequence)
    if isinstance(requests, Ignored):
        return _ignored(requests), 200
    stored = [at.records.create(item) for item in requests]
    answer = {
        "delivery": event.delivery_id,
        "builds": [
            {
                "id": build.id,
                "commit": build.commit,
                "ref": asked.ref,
                "state": str(build.state),
                "created": created,
                "links": build_links(build),
            }
            for asked, (build, created) in zip(requests, stored, strict=True)
        ],
    }
    at.deliveries.remember(project, event.delivery_id, answer)
    for build, created in stored:
        if created:
            at.announce(build.id)
    return answer, 202


def _ignored(ignored: Ignored) -> dict[str, Any]:
    return {"ignored": ignored.code, "message": ignored.reason}


def _summary(answer: dict[str, Any]) -> str:
    if "builds" in answer:
        word = "again" if answer.get("duplicate") else "builds"
        return f"{word} {', '.join(item['id'] for item in answer['builds'])}"
    return str(answer.get("ignored") or answer.get("event"))
