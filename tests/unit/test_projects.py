"""Projects: what is refused at registration, and what Redis gets to see of a secret."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.spec import Credential
from tasks.connection import Client
from tasks.errors import RecordDamagedError
from tasks.projects import (
    Project,
    ProjectExistsError,
    ProjectInvalidError,
    Projects,
    ProjectUnknownError,
    UrlPolicy,
    new_project,
)
from tasks.vault import Vault, VaultError, generate_key
from tests.support.redis_server import RedisServer

URL = "https://git.example/acme/demo.git"
PUBLIC = UrlPolicy()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Client]:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def projects(redis: Client) -> Projects:
    return Projects(redis, Vault([generate_key()]))


def made(policy: UrlPolicy = PUBLIC, **fields: Any) -> Project:
    return new_project({"name": "demo", "url": URL, **fields}, policy)[0]


# --- rules ----------------------------------------------------------------------------------------------------------


def test_only_name_and_url_are_needed() -> None:
    project, secret = new_project({"name": "demo", "url": URL}, PUBLIC)
    assert project == Project(name="demo", url=URL, webhook_secrets=(secret,))
    assert (project.branch, project.dockerfile, project.context, project.image) == ("main", "Dockerfile", "", "")
    # 32 random bytes
    assert len(secret) == 43


def test_secrets_are_generated_anew() -> None:
    assert len({new_project({"name": "demo", "url": URL}, PUBLIC)[1] for _ in range(20)}) == 20


def test_a_chosen_secret_is_not_given_back() -> None:
    project, generated = new_project({"name": "demo", "url": URL, "secret": "0123456789abcdef"}, PUBLIC)
    assert (project.webhook_secrets, generated) == (("0123456789abcdef",), "")


REFUSED: list[tuple[str, Any]] = [
    *(
        ("name", value)
        for value in ["", "A", "-a", ".a", "a/b", "a b", "ü", "a" * 64, "a\n", None, 7, "..", "a..b", "a-"]
    ),
    *(
        ("url", value)
        for value in [
            "",
            None,
            7,
            "/srv/git/demo.git",
            "demo",
            "git@github.com:acme/demo.git",
            "ssh://git.example/acme/demo",
            "git://git.example/acme/demo",
            "ext::sh -c touch% /tmp/x",
            "ext://x/y",
            "ftp://git.example/demo",
            "javascript:alert(1)",
            "https://",
            "https:///demo",
            "https://git.example",
            "https://git.example/",
            "https://user@git.example/demo",
            "https://user:token@git.example/demo",
            "https://github.com@evil.example/demo",
            "https://git.example\\@evil.example/demo",
            "https://git.example/demo?token=x",
            "https://git.example/demo#x",
            "https://git.example/../demo",
            "https://git.example/%2e%2e/demo",
            "https://git.example/demo%00",
            "https://git.example/de mo",
            "https://git.example/demo\n",
            "https://git.example:0/demo",
            "https://git.example:99999/demo",
            "https://git.example:x/demo",
            "https://gít.example/demo",
            "https://-oProxyCommand=x/demo",
            "https://git.example/" + "a" * 2100,
            "http://127.0.0.1/demo",
            "http://localhost/demo",
            "http://git.localhost/demo",
            "http://[::1]/demo",
            "http://[::ffff:127.0.0.1]/demo",
            "http://169.254.169.254/latest",
            "http://2130706433/demo",
            "http://0x7f000001/demo",
            "http://0177.0.0.1/demo",
            "http://127.1/demo",
            "http://10.0.0.1/demo",
            "http://192.168.1.1/demo",
            "file:///srv/git/demo.git",
            "file://evil/srv/git/demo.git",
        ]
    ),
    *(
        ("branch", value)
        for value in ["", None, "refs/heads/main", "-u", "--upload-pack=x", "a..b", "a b", "a~1", "HEAD", "a.lock"]
    ),
    *(("branch", value) for value in ["@{-1}", "a/", "/a", "a//b", ".a", "a/.b", "a\0", "a\n", "\u202ea", "a" * 300]),
    *(
        ("dockerfile", value)
        for value in [
            "",
            ".",
            "/etc/passwd",
            "../Dockerfile",
            "a/../../b",
            "a\0b",
            "a\n",
            "\ud800",
            7,
            None,
            "a" * 1001,
        ]
    ),
    *(("context", value) for value in ["/", "..", "a/..", "../x", "a\x1b", None, ["a"]]),
    *(
        ("image", value)
        for value in ["registry.example/demo:tag", "registry.example/Demo", "demo@sha256:" + "0" * 64, "a b", "../x", 7]
    ),
    *(("secret", value) for value in ["", "short", None, 7, "a" * 501, "0123456789abcde\n", "\x00" * 20]),
    *(
        ("git_credential", value)
        for value in [
            "token",
            {},
            {"username": "bot"},
            {"password": "x"},
            {"username": "", "password": "x"},
            {"username": "a:b", "password": "x"},
            {"username": "bot", "password": "x\r\nHost: evil"},
            {"username": "bot", "password": "x", "host": "evil"},
            {"username": "bot", "password": 7},
            {"identity_token": "x"},
        ]
    ),
    *(
        ("registries", value)
        for value in [
            [],
            {"registry.example/path": {"username": "a", "password": "b"}},
            {"https://registry.example": {"username": "a", "password": "b"}},
            {"registry.example": None},
            {"registry.example": {"username": "a"}},
            {"registry.example": {"username": "a", "password": "b", "identity_token": "c"}},
            {f"r{number}.example": {"username": "a", "password": "b"} for number in range(33)},
        ]
    ),
]


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=[f"{field}-{value!a:.40}" for field, value in REFUSED])
def test_a_hostile_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ProjectInvalidError) as caught:
        made(**{field: value})
    assert caught.value.field.startswith(field)
    assert caught.value.code == "project-invalid"
    # what is shown cannot drive a terminal
    assert all(character.isprintable() for character in caught.value.message)


def test_a_refused_url_is_not_repeated_with_its_token() -> None:
    for url in ("https://bot:s3cr3t-token@git.example/demo", "https://git.example/demo?token=s3cr3t-token"):
        with pytest.raises(ProjectInvalidError) as caught:
            made(url=url)
        assert "s3cr3t-token" not in str(caught.value)


def test_a_refused_credential_is_not_repeated() -> None:
    with pytest.raises(ProjectInvalidError) as caught:
        made(git_credential={"username": "bot", "password": "s3cr3t\n"})
    assert "s3cr3t" not in str(caught.value)


def test_unknown_members_are_refused() -> None:
    with pytest.raises(ProjectInvalidError, match="brunch"):
        made(brunch="main")


def test_private_hosts_and_local_repositories_are_for_those_who_allow_them(tmp_path: Path) -> None:
    policy = UrlPolicy(local_roots=(tmp_path,), allow_private=True)
    for url in ("http://127.0.0.1:3000/acme/demo.git", "http://[::1]/demo", f"file://{tmp_path}/demo.git"):
        assert made(policy, url=url).url == url
    for url in (f"file://{tmp_path}/../outside", f"file://{tmp_path}x/demo", f"file://{tmp_path}/%2e%2e/x", "file:///"):
        with pytest.raises(ProjectInvalidError):
            made(policy, url=url)


def test_a_credential_does_not_go_over_plain_http_to_the_internet() -> None:
    credential = {"username": "bot", "password": "token"}
    with pytest.raises(ProjectInvalidError):
        made(url="http://git.example/demo", git_credential=credential)
    assert made(UrlPolicy(allow_private=True), url="http://git.example/demo", git_credential=credential)


def test_paths_are_kept_in_their_plain_form() -> None:
    project = made(dockerfile="./build//Dockerfile", context="./")
    assert (project.dockerfile, project.context) == ("build/Dockerfile", "")


def test_hosts_of_credentials_are_those_that_references_have() -> None:
    login = {"username": "a", "password": "b"}
    assert set(made(registries={"Registry.Example:5000": login, "index.docker.io": login}).registries) == {
        "registry.example:5000",
        "docker.io",
    }


def test_where_images_go() -> None:
    assert made().repository("") == "demo"
    assert made().repository("registry.example/team") == "registry.example/team/demo"
    assert made(image="registry.example/acme/demo").repository("other.example") == "registry.example/acme/demo"
    # an own image frees the name from the grammar of repositories
    assert made(name="a-", image="registry.example/a").repository("") == "registry.example/a"


def test_the_configuration_digest_is_of_what_decides_an_image() -> None:
    base = made()
    same = [made(branch="other"), made(git_credential={"username": "a", "password": "b"}), made()]
    others = [made(dockerfile="D"), made(context="sub"), made(url="https://git.example/acme/fork.git")]
    assert {item.config_digest for item in same} == {base.config_digest}
    assert len({base.config_digest, *(item.config_digest for item in others)}) == 4


# --- Redis ----------------------------------------------------------------------------------------------------------


FULL: dict[str, Any] = {
    "git_credential": {"username": "bot", "password": "git-s3cr3t-password"},
    "registries": {"registry.example": {"username": "bot", "password": "registry-s3cr3t-password"}},
    "secret": "webhook-s3cr3t-0123456789",
}


def test_a_project_comes_back_as_it_was_added(projects: Projects) -> None:
    added = projects.add(made(**FULL))
    assert added.created > 0
    assert projects.get("demo") == added
    assert projects.get("demo").git_credential == Credential("bot", "git-s3cr3t-password")


def test_redis_never_holds_a_secret_in_the_clear(projects: Projects, redis: Client) -> None:
    projects.add(made(**FULL))
    assert sorted(redis.keys("*")) == ["pw:project:demo", "pw:projects"]
    seen = f"{redis.hgetall('pw:project:demo')} {redis.zrange('pw:projects', 0, -1)}"
    assert "git.example" in seen
    assert "s3cr3t" not in seen


def test_no_view_of_a_project_holds_a_secret(projects: Projects) -> None:
    project = projects.add(made(**FULL))
    shown = f"{project!r} {project} {project.to_json()}"
    assert "s3cr3t" not in shown
    assert project.to_json()["git_credential"] == "bot"


def test_a_sealed_secret_moved_to_another_project_does_not_open(projects: Projects, redis: Client) -> None:
    projects.add(made(**FULL))
    projects.add(dataclasses.replace(made(), name="other"))
    sealed = redis.hget("pw:project:demo", "webhook_secrets")
    redis.hset("pw:project:other", "webhook_secrets", str(sealed))
    with pytest.raises(VaultError):
        projects.hook_secrets("other")
    redis.hset("pw:project:demo", "git_credential", str(sealed))
    with pytest.raises(VaultError):
        projects.get("demo")


def test_a_name_is_registered_once(projects: Projects) -> None:
    projects.add(made())
    with pytest.raises(ProjectExistsError):
        projects.add(made(url="https://git.example/evil.git"))
    assert projects.get("demo").url == URL


def test_of_many_registrations_at_once_one_wins(projects: Projects) -> None:
    barrier = threading.Barrier(8)
    outcomes: list[str] = []

    def add(number: int) -> None:
        barrier.wait()
        try:
            outcomes.append(projects.add(made(branch=f"b{number}")).branch)
        except ProjectExistsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("refused") == 7
    assert projects.get("demo").branch in outcomes


def test_list_is_sorted_and_remove_forgets_everything(projects: Projects, redis: Client) -> None:
    for name in ("b", "a", "c"):
        projects.add(dataclasses.replace(made(), name=name))
    assert [project.name for project in projects.list()] == ["a", "b", "c"]
    projects.remove("b")
    assert [project.name for project in projects.list()] == ["a", "c"]
    assert not redis.exists("pw:project:b")
    with pytest.raises(ProjectUnknownError):
        projects.remove("b")
    assert not projects.is_registered("b") and projects.is_registered("a")


@pytest.mark.parametrize("name", ["nobody", "", "*", "a:b", "../x", "demo\0", "a" * 1000])
def test_an_unknown_name_is_unknown(projects: Projects, name: str) -> None:
    projects.add(made())
    with pytest.raises(ProjectUnknownError):
        projects.get(name)
    with pytest.raises(ProjectUnknownError):
        projects.remove(name)
    assert not projects.is_registered(name)


def test_an_unknown_project_has_a_secret_that_nobody_knows(projects: Projects) -> None:
    project = projects.add(made())
    assert projects.hook_secrets("demo") == tuple(text.encode() for text in project.webhook_secrets)
    decoy = projects.hook_secrets("nobody")
    assert len(decoy) == 1 and len(decoy[0]) == len(project.webhook_secrets[0])
    assert decoy[0] != projects.hook_secrets("demo")[0]


def test_a_record_of_a_newer_version_is_said_to_be_one(projects: Projects, redis: Client) -> None:
    projects.add(made())
    redis.hset("pw:project:demo", "v", "2")
    with pytest.raises(RecordDamagedError, match="version 1"):
        projects.get("demo")
    redis.hset("pw:project:demo", "v", "1")
    redis.hdel("pw:project:demo", "branch")
    with pytest.raises(RecordDamagedError):
        projects.get("demo")
