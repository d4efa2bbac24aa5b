"""A parsed Dockerfile, or a plan, as the JSON that golden cases hold: fields that have their default are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from executor.dockerfile.instructions import Dockerfile, Instruction, Stage
from executor.errors import DockerfileError, Location
from executor.plan import ImageSource, Plan, PlannedStage, ScratchSource, Source, StageSource


def dockerfile_json(dockerfile: Dockerfile) -> dict[str, Any]:
    value: dict[str, Any] = {}
    if dockerfile.directives:
        value["directives"] = dict(dockerfile.directives)
    if dockerfile.global_args:
        value["global_args"] = [instruction_json(item) for item in dockerfile.global_args]
    value["stages"] = [stage_json(stage) for stage in dockerfile.stages]
    if dockerfile.warnings:
        value["warnings"] = [{"code": item.code, "lines": lines(item.location)} for item in dockerfile.warnings]
    return value


def stage_json(stage: Stage) -> dict[str, Any]:
    value: dict[str, Any] = {"lines": lines(stage.location), "base": stage.base}
    if stage.name:
        value["name"] = stage.name
    if stage.platform:
        value["platform"] = stage.platform
    value["instructions"] = [instruction_json(item) for item in stage.instructions]
    return value


def instruction_json(instruction: Instruction) -> dict[str, Any]:
    return {
        "keyword": instruction.keyword,
        "lines": lines(instruction.location),
        **_fields(instruction, skip={"location", "text"}),
    }


def _fields(value: Any, skip: set[str]) -> dict[str, Any]:
    return {
        item.name: _plain(getattr(value, item.name))
        for item in fields(value)
        if item.name not in skip and (item.default is MISSING or getattr(value, item.name) != item.default)
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return _fields(value, skip=set())
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def plan_json(plan: Plan) -> dict[str, Any]:
    value: dict[str, Any] = {"stages": [planned_json(item) for item in plan.stages]}
    if plan.unused_build_args:
        value["unused_build_args"] = list(plan.unused_build_args)
    return value


def planned_json(planned: PlannedStage) -> dict[str, Any]:
    value: dict[str, Any] = {
        "stage": planned.stage.title,
        "base": source_json(planned.base),
        "platform": str(planned.platform),
    }
    if planned.copies:
        value["copies"] = {str(position): source_json(item) for position, item in planned.copies.items()}
    return value


def source_json(source: Source) -> str:
    match source:
        case StageSource(index):
            return f"stage {index}"
        case ImageSource():
            return f"image {source.reference} {source.platform}"
        case ScratchSource():
            return "scratch"


def error_json(error: DockerfileError) -> dict[str, Any]:
    assert error.location is not None
    return {"code": error.code, "line": error.location.line, "message": error.message}


def lines(location: Location) -> list[int]:
    return [location.line, location.end_line or location.line]


def matches(expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether an error is the expected one: equal fields, and a message that contains the expected text."""
    return all(
        value in str(found.get(key)) if key == "message" else value == found.get(key) for key, value in expected.items()
    )
