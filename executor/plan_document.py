"""A plan as JSON values: the documented output of `pushwright plan --json` (docs/plan.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from executor.dockerfile.instructions import Dockerfile, Heredoc, Instruction
from executor.dockerfile.known_variables import KnownVariables
from executor.dockerfile.lint.check import CheckReport
from executor.dockerfile.lint.rules import RULES, Finding
from executor.dockerfile.look_ahead import LookAhead, look_ahead
from executor.dockerfile.reader import EMPTY_CONTINUATION
from executor.dockerfile.suggest import did_you_mean
from executor.dockerfile.support import unsupported
from executor.errors import Location
from executor.plan import ImageSource, Plan, PlannedStage, ScratchSource, Source, StageSource

DOCUMENT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that is no finding of a check, and that whoever builds the file should know."""

    code: str
    message: str
    location: Location | None = None


def plan_document(plan: Plan, report: CheckReport) -> dict[str, Any]:
    """Everything that is known of a Dockerfile before anything is fetched.

    Raises `DockerfileError` where an instruction cannot be expanded.
    """
    stages, notices = _stages(plan)
    dockerfile = plan.dockerfile
    return {
        "version": DOCUMENT_VERSION,
        "dockerfile": dockerfile.file,
        "target": plan.target.stage.index,
        "platform": str(plan.platform),
        "args": [_global_arg(name, value) for name, value in _global_args(plan).items()],
        "stages": stages,
        "order": [planned.stage.index for planned in plan.stages],
        "groups": groups(plan),
        "images": [
            {"reference": str(image.reference.or_latest()), "platform": str(image.platform)} for image in plan.images()
        ],
        "unused_build_args": list(plan.unused_build_args),
        "directives": dict(dockerfile.directives),
        "findings": [finding_json(finding) for finding in report.findings],
        "findings_truncated": report.truncated,
        "check_error": report.as_error,
        "notices": [_notice_json(notice) for notice in [*file_notices(dockerfile), *_option_notices(report), *notices]],
    }


def groups(plan: Plan) -> list[list[int]]:
    """The needed stages in groups that can be built side by side: each needs only stages of the groups before it."""
    level: dict[int, int] = {}
    for planned in plan.stages:
        level[planned.stage.index] = max((level[index] + 1 for index in planned.dependencies()), default=0)
    return [[index for index, found in level.items() if found == number] for number in range(max(level.values()) + 1)]


def file_notices(dockerfile: Dockerfile) -> list[Notice]:
    """What parsing warns of, less what a check says, and what this version cannot build."""
    found = [
        Notice(warning.code, warning.message, warning.location)
        for warning in dockerfile.warnings
        if warning.code != EMPTY_CONTINUATION
    ]
    for error in unsupported(dockerfile):
        found.append(Notice(error.code, f"{error.message}: it cannot be built", error.location))
    return found


def _option_notices(report: CheckReport) -> list[Notice]:
    found = []
    for name in report.unknown_rules:
        near = did_you_mean(name, RULES) or "names depend on case"
        found.append(Notice("plan-check-unknown", f"no check has the name {name[:60]!r}: {near}"))
    return found


def finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "message": finding.message,
        **_place(finding.location),
        "detail": finding.detail,
        "hint": RULES[finding.rule].explanation,
    }


def _place(location: Location) -> dict[str, Any]:
    return {"start_line": location.line, "end_line": location.end_line or location.line}


def _notice_json(notice: Notice) -> dict[str, Any]:
    return {"code": notice.code, "message": notice.message, **(_place(notice.location) if notice.location else {})}


def _global_args(plan: Plan) -> dict[str, str | None]:
    """The names that ARGs before the first FROM declare, with their values."""
    names = (definition.name for arg in plan.dockerfile.global_args for definition in arg.definitions)
    return {name: plan.global_scope.values.get(name) for name in names}


def _global_arg(name: str, value: str | None) -> dict[str, Any]:
    return {"name": name, "value": value}


def _stages(plan: Plan) -> tuple[list[dict[str, Any]], list[Notice]]:
    needed = {planned.stage.index for planned in plan.stages}
    variables: dict[int, KnownVariables] = {}
    stages: list[dict[str, Any]] = []
    notices: list[Notice] = []
    for planned in plan.resolved:
        index = planned.stage.index
        variables[index] = _variables(planned, plan, variables)
        stages.append(_stage(planned, plan, variables[index], notices) | {"needed": index in needed})
    return stages, notices


def _variables(planned: PlannedStage, plan: Plan, earlier: Mapping[int, KnownVariables]) -> KnownVariables:
    if isinstance(planned.base, StageSource):
        return earlier[planned.base.index].child()
    environment = () if isinstance(planned.base, ScratchSource) else None
    return KnownVariables(environment, plan.global_scope.values, plan.build_args, plan.dockerfile.escape)


def _stage(planned: PlannedStage, plan: Plan, variables: KnownVariables, notices: list[Notice]) -> dict[str, Any]:
    stage = planned.stage
    instructions: list[dict[str, Any]] = []
    for position, instruction in enumerate(stage.instructions):
        ahead = look_ahead(instruction, variables)
        if ahead.unknown:
            notices.append(_unknown_notice(instruction, ahead, planned))
        source = planned.copies.get(position)
        instructions.append(_instruction(instruction, ahead, source, plan))
    end = stage.instructions[-1].location if stage.instructions else stage.location
    return {
        "index": stage.index,
        "name": stage.name,
        **_source(planned.base, plan, "base"),
        "platform": str(planned.platform),
        "start_line": stage.location.line,
        "end_line": end.end_line or end.line,
        "needs": list(planned.dependencies()),
        "instructions": instructions,
    }


def _source(source: Source, plan: Plan, key: str) -> dict[str, Any]:
    match source:
        case StageSource(index):
            return {key: plan.resolved[index].stage.title, f"{key}_kind": "stage", f"{key}_stage": index}
        case ImageSource():
            return {key: str(source.reference.or_latest()), f"{key}_kind": "image"}
        case ScratchSource():
            return {key: "scratch", f"{key}_kind": "scratch"}


def _unknown_notice(instruction: Instruction, ahead: LookAhead, planned: PlannedStage) -> Notice:
    names = ", ".join(f"${name}" for name in ahead.unknown[:10])
    message = f"{instruction.keyword}: the value of {names} depends on the base image and is not known here"
    return Notice("plan-value-unknown", message, instruction.location)


def _instruction(instruction: Instruction, ahead: LookAhead, source: Source | None, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "keyword": instruction.keyword,
        **_place(instruction.location),
        "flags": {name: _plain(value) for name, value in ahead.flags.items()},
    }
    if ahead.argv is None:
        found["value"] = ahead.value or ""
    else:
        found["argv"] = list(ahead.argv)
    found["heredocs"] = [_heredoc(heredoc) for heredoc in ahead.heredocs]
    if ahead.unknown:
        found["unknown"] = list(ahead.unknown)
    if source is not None:
        found |= _source(source, plan, "from")
    return found


def _plain(value: object) -> object:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _heredoc(heredoc: Heredoc) -> dict[str, Any]:
    return {
        "name": heredoc.name,
        "content": heredoc.content,
        "expand": heredoc.expand,
        "strip_tabs": heredoc.strip_tabs,
    }
