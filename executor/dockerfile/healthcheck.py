"""HEALTHCHECK: its options, Go's durations, and the two forms of its command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from executor.dockerfile.flags import FlagKind, Flags, parse_flags
from executor.dockerfile.forms import command_line
from executor.dockerfile.instructions import Healthcheck
from executor.dockerfile.reader import LogicalLine, split_keyword
from executor.errors import DockerfileError, Location

_FLAGS: Mapping[str, FlagKind] = {
    "interval": "text",
    "timeout": "text",
    "start-period": "text",
    "start-interval": "text",
    "retries": "text",
}
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]{0,20})(?:\.([0-9]{0,20}))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_MINIMUM_NANOSECONDS = 1_000_000


def parse_duration(text: str) -> int | None:
    """Nanoseconds of a Go duration such as `1h2m3.5s`, or None when it is none (time.ParseDuration)."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, position = Fraction(0), 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None or not (part[1] or part[2]):
            return None
        total += Fraction(f"{part[1] or 0}.{part[2] or 0}") * _UNITS[part[3]]
        position = part.end()
    if not rest or total >= 1 << 63:
        return None
    return sign * int(total)


def parse_healthcheck(line: LogicalLine, flag_words: list[str], arguments: str) -> Healthcheck:
    """The instruction; flags on `HEALTHCHECK NONE` are checked, and mean nothing there."""
    flags = parse_flags(flag_words, _FLAGS, "HEALTHCHECK", line.location)
    kind, rest = split_keyword(arguments)
    location, text = line.location, line.text
    if kind == "NONE":
        if rest:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments", location=location)
        return Healthcheck(location=location, text=text, test=("NONE",))
    if kind != "CMD":
        raise DockerfileError(
            f"HEALTHCHECK: expected CMD or NONE, found {kind[:40]!r}" if kind else "HEALTHCHECK requires an argument",
            location=location,
            hint="write HEALTHCHECK CMD command",
        )
    command = command_line(rest, location)
    if not command.arguments:
        raise DockerfileError("missing command after HEALTHCHECK CMD", location=location)
    return Healthcheck(
        location=location,
        text=text,
        test=("CMD-SHELL" if command.in_shell else "CMD", *command.arguments),
        interval=_interval(flags, "interval", location),
        timeout=_interval(flags, "timeout", location),
        start_period=_interval(flags, "start-period", location),
        start_interval=_interval(flags, "start-interval", location),
        retries=_retries(flags.text("retries"), location),
    )


def _interval(flags: Flags, name: str, location: Location) -> int:
    value = flags.text(name)
    if not value:
        return 0
    nanoseconds = parse_duration(value)
    if nanoseconds is None or (nanoseconds != 0 and nanoseconds < _MINIMUM_NANOSECONDS):
        raise DockerfileError(
            f"HEALTHCHECK --{name}: expected a duration of at least 1ms (or 0), found {value[:40]!r}",
            location=location,
            hint="durations look like 30s, 1m30s or 500ms",
        )
    return nanoseconds


def _retries(value: str, location: Location) -> int:
    if not value:
        return 0
    if not re.fullmatch(r"\+?[0-9]{1,10}", value) or int(value) >= 1 << 31:
        raise DockerfileError(
            f"HEALTHCHECK --retries: expected a whole number, zero or more, found {value[:40]!r}", location=location
        )
    return int(value)
