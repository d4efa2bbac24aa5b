"""An instruction as it will be, as far as is known before anything is fetched: its flags, and its words expanded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from executor.dockerfile.heredoctext import used_text
from executor.dockerfile.history import duration
from executor.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    CommandLine,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from executor.dockerfile.known_variables import Expansion, KnownVariables
from executor.errors import Location

Flag: TypeAlias = str | bool | int | Sequence[str]


@dataclass(frozen=True, slots=True)
class LookAhead:
    """What one instruction will do: `value` is one text, `argv` a list of words; an instruction has one of them.

    `expansions` are those of its single words, in order; a here-document's is one of them.
    """

    flags: Mapping[str, Flag] = field(default_factory=dict)
    value: str | None = None
    argv: tuple[str, ...] | None = None
    expansions: tuple[Expansion, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()

    @property
    def unknown(self) -> tuple[str, ...]:
        """The variables in it whose value only the base image tells, each once."""
        return tuple(dict.fromkeys(name for expansion in self.expansions for name in expansion.unknown))


class _Reader:
    """Expands the words of one instruction and keeps the expansions."""

    def __init__(self, variables: KnownVariables, location: Location) -> None:
        self.variables = variables
        self.location = location
        self.expansions: list[Expansion] = []

    def word(self, text: str) -> str:
        return self.keep(self.variables.expand(text, self.location))

    def keep(self, expansion: Expansion) -> str:
        self.expansions.append(expansion)
        return expansion.text

    def words(self, texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.word(text) for text in texts)

    def heredocs(self, heredocs: Iterable[Heredoc]) -> None:
        """The contents of COPY's and ADD's: backslash escapes there, quotes are ordinary (shell/lex.go)."""
        for heredoc in heredocs:
            if heredoc.expand:
                self.keep(self.variables.expand(used_text(heredoc), self.location, quotes="ordinary", escape="\\"))


def look_ahead(instruction: Instruction, variables: KnownVariables) -> LookAhead:
    """The instruction with what `variables` know; ARG and ENV change them. `DockerfileError` as a build would give."""
    return _READERS[type(instruction)](instruction, _Reader(variables, instruction.location))


def _given(**flags: Flag) -> dict[str, Flag]:
    """The flags that were given, under the names they have in a Dockerfile."""
    return {name.replace("_", "-"): value for name, value in flags.items() if value not in ("", False, 0, ())}


def _copy(copy: Copy, reader: _Reader) -> LookAhead:
    chown, chmod = reader.word(copy.chown), reader.word(copy.chmod)
    argv = reader.words([*copy.sources, copy.destination])
    reader.heredocs(copy.heredocs)
    # `from` is a word of Python's
    flags = {"from": copy.source_stage} if copy.source_stage else {}
    given = _given(chown=chown, chmod=chmod, link=copy.link, parents=copy.parents, exclude=copy.excludes)
    return LookAhead({**flags, **given}, None, argv, tuple(reader.expansions), copy.heredocs)


def _add(add: Add, reader: _Reader) -> LookAhead:
    chown, chmod, checksum = reader.words([add.chown, add.chmod, add.checksum])
    argv = reader.words([*add.sources, add.destination])
    reader.heredocs(add.heredocs)
    flags = _given(
        chown=chown, chmod=chmod, checksum=checksum, link=add.link, keep_git_dir=add.keep_git_dir, exclude=add.excludes
    )
    if add.unpack is not None:
        flags["unpack"] = add.unpack
    return LookAhead(flags, None, argv, tuple(reader.expansions), add.heredocs)


def _command(command: CommandLine) -> tuple[str | None, tuple[str, ...] | None]:
    return (command.text, None) if command.in_shell else (None, command.arguments)


def _run(run: Run, reader: _Reader) -> LookAhead:
    mounts = reader.words(run.mounts)
    flags = _given(mount=mounts, network=run.network, security=run.security, device=run.devices)
    return LookAhead(flags, *_command(run.command), tuple(reader.expansions), run.heredocs)


def _cmd(instruction: Cmd | Entrypoint, _: _Reader) -> LookAhead:
    return LookAhead({}, *_command(instruction.command))


def _arg(arg: Arg, reader: _Reader) -> LookAhead:
    argv: list[str] = []
    for definition in arg.definitions:
        value, expansion = reader.variables.declare(definition, reader.location)
        if expansion is not None:
            reader.keep(expansion)
        argv.append(definition.name if value is None else f"{definition.name}={value}")
    return LookAhead({}, None, tuple(argv), tuple(reader.expansions))


def _env(env: Env, reader: _Reader) -> LookAhead:
    return _assigned(reader.variables.assign(env.pairs, reader.location))


def _label(label: Label, reader: _Reader) -> LookAhead:
    expand, place = reader.variables.expand, reader.location
    return _assigned([(expand(pair.key, place), expand(pair.value, place)) for pair in label.pairs])


def _assigned(pairs: Sequence[tuple[Expansion, Expansion]]) -> LookAhead:
    argv = tuple(f"{key.text}={value.text}" for key, value in pairs)
    return LookAhead({}, None, argv, tuple(expansion for pair in pairs for expansion in pair))


def _expose(expose: Expose, reader: _Reader) -> LookAhead:
    argv: list[str] = []
    for port in expose.ports:
        words, unknown = reader.variables.expand_words(port, reader.location)
        argv += words
        # BuildKit does not look for undefined variables here
        reader.keep(Expansion(" ".join(words), (), unknown))
    return LookAhead({}, None, tuple(argv), tuple(reader.expansions))


def _volume(volume: Volume, reader: _Reader) -> LookAhead:
    return LookAhead({}, None, reader.words(volume.paths), tuple(reader.expansions))


def _workdir(workdir: Workdir, reader: _Reader) -> LookAhead:
    return LookAhead({}, reader.word(workdir.path), None, tuple(reader.expansions))


def _user(user: User, reader: _Reader) -> LookAhead:
    return LookAhead({}, reader.word(user.user), None, tuple(reader.expansions))


def _stop_signal(stop_signal: StopSignal, reader: _Reader) -> LookAhead:
    return LookAhead({}, reader.word(stop_signal.signal), None, tuple(reader.expansions))


def _shell(shell: Shell, _: _Reader) -> LookAhead:
    return LookAhead({}, None, shell.arguments)


def _maintainer(maintainer: Maintainer, _: _Reader) -> LookAhead:
    return LookAhead({}, maintainer.name)


def _healthcheck(check: Healthcheck, _: _Reader) -> LookAhead:
    times = {
        "interval": check.interval,
        "timeout": check.timeout,
        "start-period": check.start_period,
        "start-interval": check.start_interval,
    }
    flags: dict[str, Flag] = {name: duration(value) for name, value in times.items() if value}
    return LookAhead({**flags, **_given(retries=check.retries)}, None, check.test)


def _onbuild(onbuild: Onbuild, _: _Reader) -> LookAhead:
    return LookAhead({}, onbuild.trigger)


_READERS: Mapping[type[Instruction], Callable[..., LookAhead]] = {
    Add: _add,
    Arg: _arg,
    Cmd: _cmd,
    Copy: _copy,
    Entrypoint: _cmd,
    Env: _env,
    Expose: _expose,
    Healthcheck: _healthcheck,
    Label: _label,
    Maintainer: _maintainer,
    Onbuild: _onbuild,
    Run: _run,
    Shell: _shell,
    StopSignal: _stop_signal,
    User: _user,
    Volume: _volume,
    Workdir: _workdir,
}
