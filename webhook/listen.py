"""Where the web server listens: reading an address, taking it, and knowing what is this machine alone."""

from __future__ import annotations

import ipaddress
import socket

from executor.errors import HostError, UsageError

DEFAULT_LISTEN = "127.0.0.1:8080"
_BACKLOG = 512


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[::1]:PORT` or `:PORT`; port 0 is any free one."""
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"--listen: expected HOST:PORT, found {text!r}", hint=f"for example {DEFAULT_LISTEN}")
    return host or "127.0.0.1", int(port)


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens there; `HostError` when the address is taken or not of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise HostError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            code="address-unavailable",
            hint="choose another address with --listen; port 0 is any free one",
        ) from error


def is_loopback(host: str) -> bool:
    """Whether a host, as a name or an address, is this machine by itself (RFC 6761 section 6.3 for `localhost`)."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def reachable_address(host: str) -> str:
    """The address under which this machine itself reaches what listens at `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
