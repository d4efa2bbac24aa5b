"""Secrets that were given to a project are looked for in everything that Redis and the queue hold."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tasks.app import announce, create_app
from tasks.connection import Client
from tests.support.redis_server import RedisServer
from tests.support.web import COMMIT, Web, web_over

TOKEN = "api-token-planted-4c1d/+&"
SECRETS = ("hook-secret-planted-9f3a/+&", "git-password-planted-77b0/+&", "registry-password-planted-c2e1/+&", TOKEN)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(keeps_data=True) as running:
        yield running


def spellings(secret: str) -> list[bytes]:
    """A secret as it may be written: raw, URL-encoded, as JSON escapes, and in base64 at each of the three offsets."""
    raw = secret.encode()
    shifted = [base64.b64encode(b"x" * offset + raw)[4 : len(raw)] for offset in range(3)]
    return [raw, quote(secret, safe="").encode(), secret.replace("/", "\\/").encode(), *shifted]


def prepare(web: Web, server: RedisServer) -> str:
    """A project with every kind of secret, a delivery of it, and a build that was refused, cancelled and logged."""
    hook, git, registry, _ = SECRETS
    web.add_project(
        "full",
        secret=hook,
        git_credential={"username": "bot", "password": git},
        registries={"registry.example": {"username": "bot", "password": registry}},
    )
    build_id: str = web.push(project="full").get_json()["builds"][0]["id"]
    assert web.push(COMMIT, project="full", secret="another").status_code == 401
    celery = create_app(web.settings)
    assert announce(celery, build_id)
    celery.close()
    claim = web.records.claim(build_id, "worker", 30)
    assert claim is not None
    web.client.post(f"/api/v1/builds/{build_id}/cancel", headers=web.headers(), json={})
    return build_id


def everything_in(redis: Client) -> bytes:
    """All keys with all values, of whatever kind."""
    readers: dict[str, Callable[[str], Any]] = {
        "string": redis.get,
        "hash": redis.hgetall,
        "set": redis.smembers,
        "list": lambda key: redis.lrange(key, 0, -1),
        "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
        "stream": redis.xrange,
    }
    keys = sorted(redis.scan_iter("*"))
    kinds = [redis.execute_command("TYPE", key) for key in keys]
    return "\n".join(f"{key} {readers[kind](key)}" for key, kind in zip(keys, kinds, strict=True)).encode()


def test_no_secret_is_in_redis_or_in_what_it_writes_to_disk(server: RedisServer) -> None:
    with web_over(server, api_token=TOKEN) as web:
        build_id = prepare(web, server)
        found = everything_in(web.redis)
        written = b"".join(path.read_bytes() for path in server.directory.rglob("*.aof"))
    assert build_id.encode() in found
    assert build_id.encode() in written
    for secret in SECRETS:
        for spelling in spellings(secret):
            assert len(spelling) > 12
            assert spelling not in found, secret
            assert spelling not in written, secret


def test_no_answer_tells_a_secret(server: RedisServer) -> None:
    with web_over(server, api_token=TOKEN) as web:
        build_id = prepare(web, server)
        paths = ("projects", "projects/full", "builds", f"builds/{build_id}", f"builds/{build_id}/logs", "nothing")
        answers = [web.client.get(f"/api/v1/{path}", headers=web.headers()).data for path in paths]
        answers.append(web.client.get("/api/v1/projects").data)
        web.redis.hset("pw:project:full", "git_credential", web.redis.hget("pw:project:full", "registries") or "")
        answers.append(web.client.get("/api/v1/projects/full", headers=web.headers()).data)
        assert b"vault-moved" in answers[-1]
    for answer in answers:
        assert not [secret for secret in SECRETS if any(spelling in answer for spelling in spellings(secret))]


def test_strangers_leave_nothing_in_redis(server: RedisServer) -> None:
    with web_over(server, api_token=TOKEN) as web:
        web.add_project("demo")
        before = web.stored_keys()
        for number in range(30):
            web.push(project=f"p{number}", secret="x", headers={"X-Pushwright-Delivery": f"d{number}"})
            web.push(project="demo", secret="x", headers={"X-Pushwright-Delivery": f"d{number}"})
            web.client.get(f"/api/v1/projects/p{number}/commits/{COMMIT}")
            web.client.get(f"/v2/p{number}/manifests/latest")
            web.client.post("/api/v1/projects", json={"name": f"p{number}", "url": "https://git.example/x.git"})
        assert web.stored_keys() == before
