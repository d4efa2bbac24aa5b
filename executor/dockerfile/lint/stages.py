"""Checks of FROM lines (BuildKit `dockerfile2llb/validations.go`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from executor.dockerfile.history import quote
from executor.dockerfile.instructions import Stage
from executor.dockerfile.known_variables import WatchedValues
from executor.dockerfile.lint.nearest import nearest
from executor.dockerfile.lint.subject import Hit, Subject
from executor.dockerfile.scope import GlobalScope, platform_args
from executor.dockerfile.words import Expander
from executor.errors import DockerfileError, UsageError
from executor.oci import OciError
from executor.plan import platform_of_from
from executor.reference import Reference

_RESERVED = frozenset({"context", "scratch"})


def check_names(subject: Subject) -> Iterator[Hit]:
    """Stage names that are reserved, or that an earlier stage has."""
    seen: set[str] = set()
    for stage in subject.dockerfile.stages:
        if not stage.name:
            continue
        if stage.name in _RESERVED:
            message = f"Stage name should not use the same name as reserved stage {quote(stage.name)}"
            yield Hit("ReservedStageName", message, stage.location, stage.location.line)
        if stage.name in seen:
            message = f"Duplicate stage name {quote(stage.name)}, stage names should be unique"
            yield Hit("DuplicateStageName", message, stage.location, stage.location.line)
        seen.add(stage.name)


def predefined_args(subject: Subject) -> dict[str, str]:
    """The platform arguments; `--build-arg` replaces them."""
    values = platform_args(subject.platform, subject.build_platform, subject.target_name)
    return {name: subject.build_args.get(name, value) for name, value in values.items()}


def check_default_bases(subject: Subject) -> Iterator[Hit]:
    """Whether every base is a name without any `--build-arg`; nothing where an expansion fails, as in BuildKit."""
    dockerfile = subject.dockerfile
    earlier: set[str] = set()
    try:
        scope = GlobalScope.resolve(dockerfile.global_args, {}, predefined_args(subject), Expander(dockerfile.escape))
        for stage in dockerfile.stages:
            base = scope.expand(stage.base, stage.location)
            # a stage's name in another case is accepted here, though not by BuildKit
            if base.lower() not in earlier and not _is_reference(base):
                message = f"Default value for ARG {stage.base} results in empty or invalid base image name"
                yield Hit("InvalidDefaultArgInFrom", message, stage.location, stage.location.line)
            earlier.add(stage.name or "")
    except DockerfileError:
        return


def _is_reference(text: str) -> bool:
    try:
        Reference.parse(text)
    except UsageError:
        return False
    return True


def check_from(subject: Subject, scope: GlobalScope, stage: Stage) -> Iterator[Hit]:
    """Undeclared arguments in a FROM line, and platforms that are redundant or constant."""
    declared = {definition.name for arg in subject.dockerfile.global_args for definition in arg.definitions}
    base = _expand(scope, stage.base, stage)
    if base is not None:
        yield from _undeclared(base[1], declared, scope.values, stage)
    platform = _expand(scope, stage.platform, stage) if stage.platform else None
    if platform is None:
        return
    text, watched = platform
    yield from _undeclared(watched, declared, scope.values, stage)
    if set(watched.matched) == {"TARGETPLATFORM"} and not watched.unmatched:
        if text == scope.values["TARGETPLATFORM"]:
            message = (
                f"Setting platform to predefined {stage.platform} in FROM is redundant as this is the default behavior"
            )
            yield Hit("RedundantTargetPlatform", message, stage.location, stage.location.line)
    elif not watched.matched and not watched.unmatched:
        yield from _constant_platform(text, stage, subject)


def _expand(scope: GlobalScope, word: str, stage: Stage) -> tuple[str, WatchedValues] | None:
    watched = WatchedValues(scope.values)
    try:
        return scope.expander.expand(word, watched, stage.location), watched
    except DockerfileError:
        return None


def _undeclared(watched: WatchedValues, declared: set[str], values: Mapping[str, str], stage: Stage) -> Iterator[Hit]:
    for name in watched.unmatched:
        if name not in declared:
            near = nearest(name, sorted({*values, *declared}))
            message = f"FROM argument '{name}' is not declared" + (f" (did you mean {near}?)" if near else "")
            yield Hit("UndefinedArgInFrom", message, stage.location, stage.location.line)


def _constant_platform(text: str, stage: Stage, subject: Subject) -> Iterator[Hit]:
    """A stage whose name tells the platform is meant to be for that one."""
    try:
        platform = platform_of_from(text, subject.build_platform)
    except OciError:
        return
    name = stage.name or ""
    if platform.os not in name and platform.architecture not in name:
        message = f"FROM --platform flag should not use constant value {quote(text)}"
        yield Hit("FromPlatformFlagConstDisallowed", message, stage.location, stage.location.line)
