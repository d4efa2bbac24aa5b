"""Every case under tests/golden/dockerfile.

A case is a directory with a `Dockerfile` and an `expected.json`: `rule` says what it holds; `dockerfile` is the parse;
`plan` the plan for `options` (`target`, `build_args`, `platform`); `error` has code, line and a part of the message of
the error that parsing or planning gives. Adding one needs no Python.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from executor.dockerfile.parse import parse
from executor.errors import DockerfileError
from executor.oci import Platform
from executor.plan import make_plan
from tests.support.dockerfile_json import dockerfile_json, error_json, matches, plan_json

CASES = sorted((Path(__file__).parent.parent / "golden" / "dockerfile").iterdir())
KEYS = {"rule", "dockerfile", "plan", "error", "options"}


def found(text: bytes, options: dict[str, Any]) -> dict[str, Any]:
    try:
        dockerfile = parse(text, "Dockerfile")
        plan = make_plan(
            dockerfile,
            target=options.get("target", ""),
            build_args=options.get("build_args", {}),
            platform=Platform.from_text(options.get("platform", "linux/amd64")),
            build_platform=Platform.from_text("linux/amd64"),
        )
    except DockerfileError as error:
        return {"error": error_json(error)}
    return {"dockerfile": dockerfile_json(dockerfile), "plan": plan_json(plan)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path) -> None:
    expected = json.loads((case / "expected.json").read_text("utf-8"))
    assert set(expected) <= KEYS
    assert expected["rule"]
    assert set(expected) & {"dockerfile", "plan", "error"}, "a case expects something"
    result = found((case / "Dockerfile").read_bytes(), expected.get("options", {}))
    if "error" in expected:
        assert "error" in result, f"expected an error, found {json.dumps(result, ensure_ascii=False)}"
        assert matches(expected["error"], result["error"]), result["error"]
        return
    for key in ("dockerfile", "plan"):
        if key in expected:
            assert result.get(key) == expected[key], json.dumps(result, ensure_ascii=False, indent=1)


def test_there_are_cases() -> None:
    assert len(CASES) >= 100
