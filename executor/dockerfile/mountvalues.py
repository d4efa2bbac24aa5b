"""How the values of `RUN --mount` are written: CSV, sizes, numbers, truth (Go's `csv`, `strconv`, `go-units`)."""

from __future__ import annotations

import re
from decimal import Decimal

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_SIZE = re.compile(
    r"(\+?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})(?:e[-+]?[0-9]{1,2})?) ?(b|[kmgtp](?:i?b)?)?", re.IGNORECASE
)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE_LIMIT = 1 << 63
# of the kernel's 32 bits the last id means "none"
_HIGHEST_ID = (1 << 32) - 2


def parse_record(text: str) -> tuple[str, ...]:
    """The fields of one CSV record (RFC 4180, section 2); `ValueError` says what is wrong with it."""
    if not text:
        raise ValueError("it is empty")
    fields: list[str] = []
    position = 0
    while True:
        if text.startswith('"', position):
            field, position = _quoted(text, position + 1)
        else:
            end = text.find(",", position)
            field, position = (text[position:], len(text)) if end < 0 else (text[position:end], end)
            if '"' in field:
                raise ValueError(f"a double quote stands inside the unquoted field {field[:60]!r}")
            if "\n" in field:
                raise ValueError("it has more than one line")
        fields.append(field)
        if position == len(text):
            return tuple(fields)
        position += 1


def _quoted(text: str, position: int) -> tuple[str, int]:
    """The field whose opening quote ends at `position`, and where the comma behind it, or the end, is."""
    parts: list[str] = []
    while True:
        end = text.find('"', position)
        if end < 0:
            raise ValueError("a double quote is not closed")
        parts.append(text[position:end])
        position = end + 1
        if text.startswith('"', position):
            parts.append('"')
            position += 1
        elif position == len(text) or text[position] == ",":
            return "".join(parts), position
        else:
            raise ValueError("expected a comma behind a closing double quote")


def parse_truth(text: str) -> bool | None:
    """What Go's `strconv.ParseBool` makes of a text, or None."""
    return True if text in _TRUE else False if text in _FALSE else None


def parse_size(text: str) -> int | None:
    """Bytes of a size such as `10m` or `1.5GiB`, in powers of 1024 (`units.RAMInBytes`), or None."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    unit = (match[2] or "b")[0].lower()
    size = Decimal(match[1]) * (1024 ** _POWERS.get(unit, 0))
    return int(size) if size < _SIZE_LIMIT else None


def parse_mode(text: str) -> int | None:
    """A file mode in octal digits, at most 7777, or None."""
    digits = text.lstrip("0")
    return int(text, 8) if re.fullmatch("[0-7]+", text) and len(digits) <= 4 else None


def parse_id(text: str) -> int | None:
    """A uid or gid in decimal digits, or None."""
    if not re.fullmatch("[0-9]+", text) or len(text.lstrip("0")) > 10:
        return None
    return number if (number := int(text)) <= _HIGHEST_ID else None
