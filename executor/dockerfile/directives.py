"""Parser directives: `# syntax=`, `# escape=` and `# check=` at the top of a file (BuildKit `parser/directives.go`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from executor.dockerfile.instructions import DockerfileWarning
from executor.dockerfile.words import SPACE
from executor.errors import DockerfileError, Location

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S.*)")
_DOCKERFILE_FRONTEND = re.compile(r"(docker\.io/)?docker/dockerfile(-upstream)?(?![\w./-])")
_KNOWN = frozenset({"syntax", "escape", "check"})
# directives stand at the top; nobody writes more than the three known
_SCAN_LINES = 8


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive's value, and the line it stands on."""

    value: str
    location: Location


def read_directives(lines: Sequence[str], file: str) -> Mapping[str, Directive]:
    """The directives by lower-case name.

    The first line that is no directive ends them. A `#!` line does so for `escape`, too, but `syntax` and `check` are
    looked for behind it.
    """
    found: dict[str, Directive] = {}
    shebang = bool(lines) and lines[0].startswith("#!")
    for number, line in enumerate(lines[:_SCAN_LINES], start=1):
        if shebang and number == 1:
            continue
        match = _DIRECTIVE.fullmatch(line.strip(SPACE))
        name = match[1].lower() if match else ""
        if match is None or name not in _KNOWN:
            break
        location = Location(file, number, number)
        if name in found:
            raise DockerfileError(
                f"only one {name} parser directive can be used", location=location, hint="remove the repeated line"
            )
        found[name] = Directive(match[2].rstrip(SPACE), location)
        if name == "escape" and found[name].value not in {"\\", "`"}:
            raise DockerfileError(
                f"escape directive: expected \\ or `, found {found[name].value[:40]!r}", location=location
            )
    if shebang:
        found.pop("escape", None)
    return found


def frontend_warnings(directives: Mapping[str, Directive]) -> list[DockerfileWarning]:
    """A warning when `syntax` asks for anything but the Dockerfile language: frontend images are not run here."""
    syntax = directives.get("syntax")
    if syntax is None or _DOCKERFILE_FRONTEND.match(syntax.value):
        return []
    image = syntax.value.partition(" ")[0][:80]
    message = f"the syntax directive asks for the frontend {image!r}; the file is read as an ordinary Dockerfile"
    return [DockerfileWarning("dockerfile-frontend-ignored", message, syntax.location)]
