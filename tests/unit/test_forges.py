"""Deliveries of forges: every golden case, the recorded payloads where they are at hand, and forged signatures."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from executor.errors import PushwrightError, UsageError
from tasks import forges
from tasks.forges import Headers, Ignored, PayloadError, Ping, PushEvent, generic, github
from tasks.forges.event import decode_object

GOLDEN = Path(__file__).parents[1] / "golden" / "forges"
# bodies recorded from real forges lie beside a checkout of the project's makers, and are not part of it
RECORDED = Path(__file__).parents[3] / "shared" / "payloads"
SECRET = "It's a Secret to Everybody"
# docs.github.com, "Validating webhook deliveries", test values
DOCS_BODY = b"Hello, World!"
DOCS_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


@dataclass(frozen=True)
class Case:
    headers: Headers
    body: bytes
    expected: dict[str, Any]


def golden_cases() -> Iterator[Any]:
    for path in sorted(GOLDEN.glob("*/*.headers")):
        lines = path.read_text().splitlines()
        pairs = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        expected = json.loads(path.with_suffix(".expected.json").read_bytes())
        case = Case(Headers(pairs), path.with_suffix(".json").read_bytes(), expected)
        yield pytest.param(case, id=f"{path.parent.name}/{path.stem}")


def recorded_cases() -> Iterator[Any]:
    index = RECORDED / "index.jsonl"
    for line in index.read_text().splitlines() if index.is_file() else ():
        entry = json.loads(line)
        if entry["forge"] != "github":
            continue
        event = entry["event_headers"].get("X-GitHub-Event") or entry["file"].split("__")[-2]
        headers = Headers([("X-GitHub-Event", event), ("Content-Type", "application/json")])
        case = Case(headers, (RECORDED / entry["file"]).read_bytes(), recorded_expectation(entry))
        yield pytest.param(case, id=f"recorded/{entry['file']}")


def recorded_expectation(entry: dict[str, Any]) -> dict[str, Any]:
    if entry["kind"] == "ping":
        return {"kind": "ping"}
    if entry["kind"] != "push":
        return {"kind": "ignored", "code": "event-not-push"}
    return {
        "kind": "push",
        "repository": entry["repo"]["full_name"],
        "host": entry["repo"]["clone_url"].split("/")[2],
        "refs": [
            {
                "ref": change["ref"],
                "before": "" if set(change["before"]) == {"0"} else change["before"],
                "after": "" if set(change["after"]) == {"0"} else change["after"],
                "kind": change["type"],
                "created": change["action"] == "create",
                "deleted": change["action"] == "delete",
                "forced": entry["forced"],
            }
            for change in entry["changes"]
        ],
    }


def told(case: Case) -> dict[str, Any]:
    """What the code under test makes of a case, as JSON values."""
    forge = forges.detect(case.headers)
    try:
        delivery = forge.parse(case.headers, case.body, "")
    except PayloadError as error:
        return {"kind": "error", "code": error.code}
    if isinstance(delivery, Ping):
        return {"kind": "ping"}
    if isinstance(delivery, Ignored):
        return {"kind": "ignored", "code": delivery.code}
    return {
        "kind": "push",
        "repository": delivery.repository,
        "host": delivery.host,
        "refs": [asdict(change) for change in delivery.refs],
    }


@pytest.mark.parametrize("case", [*golden_cases(), *recorded_cases()])
def test_a_delivery_says_what_its_forge_means(case: Case) -> None:
    assert told(case) == case.expected


def test_there_are_golden_cases_of_every_kind() -> None:
    kinds = {(param.id.partition("/")[0], param.values[0].expected["kind"]) for param in golden_cases()}
    assert kinds == {
        ("github", "push"),
        ("github", "ping"),
        ("github", "ignored"),
        ("github", "error"),
        ("generic", "push"),
        ("generic", "error"),
    }


def test_what_is_cloned_is_never_taken_from_a_payload() -> None:
    assert {name for name in PushEvent.__dataclass_fields__ if "url" in name} == set()


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000], ids=["open", "closed"])
def test_json_of_any_depth_is_a_payload_error(body: bytes) -> None:
    with pytest.raises(PayloadError):
        decode_object(body)


# --- which forge ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("X-Gitea-Event", "Gitea"),
        ("X-Forgejo-Event", "Forgejo"),
        ("X-Gogs-Event", "Gogs"),
        ("X-Gitee-Event", "Gitee"),
        ("X-Gitlab-Event", "GitLab"),
        ("X-Event-Key", "Bitbucket"),
    ],
)
def test_a_forge_that_also_sends_githubs_headers_is_not_taken_for_it(header: str, name: str) -> None:
    headers = Headers([("X-GitHub-Event", "push"), ("X-Hub-Signature-256", "sha256=00"), (header.lower(), "push")])
    with pytest.raises(UsageError, match=name) as caught:
        forges.detect(headers)
    assert caught.value.code == "forge-unsupported"


def test_headers_decide_which_forge_it_is() -> None:
    assert forges.detect(Headers([("x-github-event", "push")])).NAME == "github"
    assert forges.detect(Headers([])).NAME == "generic"


@pytest.mark.parametrize("value", ["a b", "a" * 129, "a\n", "ü", "a/b"])
def test_a_delivery_id_is_one_word(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        forges.delivery_id(forges.detect(Headers([])), Headers([("X-Pushwright-Delivery", value)]))
    assert caught.value.code == "request-invalid"


# --- signatures -----------------------------------------------------------------------------------------------------


def is_genuine(signature: str | None, body: bytes = DOCS_BODY, *secrets: str) -> bool:
    headers = Headers([] if signature is None else [("X-Hub-Signature-256", signature)])
    chosen = [text.encode() for text in secrets or (SECRET,)]
    return forges.verify(forges.detect(Headers([("X-GitHub-Event", "push")])), headers, body, chosen)


def test_the_signature_of_githubs_documentation_is_right() -> None:
    assert is_genuine(DOCS_SIGNATURE)
    assert forges.sign(DOCS_BODY, SECRET.encode()) == DOCS_SIGNATURE


FORGED = {
    "missing": None,
    "empty": "",
    "prefix only": "sha256=",
    "without prefix": DOCS_SIGNATURE.removeprefix("sha256="),
    "wrong prefix": DOCS_SIGNATURE.replace("sha256", "sha1"),
    "capital prefix": DOCS_SIGNATURE.replace("sha256", "SHA256"),
    "capital digits": "sha256=" + DOCS_SIGNATURE.removeprefix("sha256=").upper(),
    "truncated": DOCS_SIGNATURE[:-1],
    "longer": DOCS_SIGNATURE + "0",
    "newline": DOCS_SIGNATURE + "\n",
    "space": " " + DOCS_SIGNATURE,
    "one digit off": DOCS_SIGNATURE[:-1] + "8",
    "non-ascii": DOCS_SIGNATURE[:-1] + "\xfc",
    "surrogate": DOCS_SIGNATURE[:-1] + "\udcff",
    "nul": DOCS_SIGNATURE + "\0",
    "two in one header": f"{DOCS_SIGNATURE}, {DOCS_SIGNATURE}",
    "sha1 digest": "sha256=" + hmac.new(SECRET.encode(), DOCS_BODY, hashlib.sha1).hexdigest(),
    "plain digest": "sha256=" + hashlib.sha256(DOCS_BODY).hexdigest(),
    "of an empty secret": "sha256=" + hmac.new(b"", DOCS_BODY, hashlib.sha256).hexdigest(),
    "of another secret": "sha256=" + hmac.new(b"another secret", DOCS_BODY, hashlib.sha256).hexdigest(),
}


@pytest.mark.parametrize("signature", FORGED.values(), ids=FORGED.keys())
def test_a_forged_signature_is_refused(signature: str | None) -> None:
    assert not is_genuine(signature)


@pytest.mark.parametrize("body", [b"", DOCS_BODY + b"\n", DOCS_BODY[:-1], DOCS_BODY.lower(), b"\0" + DOCS_BODY])
def test_a_changed_body_is_refused(body: bytes) -> None:
    assert not is_genuine(DOCS_SIGNATURE, body)


def test_a_body_written_anew_is_refused() -> None:
    body = b'{"ref": "refs/heads/main",  "after": "x"}'
    assert not is_genuine(forges.sign(body, SECRET.encode()), json.dumps(json.loads(body)).encode())


def test_sha1_does_not_stand_in_for_sha256() -> None:
    old = "sha1=" + hmac.new(SECRET.encode(), DOCS_BODY, hashlib.sha1).hexdigest()
    headers = Headers([("X-GitHub-Event", "push"), ("X-Hub-Signature", old)])
    assert not forges.verify(forges.detect(headers), headers, DOCS_BODY, [SECRET.encode()])


def test_no_secret_and_an_empty_secret_verify_nothing() -> None:
    forge = forges.detect(Headers([("X-GitHub-Event", "push")]))
    headers = Headers([("X-Hub-Signature-256", forges.sign(DOCS_BODY, b""))])
    assert not forges.verify(forge, headers, DOCS_BODY, [])
    assert not forges.verify(forge, headers, DOCS_BODY, [b""])
    assert not forges.verify(forge, Headers([]), DOCS_BODY, [])


def test_two_secrets_are_valid_during_a_rotation() -> None:
    assert is_genuine(DOCS_SIGNATURE, DOCS_BODY, "the new secret", SECRET)
    assert is_genuine(DOCS_SIGNATURE, DOCS_BODY, SECRET, "the new secret")
    assert not is_genuine(DOCS_SIGNATURE, DOCS_BODY, "the new secret", "an old one")


def test_a_generic_push_takes_either_header_and_not_both() -> None:
    forge = forges.detect(Headers([]))
    ours, theirs = ("X-Pushwright-Signature", DOCS_SIGNATURE), ("X-Hub-Signature-256", DOCS_SIGNATURE)
    verdicts = [forges.verify(forge, Headers(pairs), DOCS_BODY, [SECRET.encode()]) for pairs in ([ours], [theirs])]
    assert verdicts == [True, True]
    assert not forges.verify(forge, Headers([ours, theirs]), DOCS_BODY, [SECRET.encode()])


def test_githubs_deliveries_do_not_take_our_header() -> None:
    headers = Headers([("X-GitHub-Event", "push"), ("X-Pushwright-Signature", DOCS_SIGNATURE)])
    assert not forges.verify(forges.detect(headers), headers, DOCS_BODY, [SECRET.encode()])


def vectors() -> list[Any]:
    path = RECORDED / "signature_vectors.json"
    known = [{"forge": "github", "secret": SECRET, "body": DOCS_BODY.decode(), "value": DOCS_SIGNATURE, "name": "docs"}]
    recorded = json.loads(path.read_bytes()) if path.is_file() else []
    return [pytest.param(item, id=item["name"]) for item in [*known, *recorded]]


@pytest.mark.parametrize("vector", vectors())
def test_signature_vectors(vector: dict[str, Any]) -> None:
    headers = Headers([("X-GitHub-Event", "push"), ("X-Hub-Signature-256", vector.get("value", ""))])
    genuine = forges.verify(forges.detect(headers), headers, vector["body"].encode(), [vector["secret"].encode()])
    # those of other forges hold another algorithm; HMAC-SHA256 in this form is right whoever sends it
    assert genuine == vector.get("value", "").startswith("sha256=")


def test_both_modules_are_forges() -> None:
    for module in (github, generic):
        assert module.NAME and module.SIGNATURE_HEADERS and module.DELIVERY_HEADER


def test_errors_do_not_repeat_a_hostile_text_unescaped() -> None:
    body = json.dumps({"ref": "refs/heads/\x1b[31m\u202e", "after": "a" * 40}).encode()
    with pytest.raises(PushwrightError) as caught:
        generic.parse(Headers([]), body, "")
    assert caught.value.message.isprintable() and caught.value.message.isascii()
