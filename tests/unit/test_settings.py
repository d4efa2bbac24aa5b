from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.errors import UsageError
from tasks.settings import SETTINGS, Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
HOME = {"PUSHWRIGHT_HOME": "/data"}
ONLY_FOR_DEFAULTS = {"XDG_DATA_HOME", "HOME", "http_proxy", "https_proxy", "all_proxy", "no_proxy"}


class RecordingEnviron(dict[str, str]):
    """Remembers which names were asked for."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> str:
        self.asked.add(key)
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("settings are read by name")


def test_the_document_has_exactly_the_settings() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(SETTINGS)


def test_exactly_the_declared_variables_are_read() -> None:
    asked: set[str] = set()
    for values in ({}, HOME, {"HOME": "/home/x"}, {"DOCKER_CONFIG": "/d", "HOME": "/home/x"}):
        environ = RecordingEnviron(values)
        if os.geteuid() == 0 or values:
            Settings.from_environ(environ)
        asked |= environ.asked
    assert asked - ONLY_FOR_DEFAULTS == set(SETTINGS)


@pytest.mark.parametrize("name", ["PUSHWRIGHT_BUILD_DEADLINE_SECONDS", "PUSHWRIGHT_RETRY_SECONDS"])
def test_documented_defaults_are_the_real_ones(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| `([^`]+)`", DOCUMENT.read_text(), re.MULTILINE)
    assert row
    assert Settings.from_environ(HOME) == Settings.from_environ({**HOME, name: row[1]})


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("REDIS_URL", "redis://h:1/0", "redis_url", "redis://h:1/0"),
        ("PUSHWRIGHT_REGISTRY", "registry.example:5000/team/", "registry", "registry.example:5000/team"),
        ("PUSHWRIGHT_INSECURE_REGISTRIES", "a:5000, b", "insecure_registries", ("a:5000", "b")),
        (
            "PUSHWRIGHT_REGISTRY_MAPS",
            "docker.io=m1,docker.io=m2/p;ghcr.io=m3",
            "registry_maps",
            {"docker.io": ("m1", "m2/p"), "ghcr.io": ("m3",)},
        ),
        ("PUSHWRIGHT_REGISTRY_CERTIFICATES", "r=/ca.pem", "registry_certificates", {"r": Path("/ca.pem")}),
        ("PUSHWRIGHT_GIT_LOCAL_ROOTS", "/srv/git:/home/git", "git_local_roots", (Path("/srv/git"), Path("/home/git"))),
        ("PUSHWRIGHT_ALLOW_PRIVATE_GIT_HOSTS", "YES", "allow_private_git_hosts", True),
        ("PUSHWRIGHT_RETRY_SECONDS", "1, 2.5,3", "retry_seconds", (1.0, 2.5, 3.0)),
        ("PUSHWRIGHT_PUBLIC_URL", "https://ci.example/", "public_url", "https://ci.example"),
        ("PUSHWRIGHT_RUN_NETWORK", "none", "run_network", "none"),
        ("DOCKER_CONFIG", "/etc/docker", "docker_config", Path("/etc/docker/config.json")),
        ("http_proxy", "http://p:1", "proxies", {"HTTP_PROXY": "http://p:1"}),
    ],
)
def test_a_value_is_read(name: str, value: str, field: str, expected: object) -> None:
    assert getattr(Settings.from_environ({**HOME, name: value}), field) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUSHWRIGHT_HOME", "relative"),
        ("PUSHWRIGHT_REGISTRY", "https://registry.example"),
        ("PUSHWRIGHT_REGISTRY", "Registry.example"),
        ("PUSHWRIGHT_INSECURE_REGISTRIES", "a,,b"),
        ("PUSHWRIGHT_REGISTRY_MAPS", "docker.io"),
        ("PUSHWRIGHT_REGISTRY_CERTIFICATES", "r=ca.pem"),
        ("PUSHWRIGHT_GIT_LOCAL_ROOTS", "/srv/git:"),
        ("PUSHWRIGHT_CONCURRENCY", "0"),
        ("PUSHWRIGHT_CONCURRENCY", "٣"),
        ("PUSHWRIGHT_LEASE_SECONDS", "nan"),
        ("PUSHWRIGHT_LEASE_SECONDS", "-1"),
        ("PUSHWRIGHT_RETRY_SECONDS", "5,soon"),
        ("PUSHWRIGHT_HEARTBEAT_SECONDS", "20"),
        ("PUSHWRIGHT_ALLOW_PRIVATE_GIT_HOSTS", "perhaps"),
        ("PUSHWRIGHT_PUBLIC_URL", "ftp://x"),
        ("PUSHWRIGHT_PUBLIC_URL", "https://user:secret@x/"),
        ("PUSHWRIGHT_RUN_NETWORK", "bridge"),
    ],
)
def test_an_unusable_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name):
        Settings.from_environ({**HOME, name: value})


def test_the_build_ends_before_its_lease_does() -> None:
    settings = Settings(Path("/data"))
    assert settings.silence_seconds == 25.0
    assert Settings(Path("/data"), lease_seconds=3.0, heartbeat_seconds=1.0).silence_seconds == 1.5


def test_secrets_do_not_show() -> None:
    secret = "hunter2hunter2"
    names = ("REDIS_URL", "PUSHWRIGHT_SECRET_KEY", "PUSHWRIGHT_API_TOKEN", "HTTPS_PROXY")
    settings = Settings.from_environ({**HOME, **dict.fromkeys(names, f"redis://:{secret}@h")})
    assert secret not in repr(settings)
