"""`history.created_by` of an image, as BuildKit writes it (`dockerfile2llb/convert.go`, commitToHistory).

Every function takes expanded values. Bytes that are not UTF-8 become U+FFFD: a config is JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from executor.dockerfile.instructions import Healthcheck

COMMENT = "buildkit.dockerfile.v0"

_LAYER_MARK = " # buildkit"
_SURROGATE = re.compile("[\ud800-\udfff]")
_GO_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}


def _line(*words: str) -> str:
    return _SURROGATE.sub("\ufffd", " ".join(words))


def run(arguments: Sequence[str], args: Sequence[tuple[str, str | None]]) -> str:
    """`RUN |1 A=1 /bin/sh -c make # buildkit`; `args` are the ARGs declared so far, in order."""
    counted = (f"|{len(args)}", *_assignments((name, value or "") for name, value in args)) if args else ()
    return _line("RUN", *counted, *arguments) + _LAYER_MARK


def copy(
    sources: Sequence[str],
    destination: str,
    *,
    chown: str = "",
    chmod: str = "",
    heredocs: Sequence[str] = (),
    keyword: str = "COPY",
) -> str:
    """`COPY --chown=1:1 a b /c/ # buildkit`; `--from` is never part of it, as in BuildKit."""
    flags = [f"--{name}={value}" for name, value in (("chown", chown), ("chmod", chmod)) if value]
    return _line(keyword, *flags, *sources, *(f"<<{name}" for name in heredocs), destination) + _LAYER_MARK


def workdir(path: str) -> str:
    return _line("WORKDIR", path)


def env(pairs: Iterable[tuple[str, str]]) -> str:
    return _line("ENV", *_assignments(pairs))


def label(pairs: Iterable[tuple[str, str]]) -> str:
    return _line("LABEL", *_assignments(pairs))


def arg(args: Iterable[tuple[str, str | None]]) -> str:
    """`ARG A=1 B`: the values that this line gives them, none where it gives none."""
    return _line("ARG", *(name if value is None else f"{name}={value}" for name, value in args))


def cmd(arguments: Sequence[str]) -> str:
    """`CMD ["/bin/sh" "-c" "x"]`."""
    return _line("CMD", _quoted_list(arguments))


def entrypoint(arguments: Sequence[str]) -> str:
    return _line("ENTRYPOINT", _quoted_list(arguments))


def shell(arguments: Sequence[str]) -> str:
    """`SHELL [/bin/bash -c]`."""
    return _line("SHELL", _plain_list(arguments))


def expose(ports: Sequence[str]) -> str:
    """`EXPOSE [80/tcp 443/tcp]`."""
    return _line("EXPOSE", _plain_list(ports))


def volume(paths: Sequence[str]) -> str:
    """`VOLUME [/a /b]`."""
    return _line("VOLUME", _plain_list(paths))


def user(name: str) -> str:
    return _line("USER", name)


def stop_signal(name: str) -> str:
    return _line("STOPSIGNAL", name)


def maintainer(name: str) -> str:
    return _line("MAINTAINER", name)


def healthcheck(check: Healthcheck) -> str:
    """`HEALTHCHECK &{["CMD-SHELL" "x"] "30s" "0s" "0s" "0s" '\\x03'}`: Go's `%q` of a struct."""
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    shown = " ".join(f'"{duration(value)}"' for value in times)
    return _line("HEALTHCHECK", f"&{{{_quoted_list(check.test)} {shown} {_quoted_rune(check.retries)}}}")


def _assignments(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name}={value}" for name, value in pairs]


def _plain_list(items: Sequence[str]) -> str:
    return f"[{' '.join(items)}]"


def _quoted_list(items: Sequence[str]) -> str:
    return f"[{' '.join(quote(item) for item in items)}]"


def quote(text: str) -> str:
    """Go's `strconv.Quote`; a surrogate stands for a byte that was not UTF-8."""
    return '"' + "".join('\\"' if character == '"' else _escaped(character) for character in text) + '"'


def _quoted_rune(number: int) -> str:
    character = chr(number) if number <= 0x10FFFF else "\ufffd"
    return "'" + ("\\'" if character == "'" else _escaped(character)) + "'"


def _escaped(character: str) -> str:
    if character in _GO_ESCAPES:
        return _GO_ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x20 or number == 0x7F:
        return f"\\x{number:02x}"
    return f"\\U{number:08x}" if number > 0xFFFF else f"\\u{number:04x}"


def duration(nanoseconds: int) -> str:
    """Go's `Duration.String`: `1m30s`, `500ms`, `0s`."""
    if nanoseconds < 0:
        return "-" + duration(-nanoseconds)
    if nanoseconds == 0:
        return "0s"
    for size, unit in ((1, "ns"), (1_000, "\u00b5s"), (1_000_000, "ms")):
        if nanoseconds < size * 1_000:
            return _decimal(nanoseconds, size) + unit
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    text = _decimal(rest, 1_000_000_000) + "s"
    if minutes:
        text = f"{minutes % 60}m{text}"
    return f"{minutes // 60}h{text}" if minutes >= 60 else text


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    fraction = str(rest).rjust(len(str(size)) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
