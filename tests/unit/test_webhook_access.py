"""Who may ask: with a token those who have it, without one loopback, and never another site's page."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest

from executor.errors import UsageError
from tasks.settings import Settings
from tests.support.redis_server import RedisServer
from tests.support.web import Web, web_over
from webhook.access import check_bind, read_token
from webhook.listen import is_loopback

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def web(server: RedisServer) -> Iterator[Web]:
    with web_over(server) as made:
        yield made


@pytest.fixture
def guarded(server: RedisServer) -> Iterator[Web]:
    with web_over(server, api_token=TOKEN) as made:
        yield made


def routes(web: Web) -> Iterator[tuple[str, str]]:
    """Every method of every path, with something in each place."""
    for rule in web.app.url_map.iter_rules():
        path = rule.rule.replace("<path:path>", "demo/tags/list")
        for name in rule.arguments:
            path = path.replace(f"<{name}>", "0" * 26)
        for method in (rule.methods or set()) - {"OPTIONS"}:
            yield method, path


OPEN = {"/healthz", "/readyz", f"/hooks/{'0' * 26}"}


def basic(password: str, user: str = "any") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


WRONG = {
    "none": None,
    "empty": "",
    "other": "Bearer " + TOKEN.replace("0", "1"),
    "shorter": "Bearer " + TOKEN[:-1],
    "longer": "Bearer " + TOKEN + "0",
    "capitals": "Bearer " + TOKEN.upper(),
    "bare": TOKEN,
    "other scheme": "Token " + TOKEN,
    "empty bearer": "Bearer ",
    "basic user": basic("x", TOKEN),
    "basic empty": basic(""),
    "basic broken": "Basic !!!!",
    "basic without colon": "Basic " + base64.b64encode(TOKEN.encode()).decode(),
    "non-ascii": "Bearer \xfc",
}


@pytest.mark.parametrize("header", WRONG.values(), ids=WRONG.keys())
def test_every_path_but_the_open_ones_wants_the_token(guarded: Web, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    before = guarded.stored_keys()
    closed = 0
    for method, path in routes(guarded):
        response = guarded.client.open(path, method=method, headers=headers)
        if path in OPEN:
            assert response.headers.get("WWW-Authenticate") is None
            continue
        closed += 1
        assert (method, path, response.status_code) == (method, path, 401)
        assert TOKEN not in response.text
    assert closed > 15
    assert guarded.stored_keys() == before


def test_unknown_paths_want_the_token_as_well(guarded: Web) -> None:
    assert guarded.client.get("/api/v1/nothing").status_code == 401
    assert guarded.client.get("/api/v1/nothing", headers=guarded.headers()).status_code == 404


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(TOKEN), basic(TOKEN, "")])
def test_the_token_opens(guarded: Web, header: str) -> None:
    assert guarded.client.get("/api/v1/projects", headers={"Authorization": header}).status_code == 200


def test_docker_is_told_how_to_log_in(guarded: Web) -> None:
    response = guarded.client.get("/v2/")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="pushwright"'
    assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert response.get_json()["errors"][0]["code"] == "UNAUTHORIZED"
    assert guarded.client.get("/v2/", headers={"Authorization": basic(TOKEN)}).status_code == 200


def test_the_api_asks_for_a_bearer(guarded: Web) -> None:
    response = guarded.client.get("/api/v1/projects")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="pushwright"'
    assert response.get_json()["code"] == "token-required"


def test_with_a_token_any_host_is_answered(guarded: Web) -> None:
    headers = {**guarded.headers(), "Host": "builds.example"}
    assert guarded.client.get("/api/v1/projects", headers=headers).status_code == 200


# --- loopback and browsers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost", "localhost:80", "[::1]:8080", "127.9.9.9", "a.localhost"]
)
def test_without_a_token_loopback_names_are_answered(web: Web, host: str) -> None:
    assert web.client.get("/api/v1/projects", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example@127.0.0.1.x",
        "127.0.0.1evil",
        "0.0.0.0",
        "192.168.1.1",
        "[::ffff:8.8.8.8]",
        "2130706433",
        "notlocalhost",
        "[",
        "",
    ],
)
def test_a_name_that_was_pointed_here_is_refused(web: Web, host: str) -> None:
    for path in ("/api/v1/projects", "/v2/_catalog", "/api/v1/builds"):
        response = web.client.get(path, headers={"Host": host}, environ_overrides={"HTTP_HOST": host})
        assert response.status_code in {400, 403}
        assert "projects" not in response.text


def test_deliveries_come_under_any_name(web: Web) -> None:
    web.add_project()
    assert web.push(headers={"Host": "hooks.example"}).status_code == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": ""},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_another_sites_page_changes_nothing(web: Web, headers: dict[str, str]) -> None:
    web.add_project("kept")
    body = {"name": "planted", "url": "https://evil.example/x.git"}
    created = web.client.post("/api/v1/projects", json=body, headers=headers)
    removed = web.client.delete("/api/v1/projects/kept", headers=headers)
    assert (created.status_code, removed.status_code) == (403, 403)
    assert created.get_json()["code"] == "origin-refused"
    assert [project.name for project in web.services.projects.list()] == ["kept"]


def test_our_own_origin_may_change_things(web: Web) -> None:
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    body = {"name": "demo", "url": "https://git.example/x.git"}
    assert web.client.post("/api/v1/projects", json=body, headers=headers).status_code == 201


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_another_site_cannot_pose_as_json(web: Web, kind: str) -> None:
    body = b'{"name": "planted", "url": "https://evil.example/x.git"}'
    response = web.client.post("/api/v1/projects", data=body, headers={"Content-Type": kind})
    assert (response.status_code, response.get_json()["code"]) == (415, "media-type-unsupported")
    assert web.services.projects.list() == []


def test_no_answer_is_kept_or_read_as_a_page(web: Web) -> None:
    for path in ("/healthz", "/api/v1/projects", "/nothing", "/v2/"):
        headers = web.client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


# --- binding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "/run/pw.sock", "unix:/run/x", ""]
)
def test_loopback_and_sockets_need_no_token(host: str) -> None:
    check_bind(host, "")


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "[::]", "192.168.1.1", "build.example", "127.0.0.1.example", "127.1"]
)
def test_other_addresses_need_a_token(host: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_bind(host, "")
    assert caught.value.code == "token-missing"
    check_bind(host, TOKEN)


def test_loopback_is_known() -> None:
    assert [is_loopback(host) for host in ("::1", "LOCALHOST", "::ffff:127.0.0.1", "evil")][:2] == [True, True]
    assert not is_loopback("evil") and not is_loopback("")


def test_the_token_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    assert read_token(Settings(data_dir=tmp_path, api_token_file=path)) == TOKEN
    assert read_token(Settings(data_dir=tmp_path, api_token="x" * 16, api_token_file=path)) == "x" * 16
    assert read_token(Settings(data_dir=tmp_path)) == ""


@pytest.mark.parametrize("text", ["", "\n", "short", "has a space in the middle", "ü" * 20])
def test_a_token_file_that_holds_none_is_not_taken_for_no_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_token(Settings(data_dir=tmp_path, api_token_file=path))
    assert not text.strip() or text not in str(caught.value)
    with pytest.raises(UsageError):
        read_token(Settings(data_dir=tmp_path, api_token_file=tmp_path / "absent"))


def test_the_web_process_does_not_import_what_runs_builds(server: RedisServer, tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from tasks.settings import Settings
from webhook.app import create_app
app = create_app(Settings(data_dir=Path({str(tmp_path)!r}), redis_url={server.url!r}))
import webhook.serve
app.extensions["pushwright"].announce("01HZZZZZZZZZZZZZZZZZZZZZZZ")
for path in ("/healthz", "/api/v1/projects", "/v2/_catalog", "/api/v1/builds"):
    app.test_client().get(path)
print(*sorted(sys.modules))
"""
    root = Path(__file__).parents[2]
    done = run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    forbidden = {"tasks.build", "tasks.child", "tasks.sweep", "tasks.worker", "executor.builder", "executor.isolation"}
    assert {"webhook.app", "tasks.app", "celery"} <= loaded
    assert not loaded & forbidden
    assert not [name for name in loaded if name == "pygit2" or name.startswith(("pygit2.", "executor.isolation."))]
