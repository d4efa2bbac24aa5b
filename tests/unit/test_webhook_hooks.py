"""The receiver: in which order it checks, what it stores, and that nothing a sender writes is a fault of ours."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from tasks.lifecycle import State
from tests.support.redis_server import RedisServer
from tests.support.web import COMMIT, OTHER_COMMIT, Web, sign, web_over
from webhook import hooks

BEFORE = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def web(server: RedisServer) -> Iterator[Web]:
    with web_over(server) as made:
        made.add_project()
        yield made


def github_push(**fields: Any) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "before": BEFORE,
        "after": COMMIT,
        "created": False,
        "deleted": False,
        "forced": False,
        "repository": {"full_name": "acme/demo", "clone_url": "https://evil.example/stolen.git"},
        **fields,
    }


def github(event: str = "push", delivery: str = "0001", **more: str) -> Mapping[str, str]:
    return {"X-GitHub-Event": event, "X-GitHub-Delivery": delivery, **more}


# --- what is built --------------------------------------------------------------------------------------------------


def test_a_push_is_stored_then_announced_then_answered(web: Web) -> None:
    response = web.deliver(github_push(), headers=github())
    assert response.status_code == 202
    (build,) = web.builds()
    assert response.get_json() == {
        "delivery": "0001",
        "builds": [
            {
                "id": build.id,
                "commit": COMMIT,
                "ref": "refs/heads/main",
                "state": "queued",
                "created": True,
                "links": {
                    "self": f"/api/v1/builds/{build.id}",
                    "logs": f"/api/v1/builds/{build.id}/logs",
                    "commit": f"/api/v1/projects/demo/commits/{COMMIT}",
                },
            }
        ],
    }
    assert web.announced == [build.id]
    assert (build.project, build.repository, build.commit, build.sequence) == ("demo", "demo", COMMIT, 1)
    # what is cloned was registered; the payload names another place
    assert build.config["url"] == "https://git.example/acme/demo.git"
    assert "evil.example" not in str(web.redis.hgetall(f"pw:build:{build.id}"))


def test_a_form_is_read_from_the_bytes_that_were_signed(web: Web) -> None:
    body = urlencode({"payload": json.dumps(github_push())}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert web.deliver(body, headers={**github(), **form}).status_code == 202
    assert [build.commit for build in web.builds()] == [COMMIT]


def test_a_form_larger_than_flasks_own_limit_for_forms_is_read(web: Web) -> None:
    commits = [{"message": "x" * 1000} for _ in range(1000)]
    body = urlencode({"payload": json.dumps(github_push(commits=commits))}).encode()
    assert len(body) > 500_000
    form = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    assert web.deliver(body, headers={**github(), **form}).status_code == 202


def test_a_generic_push_is_built(web: Web) -> None:
    response = web.push()
    assert response.status_code == 202
    assert [build.commit for build in web.builds()] == [COMMIT]


def test_our_own_signature_header_is_taken(web: Web) -> None:
    raw = json.dumps({"ref": "refs/heads/main", "after": COMMIT}).encode()
    headers = {"X-Hub-Signature-256": "", "X-Pushwright-Signature": sign(raw, web.secrets["demo"])}
    assert web.deliver(raw, headers=headers).status_code == 202


def test_a_failed_announcement_is_the_sweeps_business(web: Web) -> None:
    web.app.extensions["pushwright"] = _with_announce(web, lambda _: False)
    assert web.push().status_code == 202
    assert len(web.builds()) == 1


def _with_announce(web: Web, announce: Any) -> Any:
    from dataclasses import replace

    return replace(web.services, announce=announce)


def test_ping_is_answered_and_stores_nothing(web: Web) -> None:
    before = web.stored_keys()
    response = web.deliver({"zen": "Design for failure.", "hook_id": 1}, headers=github("ping"))
    assert (response.status_code, response.get_json()) == (200, {"ok": True, "event": "ping"})
    assert web.stored_keys() == before


@pytest.mark.parametrize(
    ("event", "fields", "code"),
    [
        ("push", {"after": "0" * 40, "deleted": True, "head_commit": None}, "branch-deleted"),
        ("push", {"ref": "refs/heads/other"}, "branch-not-built"),
        ("push", {"ref": "refs/tags/v1"}, "tag-not-built"),
        ("push", {"ref": "refs/pull/7/merge"}, "ref-not-built"),
        ("create", {}, "event-not-push"),
        ("pull_request", {}, "event-not-push"),
        ("<script>\x7f", {}, "event-not-push"),
    ],
)
def test_what_is_not_built_is_told_and_not_stored(web: Web, event: str, fields: dict[str, Any], code: str) -> None:
    before = web.stored_keys()
    response = web.deliver(github_push(**fields), headers=github(event))
    assert response.status_code == 200
    assert response.get_json()["ignored"] == code
    assert response.get_json()["message"].isprintable()
    assert web.stored_keys() == before


# --- replays --------------------------------------------------------------------------------------------------------


def test_the_same_delivery_again_builds_nothing_again(web: Web) -> None:
    first = web.deliver(github_push(), headers=github())
    again = web.deliver(github_push(), headers=github())
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.get_json() == {**first.get_json(), "duplicate": True}
    assert len(web.builds()) == len(web.announced) == 1


def test_a_delivery_id_does_not_stand_for_another_projects(web: Web) -> None:
    web.add_project("other", url="https://git.example/acme/other.git")
    web.deliver(github_push(), headers=github())
    assert web.deliver(github_push(), project="other", headers=github()).status_code == 202
    assert {build.project for build in web.builds()} == {"demo", "other"}


def test_the_same_commit_in_another_delivery_has_the_same_build(web: Web) -> None:
    first = web.deliver(github_push(), headers=github(delivery="one")).get_json()["builds"][0]
    second = web.deliver(github_push(), headers=github(delivery="two"))
    assert second.status_code == 202
    assert (second.get_json()["builds"][0]["id"], second.get_json()["builds"][0]["created"]) == (first["id"], False)
    assert web.announced == [first["id"]]


def test_an_ignored_delivery_can_be_sent_again_after_a_change(web: Web) -> None:
    assert web.deliver(github_push(ref="refs/heads/release"), headers=github()).status_code == 200
    web.services.projects.remove("demo")
    web.add_project(branch="release")
    assert web.deliver(github_push(ref="refs/heads/release"), headers=github()).status_code == 202


def test_a_delivery_to_a_project_registered_anew_is_not_a_duplicate(web: Web) -> None:
    web.deliver(github_push(), headers=github())
    web.services.projects.remove("demo")
    web.add_project(dockerfile="other/Dockerfile")
    response = web.deliver(github_push(), headers=github())
    assert response.status_code == 202
    assert response.get_json()["builds"][0]["created"]


def test_pushes_are_numbered_in_the_order_they_came(web: Web) -> None:
    for commit, delivery in ((COMMIT, "1"), (OTHER_COMMIT, "2")):
        web.deliver(github_push(after=commit), headers=github(delivery=delivery))
    assert [(build.commit, build.sequence) for build in web.builds()] == [(OTHER_COMMIT, 2), (COMMIT, 1)]


def test_duplicates_at_the_same_time_make_one_build(web: Web) -> None:
    barrier = threading.Barrier(12)
    statuses: list[int] = []
    ids: set[str] = set()

    def deliver() -> None:
        barrier.wait()
        response = web.deliver(github_push(), headers=github())
        statuses.append(response.status_code)
        ids.update(item["id"] for item in response.get_json()["builds"])

    threads = [threading.Thread(target=deliver) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 202} and 202 in statuses
    assert ids == {build.id for build in web.builds()} and len(ids) == 1
    assert web.announced == list(ids)


# --- signatures -----------------------------------------------------------------------------------------------------


RAW = json.dumps(github_push()).encode()


def forged_headers(web: Web) -> dict[str, dict[str, str]]:
    right = sign(RAW, web.secrets["demo"])
    web.add_project("other")
    return {
        "missing": {"X-Hub-Signature-256": ""},
        "of another project": {"X-Hub-Signature-256": sign(RAW, web.secrets["other"])},
        "wrong prefix": {"X-Hub-Signature-256": right.replace("sha256=", "sha1=")},
        "bare": {"X-Hub-Signature-256": right.removeprefix("sha256=")},
        "capitals": {"X-Hub-Signature-256": right.upper()},
        "truncated": {"X-Hub-Signature-256": right[:-2]},
        "non-ascii": {"X-Hub-Signature-256": right[:-1] + "ü"},
        "twice": {"X-Hub-Signature-256": f"{right}, {right}"},
        "in sha1's header": {"X-Hub-Signature-256": "", "X-Hub-Signature": right},
        "in gitea's header": {"X-Hub-Signature-256": "", "X-Gitea-Signature": right},
        "in our header": {"X-Hub-Signature-256": "", "X-Pushwright-Signature": right},
        "in the token header": {"X-Hub-Signature-256": "", "Authorization": f"Bearer {web.secrets['demo']}"},
        "of the empty secret": {"X-Hub-Signature-256": sign(RAW, "")},
    }


def test_a_forged_delivery_is_refused_and_leaves_nothing(web: Web) -> None:
    for name, headers in forged_headers(web).items():
        before = web.stored_keys()
        response = web.deliver(RAW, headers={**github(), **headers})
        assert (name, response.status_code) == (name, 401)
        assert response.get_json()["code"] == "signature-invalid"
        assert web.stored_keys() == before
    assert web.builds() == [] and web.announced == []


def test_a_changed_body_is_refused(web: Web) -> None:
    signature = {"X-Hub-Signature-256": sign(RAW, web.secrets["demo"])}
    written_anew = json.dumps(json.loads(RAW), indent=1).encode()
    for body in (RAW + b"\n", RAW.replace(COMMIT.encode(), OTHER_COMMIT.encode()), b"", written_anew):
        assert web.deliver(body, headers={**github(), **signature}).status_code == 401
    assert web.builds() == []


@pytest.mark.parametrize("name", ["nobody", "DEMO", "demo2", "%2e%2e", "a" * 500, "demo%00", "*", "demo%0d%0aX: y"])
def test_an_unknown_project_is_answered_as_a_bad_signature(web: Web, name: str) -> None:
    known = web.deliver(RAW, secret="not the secret at all", headers=github())
    before = web.stored_keys()
    unknown = web.client.post(
        f"/hooks/{name}",
        data=RAW,
        headers={"Content-Type": "application/json", "X-Hub-Signature-256": sign(RAW, "x"), **github()},
    )
    assert (known.status_code, unknown.status_code) == (401, 401)
    assert unknown.get_json() == known.get_json()
    assert {key for key, _ in unknown.headers} == {key for key, _ in known.headers}
    assert web.stored_keys() == before


def test_a_secret_that_does_not_open_is_answered_as_a_bad_signature(web: Web) -> None:
    web.redis.hset("pw:project:demo", "webhook_secrets", "damaged")
    response = web.deliver(RAW, headers=github())
    assert (response.status_code, response.get_json()["code"]) == (401, "signature-invalid")


def test_nothing_is_parsed_before_it_is_verified(web: Web) -> None:
    for body in (b"[" * 100_000, b"\0", b"not json"):
        assert web.deliver(body, secret="not the secret at all", headers=github()).status_code == 401


def test_hooks_need_no_token_and_take_no_token_instead(server: RedisServer) -> None:
    with web_over(server, api_token="t" * 32) as web:
        web.add_project()
        assert web.push().status_code == 202
        response = web.deliver(RAW, secret="wrong", headers={**github(), **web.headers()})
        assert response.status_code == 401


# --- bad bodies -----------------------------------------------------------------------------------------------------


BAD_BODIES = {
    "empty": b"",
    "scalar": b"7",
    "string": b'"push"',
    "null": b"null",
    "array": b"[]",
    "nan": b'{"ref": NaN}',
    "nul": b'{"ref": "refs/heads/main\\u0000", "before": "", "after": ""}',
    "raw nul": b"\0" * 100,
    "deep": b"[" * 100_000,
    "deep and closed": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "surrogate": json.dumps(github_push(ref="refs/heads/\ud800")).encode(),
    "latin1": '{"ref": "größe"}'.encode("latin-1"),
    "utf-16": json.dumps(github_push()).encode("utf-16"),
    "bom": b"\xef\xbb\xbf" + RAW,
    "gzip": b"\x1f\x8b\x08\x00" + b"\0" * 40,
    "truncated": RAW[:-10],
    "two documents": RAW + RAW,
    "long number": b'{"ref": ' + b"1" * 10_000 + b"}",
    "10k refs": json.dumps({"changes": [{}] * 10_000}).encode(),
    "html": b"<html>",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_signed_body_that_makes_no_sense_is_the_senders_fault(web: Web, body: bytes) -> None:
    before = web.stored_keys()
    for headers in (github(), {}):
        response = web.deliver(body, headers=headers)
        assert (response.status_code, response.get_json()["code"]) == (400, "payload-invalid")
        assert response.content_type == "application/problem+json"
    assert web.stored_keys() == before


@pytest.mark.parametrize("ref", ["main", "HEAD", "@{-1}", "-u", "refs/heads/../../x", "refs/heads/a\nb", "x" * 300])
@pytest.mark.parametrize("forge", ["github", "generic"])
def test_a_hostile_ref_is_refused(web: Web, ref: str, forge: str) -> None:
    body = github_push(ref=ref) if forge == "github" else {"ref": ref, "after": COMMIT}
    assert web.deliver(body, headers=github() if forge == "github" else {}).status_code == 400
    assert web.builds() == []


@pytest.mark.parametrize(
    "commit", ["", "a" * 39, "a" * 41, "g" * 40, "A" * 40, "HEAD", "--upload-pack=x", None, 7, [COMMIT]]
)
def test_a_hostile_commit_is_refused(web: Web, commit: Any) -> None:
    assert web.deliver(github_push(after=commit), headers=github()).status_code == 400
    assert web.deliver({"ref": "refs/heads/main", "after": commit}).status_code == 400
    assert web.builds() == []


@pytest.mark.parametrize("value", ["a b", "a" * 200, "{}", "a/b"])
def test_a_hostile_delivery_id_is_refused(web: Web, value: str) -> None:
    assert web.deliver(github_push(), headers=github(delivery=value)).status_code == 400
    assert web.builds() == []


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", ""])
def test_other_types_are_not_guessed_at(web: Web, kind: str) -> None:
    response = web.deliver(RAW, headers={**github(), "Content-Type": kind})
    assert (response.status_code, response.get_json()["code"]) == (415, "media-type-unsupported")
    assert web.builds() == []


def test_a_form_is_not_a_generic_push(web: Web) -> None:
    body = urlencode({"payload": json.dumps({"ref": "refs/heads/main", "after": COMMIT})}).encode()
    response = web.deliver(body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert response.status_code == 415


def test_a_github_payload_without_its_header_is_not_a_generic_push(web: Web) -> None:
    response = web.deliver(github_push())
    assert (response.status_code, response.get_json()["code"]) == (400, "payload-invalid")
    assert "event header" in response.get_json()["hint"]


@pytest.mark.parametrize(
    "header", ["X-Gitea-Event", "X-Forgejo-Event", "X-Gogs-Event", "X-Gitlab-Event", "X-Event-Key"]
)
def test_deliveries_of_other_forges_are_told_so(web: Web, header: str) -> None:
    response = web.deliver(github_push(), headers={**github(), header: "push"})
    assert (response.status_code, response.get_json()["code"]) == (400, "forge-unsupported")
    assert web.builds() == []


# --- sizes and methods ----------------------------------------------------------------------------------------------


class Endless(io.RawIOBase):
    """A body without an end, which counts what was taken of it."""

    taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.taken += len(buffer)
        return len(buffer)


@pytest.mark.parametrize(
    "environ",
    [
        {"CONTENT_LENGTH": str(hooks.BODY_LIMIT_BYTES + 1)},
        {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    ],
    ids=["length", "chunked"],
)
def test_a_body_above_the_cap_is_not_read_on(web: Web, environ: dict[str, Any]) -> None:
    body = Endless()
    response = web.client.post("/hooks/demo", environ_overrides={**environ, "wsgi.input": body})
    assert (response.status_code, response.get_json()["code"]) == (413, "body-too-large")
    assert body.taken < hooks.BODY_LIMIT_BYTES + 1_000_000


def test_a_body_just_below_the_cap_is_taken(web: Web) -> None:
    push = json.dumps(github_push()).encode()
    body = push[:-1] + b" " * (hooks.BODY_LIMIT_BYTES - len(push)) + b"}"
    assert web.deliver(body, headers=github()).status_code == 202


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_post_delivers(web: Web, method: str) -> None:
    query = f"?payload={json.dumps(github_push())}"
    response = web.client.open(f"/hooks/demo{query}", method=method, headers=dict(github()))
    assert (response.status_code, response.get_json()["code"]) == (405, "method-not-allowed")
    assert "POST" in response.headers["Allow"]


# --- Redis away -----------------------------------------------------------------------------------------------------


def test_without_redis_the_sender_is_asked_to_come_again() -> None:
    with RedisServer(keeps_data=True) as server, web_over(server) as web:
        web.add_project()
        server.kill()
        response = web.push()
        assert (response.status_code, response.get_json()["code"]) == (503, "redis-unavailable")
        assert int(response.headers["Retry-After"]) > 0
        unknown = web.deliver(RAW, project="nobody", secret="x")
        assert unknown.status_code == 503
        server.start()
        assert web.push().status_code == 202
        (build,) = web.builds()
        assert (build.commit, build.state) == (COMMIT, State.QUEUED)
