"""What here-documents stand for: files of COPY and ADD, the command of RUN (BuildKit `convert.go`, `dispatchRun`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from executor.dockerfile.heredocs import parse_heredoc
from executor.dockerfile.instructions import Heredoc, Run
from executor.dockerfile.words import Expander
from executor.errors import DockerfileError, Location

SCRIPT_DIRECTORY = "/dev/pipes"
SCRIPT_MODE = 0o755
COPIED_MODE = 0o644

_NAME_LIMIT_BYTES = 255
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
# backslash escapes here, whatever the escape directive says
_EXPANDER = Expander("\\", quotes="ordinary")


@dataclass(frozen=True, slots=True)
class ShellText:
    """A text for the stage's SHELL."""

    text: str


@dataclass(frozen=True, slots=True)
class Script:
    """A file that the step sees, read-only and with mode `SCRIPT_MODE`, at `path`, and runs."""

    name: str
    content: bytes

    @property
    def path(self) -> str:
        return f"{SCRIPT_DIRECTORY}/{self.name}"


def run_heredoc(run: Run) -> ShellText | Script:
    """What a RUN in shell form runs: its text, with its here-documents put where they belong.

    A line that is nothing but one here-document is that document: a script when it begins with `#!`, else a text for
    the SHELL. Any other line is given to the SHELL with the documents behind it, as they were written. Nothing is
    expanded, whether the delimiter is quoted or not.
    """
    line = run.command.text
    if not run.heredocs:
        return ShellText(line)
    if parse_heredoc(line) is None:
        bodies = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in run.heredocs)
        return ShellText(line + bodies)
    document = run.heredocs[0]
    text = used_text(document)
    if not text.startswith("#!"):
        return ShellText(text)
    return Script(file_name(document, run.location), _encoded(text))


def copied_content(heredoc: Heredoc, variables: Mapping[str, str], location: Location) -> bytes:
    """The file that a here-document of COPY or ADD is: expanded unless its delimiter was quoted, unset being empty."""
    text = used_text(heredoc)
    if heredoc.expand:
        text = _EXPANDER.expand(text, variables, location)
    return _encoded(text)


def file_name(heredoc: Heredoc, location: Location) -> str:
    """The name of the file that a here-document is: its delimiter, when that can name a file in one directory."""
    name = heredoc.name
    if name in {"", ".", ".."} or "/" in name or "\0" in name or len(_encoded(name)) > _NAME_LIMIT_BYTES:
        raise DockerfileError(
            f"expected a here-document's delimiter that can name a file, found {name[:60]!r}",
            location=location,
            hint="the delimiter is the file's name: a single word such as EOF, without a slash",
        )
    return name


def used_text(heredoc: Heredoc) -> str:
    """The body without the leading tabs of each line, where `<<-` asked for that; only a line feed ends a line."""
    return _LEADING_TABS.sub("", heredoc.content) if heredoc.strip_tabs else heredoc.content


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
