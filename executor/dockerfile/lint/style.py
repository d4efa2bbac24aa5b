"""Checks of how the file is written: case, comments, blank lines (BuildKit `parse.go`, `validations.go`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from executor.dockerfile.flags import split_flags
from executor.dockerfile.forms import list_form
from executor.dockerfile.instructions import Arg, Dockerfile, Instruction, Maintainer, Stage
from executor.dockerfile.lint.comments import NO_COMMENTS, Comments
from executor.dockerfile.lint.subject import Hit
from executor.dockerfile.reader import EMPTY_CONTINUATION, split_keyword
from executor.dockerfile.words import SPACE
from executor.errors import Location


def written_keyword(text: str) -> str:
    """The keyword of an instruction as it was written."""
    text = text.strip(SPACE)
    return text[: len(split_keyword(text)[0])]


def check_style(dockerfile: Dockerfile, comments: Mapping[int, Comments]) -> Iterator[Hit]:
    """Every hit of these rules; they need nothing but the file."""
    yield from _empty_continuations(dockerfile)
    yield from _instruction_casing(dockerfile)
    for arg in dockerfile.global_args:
        yield from _arg_description(arg, comments)
    for stage in dockerfile.stages:
        yield from _from_line(stage, comments)
        for instruction in stage.instructions:
            if isinstance(instruction, Maintainer):
                message = "Maintainer instruction is deprecated in favor of using label"
                yield Hit("MaintainerDeprecated", message, instruction.location, instruction.location.line)
            elif isinstance(instruction, Arg):
                yield from _arg_description(instruction, comments)


def _empty_continuations(dockerfile: Dockerfile) -> Iterator[Hit]:
    for warning in dockerfile.warnings:
        if warning.code == EMPTY_CONTINUATION:
            # BuildKit names the line with which the continuation ends
            end = warning.location.end_line or warning.location.line
            place = Location(warning.location.file, end, end)
            yield Hit("NoEmptyContinuation", "Empty continuation line", place, warning.location.line)


def _instruction_casing(dockerfile: Dockerfile) -> Iterator[Hit]:
    """ARGs before the first FROM do not count, as in BuildKit."""
    places: list[Stage | Instruction] = []
    for stage in dockerfile.stages:
        places += [stage, *stage.instructions]
    keywords = [written_keyword(place.text) for place in places]
    lower = sum(keyword == keyword.lower() for keyword in keywords)
    upper = sum(keyword == keyword.upper() for keyword in keywords)
    wanted, casing = (str.lower, "lowercase") if lower > upper else (str.upper, "uppercase")
    for place, keyword in zip(places, keywords, strict=True):
        if keyword != wanted(keyword):
            message = f"Command '{keyword}' should match the case of the command majority ({casing})"
            yield Hit("ConsistentInstructionCasing", message, place.location, place.location.line)


def _from_line(stage: Stage, comments: Mapping[int, Comments]) -> Iterator[Hit]:
    keyword = written_keyword(stage.text)
    _, arguments = split_flags(stage.text.strip(SPACE)[len(keyword) :])
    words = list_form(arguments)
    line = stage.location.line
    if len(words) == 3 and words[2] != words[2].lower():
        message = f"Stage name '{words[2]}' should be lowercase"
        yield Hit("StageNameCasing", message, stage.location, line)
    if len(words) == 3 and not _same_case(keyword, words[1]):
        message = f"'{words[1]}' and '{keyword}' keywords' casing do not match"
        yield Hit("FromAsCasing", message, stage.location, line)
    description = comments.get(line, NO_COMMENTS).description
    if stage.name and description and description.split(" ")[0] != stage.name:
        message = f"Comment for FROM should follow the format: `# {stage.name} <description>`"
        yield Hit("InvalidDefinitionDescription", message, stage.location, line)


def _same_case(keyword: str, other: str) -> bool:
    """Whether `as` is in the case of FROM; a keyword of mixed case is told by another rule."""
    if keyword == keyword.lower():
        return other == other.lower()
    return keyword != keyword.upper() or other == other.upper()


def _arg_description(arg: Arg, comments: Mapping[int, Comments]) -> Iterator[Hit]:
    description = comments.get(arg.location.line, NO_COMMENTS).description
    names = [definition.name for definition in arg.definitions]
    if description and description.split(" ")[0] not in names:
        example = names[0] if len(names) == 1 else "<arg_key>"
        message = f"Comment for ARG should follow the format: `# {example} <description>`"
        yield Hit("InvalidDefinitionDescription", message, arg.location, arg.location.line)
