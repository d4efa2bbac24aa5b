"""`--chmod` of COPY and ADD: octal, or symbolic as chmod(1) has it (BuildKit `convert_copy.go`, `dchapes-mode`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from executor.errors import DockerfileError, Location

HIGHEST_MODE = 0o7777
_DIRECTORY_MODE = 0o755
_TEXT_LIMIT_CHARACTERS = 1000

_SET_USER_ID, _SET_GROUP_ID, _STICKY = 0o4000, 0o2000, 0o1000
_EXECUTE = 0o111
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_WHO = {"u": _SET_USER_ID | 0o700, "g": _SET_GROUP_ID | 0o070, "o": 0o007, "a": 0o6777}
_PERMISSIONS = {"r": 0o444, "w": 0o222, "x": _EXECUTE, "s": _SET_USER_ID | _SET_GROUP_ID, "t": _STICKY}

_OCTAL = re.compile(r"[0-7]+")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)")
_ACTION = re.compile(r"([-+=])([rwxXstugo]*)")
# a letter that copies the bits of a class stands alone; the others are collected
_PART = re.compile(r"[ugo]|[rwxXst]+")


@dataclass(frozen=True, slots=True)
class _Step:
    """One change: `cleared` bits go, then `set_bits` come; those of X only where something may be executed.

    With `copied`, the three bits of that class are what `operator` does to the classes in `targets`.
    """

    cleared: int = 0
    set_bits: int = 0
    set_if_executable: int = 0
    operator: str = ""
    copied: str = ""
    targets: str = ""

    def apply(self, mode: int, executable: bool) -> int:
        if self.copied:
            return self._copy(mode)
        mode = mode & ~self.cleared | self.set_bits
        return mode | self.set_if_executable if executable else mode

    def _copy(self, mode: int) -> int:
        bits = mode >> _SHIFTS[self.copied] & 7
        for target in self.targets:
            shift = _SHIFTS[target]
            if self.operator == "=":
                mode &= ~(7 << shift)
            mode = mode & ~(bits << shift) if self.operator == "-" else mode | bits << shift
        return mode


@dataclass(frozen=True, slots=True)
class Chmod:
    """A parsed `--chmod`: called with an entry's mode and whether it is a directory, it gives the new mode.

    `created_directory_mode` is that of the directories that a copy makes on the way to its destination: the number
    itself with an octal `--chmod`, else 0755 (fsutil `copy.Copy`: a symbolic mode has nothing there to change).
    """

    octal: int | None = None
    steps: tuple[_Step, ...] = ()

    @property
    def created_directory_mode(self) -> int:
        return _DIRECTORY_MODE if self.octal is None else self.octal

    def __call__(self, mode: int, is_directory: bool, /) -> int:
        if self.octal is not None:
            return self.octal
        # X asks for the mode as it was before any change (POSIX chmod, `permlist`)
        executable = is_directory or bool(mode & _EXECUTE)
        for step in self.steps:
            mode = step.apply(mode, executable)
        return mode


def parse_chmod(text: str, location: Location) -> Chmod:
    """The change that an expanded `--chmod` asks for; the umask is 0, so `+x` means `a+x`."""
    if _OCTAL.fullmatch(text):
        digits = text.lstrip("0")
        if len(digits) > 4:
            raise _invalid(text, location)
        return Chmod(octal=int(digits or "0", 8))
    if not text or len(text) > _TEXT_LIMIT_CHARACTERS or text[0].isdecimal():
        raise _invalid(text, location)
    steps: list[_Step] = []
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise _invalid(text, location)
        for operator, letters in _ACTION.findall(match[2]):
            steps += _action(match[1], operator, letters)
    return Chmod(steps=tuple(steps))


def _action(who: str, operator: str, letters: str) -> Iterator[_Step]:
    """The steps of one operator; like BSD's, a `=` with several parts is done for each, so that the last one counts."""
    parts = _PART.findall(letters) or [""]
    cleared = False
    for part in parts:
        if part in _SHIFTS:
            yield _Step(operator=operator, copied=part, targets=_classes(who))
            cleared = True
            continue
        # behind a copied class, a lone X adds to it and does not begin anew
        yield _bits(who, operator, part, clears=operator == "=" and not (cleared and part.strip("X") == ""))
        cleared = True


def _classes(who: str) -> str:
    return "ugo" if not who or "a" in who else "".join(sorted(set(who)))


def _bits(who: str, operator: str, letters: str, *, clears: bool) -> _Step:
    mask = 0
    for letter in who or "a":
        mask |= _WHO[letter]
    bits = 0
    for letter in letters:
        bits |= _PERMISSIONS.get(letter, 0)
    # the sticky bit is nobody's; `o` alone cannot ask for it
    if bits & _STICKY and (not who or mask & ~_WHO["o"]):
        mask |= _STICKY
    bits &= mask
    if operator == "-":
        return _Step(cleared=bits)
    return _Step(
        cleared=mask if clears else 0,
        set_bits=bits,
        set_if_executable=mask & _EXECUTE if "X" in letters else 0,
    )


def _invalid(text: str, location: Location) -> DockerfileError:
    return DockerfileError(
        f"--chmod: expected an octal mode between 0 and 7777 or a symbolic one, found {text[:60]!r}",
        location=location,
        hint="write a mode as in --chmod=755 or --chmod=u=rwX,go=rX",
    )
