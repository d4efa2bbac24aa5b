"""Checks of the instructions of a stage, in order, with its variables (BuildKit `dockerfile2llb/convert.go`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from executor.dockerfile.history import quote
from executor.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Onbuild,
    Shell,
    Stage,
    Workdir,
)
from executor.dockerfile.known_variables import KnownVariables
from executor.dockerfile.lint.ignored import ignored_sources
from executor.dockerfile.lint.nearest import nearest
from executor.dockerfile.lint.stages import check_from
from executor.dockerfile.lint.style import written_keyword
from executor.dockerfile.lint.subject import BaseImage, Hit, Subject
from executor.dockerfile.look_ahead import LookAhead, look_ahead
from executor.dockerfile.parse import parse_trigger
from executor.dockerfile.scope import GlobalScope
from executor.errors import DockerfileError
from executor.oci import Platform
from executor.plan import SCRATCH, platform_of_from

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|\Z)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|\Z)", re.IGNORECASE)


class _StageState:
    """What a stage hands on to one that goes on from it, and what counts within it."""

    def __init__(self, variables: KnownVariables, *, workdir_set: bool = False, has_shell: bool = False) -> None:
        self.variables = variables
        self.workdir_set = workdir_set
        self.has_shell = has_shell
        self.last: dict[type[Instruction], Instruction] = {}


class StageChecks:
    """Walks the stages of a file in order."""

    def __init__(self, subject: Subject, scope: GlobalScope) -> None:
        self._subject = subject
        self._scope = scope
        self._states: dict[int, _StageState] = {}
        self._by_name: dict[str, Stage] = {}

    def check(self) -> Iterator[Hit]:
        for stage in self._subject.dockerfile.stages:
            yield from check_from(self._subject, self._scope, stage)
            if self._subject.needed is None or stage.index in self._subject.needed:
                yield from self._check_stage(stage)
            if stage.name:
                self._by_name[stage.name] = stage

    def _check_stage(self, stage: Stage) -> Iterator[Hit]:
        base = self._subject.bases.get(stage.index)
        parent = self._parent(stage)
        if base is not None and parent is None:
            yield from self._base_platform(stage, base)
        state = self._begin(stage, parent, base)
        self._states[stage.index] = state
        try:
            for instruction in [*_triggers(stage, parent, base), *stage.instructions]:
                yield from self._check(instruction, state)
        except DockerfileError:
            # a build would end here with this error, and whoever asked is told by the plan
            return

    def _base_name(self, stage: Stage) -> str:
        try:
            return self._scope.expand(stage.base, stage.location)
        except DockerfileError:
            return ""

    def _parent(self, stage: Stage) -> Stage | None:
        return self._by_name.get(self._base_name(stage).lower())

    def _begin(self, stage: Stage, parent: Stage | None, base: BaseImage | None) -> _StageState:
        if parent is not None and parent.index in self._states:
            state = self._states[parent.index]
            return _StageState(state.variables.child(), workdir_set=state.workdir_set, has_shell=state.has_shell)
        environment = base.environment if base else () if self._base_name(stage) == SCRATCH else None
        variables = KnownVariables(
            environment, self._scope.values, self._subject.build_args, self._subject.dockerfile.escape
        )
        return _StageState(variables, has_shell=base is not None and base.has_shell)

    def _base_platform(self, stage: Stage, base: BaseImage) -> Iterator[Hit]:
        expected = self._subject.platform
        if stage.platform:
            text = self._scope.expand(stage.platform, stage.location)
            expected = platform_of_from(text, self._subject.build_platform)
        actual = base.platform
        if actual and (actual.os, actual.architecture) != (expected.os, expected.architecture):
            message = (
                f"Base image {self._base_name(stage)} was pulled with platform {_quoted(actual)}, "
                f"expected {_quoted(expected)} for current build"
            )
            yield Hit("InvalidBaseImagePlatform", message, stage.location, stage.location.line)

    def _check(self, instruction: Instruction, state: _StageState) -> Iterator[Hit]:
        variables = state.variables
        known = len(variables.names)
        ahead = look_ahead(instruction, variables)
        for expansion in ahead.expansions:
            for name in expansion.undefined:
                # what the instruction itself has set is no suggestion
                near = nearest(name, islice(variables.names, known))
                message = f"Usage of undefined variable '${name}'" + (f" (did you mean ${near}?)" if near else "")
                yield _hit("UndefinedVar", message, instruction)
        match instruction:
            case Arg():
                yield from _secrets(instruction, [definition.name for definition in instruction.definitions])
            case Env() | Label():
                yield from _pairs(instruction, ahead)
            case Workdir():
                yield from _workdir(instruction, ahead, state)
            case Expose():
                yield from _expose(instruction, ahead)
            case Shell():
                state.has_shell = True
            case Copy() | Add():
                yield from self._copy(instruction, ahead)
            case Cmd() | Entrypoint() | Healthcheck():
                yield from _last_counts(instruction, state)
            case _:
                pass

    def _copy(self, instruction: Copy | Add, ahead: LookAhead) -> Iterator[Hit]:
        if self._subject.ignore is None or (isinstance(instruction, Copy) and instruction.source_stage):
            return
        verb = "Add" if isinstance(instruction, Add) else "Copy"
        # chown, chmod and ADD's checksum are expanded first
        first = 3 if isinstance(instruction, Add) else 2
        sources = ahead.expansions[first : first + len(instruction.sources)]
        known = [source.text for source in sources if not source.unknown]
        for path in ignored_sources(self._subject.ignore, known):
            message = f"Attempting to {verb} file {quote(path)} that is excluded by .dockerignore"
            yield _hit("CopyIgnoredFile", message, instruction)


def _hit(rule: str, message: str, instruction: Instruction) -> Hit:
    return Hit(rule, message, instruction.location, instruction.location.line)


def _quoted(platform: Platform) -> str:
    return quote(str(platform))


def _triggers(stage: Stage, parent: Stage | None, base: BaseImage | None) -> Iterator[Instruction]:
    """The ONBUILD triggers that a FROM runs; what they break is told at the FROM line."""
    if parent is not None:
        texts = [item.trigger for item in parent.instructions if isinstance(item, Onbuild)]
    else:
        texts = list(base.triggers) if base else []
    for text in texts:
        yield replace(parse_trigger(text, "ONBUILD"), location=stage.location)


def _secrets(instruction: Arg | Env, names: Sequence[str]) -> Iterator[Hit]:
    for name in names:
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            message = f"Do not use ARG or ENV instructions for sensitive data ({instruction.keyword} {quote(name)})"
            yield _hit("SecretsUsedInArgOrEnv", message, instruction)


def _pairs(instruction: Env | Label, ahead: LookAhead) -> Iterator[Hit]:
    keyword = written_keyword(instruction.text)
    for pair in instruction.pairs:
        if pair.legacy:
            message = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
            yield _hit("LegacyKeyValueFormat", message, instruction)
    if isinstance(instruction, Env):
        yield from _secrets(instruction, [expansion.text for expansion in ahead.expansions[::2]])


def _workdir(instruction: Workdir, ahead: LookAhead, state: _StageState) -> Iterator[Hit]:
    path = ahead.value or ""
    if not state.workdir_set and not path.startswith("/") and not ahead.unknown:
        message = f"Relative workdir {quote(path)} can have unexpected results if the base image changes"
        yield _hit("WorkdirRelativePath", message, instruction)
    state.workdir_set = True


def _expose(instruction: Expose, ahead: LookAhead) -> Iterator[Hit]:
    for word in () if ahead.unknown else ahead.argv or ():
        host, _, container = word.rpartition(":")
        protocol = container.partition("/")[2]
        if protocol != protocol.lower():
            message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
            yield _hit("ExposeProtoCasing", message, instruction)
        if host.strip(":"):
            message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
            yield _hit("ExposeInvalidFormat", message, instruction)


def _last_counts(instruction: Cmd | Entrypoint | Healthcheck, state: _StageState) -> Iterator[Hit]:
    keyword = written_keyword(instruction.text)
    earlier = state.last.get(type(instruction))
    if earlier is not None:
        message = (
            f"Multiple {keyword} instructions should not be used in the same stage because only the last one will "
            "be used"
        )
        # the place is that of the instruction that does not count
        yield Hit("MultipleInstructionsDisallowed", message, earlier.location, instruction.location.line)
    state.last[type(instruction)] = instruction
    if isinstance(instruction, Cmd | Entrypoint) and instruction.command.in_shell and not state.has_shell:
        message = f"JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        yield _hit("JSONArgsRecommended", message, instruction)
