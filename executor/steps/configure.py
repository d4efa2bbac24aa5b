"""The instructions that change an image's configuration and nothing else (BuildKit `dockerfile2llb/convert.go`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from executor.dockerfile import history
from executor.dockerfile.instructions import (
    Arg,
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Shell,
    StopSignal,
    User,
    Volume,
)
from executor.dockerfile.ports import check_signal, parse_ports
from executor.errors import DockerfileError
from executor.steps.state import StageState


def configure(state: StageState, instruction: Instruction, created: str) -> StageState | None:
    """The state behind `instruction`, or None when it is not one of those."""
    match instruction:
        case Arg():
            scope, given = state.scope.declare(instruction)
            return replace(state, scope=scope).recorded(created, history.arg(given))
        case Env():
            scope, pairs = state.scope.assign(instruction)
            return (
                replace(state, scope=scope)
                .configured(env=tuple(scope.config_env()))
                .recorded(created, history.env(pairs))
            )
        case Label():
            return _label(state, instruction, created)
        case User():
            user = state.scope.expand(instruction.user, instruction.location)
            return state.configured(user=user).recorded(created, history.user(user))
        case Cmd():
            words = state.command(instruction.command.arguments, in_shell=instruction.command.in_shell)
            return replace(state.configured(cmd=words), cmd_set=True).recorded(created, history.cmd(words))
        case Entrypoint():
            return _entrypoint(state, instruction, created)
        case Shell():
            return state.configured(shell=instruction.arguments).recorded(created, history.shell(instruction.arguments))
        case Expose():
            return _expose(state, instruction, created)
        case Volume():
            return _volume(state, instruction, created)
        case _:
            return _configure_rest(state, instruction, created)


def _configure_rest(state: StageState, instruction: Instruction, created: str) -> StageState | None:
    match instruction:
        case StopSignal():
            name = check_signal(state.scope.expand(instruction.signal, instruction.location), instruction.location)
            return state.configured(stop_signal=name).recorded(created, history.stop_signal(name))
        case Healthcheck():
            check = _healthcheck(instruction)
            return state.configured(healthcheck=check).recorded(created, history.healthcheck(instruction))
        case Onbuild():
            # BuildKit gives ONBUILD no line of history
            return state.configured(on_build=(*state.config.config.on_build, instruction.trigger))
        case Maintainer():
            authored = replace(state, config=replace(state.config, author=instruction.name))
            return authored.recorded(created, history.maintainer(instruction.name))
        case _:
            return None


def _label(state: StageState, instruction: Label, created: str) -> StageState:
    words = ((pair.key, pair.value) for pair in instruction.pairs)
    pairs = state.scope.expand_pairs(words, instruction.location)
    labels: Mapping[str, str] = {**state.config.config.labels, **dict(pairs)}
    return state.configured(labels=labels).recorded(created, history.label(pairs))


def _entrypoint(state: StageState, instruction: Entrypoint, created: str) -> StageState:
    words = state.command(instruction.command.arguments, in_shell=instruction.command.in_shell)
    changed = state.configured(entrypoint=words)
    if not state.cmd_set:
        # a CMD of the base was meant for the base's ENTRYPOINT
        changed = changed.configured(cmd=None)
    return changed.recorded(created, history.entrypoint(words))


def _expose(state: StageState, instruction: Expose, created: str) -> StageState:
    location = instruction.location
    words = [word for text in instruction.ports for word in state.scope.expand_words(text, location)]
    ports = parse_ports(words, location)
    known = dict.fromkeys((*state.config.config.exposed_ports, *ports))
    return state.configured(exposed_ports=tuple(known)).recorded(created, history.expose(ports))


def _volume(state: StageState, instruction: Volume, created: str) -> StageState:
    paths = [state.scope.expand(path, instruction.location) for path in instruction.paths]
    if not all(paths):
        raise DockerfileError("VOLUME: expected a path, found none after expansion", location=instruction.location)
    known = dict.fromkeys((*state.config.config.volumes, *paths))
    return state.configured(volumes=tuple(known)).recorded(created, history.volume(paths))


def _healthcheck(check: Healthcheck) -> dict[str, object]:
    """The field as Docker's image specification has it (`HealthConfig`): nanoseconds, zero left out."""
    values = {
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    return {"Test": list(check.test), **{name: value for name, value in values.items() if value}}
