"""The JSON form of arguments: `["a", "b"]` (BuildKit `parser/line_parsers.go`)."""

from __future__ import annotations

import json
import re

from executor.dockerfile.words import SPACE
from executor.errors import DockerfileError, Location

_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json_form(text: str, location: Location) -> tuple[str, ...] | None:
    """The strings of a JSON array; None when `text` is no JSON array and means the shell or list form.

    An array with anything but strings is an error, as in BuildKit. Code units that are no character become U+FFFD,
    as Go's decoder does.
    """
    if not text.lstrip(SPACE).startswith("["):
        return None
    try:
        value = json.loads(text.lstrip(SPACE), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    for item in value:
        if not isinstance(item, str):
            raise DockerfileError(
                f"expected an array of strings only, found {type(item).__name__} in {text[:80]!r}",
                location=location,
                hint='write every element in double quotes, as in ["sleep", "1"]',
            )
        if "\0" in item:
            raise DockerfileError("an argument contains a NUL character", location=location)
    return tuple(_SURROGATE.sub("\ufffd", item) for item in value)


def _refuse(name: str) -> object:
    raise ValueError(name)
