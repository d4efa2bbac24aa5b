"""The API: projects, builds, logs and commits, as docs/api.md has them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.lifecycle import Build, State
from tasks.projects import Projects
from tests.support.redis_server import RedisServer
from tests.support.web import COMMIT, OTHER_COMMIT, Web, web_over
from webhook.problems import STATUSES

DIGEST = "sha256:" + "d" * 64
DOCUMENT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def web(server: RedisServer) -> Iterator[Web]:
    with web_over(server) as made:
        made.add_project()
        yield made


def succeed(web: Web, build_id: str, digest: str = DIGEST, tags: tuple[str, ...] = ()) -> Build:
    """Takes a queued build to its end, as a worker does."""
    claim = web.records.claim(build_id, "tester", 30)
    assert claim is not None
    build = claim.build
    result = {
        "repository": build.repository,
        "digest": digest,
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "size": 400,
        "platform": "linux/amd64",
        "tags": [build.commit_tag, *tags],
    }
    web.records.finish(claim, State.SUCCEEDED, results=[result])
    return web.records.get(build_id)


def fail(web: Web, build_id: str) -> None:
    claim = web.records.claim(build_id, "tester", 30)
    assert claim is not None
    error = {"code": "dockerfile-syntax", "message": "bad", "fixable_by": "user", "retryable": False, "line": 3}
    web.records.finish(claim, State.FAILED, "dockerfile-syntax", error=error)


def push(web: Web, commit: str = COMMIT) -> str:
    build_id: str = web.push(commit).get_json()["builds"][0]["id"]
    return build_id


def get(web: Web, path: str) -> Any:
    response = web.client.get(path)
    assert response.status_code == 200, response.text
    return response.get_json()


def refusal(web: Web, path: str, method: str = "GET", body: Any = None) -> tuple[int, str]:
    response = (
        web.client.open(path, method=method, json=body) if body is not None else web.client.open(path, method=method)
    )
    assert response.content_type == "application/problem+json"
    problem = response.get_json()
    assert problem["status"] == response.status_code
    assert set(problem) >= {"type", "title", "status", "detail", "code"}
    return response.status_code, problem["code"]


def test_every_code_of_a_problem_is_documented() -> None:
    documented = set(re.findall(r"`([a-z]+(?:-[a-z0-9]+)+)`", DOCUMENT))
    assert set(STATUSES) <= documented


# --- projects -------------------------------------------------------------------------------------------------------


def test_a_secret_is_shown_once(web: Web) -> None:
    body = {"name": "other", "url": "https://git.example/acme/other.git"}
    response = web.client.post("/api/v1/projects", json=body)
    created = response.get_json()
    assert (response.status_code, response.headers["Location"]) == (201, "/api/v1/projects/other")
    secret = created.pop("secret")
    assert len(secret) >= 43
    shown = get(web, "/api/v1/projects/other")
    assert shown == created
    assert secret not in web.client.get("/api/v1/projects").text


def test_a_project_has_the_documented_members(web: Web) -> None:
    assert set(get(web, "/api/v1/projects/demo")) == {
        "name",
        "url",
        "branch",
        "dockerfile",
        "context",
        "image",
        "git_credential",
        "registries",
        "webhook_secrets",
        "config_digest",
        "created",
        "problem",
        "links",
    }


def test_secrets_that_were_sent_never_come_back(web: Web) -> None:
    fields = {
        "git_credential": {"username": "bot", "password": "s3cr3t-git"},
        "registries": {"registry.example": {"username": "bot", "password": "s3cr3t-registry"}},
        "secret": "s3cr3t-webhook-secret",
    }
    web.add_project("full", **fields)
    project = get(web, "/api/v1/projects/full")
    assert (project["git_credential"], project["registries"]) == ("bot", ["registry.example"])
    web.push(project="full")
    for path in (
        "/api/v1/projects/full",
        "/api/v1/projects",
        "/api/v1/builds",
        f"/api/v1/projects/full/commits/{COMMIT}",
    ):
        assert "s3cr3t" not in web.client.get(path).text


def test_projects_are_listed_and_removed(web: Web) -> None:
    web.add_project("alpha")
    assert [item["name"] for item in get(web, "/api/v1/projects")["projects"]] == ["alpha", "demo"]
    response = web.client.delete("/api/v1/projects/alpha")
    assert (response.status_code, response.data) == (204, b"")
    assert refusal(web, "/api/v1/projects/alpha") == (404, "project-unknown")
    assert refusal(web, "/api/v1/projects/alpha", "DELETE") == (404, "project-unknown")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [("git_credential", "sealed with a key that was lost", "vault-sealed"), ("v", "9", "record-damaged")],
)
def test_a_project_that_does_not_read_hides_no_other(web: Web, field: str, value: str, code: str) -> None:
    web.add_project("alpha", git_credential={"username": "bot", "password": "s3cr3t-s3cr3t"})
    web.redis.hset("pw:project:alpha", field, value)
    listed = {item["name"]: item for item in get(web, "/api/v1/projects")["projects"]}
    assert set(listed) == {"alpha", "demo"}
    assert listed["demo"]["problem"] is None
    assert listed["alpha"]["problem"]["code"] == code
    assert listed["alpha"]["problem"]["message"]
    assert set(listed["alpha"]) == set(listed["demo"])
    assert get(web, "/api/v1/projects/alpha") == listed["alpha"]
    # shown, but not built as if it had no credential
    answer = web.client.post("/api/v1/projects/alpha/builds", json={"commit": COMMIT})
    assert (answer.status_code, answer.get_json()["code"]) == (500, code)
    assert web.builds() == []
    assert web.client.delete("/api/v1/projects/alpha").status_code == 204


def test_refused_projects(web: Web) -> None:
    url = "https://git.example/x.git"
    assert refusal(web, "/api/v1/projects", "POST", {"name": "demo", "url": url}) == (409, "project-exists")
    assert refusal(web, "/api/v1/projects", "POST", {"name": "../x", "url": url}) == (400, "project-invalid")
    assert refusal(web, "/api/v1/projects", "POST", {"name": "x", "url": "file:///etc"}) == (400, "project-invalid")
    assert refusal(web, "/api/v1/projects", "POST", {"name": "x", "url": url, "x": 1}) == (400, "project-invalid")
    assert refusal(web, "/api/v1/projects", "POST", []) == (400, "request-invalid")
    response = web.client.post("/api/v1/projects", json={"name": "x", "url": url, "branch": "-u"})
    assert response.get_json()["field"] == "branch"


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{", b"\0", b"7", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff"])
def test_bodies_that_make_no_sense(web: Web, body: bytes) -> None:
    response = web.client.post("/api/v1/projects", data=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.get_json()["code"]) == (400, "request-invalid")


def test_a_large_body_is_refused(web: Web) -> None:
    body = b'{"name": "' + b"a" * 1_100_000 + b'"}'
    response = web.client.post("/api/v1/projects", data=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.get_json()["code"]) == (413, "body-too-large")


# --- builds ---------------------------------------------------------------------------------------------------------


def test_a_build_has_the_documented_members(web: Web) -> None:
    build_id = push(web)
    shown = get(web, f"/api/v1/builds/{build_id}")
    example = DOCUMENT[DOCUMENT.index('{"id": "01k') :].partition("```")[0]
    assert set(shown) == set(json.loads(example))
    assert (shown["state"], shown["started"], shown["finished"]) == ("queued", None, None)
    assert shown["created"] > 0
    # the embedded registry's host is the one that was asked
    assert shown["repository"] == "localhost/demo"


def test_builds_are_paged_newest_first(web: Web) -> None:
    ids = [push(web, f"{number:040x}") for number in range(1, 6)]
    newest = sorted(ids, reverse=True)
    seen: list[str] = []
    following = ""
    for _ in range(10):
        page = get(web, f"/api/v1/builds?limit=2&before={following}")
        seen += [item["id"] for item in page["builds"]]
        following = page["next"]
        if following is None:
            break
    assert seen == newest
    web.add_project("other")
    assert get(web, "/api/v1/builds?project=other") == {"builds": [], "next": None}
    assert len(get(web, "/api/v1/builds?project=demo")["builds"]) == 5


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "limit=-1", "limit=1.5", "limit=%D9%A1", "limit=99999"]
)
def test_limits_that_are_none(web: Web, query: str) -> None:
    assert refusal(web, f"/api/v1/builds?{query}") == (400, "request-invalid")


@pytest.mark.parametrize("build_id", ["x", "0" * 26, "0" * 27, "..", "%00", "*" * 26, "0" * 25 + "%0a"])
def test_ids_that_name_nothing(web: Web, build_id: str) -> None:
    for path, method in (("", "GET"), ("/logs", "GET"), ("/cancel", "POST"), ("/rebuild", "POST")):
        response = web.client.open(f"/api/v1/builds/{build_id}{path}", method=method)
        assert response.status_code in {404, 405}
        assert response.get_json()["code"] in {"build-not-found", "not-found", "method-not-allowed"}


def test_an_unknown_projects_builds(web: Web) -> None:
    assert refusal(web, "/api/v1/builds?project=nobody") == (404, "project-unknown")
    assert refusal(web, "/api/v1/builds?before=x") == (404, "build-not-found")


def test_builds_of_a_removed_project_stay(web: Web) -> None:
    push(web)
    web.services.projects.remove("demo")
    assert len(get(web, "/api/v1/builds?project=demo")["builds"]) == 1
    assert get(web, f"/api/v1/projects/demo/commits/{COMMIT}")["state"] == "queued"


def test_cancel(web: Web) -> None:
    build_id = push(web)
    response = web.client.post(f"/api/v1/builds/{build_id}/cancel", json={})
    assert (response.status_code, response.get_json()["state"]) == (202, "cancelled")
    assert refusal(web, f"/api/v1/builds/{build_id}/cancel", "POST", {}) == (409, "build-finished")
    running = push(web, OTHER_COMMIT)
    assert web.records.claim(running, "tester", 30)
    response = web.client.post(f"/api/v1/builds/{running}/cancel")
    assert (response.status_code, response.get_json()["cancel_requested"]) == (202, True)
    assert web.records.get(running).state is State.RUNNING


def test_rebuild(web: Web) -> None:
    first = push(web)
    succeed(web, first)
    response = web.client.post(f"/api/v1/builds/{first}/rebuild", json={})
    assert response.status_code == 202
    build = response.get_json()["build"]
    assert response.get_json()["created"] and build["id"] != first
    assert (build["commit"], build["commit_tag"]) == (COMMIT, f"{COMMIT}-r1")
    assert web.announced == [first, build["id"]]
    assert refusal(web, f"/api/v1/builds/{first}/rebuild", "POST", {"x": 1}) == (400, "request-invalid")
    web.services.projects.remove("demo")
    assert refusal(web, f"/api/v1/builds/{first}/rebuild", "POST", {}) == (404, "project-unknown")


def test_build_on_demand(web: Web) -> None:
    response = web.client.post("/api/v1/projects/demo/builds", json={"commit": COMMIT})
    assert response.status_code == 202
    assert (response.get_json()["created"], response.get_json()["build"]["ref"]) == (True, "refs/heads/main")
    again = web.client.post("/api/v1/projects/demo/builds", json={"commit": COMMIT, "ref": "refs/heads/x"})
    assert not again.get_json()["created"]
    forced = web.client.post("/api/v1/projects/demo/builds", json={"commit": COMMIT, "force": True})
    assert forced.get_json()["created"]
    assert len(web.announced) == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "commit-invalid"),
        ({"commit": COMMIT[:8]}, "commit-invalid"),
        ({"commit": "0" * 40}, "commit-invalid"),
        ({"commit": "--upload-pack=x"}, "commit-invalid"),
        ({"commit": COMMIT, "ref": "main"}, "ref-invalid"),
        ({"commit": COMMIT, "ref": "refs/heads/-u"}, "ref-invalid"),
        ({"commit": COMMIT, "ref": None}, "ref-invalid"),
        ({"commit": COMMIT, "force": "yes"}, "request-invalid"),
        ({"commit": COMMIT, "url": "https://evil.example"}, "request-invalid"),
    ],
)
def test_refused_builds_on_demand(web: Web, body: dict[str, Any], code: str) -> None:
    assert refusal(web, "/api/v1/projects/demo/builds", "POST", body) == (400, code)
    assert web.builds() == []


# --- commits --------------------------------------------------------------------------------------------------------


def test_a_commit_without_an_image_yet_and_with_one(web: Web) -> None:
    build_id = push(web)
    path = f"/api/v1/projects/demo/commits/{COMMIT}"
    waiting = get(web, path)
    assert (waiting["state"], waiting["digest"], waiting["repository"], waiting["tags"]) == ("queued", None, None, [])
    succeed(web, build_id)
    built = get(web, path)
    assert (built["state"], built["reason"], built["build"]) == ("succeeded", "", build_id)
    assert (built["repository"], built["digest"], built["tags"]) == ("localhost/demo", DIGEST, [COMMIT])
    assert (built["size"], built["platform"]) == (400, "linux/amd64")
    assert [item["id"] for item in built["builds"]] == [build_id]
    assert built["images"] == built["builds"][0]["results"]


def test_a_commit_that_failed_says_why(web: Web) -> None:
    fail(web, push(web))
    answer = get(web, f"/api/v1/projects/demo/commits/{COMMIT}")
    assert (answer["state"], answer["reason"]) == ("failed", "dockerfile-syntax")
    assert (answer["error"]["code"], answer["error"]["line"]) == ("dockerfile-syntax", 3)
    assert answer["digest"] is None


def test_a_failed_rebuild_does_not_hide_the_image(web: Web) -> None:
    first = push(web)
    succeed(web, first)
    again = web.client.post(f"/api/v1/builds/{first}/rebuild").get_json()["build"]["id"]
    fail(web, again)
    answer = get(web, f"/api/v1/projects/demo/commits/{COMMIT}")
    assert (answer["state"], answer["digest"], answer["build"], answer["error"]) == ("succeeded", DIGEST, first, None)
    assert [item["id"] for item in answer["builds"]] == [again, first]


def test_a_rebuild_that_succeeds_is_what_the_commit_has(web: Web) -> None:
    first = push(web)
    succeed(web, first)
    again = web.client.post(f"/api/v1/builds/{first}/rebuild").get_json()["build"]["id"]
    other = "sha256:" + "e" * 64
    succeed(web, again, other)
    answer = get(web, f"/api/v1/projects/demo/commits/{COMMIT}")
    assert (answer["digest"], answer["tags"]) == (other, [f"{COMMIT}-r1"])
    assert [item["digest"] for item in answer["images"]] == [other, DIGEST]


def test_abbreviations(web: Web) -> None:
    push(web)
    for text in (COMMIT[:9], COMMIT[:9].upper(), COMMIT):
        assert get(web, f"/api/v1/projects/demo/commits/{text}")["commit"] == COMMIT
    push(web, OTHER_COMMIT)
    response = web.client.get(f"/api/v1/projects/demo/commits/{COMMIT[:8]}")
    problem = response.get_json()
    assert (response.status_code, problem["code"]) == (409, "commit-ambiguous")
    assert (problem["candidates"], problem["more"]) == ([OTHER_COMMIT, COMMIT], False)
    # a whole id is never ambiguous, and one digit more tells
    assert get(web, f"/api/v1/projects/demo/commits/{COMMIT}")["commit"] == COMMIT
    assert get(web, f"/api/v1/projects/demo/commits/{OTHER_COMMIT[:10]}")["commit"] == OTHER_COMMIT


def test_candidates_are_not_without_end(web: Web) -> None:
    for number in range(25):
        push(web, f"abcd{number:036x}")
    problem = web.client.get("/api/v1/projects/demo/commits/abcd").get_json()
    assert (len(problem["candidates"]), problem["more"]) == (20, True)


def test_a_commit_that_begins_another_is_itself(web: Web) -> None:
    push(web, "a" * 40)
    push(web, "a" * 64)
    assert get(web, f"/api/v1/projects/demo/commits/{'a' * 40}")["commit"] == "a" * 40
    assert get(web, f"/api/v1/projects/demo/commits/{'a' * 64}")["commit"] == "a" * 64
    assert refusal(web, f"/api/v1/projects/demo/commits/{'a' * 39}") == (409, "commit-ambiguous")


@pytest.mark.parametrize("text", ["abc", "g" * 40, "a" * 65, "main", "4f2d%0a", "4f2d*", "-4f2d", "%C3%BC" * 4])
def test_texts_that_are_no_commit(web: Web, text: str) -> None:
    push(web)
    assert refusal(web, f"/api/v1/projects/demo/commits/{text}") == (400, "commit-invalid")


def test_commits_that_nobody_pushed(web: Web) -> None:
    push(web)
    assert refusal(web, "/api/v1/projects/demo/commits/0000") == (404, "commit-unknown")
    assert refusal(web, f"/api/v1/projects/nobody/commits/{COMMIT}") == (404, "project-unknown")
    web.add_project("other")
    assert refusal(web, f"/api/v1/projects/other/commits/{COMMIT}") == (404, "commit-unknown")


def test_the_public_url_names_the_registry(server: RedisServer) -> None:
    with web_over(server, public_url="https://images.example:8443") as web:
        web.add_project()
        succeed(web, push(web))
        answer = get(web, f"/api/v1/projects/demo/commits/{COMMIT}")
        assert answer["repository"] == answer["images"][0]["repository"] == "images.example:8443/demo"


def test_an_own_registry_is_shown_as_it_is(server: RedisServer) -> None:
    with web_over(server, registry="registry.example/team") as web:
        web.add_project()
        succeed(web, push(web))
        assert get(web, f"/api/v1/projects/demo/commits/{COMMIT}")["repository"] == "registry.example/team/demo"


# --- logs -----------------------------------------------------------------------------------------------------------


def say(web: Web, build_id: str, *texts: str) -> None:
    lines = [
        json.dumps({"v": 1, "seq": number, "ts": 1.0, "type": "step-log", "step": 1, "stream": "stdout", "data": text})
        for number, text in enumerate(texts, 1)
    ]
    assert web.services.logs.append(build_id, "\n".join(lines), "{}")


def lines(web: Web, path: str) -> list[Any]:
    response = web.client.get(path)
    assert (response.status_code, response.content_type) == (200, "application/x-ndjson")
    return [json.loads(line) for line in response.data.splitlines() if line]


def test_what_there_is_of_a_log(web: Web) -> None:
    build_id = push(web)
    path = f"/api/v1/builds/{build_id}/logs"
    assert lines(web, path) == []
    say(web, build_id, "one\n", "two\n")
    found = lines(web, path)
    assert [item["event"]["data"] for item in found] == ["one\n", "two\n"]
    assert [item["event"]["data"] for item in lines(web, f"{path}?after={found[0]['cursor']}")] == ["two\n"]


def test_a_log_ends_when_its_build_is_over(web: Web) -> None:
    build_id = push(web)
    say(web, build_id, "one\n")
    succeed(web, build_id)
    for query in ("", "?follow=1", "?follow=0"):
        found = lines(web, f"/api/v1/builds/{build_id}/logs{query}")
        assert [list(item) for item in found] == [["cursor", "event"], ["end"]]
        assert found[-1]["end"] == {"state": "succeeded", "reason": ""}
    web.services.logs.archive(build_id)
    assert lines(web, f"/api/v1/builds/{build_id}/logs?follow=1") == found
    assert lines(web, f"/api/v1/builds/{build_id}/logs?after={found[0]['cursor']}") == found[1:]


def test_a_log_as_text_cannot_drive_a_terminal(web: Web) -> None:
    build_id = push(web)
    say(web, build_id, "<script>alert(1)</script>\x1b]0;title\x07\x1b[2J\n")
    fail(web, build_id)
    response = web.client.get(f"/api/v1/builds/{build_id}/logs?format=text")
    assert response.content_type == "text/plain; charset=utf-8"
    assert "<script>alert(1)</script>" in response.text
    assert "\x1b]" not in response.text and "\x1b[2J" not in response.text and "\x07" not in response.text
    assert response.text.endswith("build failed (dockerfile-syntax)\n")
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_places_for_followed_logs_are_given_back(web: Web) -> None:
    build_id = push(web)
    say(web, build_id, "one\n")
    path = f"/api/v1/builds/{build_id}/logs?follow=1"
    # neither is read to its end, so both keep their place
    held = [web.app.test_client().get(path, buffered=False) for _ in range(2)]
    response = web.client.get(path)
    assert (response.status_code, response.get_json()["code"]) == (503, "too-many-streams")
    assert int(response.headers["Retry-After"]) > 0
    assert web.client.get(f"/api/v1/builds/{build_id}/logs").status_code == 200
    for item in held:
        item.close()
    succeed(web, build_id)
    for _ in range(5):
        with web.client.get(path) as followed:
            assert followed.status_code == 200


def test_a_followed_log_ends_when_the_server_stops(web: Web) -> None:
    build_id = push(web)
    say(web, build_id, "one\n")
    response = web.client.get(f"/api/v1/builds/{build_id}/logs?follow=1", buffered=False)
    stream = response.iter_encoded()
    assert json.loads(next(stream))["event"]["data"] == "one\n"
    web.services.streams.stop()
    assert list(stream) == []
    response.close()


def test_a_log_that_breaks_off_says_so() -> None:
    with RedisServer() as server, web_over(server) as web:
        web.add_project()
        build_id = push(web)
        say(web, build_id, "one\n")
        response = web.client.get(f"/api/v1/builds/{build_id}/logs?follow=1", buffered=False)
        stream = response.iter_encoded()
        assert "cursor" in json.loads(next(stream))
        server.kill()
        rest = [json.loads(item) for item in stream]
        assert [list(item) for item in rest] == [["error"]]
        assert (rest[0]["error"]["code"], rest[0]["error"]["status"]) == ("redis-unavailable", 503)
        response.close()
        server.start()


@pytest.mark.parametrize("query", ["follow=yes", "format=html", "after=x", "after=1-1", "after=%00", "follow=2"])
def test_refused_questions_about_a_log(web: Web, query: str) -> None:
    build_id = push(web)
    assert refusal(web, f"/api/v1/builds/{build_id}/logs?{query}") == (400, "request-invalid")


# --- the rest -------------------------------------------------------------------------------------------------------


def test_health_and_readiness() -> None:
    with RedisServer() as server, web_over(server) as web:
        assert (web.client.get("/healthz").status_code, web.client.get("/readyz").status_code) == (200, 200)
        server.kill()
        assert web.client.get("/healthz").status_code == 200
        response = web.client.get("/readyz")
        assert (response.status_code, response.get_json()["code"]) == (503, "redis-unavailable")
        assert refusal(web, "/api/v1/projects") == (503, "redis-unavailable")
        server.start()
        assert web.client.get("/readyz").status_code == 200


def test_unknown_paths_and_methods(web: Web) -> None:
    assert refusal(web, "/") == (404, "not-found")
    assert refusal(web, "/api/v1") == (404, "not-found")
    assert refusal(web, "/api/v1/projects", "PUT", {}) == (405, "method-not-allowed")
    assert refusal(web, "/api/v1//projects") == (404, "not-found")


def test_a_fault_of_ours_tells_nothing(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def burst(_: Projects) -> list[Any]:
        raise RuntimeError("the inner s3cr3t")

    monkeypatch.setattr(Projects, "list", burst)
    response = web.client.get("/api/v1/projects")
    assert (response.status_code, response.get_json()["code"]) == (500, "internal")
    assert "s3cr3t" not in response.text
    assert "RuntimeError" in caplog.text


def test_without_redis_every_question_is_to_be_asked_again() -> None:
    with RedisServer() as server, web_over(server) as web:
        web.add_project()
        build_id = push(web)
        server.kill()
        values = {"project": "demo", "name": "demo", "commit": COMMIT, "build_id": build_id, "path": ""}
        asked = 0
        for rule in web.app.url_map.iter_rules():
            if rule.endpoint in {"healthz", "registry.serve", "api.show_logs"}:
                continue
            path = re.sub(r"<(?:[a-z]+:)?([a-z_]+)>", lambda match: values[match[1]], rule.rule)
            body = {"name": "new", "url": "https://git.example/x.git"} if path.endswith("/projects") else {}
            body = {"commit": COMMIT} if path.endswith("demo/builds") else body
            for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
                response = web.client.open(path, method=method, json=body if method == "POST" else None)
                assert (response.status_code, response.content_type) == (503, "application/problem+json"), (
                    method,
                    path,
                )
                assert response.get_json()["code"] == "redis-unavailable"
                assert int(response.headers["Retry-After"]) > 0
                asked += 1
        assert asked > 10
        logs = web.client.get(f"/api/v1/builds/{build_id}/logs")
        assert (logs.status_code, logs.headers.get("Retry-After")) == (503, "2")
