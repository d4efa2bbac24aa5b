"""What is known of a host before it is spoken to: its URL, whether it is local, whom it shares a domain with."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from executor.errors import RegistryError, UsageError
from executor.reference import DEFAULT_REGISTRY, registry_host
from executor.spec import RegistryOptions

# the registry of docker.io answers at another name than the one images carry
DOCKER_HUB_API = "registry-1.docker.io"
URL_LIMIT = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}

# second-level labels under which countries register names for anyone
_PUBLIC_SECOND_LEVEL = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gouv", "gov", "gr", "id", "ind", "mil", "ne", "net", "nom", "or", "org"}
)
# domains whose next label anyone can rent; a subset of the Public Suffix List's private part
_SHARED_DOMAINS = frozenset(
    {
        *("amazonaws.com", "azure.com", "azurecr.io", "azurewebsites.net", "cloudapp.net", "windows.net"),
        *("appspot.com", "firebaseapp.com", "googleapis.com", "pkg.dev", "run.app", "web.app"),
        *("cloudfront.net", "digitaloceanspaces.com", "fly.dev", "herokuapp.com", "onrender.com", "r2.dev"),
        *("github.io", "gitlab.io", "jfrog.io", "netlify.app", "pages.dev", "vercel.app", "workers.dev"),
        *("ngrok-free.app", "ngrok.app", "ngrok.io", "trycloudflare.com"),
    }
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host name and port: what a credential is bound to."""

    scheme: str
    hostname: str
    port: int

    @classmethod
    def of_url(cls, url: str) -> Origin:
        """The origin of an absolute http or https URL; `RegistryError` for anything else, user information included."""
        try:
            parts = urlsplit(url)
            scheme, hostname, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
        except ValueError:
            scheme, hostname, port = "", "", None
        printable = len(url) <= URL_LIMIT and url.isascii() and url.isprintable() and " " not in url
        if scheme not in _DEFAULT_PORTS or not hostname or not printable or "\\" in url or "@" in parts.netloc:
            shown = url.partition("?")[0].rpartition("@")[2][:120]  # a signed URL is a secret
            raise RegistryError(f"expected an http or https URL from the registry, found {shown!r}", code="url-invalid")
        return cls(scheme, hostname, port or _DEFAULT_PORTS[scheme])

    @property
    def host(self) -> str:
        """`host[:port]`, the port left out when it is the scheme's own."""
        name = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return name if self.port == _DEFAULT_PORTS[self.scheme] else f"{name}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}"


class HostRules:
    """Which scheme and which trust a registry gets, from `RegistryOptions`.

    A host is spoken to in plain HTTP when it is declared insecure, or when it is this machine (`localhost`,
    127.0.0.0/8, ::1) and neither port 443 nor a certificate or `skip_tls_verify` is given for it; containerd and
    go-containerregistry do the same. There is no falling back from HTTPS to HTTP.
    """

    def __init__(self, options: RegistryOptions) -> None:
        self._insecure = frozenset(registry_host(item) for item in options.insecure)
        self._unverified = frozenset(registry_host(item) for item in options.skip_tls_verify)
        self._certificates = {registry_host(key): pem for key, pem in options.certificates.items()}
        if both := sorted(self._insecure & self._certificates.keys()):
            raise UsageError(
                f"registry {both[0]}: expected either plain HTTP or a certificate, found both",
                code="registry-options",
            )

    def origin(self, registry: str) -> Origin:
        """Where the API of `registry` (`host[:port]`) is."""
        host = DOCKER_HUB_API if registry == DEFAULT_REGISTRY else registry
        return Origin.of_url(f"{self._scheme(registry)}://{host}")

    def _scheme(self, registry: str) -> str:
        if registry in self._insecure:
            return "http"
        hostname, port = _split_host(registry)
        trusted = registry in self._unverified or self.certificate(registry) is not None
        return "http" if is_loopback(hostname) and port != "443" and not trusted else "https"

    def is_unverified(self, host: str) -> bool:
        """Whether the certificate of `host[:port]` is not to be checked."""
        return _canonical(host) in self._unverified

    def certificate(self, host: str) -> str | None:
        """The PEM bundle declared for `host[:port]`, or for its name on every port."""
        key = _canonical(host)
        return self._certificates.get(key) or self._certificates.get(_split_host(key)[0])

    def allows_http(self, target: Origin, asked: Origin) -> bool:
        """Whether a server spoken to at `asked` may send us to `target` in plain HTTP."""
        if asked.scheme != "http":
            return False
        both_local = is_loopback(target.hostname) and is_loopback(asked.hostname)
        return target.hostname == asked.hostname or both_local or target.host in self._insecure


def is_loopback(hostname: str) -> bool:
    """Whether a host name is this machine by its spelling alone: `localhost`, 127.0.0.0/8 or ::1."""
    if hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname.strip("[]")).is_loopback
    except ValueError:
        return False


def is_address(hostname: str) -> bool:
    """Whether a host name is an IP address."""
    try:
        ipaddress.ip_address(hostname.strip("[]"))
    except ValueError:
        return False
    return True


def shares_domain(registry: str, other: str) -> bool:
    """Whether two host names belong together: the same, or both under the registry's parent domain.

    `auth.docker.io` belongs to `registry-1.docker.io`, `gitlab.com` to `registry.gitlab.com`. The parent must be a
    domain of its own, not one under which anybody can have a name, such as `co.uk` or `azurecr.io`.
    """
    if registry == other:
        return True
    if is_address(registry) or is_address(other):
        return is_loopback(registry) and is_loopback(other)
    labels = registry.split(".")
    parent = registry if len(labels) == 2 else registry.partition(".")[2]
    return (other == parent or other.endswith(f".{parent}")) and not _is_public_suffix(parent)


def _is_public_suffix(domain: str) -> bool:
    labels = domain.split(".")
    if len(labels) < 2:
        return True
    country = len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _PUBLIC_SECOND_LEVEL
    return country or any(domain == item or domain.endswith(f".{item}") for item in _SHARED_DOMAINS)


def proxy_for(origin: Origin, proxies: Mapping[str, str]) -> str | None:
    """The proxy for `origin` from a mapping with `http`, `https`, `all` and `no` (comma-separated, as in `NO_PROXY`).

    As in Go's httpproxy, this machine is never reached through a proxy.
    """
    chosen = proxies.get(origin.scheme) or proxies.get("all")
    if not chosen or is_loopback(origin.hostname):
        return None
    exceptions = [item.strip().lower() for item in proxies.get("no", "").split(",") if item.strip()]
    return None if any(_excepts(item, origin) for item in exceptions) else chosen


def _excepts(item: str, origin: Origin) -> bool:
    if item == "*":
        return True
    try:
        if "/" in item:
            return ipaddress.ip_address(origin.hostname) in ipaddress.ip_network(item, strict=False)
    except ValueError:
        return False
    name, port = _split_host(item) if item.count(":") < 2 or item.startswith("[") else (item, "")
    if port and port != str(origin.port):
        return False
    suffix = name.strip("[]").removeprefix("*").removeprefix(".")
    return origin.hostname == suffix or origin.hostname.endswith(f".{suffix}")


def _canonical(host: str) -> str:
    return DEFAULT_REGISTRY if host in {DOCKER_HUB_API, "index.docker.io"} else host


def _split_host(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not host.endswith("]") else (host, "")
