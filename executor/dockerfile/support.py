"""What BuildKit's Dockerfile language has and this version does not build yet: refused by name, never skipped."""

from __future__ import annotations

import re
from typing import NoReturn

from executor.dockerfile.instructions import Add, Copy, Dockerfile, Instruction, Run
from executor.errors import DockerfileError, Location

_OCTAL_MODE = re.compile(r"[0-7]{1,4}")


def require_supported(dockerfile: Dockerfile) -> None:
    """`DockerfileError` with code `dockerfile-unsupported` at the first thing that cannot be built."""
    for stage in dockerfile.stages:
        for instruction in stage.instructions:
            _check(instruction)


def unsupported(dockerfile: Dockerfile) -> tuple[DockerfileError, ...]:
    """What `require_supported` refuses, for every instruction that it would refuse."""
    found: list[DockerfileError] = []
    for stage in dockerfile.stages:
        for instruction in stage.instructions:
            try:
                _check(instruction)
            except DockerfileError as error:
                found.append(error)
    return tuple(found)


def _check(instruction: Instruction) -> None:
    match instruction:
        case Add():
            _refuse(instruction, "ADD", "use COPY for local files, and RUN with curl or tar for the rest")
        case Copy():
            _check_copy(instruction)
        case Run():
            _check_run(instruction)
        case _:
            pass


def _check_copy(copy: Copy) -> None:
    if copy.link:
        _refuse(copy, "COPY --link", "remove the flag: the files are the same without it")
    if copy.parents:
        _refuse(copy, "COPY --parents", "name the directories in the destination")
    if copy.excludes:
        _refuse(copy, "COPY --exclude", "list the paths in .dockerignore, or remove them in the stage copied from")
    if copy.heredocs:
        _refuse(copy, "a here-document in COPY", "put the text into a file of the build context")
    # a mode with a variable is checked when it has been expanded
    if copy.chmod and "$" not in copy.chmod:
        octal_mode(copy.chmod, copy.location)


def octal_mode(text: str, location: Location) -> int:
    """The mode that an expanded `--chmod` gives; `DockerfileError` for anything but octal digits."""
    if not _OCTAL_MODE.fullmatch(text):
        raise DockerfileError(
            f"--chmod={text[:40]} is not supported yet: expected up to four octal digits",
            code="dockerfile-unsupported",
            location=location,
            hint="give the mode as a number, such as 755",
        )
    return int(text, 8)


def _check_run(run: Run) -> None:
    if run.mounts:
        _refuse(run, "RUN --mount", "COPY what the command needs, and remove it in a later stage")
    if run.network:
        _refuse(run, "RUN --network", "remove the flag, and choose the network of the whole build")
    if run.security:
        _refuse(run, "RUN --security", "remove the flag")
    if run.devices:
        _refuse(run, "RUN --device", "remove the flag")
    if run.heredocs:
        _refuse(run, "a here-document in RUN", "join the commands with && and line continuations")


def _refuse(instruction: Instruction, what: str, hint: str) -> NoReturn:
    raise DockerfileError(
        f"{what} is not supported yet", code="dockerfile-unsupported", location=instruction.location, hint=hint
    )
