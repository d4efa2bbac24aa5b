"""References: the grammar, Docker's short forms, and what is refused."""

from __future__ import annotations

import pytest

from executor.errors import UsageError
from executor.oci import Digest
from executor.reference import Reference, registry_host

HEX = "0123456789abcdef" * 4

ACCEPTED = [
    ("debian", "docker.io/library/debian"),
    ("debian:12", "docker.io/library/debian:12"),
    ("user/app", "docker.io/user/app"),
    ("docker.io/debian", "docker.io/library/debian"),
    ("index.docker.io/user/app:1", "docker.io/user/app:1"),
    ("localhost/app", "localhost/app"),
    ("localhost:5000/app", "localhost:5000/app"),
    ("localhost:5000/team/app:v1.2_x-3", "localhost:5000/team/app:v1.2_x-3"),
    ("Registry.Example.COM/app", "registry.example.com/app"),
    ("LocalHost/app", "localhost/app"),
    ("10.0.0.1:5000/app", "10.0.0.1:5000/app"),
    ("[::1]:5000/app", "[::1]:5000/app"),
    ("[fd00::2]/app", "[fd00::2]/app"),
    (f"app@sha256:{HEX}", f"docker.io/library/app@sha256:{HEX}"),
    (f"ghcr.io/o/app:v1@sha256:{HEX}", f"ghcr.io/o/app:v1@sha256:{HEX}"),
    ("a.b/c__d/e--f/g.h_i", "a.b/c__d/e--f/g.h_i"),
    (f"app:{'t' * 128}", f"docker.io/library/app:{'t' * 128}"),
    ("r.io/" + "a" * 250, "r.io/" + "a" * 250),
]

REFUSED = [
    "",
    "App",
    "HOST/app",
    "r.io/App",
    "app:",
    "app:-v1",
    "app:.v1",
    f"app:{'t' * 129}",
    "app:a:b",
    "app:v1/x:",
    "a//b",
    "/app",
    "app/",
    "r.io/",
    "-app",
    "app-",
    "a___b",
    "a..b",
    "a._b",
    "../app",
    "r.io/../app",
    "r.io/a/./b",
    "app@",
    "app@sha256:abc",
    f"app@sha256:{HEX.upper()}",
    f"app@sha512:{HEX}",
    f"app@sha256:{HEX}/../x",
    f"app@sha256:{HEX}@sha256:{HEX}",
    HEX,
    "https://r.io/app",
    "user:password@r.io/app",
    "r.io:0/app",
    "r.io:65536/app",
    "r.io:/app",
    "r.io:port/app",
    "-r.io/app",
    "r..io/app",
    "[::1/app",
    "[::x]/app",
    "[1]:5/app",
    "[::1%eth0]/app",
    "r.io/app\n",
    "app:v1\n",
    "app v1",
    "äpp",
    "app:ä",
    "app:١",
    "r.io/" + "a" * 251,
    "a\0b",
]


@pytest.mark.parametrize(("text", "canonical"), ACCEPTED)
def test_accepted(text: str, canonical: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == canonical
    assert Reference.parse(canonical) == reference


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Reference.parse(text)
    assert caught.value.code == "reference-invalid"
    assert caught.value.hint


def test_parts() -> None:
    reference = Reference.parse(f"localhost:5000/team/app:v1@sha256:{HEX}")
    assert reference == Reference("localhost:5000", "team/app", "v1", Digest(f"sha256:{HEX}"))
    assert reference.name == "localhost:5000/team/app"


def test_no_tag_is_made_up() -> None:
    reference = Reference.parse("debian")
    assert reference.tag is None
    assert str(reference.or_latest()) == "docker.io/library/debian:latest"
    pinned = Reference.parse(f"debian@sha256:{HEX}")
    assert pinned.or_latest() == pinned


def test_with_tag_leaves_the_digest_behind() -> None:
    reference = Reference.parse(f"r.io/app:v1@sha256:{HEX}")
    assert str(reference.with_tag("v2")) == "r.io/app:v2"
    with pytest.raises(UsageError):
        reference.with_tag("v2/../../other")


def test_with_digest_keeps_the_tag() -> None:
    digest = Digest.of(b"")
    assert str(Reference.parse("r.io/app:v1").with_digest(digest)) == f"r.io/app:v1@{digest}"


def test_a_long_text_is_not_repeated_whole() -> None:
    with pytest.raises(UsageError) as caught:
        Reference.parse("A" * 100_000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO"])
def test_docker_hub_has_one_name(text: str) -> None:
    assert registry_host(text) == "docker.io"


@pytest.mark.parametrize("text", ["", "a/b", "a b", "http://a", "a@b", "a:b:c", "a?b", "a\\b", "a" * 300])
def test_what_is_no_registry(text: str) -> None:
    with pytest.raises(UsageError):
        registry_host(text)
