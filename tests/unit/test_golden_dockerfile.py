"""Every case under tests/golden/dockerfile.

A case is a directory with a `Dockerfile` and an `expected.json`: `rule` says what it holds; `dockerfile` is the parse;
`plan` the plan for `options` (`target`, `build_args`, `platform`); `error` has code, line and a part of the message of
the error that parsing or planning gives; `has` maps paths such as `dockerfile.stages.0.base`, `plan.stages.0.base` or
`document.groups` (the document of `pushwright plan`) to single values, null for what is not there. With the option
`syntax` the case is about the syntax alone, whether it can be built yet or not. Adding a case needs no Python.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from executor.dockerfile.lint.check import CheckReport
from executor.dockerfile.parse import parse, parse_syntax
from executor.errors import DockerfileError
from executor.oci import Platform
from executor.plan import make_plan
from executor.plan_document import plan_document
from tests.support.dockerfile_json import dockerfile_json, error_json, matches, plan_json

CASES = sorted((Path(__file__).parent.parent / "golden" / "dockerfile").iterdir())
KEYS = {"rule", "dockerfile", "plan", "has", "error", "options"}
OPTIONS = {"target", "build_args", "platform", "syntax"}


def found(text: bytes, expected: dict[str, Any]) -> dict[str, Any]:
    """Parse and plan, or the error; the document where the case needs it: it expands every word."""
    options = expected.get("options", {})
    expands = "error" in expected or any(path.startswith("document.") for path in expected.get("has", {}))
    try:
        dockerfile = (parse_syntax if options.get("syntax") else parse)(text, "Dockerfile")
        plan = make_plan(
            dockerfile,
            target=options.get("target", ""),
            build_args=options.get("build_args", {}),
            platform=Platform.from_text(options.get("platform", "linux/amd64")),
            build_platform=Platform.from_text("linux/amd64"),
        )
        document = plan_document(plan, CheckReport(())) if expands else {}
    except DockerfileError as error:
        return {"error": error_json(error)}
    return {"dockerfile": dockerfile_json(dockerfile), "plan": plan_json(plan), "document": document}


def at(value: Any, path: str) -> Any:
    """What is at a path of member names and list indices; None when there is nothing."""
    for step in path.split("."):
        if isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path) -> None:
    expected = json.loads((case / "expected.json").read_text("utf-8"))
    assert set(expected) <= KEYS
    assert expected["rule"]
    assert set(expected) & {"dockerfile", "plan", "has", "error"}, "a case expects something"
    assert set(expected.get("options", {})) <= OPTIONS
    result = found((case / "Dockerfile").read_bytes(), expected)
    if "error" in expected:
        assert "error" in result, f"expected an error, found {json.dumps(result, ensure_ascii=False)}"
        assert matches(expected["error"], result["error"]), result["error"]
        return
    for key in ("dockerfile", "plan"):
        if key in expected:
            assert result.get(key) == expected[key], json.dumps(result, ensure_ascii=False, indent=1)
    for path, value in expected.get("has", {}).items():
        assert at(result, path) == value, f"{path} in {json.dumps(result, ensure_ascii=False, indent=1)}"


def test_there_are_cases() -> None:
    assert len(CASES) >= 250
