"""What BuildKit's Dockerfile language has and this version does not build yet: refused by name, never skipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from executor.dockerfile.addsource import GitSource, UrlSource, add_sources, require_local
from executor.dockerfile.chmod import parse_chmod
from executor.dockerfile.instructions import Add, Copy, Dockerfile, Instruction, Run
from executor.dockerfile.runmount import check_mounts
from executor.errors import DockerfileError


def require_supported(dockerfile: Dockerfile) -> None:
    """`DockerfileError` with code `dockerfile-unsupported` at the first thing that cannot be built."""
    for stage in dockerfile.stages:
        for instruction in stage.instructions:
            require_supported_instruction(instruction)


def unsupported(dockerfile: Dockerfile) -> tuple[DockerfileError, ...]:
    """What `require_supported` refuses, for every instruction that it would refuse."""
    found: list[DockerfileError] = []
    for stage in dockerfile.stages:
        for instruction in stage.instructions:
            try:
                require_supported_instruction(instruction)
            except DockerfileError as error:
                found.append(error)
    return tuple(found)


def require_supported_instruction(instruction: Instruction) -> None:
    """`DockerfileError` with code `dockerfile-unsupported` when this instruction cannot be built."""
    match instruction:
        case Add() | Copy():
            _check_copy(instruction)
        case Run():
            _check_run(instruction)
        case _:
            pass


def refuse_remote(instruction: Add | Copy, sources: Sequence[str]) -> None:
    """`DockerfileError` for expanded sources that are not local: COPY never takes them, ADD not yet."""
    if isinstance(instruction, Copy):
        if instruction.source_stage is None:
            require_local(sources, instruction.location)
        return
    for source in add_sources(sources, instruction.location, checksum=instruction.checksum):
        if isinstance(source, UrlSource):
            _refuse(instruction, "ADD of a URL", "fetch it by RUN, or put it into the build context")
        if isinstance(source, GitSource):
            _refuse(instruction, "ADD of a git repository", "clone it by RUN, or put it into the build context")


def _check_copy(copy: Add | Copy) -> None:
    # sources with a variable are checked when they have been expanded
    if not any("$" in word for word in (*copy.sources, *([copy.checksum] if isinstance(copy, Add) else []))):
        refuse_remote(copy, copy.sources)
    if isinstance(copy, Copy) and copy.parents:
        _refuse(copy, "COPY --parents", "name the directories in the destination")
    # a mode with a variable is checked when it has been expanded
    if copy.chmod and "$" not in copy.chmod:
        parse_chmod(copy.chmod.strip("\"'"), copy.location)


def _check_run(run: Run) -> None:
    if any(words.is_of_type("ssh") for words in check_mounts(run)):
        _refuse(run, "RUN --mount=type=ssh", "fetch over https with a secret, or in an earlier stage")
    if run.security.lower() == "insecure":
        _refuse(run, "RUN --security=insecure", "remove the flag: no step gets rights over the machine")
    if run.devices:
        _refuse(run, "RUN --device", "remove the flag")


def _refuse(instruction: Instruction, what: str, hint: str) -> NoReturn:
    raise DockerfileError(
        f"{what} is not supported yet", code="dockerfile-unsupported", location=instruction.location, hint=hint
    )
