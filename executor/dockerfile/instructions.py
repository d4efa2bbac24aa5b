"""The values a Dockerfile is parsed into: instructions, stages and the whole file.

Instructions are data: they hold words as they were written, not expanded, and know nothing of building. Which words
of which instruction are expanded is said in the docstrings; `words.Expander` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from executor.errors import Location


@dataclass(frozen=True, slots=True)
class Heredoc:
    """One here-document: `name` ends it, `expand` is false when any part of the name was quoted.

    `content` is the body as written, each line with its line end. `strip_tabs` is that of `<<-`.
    """

    name: str
    content: str
    expand: bool = True
    strip_tabs: bool = False
    descriptor: int = 0


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The command of RUN, CMD or ENTRYPOINT: an argument vector (JSON form), or one text for the stage's SHELL.

    Never expanded by the builder. An empty vector is legal (`CMD []`).
    """

    arguments: tuple[str, ...]
    in_shell: bool

    @property
    def text(self) -> str:
        """The shell form's text."""
        return " ".join(self.arguments)


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A pair of ENV or LABEL; both words are expanded. `legacy` is the form without `=`."""

    key: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class ArgDefinition:
    """One name of an ARG; the default is expanded, the name is not. `None`: no default."""

    name: str
    default: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What every instruction has: where it stands, and its text with continuations joined."""

    keyword: ClassVar[str] = ""
    location: Location
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    keyword: ClassVar[str] = "ARG"
    definitions: tuple[ArgDefinition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    keyword: ClassVar[str] = "ENV"
    pairs: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    keyword: ClassVar[str] = "LABEL"
    pairs: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """`path` is expanded."""

    keyword: ClassVar[str] = "WORKDIR"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """`user` is expanded."""

    keyword: ClassVar[str] = "USER"
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """Sources, destination, `chown` and `chmod` are expanded; `source_stage` (the value of `--from`) never is."""

    keyword: ClassVar[str] = "COPY"
    sources: tuple[str, ...]
    destination: str
    source_stage: str | None = None
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Instruction):
    """Sources, destination, `chown`, `chmod` and `checksum` are expanded."""

    keyword: ClassVar[str] = "ADD"
    sources: tuple[str, ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    checksum: str = ""
    link: bool = False
    keep_git_dir: bool = False
    unpack: bool | None = None
    excludes: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """`mounts` are the raw values of `--mount`; nothing else of a RUN is expanded."""

    keyword: ClassVar[str] = "RUN"
    command: CommandLine
    mounts: tuple[str, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    keyword: ClassVar[str] = "CMD"
    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    keyword: ClassVar[str] = "ENTRYPOINT"
    command: CommandLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """Never expanded, never empty."""

    keyword: ClassVar[str] = "SHELL"
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """`ports` are sorted as written; each is expanded and then split into words."""

    keyword: ClassVar[str] = "EXPOSE"
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """Each path is expanded."""

    keyword: ClassVar[str] = "VOLUME"
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    """`signal` is expanded."""

    keyword: ClassVar[str] = "STOPSIGNAL"
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    keyword: ClassVar[str] = "MAINTAINER"
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """`test` is that of the image config: `("NONE",)`, `("CMD", …)` or `("CMD-SHELL", text)`; times in nanoseconds."""

    keyword: ClassVar[str] = "HEALTHCHECK"
    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    """`trigger` is the instruction as written after the word ONBUILD, here-documents included."""

    keyword: ClassVar[str] = "ONBUILD"
    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One FROM and what follows it.

    `base` and `platform` are words that only global ARGs expand; `name` is lower-cased. `text` and `location` are
    those of the FROM line.
    """

    index: int
    name: str | None
    base: str
    platform: str = ""
    instructions: tuple[Instruction, ...] = ()
    location: Location
    text: str

    @property
    def title(self) -> str:
        """What people call this stage: its name, else `stage-<index>` as BuildKit does."""
        return self.name or f"stage-{self.index}"


@dataclass(frozen=True, slots=True)
class DockerfileWarning:
    """Something legal that its author may want to know."""

    code: str
    message: str
    location: Location


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole file: at least one stage; `directives` by lower-case name; `global_args` stand before the first FROM."""

    file: str
    stages: tuple[Stage, ...]
    global_args: tuple[Arg, ...] = ()
    directives: Mapping[str, str] = field(default_factory=dict)
    escape: str = "\\"
    warnings: tuple[DockerfileWarning, ...] = ()
