"""The options of one `RUN --mount`, read in the order in which they stand (BuildKit `commands_runmount.go`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from executor.dockerfile.mountvalues import parse_id, parse_mode, parse_size, parse_truth
from executor.dockerfile.suggest import did_you_mean
from executor.errors import DockerfileError, Location

MountType = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]
_Choice = TypeVar("_Choice")

TYPES: Mapping[str, MountType] = {
    "bind": "bind",
    "cache": "cache",
    "tmpfs": "tmpfs",
    "secret": "secret",
    "ssh": "ssh",
}
SHARINGS: Mapping[str, Sharing] = {"shared": "shared", "private": "private", "locked": "locked"}

_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_KEYS = (
    *("type", "from", "source", "target", "readonly", "readwrite", "required", "size"),
    *("id", "sharing", "mode", "uid", "gid", "env"),
)
_SWITCHES = frozenset({"readonly", "readwrite", "required"})
# what makes a value depend on the variables, or be another text once it is expanded
_LEXED = frozenset("$'\"\\`")
_NUMBERS: Mapping[str, tuple[Callable[[str], int | None], str]] = {
    "size": (parse_size, "a size such as 64m"),
    "mode": (parse_mode, "an octal mode up to 7777"),
    "uid": (parse_id, "a number up to 4294967294"),
    "gid": (parse_id, "a number up to 4294967294"),
}


class Options:
    """What has been read so far. Without an expander, values that an expansion may change are given but not known."""

    def __init__(self, location: Location) -> None:
        self.type: MountType | None = "bind"
        self.sharing: Sharing | None = None
        self.read_only: bool | None = None
        self.required = False
        self.numbers: dict[str, int] = {}
        self._texts: dict[str, str | None] = {}
        self._location = location

    def given(self, key: str) -> bool:
        return key in self._texts

    def get(self, key: str) -> str | None:
        """The last value given, or None when none is, or none is known."""
        return self._texts.get(key)

    def may_have(self, key: str) -> bool:
        """Whether the value is there and is not known to be empty."""
        return key in self._texts and self._texts[key] != ""

    def read(self, key: str, value: str | None) -> None:
        """Take one option in; `value` is None when it is not known."""
        if key == "required":
            self._require_type(key, {"secret", "ssh"})
        elif key == "size":
            self._require_type(key, {"tmpfs"})
        self._texts[key] = value
        if key == "type":
            self.type = None
        if value is None:
            return
        if key == "type":
            self.type = self._choice(key, value, TYPES)
        elif key == "sharing":
            self.sharing = self._choice(key, value, SHARINGS)
        elif key in _SWITCHES:
            self._switch(key, value)
        elif key in _NUMBERS:
            parse, expected = _NUMBERS[key]
            number = parse(value)
            if number is None:
                raise self._invalid(key, expected, value)
            self.numbers[key] = number
        elif key == "env" and (not value or "=" in value or "\0" in value):
            raise self._invalid(key, "the name of a variable", value)

    def _switch(self, key: str, value: str) -> None:
        truth = parse_truth(value)
        if truth is None:
            raise self._invalid(key, "true or false", value)
        if key == "required":
            self.required = truth
        else:
            self.read_only = truth == (key == "readonly")

    def _require_type(self, key: str, allowed: set[str]) -> None:
        if self.type is None or self.type in allowed:
            return
        wanted = " or ".join(f"type={item}" for item in sorted(allowed))
        # BuildKit reads the options in order, with bind until it meets a type
        raise self.error(f"option {key} is not allowed with type={self.type}", f"write {wanted} before {key}")

    def _choice(self, key: str, value: str, choices: Mapping[str, _Choice]) -> _Choice:
        found = choices.get(value.lower())
        if found is None:
            known = ", ".join(choices)
            raise self.error(
                f"option {key}: expected one of {known}, found {value[:60]!r}",
                did_you_mean(value, choices, prefix=f"{key}=") or f"write {key}={next(iter(choices))}",
            )
        return found

    def _invalid(self, key: str, expected: str, value: str) -> DockerfileError:
        return self.error(f"option {key}: expected {expected}, found {value[:60]!r}", f"correct or remove {key}=")

    def error(self, message: str, hint: str) -> DockerfileError:
        return DockerfileError(f"RUN --mount: {message}", location=self._location, hint=hint)


def read_options(fields: tuple[str, ...], expand: Callable[[str], str] | None, location: Location) -> Options:
    """The options of the fields; with `expand`, all values but that of `from` are expanded first."""
    options = Options(location)
    for field in fields:
        written, equals, value = field.partition("=")
        key = written.lower()
        key = _ALIASES.get(key, key)
        if key not in _KEYS:
            raise options.error(f"unknown option {written[:60]!r}", _nearest(written))
        if not equals:
            if key not in _SWITCHES:
                raise options.error(f"option {key} has no value", f"write {key}=value")
            options.read(key, "true")
        elif key == "from":
            if "$" in value:
                raise options.error(
                    f"cannot expand variables in from: found {value[:60]!r}",
                    "name a stage by FROM ${VARIABLE} AS name, and mount from that",
                )
            options.read(key, value)
        elif expand is not None:
            options.read(key, expand(value))
        else:
            options.read(key, value if _LEXED.isdisjoint(value) else None)
    return options


def _nearest(written: str) -> str:
    return did_you_mean(written.strip(), [*_KEYS, *_ALIASES]) or f"known are {', '.join(sorted([*_KEYS, *_ALIASES]))}"
