"""The checks of a Dockerfile and the lines around a mistake, as a build by the real executor tells them."""

from __future__ import annotations

from tests.integration.conftest import Bench


def test_findings_are_warnings_of_a_build(bench: Bench) -> None:
    done = bench.build(
        "FROM scratch as one\nCOPY a /a\nFROM one AS unneeded\nENV key value\nFROM one\nCMD \\\n\n  x\n",
        "--no-push",
        files={"a": "a"},
    )
    assert done.status == 0, done.events[-1]
    found = [(event["code"], event["line"]) for event in done.events if event["type"] == "warning"]
    # the instructions of a stage that is not built are not looked at, as in BuildKit
    assert found == [
        ("check-from-as-casing", 1),
        ("check-json-args-recommended", 6),
        ("check-no-empty-continuation", 8),
    ]


def test_findings_end_a_build_where_they_are_errors(bench: Bench) -> None:
    done = bench.build("# check=error=true\nFROM scratch as one\nCOPY a /a\n", "--no-push", files={"a": "a"})
    assert done.status == 1
    assert done.error["code"] == "dockerfile-check"
    assert done.error["message"] == "lint violation found for rules: FromAsCasing"
    assert done.error["line"] == 2
    assert not [event for event in done.events if event["type"] == "step-started"]


def test_skipped_findings_do_not(bench: Bench) -> None:
    done = bench.build(
        "FROM scratch as one\nCOPY a /a\n",
        "--no-push",
        "--build-arg",
        "BUILDKIT_DOCKERFILE_CHECK=skip=all;error=true",
        files={"a": "a"},
    )
    assert done.status == 0, done.events[-1]
    assert not [event for event in done.events if event["type"] == "warning"]


def test_a_mistake_comes_with_its_lines(bench: Bench) -> None:
    done = bench.build("FROM scratch\nCOPY a /a\nWROKDIR /x\n", "--no-push", files={"a": "a"})
    assert done.status == 1
    assert done.error["excerpt"] == [
        "   1 |     FROM scratch",
        "   2 |     COPY a /a",
        "   3 | >>> WROKDIR /x",
    ]
    assert done.error["hint"] == "did you mean WORKDIR?"


def test_a_mistake_that_a_step_finds_comes_with_its_lines(bench: Bench) -> None:
    done = bench.build("FROM scratch\nCOPY a /a\nENV A=${B:?missing}\n", "--no-push", files={"a": "a"})
    assert done.error["code"] == "dockerfile-expansion"
    assert done.error["excerpt"][-1] == "   3 | >>> ENV A=${B:?missing}"
