"""The clone URL policy: which texts are URLs that may be cloned, and which addresses are public."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.context.hosts import check_clone_url, parse_address, parse_clone_url, refusal, resolve_host
from executor.errors import GitError


@pytest.mark.parametrize(
    ("text", "origin", "path"),
    [
        ("https://github.com/o/r.git", ("https", "github.com", 443), "/o/r.git"),
        ("https://GitHub.com:8443/o/r", ("https", "github.com", 8443), "/o/r"),
        ("http://git.example.com/r", ("http", "git.example.com", 80), "/r"),
        ("HTTPS://git.example.com/r", ("https", "git.example.com", 443), "/r"),
        ("https://[2606:4700::1]/r", ("https", "2606:4700::1", 443), "/r"),
        ("https://xn--bcher-kva.example/r", ("https", "xn--bcher-kva.example", 443), "/r"),
        ("file:///srv/git/r.git", ("file", "", 0), "/srv/git/r.git"),
        ("file:///srv/a%20b", ("file", "", 0), "/srv/a b"),
    ],
)
def test_urls_are_taken_apart(text: str, origin: tuple[str, str, int], path: str) -> None:
    url = parse_clone_url(text)
    assert (url.origin, url.path) == (origin, path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "https:///r",
        "git://github.com/o/r",
        "ssh://git@github.com/o/r",
        "git+ssh://github.com/o/r",
        "git@github.com:o/r.git",
        "github.com/o/r",
        "/srv/git/r",
        "../r",
        "-oProxyCommand=touch /tmp/x",
        "--upload-pack=touch",
        "ext::sh -c touch% /tmp/x",
        "fd::17",
        "https::https://github.com/o/r",
        "ftp://github.com/o/r",
        "javascript:alert(1)",
        "https://user@github.com/o/r",
        "https://user:secret@github.com/o/r",
        "https://github.com@evil.example/o/r",
        "https://github.com\\@evil.example/o/r",
        "https://github.com/o/r?x=y",
        "https://github.com/o/r#main",
        "https://github.com:0/o/r",
        "https://github.com:99999/o/r",
        "https://github.com:x/o/r",
        "https://github.com:/o/r",
        "https://git hub.com/o/r",
        "https://github.com/o/r\n",
        "https://github.com/o/r\0",
        "https://github.com/\u202er",
        "https://gіthub.com/o/r",
        "https://[::1/r",
        "https://[fe80::1%25eth0]/r",
        "https://[github.com]/r",
        "https://-x.example/r",
        "https://a..example/r",
        "file://host/srv/git",
        "file:///srv/%00",
        "https://github.com/" + "x" * 3000,
    ],
)
def test_what_is_no_clone_url_is_refused(text: str) -> None:
    with pytest.raises(GitError) as caught:
        parse_clone_url(text)
    assert caught.value.code == "git-url-refused"
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_refusal(text: str) -> None:
    for candidate in (text, "https://" + text, "http://" + text, "file://" + text):
        try:
            url = parse_clone_url(candidate)
        except GitError as error:
            assert error.code == "git-url-refused"
        else:
            assert bool(url.host) == (url.scheme != "file")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "0",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "app.localhost",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:8.8.8.8]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[2002:7f00:1::]",
        "[2001:0:1::]",
        "[2001:db8::1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::1]",
    ],
)
def test_private_hosts_are_refused_unless_allowed(host: str) -> None:
    url = parse_clone_url(f"https://{host}/r")
    with pytest.raises(GitError) as caught:
        check_clone_url(url, allow_private=False)
    assert caught.value.code == "git-url-refused"
    check_clone_url(url, allow_private=True, has_credential=True)


@pytest.mark.parametrize(
    "host", ["github.com", "140.82.121.3", "[2606:50c0:8000::153]", "[64:ff9b::8c52:7903]", "localhost.example"]
)
def test_public_hosts_are_not_refused(host: str) -> None:
    check_clone_url(parse_clone_url(f"https://{host}/r"), allow_private=False, has_credential=True)


@given(st.ip_addresses(v=4))
def test_no_private_ipv4_address_passes(address: ipaddress.IPv4Address) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert refusal(address)


@given(st.ip_addresses(v=6))
def test_no_private_ipv6_address_passes(address: ipaddress.IPv6Address) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert refusal(address)


@given(st.ip_addresses(v=4))
def test_an_address_is_the_same_in_every_writing(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for text in (str(number), hex(number), "0" + oct(number)[2:], f"{number >> 24}.{number & 0xFFFFFF}"):
        assert parse_address(text) == address


@pytest.mark.parametrize("text", ["github.com", "1.2.3.4.5", "256.1.1.1", "08.1", "0xg", "1.2.3.x"])
def test_names_are_no_addresses(text: str) -> None:
    assert parse_address(text) is None


def test_plain_http_never_carries_a_credential_to_a_public_host() -> None:
    url = parse_clone_url("http://git.example.com/r")
    check_clone_url(url, allow_private=False)
    with pytest.raises(GitError) as caught:
        check_clone_url(url, allow_private=False, has_credential=True)
    assert caught.value.code == "git-url-refused"
    check_clone_url(url, allow_private=True, has_credential=True)


def test_one_private_address_refuses_the_name() -> None:
    url = parse_clone_url("https://git.example.com/r")
    for addresses in [("8.8.8.8", "10.0.0.1"), ("10.0.0.1",), ("fe80::1%eth0",), ("2606:4700::1", "::1")]:
        with pytest.raises(GitError) as caught:
            resolve_host(url, allow_private=False, lookup=lambda host, port, found=addresses: found)  # type: ignore[misc]
        assert caught.value.code == "git-url-refused"
        assert resolve_host(url, allow_private=True, lookup=lambda host, port, found=addresses: found) == addresses  # type: ignore[misc]


def test_public_addresses_are_given_once_each() -> None:
    url = parse_clone_url("https://git.example.com/r")
    found = resolve_host(url, allow_private=False, lookup=lambda host, port: ("8.8.8.8", "8.8.8.8", "2606:4700::1"))
    assert found == ("8.8.8.8", "2606:4700::1")


def test_a_name_that_does_not_resolve_may_do_so_later() -> None:
    def fail(host: str, port: int) -> tuple[str, ...]:
        raise OSError(-2, "Name or service not known")

    url = parse_clone_url("https://git.example.com/r")
    for lookup in (fail, lambda host, port: ()):
        with pytest.raises(GitError) as caught:
            resolve_host(url, allow_private=False, lookup=lookup)
        assert (caught.value.code, caught.value.retryable) == ("git-unreachable", True)


def test_the_real_resolver_is_asked_in_the_end() -> None:
    url = parse_clone_url("http://localhost:1/r")
    assert set(resolve_host(url, allow_private=True)) <= {"127.0.0.1", "::1"}
