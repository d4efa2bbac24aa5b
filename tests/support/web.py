"""The web application over a real Redis, asked in process."""

from __future__ import annotations

import hashlib
import hmac
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tasks.connection import Client
from tasks.lifecycle import Build
from tasks.records import Records
from tasks.settings import Settings
from tests.support.redis_server import RedisServer
from webhook.app import create_app
from webhook.services import EXTENSION, Services

COMMIT = "4f2d0c1e9b8a7f6e5d4c3b2a1908f7e6d5c4b3a2"
OTHER_COMMIT = "4f2d0c1e00000000000000000000000000000001"


def sign(body: bytes, secret: str) -> str:
    """The signature header's value, computed here and not by the code under test."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@dataclass
class Web:
    """An application, its client, and what it told the workers."""

    app: Flask
    redis: Client
    settings: Settings
    announced: list[str]
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    @property
    def services(self) -> Services:
        found: Services = self.app.extensions[EXTENSION]
        return found

    @property
    def records(self) -> Records:
        return self.services.records

    def add_project(self, name: str = "demo", **fields: Any) -> dict[str, Any]:
        body = {"name": name, "url": f"https://git.example/acme/{name}.git", **fields}
        response = self.client.post("/api/v1/projects", json=body, headers=self.headers())
        assert response.status_code == 201, response.text
        project: dict[str, Any] = response.get_json()
        self.secrets[name] = project.get("secret") or fields["secret"]
        return project

    def headers(self) -> dict[str, str]:
        token = self.settings.api_token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def deliver(
        self,
        body: bytes | Mapping[str, Any],
        *,
        project: str = "demo",
        secret: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> TestResponse:
        """A delivery signed as it should be; `headers` come last, and an empty value leaves one out."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        key = self.secrets.get(project, "no such secret") if secret is None else secret
        sent = {"Content-Type": "application/json", "X-Hub-Signature-256": sign(raw, key), **(headers or {})}
        return self.client.post(
            f"/hooks/{project}", data=raw, headers={name: value for name, value in sent.items() if value}
        )

    def push(self, commit: str = COMMIT, ref: str = "refs/heads/main", **options: Any) -> TestResponse:
        return self.deliver({"ref": ref, "after": commit}, **options)

    def builds(self) -> list[Build]:
        return self.records.list_builds()

    def stored_keys(self) -> set[str]:
        return set(self.redis.keys("*"))


@contextmanager
def web_over(server: RedisServer, **settings: Any) -> Iterator[Web]:
    """A fresh application over an emptied Redis."""
    redis = server.client()
    redis.flushall()
    announced: list[str] = []

    def announce(build_id: str) -> bool:
        announced.append(build_id)
        return True

    with tempfile.TemporaryDirectory(prefix="pw-web-") as directory:
        chosen = Settings(data_dir=Path(directory), redis_url=server.url, **settings)
        app = create_app(chosen, announce=announce, streams=2)
        yield Web(app, redis, chosen, announced)
        app.extensions[EXTENSION].redis.close()
    redis.close()
