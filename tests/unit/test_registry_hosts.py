"""Hosts: schemes, trust, proxies, and which hosts belong together."""

from __future__ import annotations

import pytest

from executor.errors import RegistryError, UsageError
from executor.registry.hosts import HostRules, Origin, is_loopback, proxy_for, shares_domain
from executor.spec import RegistryOptions


@pytest.mark.parametrize(
    ("registry", "origin"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("ghcr.io", "https://ghcr.io"),
        ("r.example.com:5000", "https://r.example.com:5000"),
        ("localhost", "http://localhost"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.3.2.1:5000", "http://127.3.2.1:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("localhost:443", "https://localhost"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
        ("localhost.example.com", "https://localhost.example.com"),
        ("127.0.0.1.example.com", "https://127.0.0.1.example.com"),
        ("plain.example.com:80", "http://plain.example.com"),
        ("trusted.localhost:1", "https://trusted.localhost:1"),
        ("localhost:6000", "https://localhost:6000"),
        ("localhost:7000", "https://localhost:7000"),
    ],
)
def test_scheme(registry: str, origin: str) -> None:
    options = RegistryOptions(
        insecure=("plain.example.com:80",), skip_tls_verify=("localhost:7000",), certificates={"localhost:6000": "pem"}
    )
    assert str(HostRules(options).origin(registry)) == origin


def test_another_port_of_an_insecure_host_is_not_insecure() -> None:
    rules = HostRules(RegistryOptions(insecure=("r.example.com:5000",)))
    assert rules.origin("r.example.com").scheme == "https"
    assert rules.origin("r.example.com:5001").scheme == "https"
    assert rules.origin("sub.r.example.com:5000").scheme == "https"


def test_a_certificate_without_port_counts_for_all_ports() -> None:
    rules = HostRules(RegistryOptions(certificates={"r.example.com": "pem"}))
    assert rules.certificate("r.example.com:5000") == "pem"
    assert rules.certificate("other.example.com") is None


def test_docker_hub_is_declared_under_any_of_its_names() -> None:
    rules = HostRules(RegistryOptions(skip_tls_verify=("index.docker.io",), certificates={"docker.io": "pem"}))
    assert rules.is_unverified("registry-1.docker.io")
    assert rules.certificate("registry-1.docker.io") == "pem"


def test_plain_http_with_a_certificate_makes_no_sense() -> None:
    with pytest.raises(UsageError):
        HostRules(RegistryOptions(insecure=("r.io",), certificates={"r.io": "pem"}))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://r.io/x",
        "file:///etc/passwd",
        "//r.io/x",
        "/v2/",
        "https:///x",
        "https://user:password@r.io/x",
        "https://r.io:x/",
        "https://r.io:99999/",
        "https://r.io\\@evil.io/",
        "https://r.io/a b",
        "https://r.io/\r\nX: y",
        "https://r.io/ä",
        "https://[::1/",
        "https://r.io/" + "a" * 9000,
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(RegistryError) as caught:
        Origin.of_url(url)
    assert caught.value.code == "url-invalid"
    assert "password" not in str(caught.value)


def test_the_default_port_is_no_difference() -> None:
    assert Origin.of_url("https://R.io/a") == Origin.of_url("https://r.io:443/b")
    assert Origin.of_url("https://r.io/") != Origin.of_url("http://r.io:443/")


@pytest.mark.parametrize(
    ("registry", "other", "together"),
    [
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("registry.example.com", "auth.example.com", True),
        ("ghcr.io", "ghcr.io", True),
        ("quay.io", "auth.quay.io", True),
        ("a.b.example.com", "c.b.example.com", True),
        ("localhost", "127.0.0.1", True),
        ("a.b.example.com", "example.com", False),
        ("a.b.example.com", "c.example.com", False),
        ("registry.example.com", "example.com.evil.io", False),
        ("registry.example.com", "evilexample.com", False),
        ("registry-1.docker.io", "evil.io", False),
        ("ghcr.io", "evil.io", False),
        ("victim.azurecr.io", "evil.azurecr.io", False),
        ("victim.co.uk", "evil.co.uk", False),
        ("victim.github.io", "evil.github.io", False),
        ("1.dkr.ecr.eu-west-1.amazonaws.com", "2.dkr.ecr.eu-west-1.amazonaws.com", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "0.0.1", False),
        ("localhost", "evil.localhost", False),
        ("registry", "evil", False),
        ("registry.local", "evil.local", False),
    ],
)
def test_which_hosts_belong_together(registry: str, other: str, together: bool) -> None:
    assert shares_domain(registry, other) is together


@pytest.mark.parametrize(
    ("hostname", "local"),
    [("localhost", True), ("127.0.0.53", True), ("::1", True), ("0.0.0.0", False), ("localhost.evil.io", False)],
)
def test_loopback_by_spelling(hostname: str, local: bool) -> None:
    assert is_loopback(hostname) is local


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://r.io/", "http://secure:1"),
        ("http://r.io/", "http://plain:2"),
        ("https://internal.example.com/", None),
        ("https://deep.internal.example.com/", None),
        ("https://notinternal.example.com/", "http://secure:1"),
        ("https://10.1.2.3/", None),
        ("https://11.1.2.3/", "http://secure:1"),
        ("https://port.example.com:5000/", None),
        ("https://port.example.com/", "http://secure:1"),
        ("https://star.example.org/", None),
        ("http://localhost:5000/", None),
        ("http://127.0.0.1:5000/", None),
    ],
)
def test_proxies(url: str, proxy: str | None) -> None:
    proxies = {
        "https": "http://secure:1",
        "http": "http://plain:2",
        "no": "internal.example.com, 10.0.0.0/8,port.example.com:5000, *.example.org",
    }
    assert proxy_for(Origin.of_url(url), proxies) == proxy


def test_a_proxy_for_all_and_an_exception_for_all() -> None:
    origin = Origin.of_url("https://r.io/")
    assert proxy_for(origin, {"all": "http://p:1"}) == "http://p:1"
    assert proxy_for(origin, {"all": "http://p:1", "no": "*"}) is None
    assert proxy_for(origin, {}) is None
