"""Every case under tests/golden/lint.

A case is a directory with a `Dockerfile`, perhaps a `dockerignore`, and an `expected.json`: `rule` says what it holds,
`findings` are all that come out, each with rule, line and message; `as_error` that they are to be errors; `error` has
the code, line and part of the message of the error instead; `options` are `build_args`, `platform`, `needed` (indices
of stages) and `bases` (what is known of base images, by the stage's index). Adding one needs no Python.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from executor.context.ignore import IgnoreRules
from executor.dockerfile.lint.check import CheckReport, check
from executor.dockerfile.lint.rules import RULES
from executor.dockerfile.lint.subject import BaseImage, Subject
from executor.dockerfile.parse import parse_syntax
from executor.errors import PushwrightError
from executor.oci import Platform

CASES = sorted((Path(__file__).parent.parent / "golden" / "lint").iterdir())
KEYS = {"rule", "findings", "as_error", "error", "options"}
OPTIONS = {"build_args", "platform", "needed", "bases", "target_name"}


def base_image(value: dict[str, Any]) -> BaseImage:
    platform = Platform.from_text(value["platform"]) if "platform" in value else None
    return BaseImage(
        tuple(value.get("environment", ())), platform, value.get("has_shell", False), tuple(value.get("triggers", ()))
    )


def report(case: Path, options: dict[str, Any]) -> CheckReport:
    assert set(options) <= OPTIONS
    source = (case / "Dockerfile").read_bytes()
    ignore = case / "dockerignore"
    needed = options.get("needed")
    return check(
        Subject(
            dockerfile=parse_syntax(source, "Dockerfile"),
            source=source,
            platform=Platform.from_text(options.get("platform", "linux/amd64")),
            build_platform=Platform.from_text("linux/amd64"),
            build_args=options.get("build_args", {}),
            target_name=options.get("target_name", ""),
            ignore=IgnoreRules.parse(ignore.read_text("utf-8")) if ignore.exists() else None,
            bases={int(index): base_image(value) for index, value in options.get("bases", {}).items()},
            needed=None if needed is None else frozenset(needed),
        )
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path) -> None:
    expected = json.loads((case / "expected.json").read_text("utf-8"))
    assert set(expected) <= KEYS
    assert expected["rule"]
    assert set(expected) & {"findings", "error"}, "a case expects something"
    if "error" in expected:
        with pytest.raises(PushwrightError) as caught:
            report(case, expected.get("options", {}))
        error = caught.value
        assert error.code == expected["error"]["code"]
        assert expected["error"]["message"] in error.message
        assert (error.location.line if error.location else None) == expected["error"].get("line")
        return
    found = report(case, expected.get("options", {}))
    shown = [{"rule": item.rule, "line": item.location.line, "message": item.message} for item in found.findings]
    assert shown == expected["findings"], json.dumps(shown, ensure_ascii=False, indent=1)
    assert found.as_error == expected.get("as_error", False)
    assert all(item.detail == RULES[item.rule].description for item in found.findings)


def test_every_rule_has_cases_for_and_against() -> None:
    hits: set[str] = set()
    for case in CASES:
        expected = json.loads((case / "expected.json").read_text("utf-8"))
        hits |= {finding["rule"] for finding in expected.get("findings", ())}
    assert hits == set(RULES)
    silent = {case.name.rpartition("-not")[0] for case in CASES if "-not" in case.name}
    wanted = {rule.code.removeprefix("check-") for rule in RULES.values()}
    assert wanted <= silent, sorted(wanted - silent)


def test_there_are_cases() -> None:
    assert len(CASES) >= 60
