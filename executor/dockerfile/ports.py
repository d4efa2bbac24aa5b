"""EXPOSE's port specifications (BuildKit `dockerfile2llb/convert_expose.go`) and STOPSIGNAL's signals."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from executor.errors import DockerfileError, Location

# two whole ranges for each of the three protocols
PORTS_LIMIT = 6 * 65_536
_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
_SIGNAL = re.compile(
    r"(SIG)?(ABRT|ALRM|BUS|CHLD|CLD|CONT|FPE|HUP|ILL|INT|IO|IOT|KILL|PIPE|POLL|PROF|PWR|QUIT|SEGV|STKFLT|STOP|SYS"
    r"|TERM|TRAP|TSTP|TTIN|TTOU|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ|RTMIN(\+([1-9]|1[0-5]))?|RTMAX(-([1-9]|1[0-4]))?)"
)


def parse_ports(words: Iterable[str], location: Location) -> list[str]:
    """`port/protocol` for each port that the expanded words of an EXPOSE name, in order."""
    found: list[str] = []
    for word in words:
        found += _ports(word, location)
        if len(found) > PORTS_LIMIT:
            raise DockerfileError(f"EXPOSE: more than {PORTS_LIMIT} ports", location=location)
    return found


def _ports(word: str, location: Location) -> list[str]:
    address, host, container = _parts(word)
    ports, _, protocol = container.partition("/")
    protocol = protocol.lower() or "tcp"
    wanted = _range(ports)
    published = _range(host) if host else wanted
    if protocol not in _PROTOCOLS or wanted is None or published is None or not _is_address(address):
        raise DockerfileError(
            f"EXPOSE: expected port[-port][/tcp|udp|sctp], found {word[:60]!r}",
            location=location,
            hint="ports are numbers from 0 to 65535, and a range counts upwards",
        )
    if len(published) != len(wanted) != 1:
        raise DockerfileError(f"EXPOSE: the two ranges in {word[:60]!r} differ in size", location=location)
    return [f"{port}/{protocol}" for port in wanted]


def _parts(word: str) -> tuple[str, str, str]:
    parts = word.rsplit(":", 2)
    return ("", "", *parts)[-3:]  # type: ignore[return-value]


def _is_address(text: str) -> bool:
    if not text:
        return True
    try:
        ipaddress.ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        return False
    return True


def _range(text: str) -> range | None:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return range(first, last + 1) if first <= last <= 65_535 else None


def check_signal(name: str, location: Location) -> str:
    """The signal's name as written, when it is one: a number, or a Linux name with or without `SIG`, in any case."""
    number = re.fullmatch(r"[0-9]{1,9}", name)
    if (number and int(name) > 0) or _SIGNAL.fullmatch(name.upper()):
        return name
    raise DockerfileError(
        f"STOPSIGNAL: expected a signal's name or number, found {name[:40]!r}",
        location=location,
        hint="as in SIGTERM or 15",
    )
