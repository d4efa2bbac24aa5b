"""The commands about projects and builds, against a scripted server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_api import Answer, ScriptedApi, problem, serve_script
from webhook import cli
from webhook.commands.output import printable
from webhook.embedded.directories import hold_data_directory

COMMIT = "4f2a91c0" * 5
DIGEST = "sha256:" + "ab" * 32
PROJECT: dict[str, Any] = {
    "name": "demo",
    "url": "https://git.example/demo.git",
    "branch": "main",
    "dockerfile": "Dockerfile",
    "context": "",
    "image": "",
    "git_credential": None,
    "registries": [],
    "webhook_secrets": 1,
    "config_digest": DIGEST,
    "created": 1760000000000,
    "links": {"self": "/api/v1/projects/demo", "hook": "/hooks/demo"},
}
RESULT = {
    "repository": "127.0.0.1:8080/demo",
    "digest": DIGEST,
    "media_type": "application/vnd.oci.image.manifest.v1+json",
    "size": 9,
    "platform": "linux/amd64",
    "tags": [COMMIT],
}
BUILD: dict[str, Any] = {
    "id": "01k9m2v7w0d3",
    "project": "demo",
    "commit": COMMIT,
    "ref": "refs/heads/main",
    "repository": "127.0.0.1:8080/demo",
    "state": "succeeded",
    "reason": "",
    "attempt": 1,
    "cancel_requested": False,
    "created": 1760000000000,
    "queued": 1760000000000,
    "started": 1760000001000,
    "finished": 1760000076000,
    "results": [RESULT],
    "error": None,
    "links": {},
}
ERROR = {
    "code": "step-failed",
    "message": "RUN exited with 7",
    "fixable_by": "user",
    "retryable": False,
    "file": "Dockerfile",
    "line": 4,
    "tail": ["make: \x1b[2Jno rule"],
}
COMMIT_PATH = f"GET /api/v1/projects/demo/commits/{COMMIT[:8]}"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PUSHWRIGHT_SERVER", "PUSHWRIGHT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PUSHWRIGHT_HOME", str(tmp_path))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedApi]:
    with serve_script() as server:
        monkeypatch.setenv("PUSHWRIGHT_SERVER", server.url)
        monkeypatch.setenv("PUSHWRIGHT_TOKEN", "s3cret-token")
        yield server


def commit_answer(state: str, **members: object) -> Answer:
    built = state == "succeeded"
    value = {
        "project": "demo",
        "commit": COMMIT,
        "state": state,
        "reason": "",
        "build": "01k9m2v7w0d3",
        "repository": RESULT["repository"] if built else None,
        "digest": DIGEST if built else None,
        "tags": [COMMIT] if built else [],
        "images": [RESULT] if built else [],
        "error": None,
        "builds": [],
        **members,
    }
    return Answer(value)


class TestProject:
    def test_add_sends_only_what_was_given_and_shows_hook_and_secret(
        self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.answer("POST /api/v1/projects", Answer({**PROJECT, "secret": "made-for-you"}, status=201))
        assert cli.main(["project", "add", "demo", "--url", PROJECT["url"]]) == 0
        assert api.requests[0].body == {"name": "demo", "url": PROJECT["url"], "secret": "generated"}
        assert api.requests[0].headers["Authorization"] == "Bearer s3cret-token"
        text = capsys.readouterr().out
        assert f"{api.url}/hooks/demo" in text
        assert "made-for-you" in text

    def test_add_takes_secrets_from_where_they_are(
        self, api: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.answer("POST /api/v1/projects", Answer(PROJECT, status=201))
        (tmp_path / "registry").write_text("robot:pa:ss\n")
        monkeypatch.setenv("GIT_TOKEN", "git-password")
        monkeypatch.setattr("sys.stdin", io.StringIO("a webhook secret\n"))
        words = ["--branch", "release", "--dockerfile", "d/Dockerfile", "--context", "d", "--image", "r.example/x"]
        words += ["--secret", "-", "--git-credential", "bot:env:GIT_TOKEN"]
        words += ["--registry-credential", f"r.example=@{tmp_path}/registry"]
        assert cli.main(["project", "add", "demo", "--url", PROJECT["url"], *words]) == 0
        assert api.requests[0].body == {
            "name": "demo",
            "url": PROJECT["url"],
            "branch": "release",
            "dockerfile": "d/Dockerfile",
            "context": "d",
            "image": "r.example/x",
            "secret": "a webhook secret",
            "git_credential": {"username": "bot", "password": "git-password"},
            "registries": {"r.example": {"username": "robot", "password": "pa:ss"}},
        }
        printed = capsys.readouterr()
        for secret in ("a webhook secret", "git-password", "pa:ss"):
            assert secret not in printed.out + printed.err

    def test_add_takes_registry_credentials_from_a_docker_config(
        self, api: ScriptedApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.answer("POST /api/v1/projects", Answer(PROJECT, status=201))
        config = tmp_path / "config.json"
        # base64 of robot:pa:ss
        config.write_text('{"auths": {"r.example": {"auth": "cm9ib3Q6cGE6c3M="}}}')
        words = ["project", "add", "demo", "--url", PROJECT["url"], "--docker-config", str(config)]
        assert cli.main(words) == 0
        body = api.requests[0].body
        assert isinstance(body, dict)
        assert body["registries"] == {"r.example": {"username": "robot", "password": "pa:ss"}}
        assert "pa:ss" not in "".join(capsys.readouterr())

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('{"auths": {"r.example": {}}, "credsStore": "desktop"}', "r.example to a credential helper"),
            ('{"auths": {"r.example": {"identitytoken": "t"}}}', "identity token"),
            ("{", "config"),
        ],
    )
    def test_add_refuses_a_docker_config_that_it_cannot_keep(
        self, text: str, said: str, api: ScriptedApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "config.json"
        config.write_text(text)
        assert cli.main(["project", "add", "demo", "--url", PROJECT["url"], "--docker-config", str(config)]) == 2
        assert said in capsys.readouterr().err
        assert not api.requests

    def test_add_refuses_a_password_among_the_arguments_and_does_not_repeat_it(
        self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["project", "add", "demo", "--url", "https://x.example/y", "--git-credential", "bot:hunter22"]
        assert cli.main(words) == 2
        error = capsys.readouterr().err
        assert "hunter22" not in error
        assert "hint: everyone here can see arguments" in error
        assert not api.requests

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--secret", "-", "--git-credential", "bot:-"], "standard input was named"),
            (["--secret", "a-secret-for-all-to-see"], "--secret: expected a place to read a secret from"),
            (["--token", "a-token-for-all-to-see"], "--token: expected a place to read a secret from"),
            (["--secret", "env:NOT_SET"], "--secret: the variable NOT_SET is not set or empty"),
            (["--secret", "@/nonexistent/secret"], "--secret: /nonexistent/secret: cannot be read"),
            (["--git-credential", "bot"], "--git-credential: expected USER:SOURCE"),
            (["--registry-credential", "r.example"], "--registry-credential: expected HOST=USER:SOURCE"),
        ],
    )
    def test_add_says_what_is_wrong_with_a_source(
        self, words: list[str], message: str, api: ScriptedApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["project", "add", "demo", "--url", "https://x.example/y", *words]) == 2
        assert f"error: {message}" in capsys.readouterr().err
        assert not api.requests

    def test_add_as_json_has_the_whole_hook_url(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.answer("POST /api/v1/projects", Answer({**PROJECT, "secret": "made"}, status=201))
        assert cli.main(["project", "add", "demo", "--url", PROJECT["url"], "--json"]) == 0
        value = json.loads(capsys.readouterr().out)
        assert (value["hook_url"], value["secret"]) == (f"{api.url}/hooks/demo", "made")

    def test_list_show_and_remove(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.answer("GET /api/v1/projects", Answer({"projects": [PROJECT]}))
        api.answer("GET /api/v1/projects/demo", Answer(PROJECT))
        api.answer("DELETE /api/v1/projects/demo", Answer(status=204))
        assert cli.main(["project", "list"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "NAME  URL                           BRANCH  DOCKERFILE  IMAGE",
            "demo  https://git.example/demo.git  main    Dockerfile  (default)",
        ]
        assert cli.main(["project", "show", "demo"]) == 0
        assert f"hook        {api.url}/hooks/demo" in capsys.readouterr().out
        assert cli.main(["project", "remove", "demo"]) == 0
        assert capsys.readouterr().out == "removed demo; its builds and images stay\n"

    def test_a_project_that_does_not_read_is_marked(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        what = {"code": "vault-sealed", "message": "does not open\x1b]0;x\x07", "hint": None}
        broken = {**PROJECT, "name": "old", "problem": what}
        api.answer("GET /api/v1/projects", Answer({"projects": [PROJECT, broken]}))
        api.answer("GET /api/v1/projects/old", Answer(broken))
        assert cli.main(["project", "list"]) == 0
        shown = capsys.readouterr()
        assert len(shown.out.splitlines()) == 3
        assert shown.err == "warning: project old: does not open\ufffd]0;x\ufffd [vault-sealed]\n"
        assert cli.main(["project", "show", "old"]) == 0
        assert "vault-sealed" in capsys.readouterr().out

    def test_a_name_cannot_become_another_path(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["project", "remove", "../builds/x?y"]) == 6
        assert api.requests[0].path == "/api/v1/projects/..%2Fbuilds%2Fx%3Fy"
        assert capsys.readouterr().err.startswith("error: nothing at DELETE")


class TestBuilds:
    def test_table(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.answer("GET /api/v1/builds?limit=20", Answer({"builds": [BUILD], "next": None}))
        assert cli.main(["builds"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "BUILD         PROJECT  COMMIT        REF   STATE      QUEUED                TOOK",
            "01k9m2v7w0d3  demo     4f2a91c04f2a  main  succeeded  2025-10-09 08:53:20Z  1m15s",
        ]

    def test_a_long_list_is_asked_for_in_pages(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        page = [BUILD] * 200
        api.answer("GET /api/v1/builds?limit=200&project=demo", Answer({"builds": page, "next": "a"}))
        api.answer("GET /api/v1/builds?limit=50&project=demo&before=a", Answer({"builds": page[:50], "next": "b"}))
        assert cli.main(["builds", "--project", "demo", "--limit", "250", "--json"]) == 0
        value = json.loads(capsys.readouterr().out)
        assert (len(value["builds"]), value["next"]) == (250, "b")

    def test_show_has_error_and_tail_without_terminal_codes(
        self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        api.answer("GET /api/v1/builds/b1", Answer({**BUILD, "state": "failed", "results": [], "error": ERROR}))
        assert cli.main(["show", "b1"]) == 0
        text = capsys.readouterr().out
        assert "Dockerfile:4: RUN exited with 7 [step-failed]" in text
        assert "| make: \ufffd[2Jno rule" in text
        assert "\x1b" not in text

    def test_rebuild_of_a_build_and_of_a_commit(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.answer("POST /api/v1/builds/b1/rebuild", Answer({"build": BUILD, "created": True}, status=202))
        api.answer("POST /api/v1/projects/demo/builds", Answer({"build": BUILD, "created": True}, status=202))
        assert cli.main(["rebuild", "b1"]) == 0
        assert cli.main(["rebuild", "demo", COMMIT, "--ref", "refs/heads/main"]) == 0
        assert capsys.readouterr().out == "01k9m2v7w0d3\n" * 2
        assert api.requests[1].body == {"commit": COMMIT, "force": True, "ref": "refs/heads/main"}

    def test_cancel_and_one_that_is_over(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.answer(
            "POST /api/v1/builds/b1/cancel",
            Answer({**BUILD, "state": "running"}, status=202),
            problem(409, "build-finished", "build b1 is over"),
        )
        assert cli.main(["cancel", "b1"]) == 0
        assert capsys.readouterr().out == "01k9m2v7w0d3: asked to stop\n"
        assert cli.main(["cancel", "b1"]) == 2
        assert capsys.readouterr().err == "error: build b1 is over\n"


class TestTags:
    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            (commit_answer("succeeded"), 0),
            (commit_answer("failed", error=ERROR), 1),
            (commit_answer("cancelled"), 1),
            (commit_answer("superseded"), 1),
            (commit_answer("skipped"), 1),
            (commit_answer("queued"), 5),
            (commit_answer("running"), 5),
            (problem(404, "commit-unknown", "no push of it"), 6),
            (problem(404, "project-unknown", "no such project"), 6),
            (problem(400, "commit-invalid", "not hex"), 2),
            (problem(503, "redis-unavailable", "redis is away"), 3),
            (problem(500, "internal", "oh"), 3),
            (problem(401, "token-required", "no token"), 2),
        ],
    )
    def test_exit_status(self, answer: Answer, status: int, api: ScriptedApi) -> None:
        api.answer(COMMIT_PATH, answer)
        assert cli.main(["tags", "demo", COMMIT[:8]]) == status

    def test_what_is_printed(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.answer(COMMIT_PATH, commit_answer("succeeded"))
        assert cli.main(["tags", "demo", COMMIT[:8]]) == 0
        assert f"tags    127.0.0.1:8080/demo:{COMMIT}" in capsys.readouterr().out
        for wanted, text in (
            ("tags", f"127.0.0.1:8080/demo:{COMMIT}\n"),
            ("digest", f"{DIGEST}\n"),
            ("pull", f"127.0.0.1:8080/demo@{DIGEST}\n"),
        ):
            assert cli.main(["tags", "demo", COMMIT[:8], "--format", wanted]) == 0
            assert capsys.readouterr().out == text

    def test_an_ambiguous_commit_lists_the_candidates(
        self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        answer = problem(409, "commit-ambiguous", "several commits begin so", candidates=["4f2a1", "4f2a2"], more=True)
        api.answer(COMMIT_PATH, answer)
        assert cli.main(["tags", "demo", COMMIT[:8]]) == 2
        assert "hint: give more digits of one of 4f2a1, 4f2a2, …" in capsys.readouterr().err

    @pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
    def test_a_time_that_never_comes(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str], seconds: str) -> None:
        assert cli.main(["tags", "demo", COMMIT, "--wait", f"--timeout={seconds}"]) == 2
        assert "--timeout: expected a number of seconds" in capsys.readouterr().err
        assert not api.requests

    def test_wait_goes_on_until_it_is_built(
        self, api: ScriptedApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webhook.commands.tags._FIRST_PAUSE_SECONDS", 0.001)
        api.answer(
            COMMIT_PATH,
            problem(404, "commit-unknown", "no push of it"),
            commit_answer("queued"),
            problem(503, "redis-unavailable", "redis is away"),
            commit_answer("running"),
            commit_answer("succeeded"),
        )
        assert cli.main(["tags", "demo", COMMIT[:8], "--wait", "--format", "digest"]) == 0
        assert capsys.readouterr().out == f"{DIGEST}\n"
        assert len(api.requests) == 5

    @pytest.mark.parametrize(
        ("answer", "status"), [(commit_answer("running"), 5), (problem(404, "commit-unknown", "not pushed"), 6)]
    )
    def test_wait_ends_when_the_time_is_up(self, answer: Answer, status: int, api: ScriptedApi) -> None:
        api.answer(COMMIT_PATH, answer)
        assert cli.main(["tags", "demo", COMMIT[:8], "--wait", "--timeout", "0"]) == status

    def test_wait_does_not_wait_for_a_project(self, api: ScriptedApi) -> None:
        api.answer(COMMIT_PATH, problem(404, "project-unknown", "no such project"))
        assert cli.main(["tags", "demo", COMMIT[:8], "--wait"]) == 6
        assert len(api.requests) == 1


def log_line(cursor: str, **event: object) -> bytes:
    return json.dumps({"cursor": cursor, "event": {"v": 1, "seq": 1, "ts": 1.0, **event}}).encode() + b"\n"


STARTED = log_line("1-0", type="step-started", step=1, stage="", name="RUN make", line=3)
OUTPUT = log_line("2-0", type="step-log", step=1, stream="stdout", data="one\r\ntw")
MORE = log_line("3-0", type="step-log", step=1, stream="stdout", data="o\n\x1b[31mred\x1b[0m\x1b]0;title\x07\n")
END = b'{"end": {"state": "succeeded", "reason": ""}}\n'
FOLLOW = "GET /api/v1/builds/b1/logs?follow=1"


class TestLogs:
    def test_whole_log_as_text(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.answer("GET /api/v1/builds/b1/logs", Answer(lines=(STARTED, OUTPUT, b"\n", MORE, END)))
        assert cli.main(["logs", "b1"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "#1 RUN make",
            "#1 | one",
            "#1 | two",
            "#1 | \x1b[31mred\x1b[0m\x1b[0m",
            "build succeeded",
        ]

    def test_json_is_one_event_per_line(self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.answer("GET /api/v1/builds/b1/logs", Answer(lines=(STARTED, END)))
        assert cli.main(["logs", "b1", "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line.get("type", "end") for line in lines] == ["step-started", "end"]

    def test_following_takes_up_a_broken_answer_where_it_was(
        self, api: ScriptedApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webhook.commands.logs._FIRST_PAUSE_SECONDS", 0.001)
        away = b'{"error": {"status": 503, "code": "redis-unavailable", "detail": "redis is away"}}\n'
        # the line that was cut off is sent again, and is shown once
        api.answer(FOLLOW, Answer(lines=(STARTED, OUTPUT[:20]), cut=True))
        api.answer(f"{FOLLOW}&after=1-0", Answer(lines=(OUTPUT, away)))
        api.answer(f"{FOLLOW}&after=2-0", Answer(lines=(MORE,)))
        api.answer(f"{FOLLOW}&after=3-0", Answer(lines=(END,)))
        assert cli.main(["logs", "-f", "b1"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("\x1b")[0] for line in lines] == [
            "#1 RUN make",
            "#1 | one",
            "#1 | two",
            "#1 | ",
            "build succeeded",
        ]

    def test_following_a_build_that_failed(self, api: ScriptedApi) -> None:
        api.answer(FOLLOW, Answer(lines=(b'{"end": {"state": "failed", "reason": "step-failed"}}\n',)))
        assert cli.main(["logs", "-f", "b1"]) == 1

    def test_an_unknown_build(self, api: ScriptedApi) -> None:
        api.answer(FOLLOW, problem(404, "build-unknown", "no build b1"))
        assert cli.main(["logs", "-f", "b1"]) == 6


class TestServer:
    def test_no_server_at_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["builds"]) == 3
        assert "hint: start one with `pushwright up`" in capsys.readouterr().err

    def test_the_server_that_is_up_here(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with serve_script() as api:
            api.answer("GET /api/v1/builds?limit=20", Answer({"builds": [], "next": None}))
            (tmp_path / "server.json").write_text(json.dumps({"url": api.url, "token": "local-token"}))
            with hold_data_directory(tmp_path):
                assert cli.main(["builds"]) == 0
                assert api.requests[0].headers["Authorization"] == "Bearer local-token"
                assert cli.main(["token"]) == 0
            assert capsys.readouterr().out == "no builds\nlocal-token\n"

    def test_the_local_token_goes_to_no_other_server(self, tmp_path: Path) -> None:
        with serve_script() as api:
            api.answer("GET /api/v1/builds?limit=20", Answer({"builds": [], "next": None}))
            (tmp_path / "server.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "token": "local-token"}))
            with hold_data_directory(tmp_path):
                assert cli.main(["builds", "--server", api.url]) == 0
            assert "Authorization" not in api.requests[0].headers

    def test_the_token_of_a_server_that_was_killed_goes_to_nobody(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with serve_script() as somebody:
            with hold_data_directory(tmp_path):
                (tmp_path / "server.json").write_text(json.dumps({"url": somebody.url, "token": "local-token"}))
            assert cli.main(["builds"]) == 3
            assert cli.main(["builds", "--server", somebody.url]) == 6
            assert not any("Authorization" in request.headers for request in somebody.requests)
        assert "the last one was killed" in capsys.readouterr().err

    def test_a_password_of_netrc_is_not_sent(
        self, api: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
        (tmp_path / ".netrc").chmod(0o600)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("PUSHWRIGHT_TOKEN")
        api.answer("GET /api/v1/builds?limit=20", Answer({"builds": [], "next": None}))
        assert cli.main(["builds"]) == 0
        assert "Authorization" not in api.requests[0].headers

    def test_a_redirect_does_not_take_the_token_along(
        self, api: ScriptedApi, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with serve_script() as elsewhere:
            location = {"Location": f"{elsewhere.url}/api/v1/builds"}
            api.answer("GET /api/v1/builds?limit=20", Answer(status=302, headers=location))
            assert cli.main(["builds"]) == 3
            assert not elsewhere.requests
        assert "found status 302" in capsys.readouterr().err

    @pytest.mark.parametrize("body", [["a", "list"], "text"])
    def test_another_kind_of_server(self, body: object, api: ScriptedApi, capsys: pytest.CaptureFixture[str]) -> None:
        api.answer("GET /api/v1/builds?limit=20", Answer(body))
        assert cli.main(["builds"]) == 3
        assert "expected an answer of Pushwright's interface" in capsys.readouterr().err

    def test_a_server_that_is_gone(self, capsys: pytest.CaptureFixture[str]) -> None:
        with serve_script() as api:
            pass
        assert cli.main(["builds", "--server", api.url]) == 3
        assert capsys.readouterr().err.startswith(f"error: server {api.url}: cannot be reached: Connection refused\n")

    @pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://u:p@x", "http://x:99999"])
    def test_a_url_that_is_none(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["builds", "--server", url]) == 2
        assert "expected a URL such as" in capsys.readouterr().err


def test_printable_keeps_text_and_takes_control_characters() -> None:
    assert printable("grün\u202e\x1b[2J\n\x9b") == "grün\ufffd\ufffd[2J\ufffd\ufffd"
    assert (printable(""), printable(None), printable(0)) == ("-", "-", "0")
