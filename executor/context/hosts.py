"""Which git URLs may be cloned, and which addresses their hosts may have.

A clone URL names a machine that this process will connect to from inside the operator's network, so it is a request
that could be forged on the server's behalf (SSRF). The URL is checked as text when a project is registered and again
before a fetch; the addresses of its host are checked once, before the fetch, and the connection is pinned to them
(`executor.context.gateway`), so that a name that later resolves to something else (DNS rebinding) changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from executor.errors import GitError

MAX_URL_LENGTH = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], tuple[str, ...]]

# RFC 1123 host names, underscores tolerated because internal DNS has them
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?\Z"
)
# inet_aton(3): one to four numbers, each decimal, octal (0…) or hexadecimal (0x…)
_INET_ATON = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}\.?\Z")

# IANA IPv4 special-purpose address registry (RFC 6890 and updates), and one cloud's public metadata address
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's wire server
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# the only global unicast block in use (RFC 4291 section 2.4), less the special-purpose blocks inside it
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "3ffe::/16")
)
# RFC 6052: what DNS64 answers for IPv4-only hosts, so it has to be as good as the IPv4 address inside
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class CloneUrl:
    """A clone URL, taken apart. `host` is in lower case, without brackets; `path` is a decoded path for `file` only."""

    text: str
    scheme: Literal["http", "https", "file"]
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port (RFC 6454): what a credential is bound to."""
        return (self.scheme, self.host, self.port)

    @property
    def place(self) -> str:
        """What a person is told about where this is."""
        return self.host if self.host else "this machine"


def parse_clone_url(text: str) -> CloneUrl:
    """A clone URL from text: `https`, `http` or `file`, without user, query or fragment; `GitError` otherwise."""
    if not text or len(text) > MAX_URL_LENGTH:
        raise _refused(f"clone URL: expected 1 to {MAX_URL_LENGTH} characters, found {len(text)}")
    if any(not "!" <= character <= "~" or character == "\\" for character in text):
        raise _refused(
            "clone URL: expected printable ASCII without spaces and backslashes",
            hint="write host names in their xn-- form, and other characters of a path in percent encoding",
        )
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in {"http", "https", "file"} or "::" in scheme:
        raise _refused(
            f"clone URL: expected https://, http:// or file://, found {_shown_scheme(text)}",
            hint="register the repository's https:// URL; ssh and git:// are not spoken",
        )
    if "@" in rest.partition("/")[0]:
        raise _refused(
            "clone URL: expected no user name or password in it",
            hint="give them as the project's git credential",
        )
    if "?" in rest or "#" in rest:
        raise _refused("clone URL: expected no query and no fragment")
    return _parse_file(text, rest) if scheme.lower() == "file" else _parse_http(text)


def _parse_file(text: str, rest: str) -> CloneUrl:
    host, _, path = rest.partition("/")
    path = "/" + unquote(path, errors="surrogateescape")
    if host not in {"", "localhost"} or "\0" in path:
        raise _refused(f"clone URL: expected file:///path, found a host {host[:60]!r} or a NUL")
    return CloneUrl(text=text, scheme="file", path=path)


def _parse_http(text: str) -> CloneUrl:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _refused(f"clone URL: expected host and port, found {error}") from error
    literal = "[" in parts.netloc
    if port == 0 or (parts.netloc.endswith(":")) or not (_is_ipv6(host) if literal else _HOST_NAME.match(host)):
        raise _refused(f"clone URL: expected a host name or address and a port above 0, found {parts.netloc[:80]!r}")
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    return CloneUrl(text=text, scheme=scheme, host=host, port=port or DEFAULT_PORTS[scheme], path=parts.path)


def check_clone_url(url: CloneUrl, *, allow_private: bool, has_credential: bool = False) -> None:
    """The part of the policy that needs no network; file URLs are judged where their root is known.

    Plain HTTP with a credential would show it to everyone on the way, so it is for private networks only.
    """
    if url.scheme == "file" or allow_private:
        return
    if url.scheme == "http" and has_credential:
        raise _refused(
            f"clone URL: expected https:// for a repository that needs a credential, found http:// at {url.host}",
            hint="use https://, or allow private git hosts",
        )
    name = url.host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        raise _private(url.host, "it is this machine (RFC 6761 section 6.3)")
    literal = parse_address(url.host)
    if literal is not None and (reason := refusal(literal)):
        raise _private(url.host, reason)


def resolve_host(url: CloneUrl, *, allow_private: bool, lookup: Lookup | None = None) -> tuple[str, ...]:
    """The addresses of the URL's host, all of them allowed; one that is not refuses the whole name."""
    try:
        found = (lookup or _lookup)(url.host, url.port)
    except (OSError, UnicodeError) as error:
        raise GitError(
            f"git server {url.host}: its name does not resolve: {getattr(error, 'strerror', None) or error}",
            code="git-unreachable",
            retryable=True,
        ) from error
    addresses = tuple(dict.fromkeys(text.partition("%")[0] if not allow_private else text for text in found))
    if not addresses:
        raise GitError(f"git server {url.host}: its name has no address", code="git-unreachable", retryable=True)
    if not allow_private:
        for text in addresses:
            if reason := refusal(ipaddress.ip_address(text)):
                raise _private(url.host, f"its address {text} is {reason}")
    return addresses


def parse_address(host: str) -> Address | None:
    """The address a host text denotes, also in the decimal, octal, hexadecimal and short forms of inet_aton(3)."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    if not _INET_ATON.match(host):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
    except OSError:
        return None


def refusal(address: Address) -> str:
    """Why a public repository cannot be at this address; empty when it can."""
    if isinstance(address, ipaddress.IPv4Address):
        network = next((item for item in _REFUSED_V4 if address in item), None)
        return f"in {network}, which is loopback, link-local, private or reserved" if network else ""
    if address.ipv4_mapped is not None:
        return "an IPv4 address written as IPv6"
    if address in _NAT64:
        return refusal(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address not in _GLOBAL_V6 or any(address in item for item in _REFUSED_V6):
        return "loopback, link-local, private or reserved"
    return ""


def _lookup(host: str, port: int) -> tuple[str, ...]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return tuple(str(entry[4][0]) for entry in found)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host


def _shown_scheme(text: str) -> str:
    """The URL's scheme alone: the rest of a URL that is not understood may hold a password."""
    match = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:{1,2}(?://)?", text)
    return repr(match[0][:24]) if match else "no scheme"


def _refused(message: str, *, hint: str | None = None) -> GitError:
    return GitError(message, code="git-url-refused", hint=hint)


def _private(host: str, reason: str) -> GitError:
    return _refused(
        f"git server {host}: expected a public address: {reason}",
        hint="allow private git hosts if this server is meant to be reached",
    )
