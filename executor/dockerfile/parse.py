"""A Dockerfile's bytes to typed instructions and stages (BuildKit `instructions/parse.go`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from executor.dockerfile import forms
from executor.dockerfile.flags import FlagKind, Flags, parse_flags, split_flags
from executor.dockerfile.healthcheck import parse_healthcheck
from executor.dockerfile.heredocs import parse_heredoc
from executor.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from executor.dockerfile.json_form import parse_json_form
from executor.dockerfile.reader import LogicalLine, Reading, read, split_keyword
from executor.dockerfile.suggest import did_you_mean
from executor.dockerfile.support import require_supported
from executor.dockerfile.words import SPACE
from executor.errors import DockerfileError

_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")
_FROM_FLAGS: Mapping[str, FlagKind] = {"platform": "text"}
_COPY_FLAGS: Mapping[str, FlagKind] = {
    "from": "text",
    "chown": "text",
    "chmod": "text",
    "link": "switch",
    "parents": "switch",
    "exclude": "texts",
}
_ADD_FLAGS: Mapping[str, FlagKind] = {
    "chown": "text",
    "chmod": "text",
    "checksum": "text",
    "link": "switch",
    "keep-git-dir": "switch",
    "unpack": "switch",
    "exclude": "texts",
}
_RUN_FLAGS: Mapping[str, FlagKind] = {"mount": "texts", "network": "text", "security": "text", "device": "texts"}
# file names and commands are bytes; everything else ends up in JSON, which has no place for them
_BYTES_ALLOWED = frozenset({"RUN", "COPY", "ADD"})


class _Request:
    """One logical line, taken apart into flags and arguments."""

    def __init__(self, line: LogicalLine, escape: str) -> None:
        self.line = line
        self.escape = escape
        self.keyword = line.keyword
        self.location = line.location
        self.flag_words, self.arguments = split_flags(line.rest)

    def flags(self, known: Mapping[str, FlagKind]) -> Flags:
        return parse_flags(self.flag_words, known, self.keyword, self.location)

    def error(self, message: str, hint: str | None = None) -> DockerfileError:
        return DockerfileError(f"{self.keyword} {message}", location=self.location, hint=hint)

    def one_argument(self) -> str:
        self.flags({})
        if not self.arguments:
            raise self.error("requires exactly one argument, found none")
        return self.arguments


def parse(text: bytes, file: str) -> Dockerfile:
    """The Dockerfile that `text` is; `file` names it in errors. Raises `DockerfileError`, always with a location."""
    dockerfile = parse_syntax(text, file)
    require_supported(dockerfile)
    return dockerfile


def parse_syntax(text: bytes, file: str) -> Dockerfile:
    """Like `parse`, but also a Dockerfile with syntax that is understood and cannot be built yet (`support`)."""
    return _assemble(read(text, file), file)


def parse_trigger(text: str, file: str) -> Instruction:
    """The one instruction of an ONBUILD trigger as an image carries it; `file` names the image in errors."""
    reading = read(text.encode("utf-8", "surrogateescape"), file)
    if len(reading.lines) != 1:
        raise DockerfileError("an ONBUILD trigger must be one instruction", location=reading.lines[1].location)
    return _instruction(reading.lines[0], reading.escape)


def _assemble(reading: Reading, file: str) -> Dockerfile:
    global_args: list[Arg] = []
    stages: list[tuple[LogicalLine, list[Instruction]]] = []
    for line in reading.lines:
        if line.keyword == "FROM":
            stages.append((line, []))
            continue
        instruction = _instruction(line, reading.escape)
        if stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            global_args.append(instruction)
        else:
            raise DockerfileError(
                f"expected FROM before the first {line.keyword}: there is no build stage yet",
                location=line.location,
                hint="only ARG may stand before the first FROM",
            )
    if not stages:
        raise DockerfileError("expected a FROM instruction, found none", location=reading.lines[-1].location)
    return Dockerfile(
        file=file,
        stages=tuple(_stage(line, index, found, reading.escape) for index, (line, found) in enumerate(stages)),
        global_args=tuple(global_args),
        directives=reading.directives,
        escape=reading.escape,
        warnings=reading.warnings,
    )


def _stage(line: LogicalLine, index: int, instructions: list[Instruction], escape: str) -> Stage:
    request = _Request(line, escape)
    _require_utf8(line)
    arguments = forms.list_form(request.arguments)
    name: str | None = None
    if len(arguments) == 3 and arguments[1].lower() == "as":
        name = arguments[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise request.error(
                f"has an invalid stage name {arguments[2][:60]!r}",
                hint="a stage name begins with a letter and goes on with letters, digits, '-', '_' and '.'",
            )
    elif len(arguments) != 1:
        raise request.error(
            f"requires one or three arguments, found {len(arguments)}", hint="write FROM image or FROM image AS name"
        )
    platform = request.flags(_FROM_FLAGS).text("platform")
    return Stage(
        index=index,
        name=name,
        base=arguments[0],
        platform=platform,
        instructions=tuple(instructions),
        location=line.location,
        text=line.text,
    )


def _instruction(line: LogicalLine, escape: str) -> Instruction:
    parser = _PARSERS.get(line.keyword)
    if parser is None:
        raise DockerfileError(
            f"unknown instruction {line.keyword[:60]!r}" if line.keyword else "expected an instruction, found none",
            location=line.location,
            hint=did_you_mean(line.keyword, [*_PARSERS, "FROM"])
            or f"known are {', '.join(sorted([*_PARSERS, 'FROM']))}",
        )
    if line.keyword not in _BYTES_ALLOWED:
        _require_utf8(line)
    return parser(_Request(line, escape))


def _require_utf8(line: LogicalLine) -> None:
    try:
        line.text.encode()
    except UnicodeEncodeError as error:
        raise DockerfileError(
            f"{line.keyword[:60]} contains bytes that are not UTF-8",
            location=line.location,
            hint="save the file in the encoding UTF-8",
        ) from error


def _arg(request: _Request) -> Arg:
    request.flags({})
    found = forms.arg_definitions(request.arguments, request.escape, request.location)
    return Arg(location=request.location, text=request.line.text, definitions=found)


def _env(request: _Request) -> Env:
    request.flags({})
    found = forms.pairs(request.arguments, request.escape, "ENV", request.location)
    return Env(location=request.location, text=request.line.text, pairs=found)


def _label(request: _Request) -> Label:
    request.flags({})
    found = forms.pairs(request.arguments, request.escape, "LABEL", request.location)
    return Label(location=request.location, text=request.line.text, pairs=found)


def _sources(request: _Request) -> tuple[tuple[str, ...], str]:
    """Sources that are files, and the destination; here-document words are left out."""
    arguments = forms.list_or_json(request.arguments, request.location)
    if len(arguments) < 2:
        raise request.error(
            f"requires at least two arguments, found {len(arguments)}", hint="the last argument is the destination"
        )
    if parse_heredoc(arguments[-1]) is not None:
        raise request.error("cannot take a here-document as its destination")
    if not request.line.heredocs:
        return arguments[:-1], arguments[-1]
    return tuple(word for word in arguments[:-1] if parse_heredoc(word) is None), arguments[-1]


def _copy(request: _Request) -> Copy:
    flags = request.flags(_COPY_FLAGS)
    sources, destination = _sources(request)
    source_stage = flags.text("from")
    if "$" in source_stage:
        raise request.error(
            f"cannot expand variables in --from: found {source_stage[:60]!r}",
            hint="name a stage by FROM ${VARIABLE} AS name, and copy from that",
        )
    return Copy(
        location=request.location,
        text=request.line.text,
        sources=sources,
        destination=destination,
        source_stage=source_stage or None,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.switch("link"),
        parents=flags.switch("parents"),
        excludes=flags.all("exclude"),
        heredocs=request.line.heredocs,
    )


def _add(request: _Request) -> Add:
    flags = request.flags(_ADD_FLAGS)
    sources, destination = _sources(request)
    return Add(
        location=request.location,
        text=request.line.text,
        sources=sources,
        destination=destination,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        checksum=flags.text("checksum"),
        link=flags.switch("link"),
        keep_git_dir=flags.switch("keep-git-dir"),
        unpack=flags.switches.get("unpack"),
        excludes=flags.all("exclude"),
        heredocs=request.line.heredocs,
    )


def _run(request: _Request) -> Run:
    flags = request.flags(_RUN_FLAGS)
    command = forms.command_line(request.arguments, request.location)
    if not command.in_shell and not command.arguments:
        raise request.error("has an empty command: expected at least one string in the array")
    # a bare RUN runs the shell with an empty text, as BuildKit does
    return Run(
        location=request.location,
        text=request.line.text,
        command=command,
        mounts=flags.all("mount"),
        network=flags.text("network"),
        security=flags.text("security"),
        devices=flags.all("device"),
        heredocs=request.line.heredocs,
    )


def _cmd(request: _Request) -> Cmd:
    request.flags({})
    command = forms.command_line(request.arguments, request.location)
    return Cmd(location=request.location, text=request.line.text, command=command)


def _entrypoint(request: _Request) -> Entrypoint:
    request.flags({})
    command = forms.command_line(request.arguments, request.location)
    return Entrypoint(location=request.location, text=request.line.text, command=command)


def _shell(request: _Request) -> Shell:
    request.flags({})
    arguments = parse_json_form(request.arguments, request.location)
    if not arguments:
        raise request.error(
            f"requires its arguments in JSON form, found {request.arguments[:60]!r}", hint='as in ["/bin/bash", "-c"]'
        )
    return Shell(location=request.location, text=request.line.text, arguments=arguments)


def _expose(request: _Request) -> Expose:
    request.flags({})
    ports = forms.list_form(request.arguments)
    if not ports:
        raise request.error("requires at least one argument")
    return Expose(location=request.location, text=request.line.text, ports=tuple(sorted(ports)))


def _volume(request: _Request) -> Volume:
    request.flags({})
    paths = tuple(item.strip(SPACE) for item in forms.list_or_json(request.arguments, request.location))
    if not paths:
        raise request.error("requires at least one argument")
    if not all(paths):
        raise request.error("cannot name an empty path")
    return Volume(location=request.location, text=request.line.text, paths=paths)


def _workdir(request: _Request) -> Workdir:
    return Workdir(path=request.one_argument(), location=request.location, text=request.line.text)


def _user(request: _Request) -> User:
    return User(user=request.one_argument(), location=request.location, text=request.line.text)


def _stop_signal(request: _Request) -> StopSignal:
    return StopSignal(signal=request.one_argument(), location=request.location, text=request.line.text)


def _maintainer(request: _Request) -> Maintainer:
    return Maintainer(name=request.one_argument(), location=request.location, text=request.line.text)


def _healthcheck(request: _Request) -> Healthcheck:
    return parse_healthcheck(request.line, request.flag_words, request.arguments)


def _onbuild(request: _Request) -> Onbuild:
    request.flags({})
    trigger_keyword, _ = split_keyword(request.arguments)
    if not trigger_keyword:
        raise request.error("requires an instruction")
    if trigger_keyword in {"ONBUILD", "FROM", "MAINTAINER"}:
        raise request.error(f"cannot have {trigger_keyword} as its trigger")
    if trigger_keyword not in _PARSERS:
        hint = did_you_mean(trigger_keyword, _PARSERS)
        raise request.error(f"has an unknown instruction {trigger_keyword[:60]!r} as its trigger", hint=hint)
    bodies = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in request.line.heredocs)
    return Onbuild(location=request.location, text=request.line.text, trigger=request.arguments + bodies)


_PARSERS: Mapping[str, Callable[[_Request], Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
