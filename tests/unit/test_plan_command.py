"""`pushwright plan`: the document, what people see, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from executor.dockerfile.parse import parse_syntax
from executor.dockerfile.support import unsupported
from executor.plan_command import main

DOCUMENT_KEYS = {
    "version",
    "dockerfile",
    "target",
    "platform",
    "args",
    "stages",
    "order",
    "groups",
    "images",
    "unused_build_args",
    "directives",
    "findings",
    "findings_truncated",
    "check_error",
    "notices",
}
STAGE_KEYS = {
    "index",
    "name",
    "base",
    "base_kind",
    "platform",
    "start_line",
    "end_line",
    "needs",
    "needed",
    "instructions",
}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "plan.md"


class Context:
    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys

    def write(self, text: str | bytes, name: str = "Dockerfile") -> None:
        (self.directory / name).write_bytes(text.encode() if isinstance(text, str) else text)

    def run(self, *words: str) -> tuple[int, str, str]:
        status = main(["--context", str(self.directory), "--platform", "linux/amd64", *words])
        output = self._capsys.readouterr()
        return status, output.out, output.err

    def document(self, *words: str) -> dict[str, Any]:
        status, output, _ = self.run("--json", *words)
        assert status == 0, output
        document = json.loads(output)
        assert isinstance(document, dict)
        return document


@pytest.fixture
def context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Context:
    return Context(tmp_path, capsys)


FILE = """\
# check=skip=FromAsCasing
ARG GO=1.22
FROM --platform=linux/arm64 golang:$GO AS build
WORKDIR $GOPATH/src
RUN --mount=type=cache,target=/c go build \\
    -o /app .
FROM debian AS docs
RUN ["make", "docs"]
FROM debian AS unused
FROM scratch AS app
COPY --from=build --chown=1:1 /app /bin/app
COPY --from=docs /docs /docs
ENV X=1
COPY <<EOF /etc/x
hello $X
EOF
"""


def test_the_document_has_the_documented_members(context: Context) -> None:
    context.write(FILE)
    document = context.document()
    assert set(document) == DOCUMENT_KEYS
    for stage in document["stages"]:
        assert set(stage) - {"base_stage"} == STAGE_KEYS
        for instruction in stage["instructions"]:
            assert {"keyword", "start_line", "end_line", "flags", "heredocs"} <= set(instruction)
            assert len({"value", "argv"} & set(instruction)) == 1
    text = PAGE.read_text("utf-8")
    named = DOCUMENT_KEYS | STAGE_KEYS | {"base_stage", "value", "argv", "unknown", "from_kind", "from_stage"}
    assert not [name for name in named if f"`{name}`" not in text]


def test_stages_have_their_order_and_groups(context: Context) -> None:
    context.write(FILE)
    document = context.document()
    assert document["order"] == [0, 1, 3]
    assert document["groups"] == [[0, 1], [3]]
    assert [stage["needed"] for stage in document["stages"]] == [True, True, False, True]
    assert document["target"] == 3
    assert document["stages"][3]["needs"] == [0, 1]
    assert document["images"] == [
        {"reference": "docker.io/library/golang:1.22", "platform": "linux/arm64"},
        {"reference": "docker.io/library/debian:latest", "platform": "linux/amd64"},
    ]
    assert context.document("--target", "docs")["order"] == [1]


def test_instructions_have_lines_flags_and_expanded_words(context: Context) -> None:
    context.write(FILE)
    build, docs, _, app = context.document()["stages"]
    workdir, run = build["instructions"]
    assert workdir == {
        "keyword": "WORKDIR",
        "start_line": 4,
        "end_line": 4,
        "flags": {},
        "value": "$GOPATH/src",
        "heredocs": [],
        "unknown": ["GOPATH"],
    }
    assert (run["start_line"], run["end_line"]) == (5, 6)
    assert run["flags"] == {"mount": ["type=cache,target=/c"]}
    assert docs["instructions"][0]["argv"] == ["make", "docs"]
    copy = app["instructions"][0]
    assert copy["flags"] == {"from": "build", "chown": "1:1"}
    assert copy["argv"] == ["/app", "/bin/app"]
    assert (copy["from"], copy["from_kind"], copy["from_stage"]) == ("build", "stage", 0)
    assert app["instructions"][3]["heredocs"] == [
        {"name": "EOF", "content": "hello $X\n", "expand": True, "strip_tabs": False}
    ]


def test_what_cannot_be_built_yet_is_shown_with_a_notice(context: Context) -> None:
    text = b"FROM scratch\nADD a b\nRUN --device=x true\n"
    refused = unsupported(parse_syntax(text, "Dockerfile"))
    context.write(text)
    document = context.document()
    assert document["stages"][0]["instructions"][1]["flags"] == {"device": ["x"]}
    assert [(notice["code"], notice["start_line"]) for notice in document["notices"]] == [
        (error.code, error.location.line if error.location else 0) for error in refused
    ]
    assert refused, "the case needs another instruction"


def test_values_of_the_base_image_are_said_to_be_unknown(context: Context) -> None:
    context.write("FROM debian AS base\nENV A=$LANG-1 PATH=/x:$PATH\nFROM base\nENV B=$A\nENV LANG=C\nENV C=$LANG\n")
    document = context.document()
    first, second = (stage["instructions"] for stage in document["stages"])
    assert first[0]["argv"] == ["A=$LANG-1", "PATH=/x:$PATH"]
    assert first[0]["unknown"] == ["LANG", "PATH"]
    assert second[0]["argv"] == ["B=$A"]
    assert second[0]["unknown"] == ["A"]
    assert second[2]["argv"] == ["C=C"]
    assert "unknown" not in second[2]
    assert {notice["code"] for notice in document["notices"]} == {"plan-value-unknown"}


def test_build_arguments_are_used_and_unused_ones_named(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    context.write("ARG V=1\nFROM debian:$V\nARG W\nENV X=$W\n")
    monkeypatch.setenv("W", "from the shell")
    document = context.document("--build-arg", "V=2", "--build-arg", "W", "--build-arg", "ZZ=1")
    assert document["args"] == [{"name": "V", "value": "2"}]
    assert document["stages"][0]["base"] == "docker.io/library/debian:2"
    assert document["stages"][0]["instructions"][0]["argv"] == ["W=from the shell"]
    assert document["stages"][0]["instructions"][1]["argv"] == ["X=from the shell"]
    assert document["unused_build_args"] == ["ZZ"]


def test_findings_are_in_the_document(context: Context) -> None:
    context.write("FROM scratch as x\nCOPY a b /c/\n")
    context.write("b\n", ".dockerignore")
    document = context.document()
    assert [(item["rule"], item["start_line"]) for item in document["findings"]] == [
        ("FromAsCasing", 1),
        ("CopyIgnoredFile", 2),
    ]
    assert document["check_error"] is False


def test_the_ignore_file_of_the_dockerfile_wins(context: Context) -> None:
    context.write("FROM scratch\nCOPY a b /c/\n", "x.Dockerfile")
    context.write("b\n", ".dockerignore")
    context.write("a\n", "x.Dockerfile.dockerignore")
    findings = context.document("--dockerfile", "x.Dockerfile")["findings"]
    assert [item["message"] for item in findings] == ['Attempting to Copy file "a" that is excluded by .dockerignore']


@pytest.mark.parametrize(
    ("directive", "words", "expected"),
    [
        ("", [], 0),
        ("# check=error=true\n", [], 1),
        ("# check=error=true;skip=FromAsCasing\n", [], 0),
        ("", ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true"], 1),
        ("# check=error=true\n", ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"], 0),
    ],
)
def test_check_fails_when_findings_are_errors(
    context: Context, directive: str, words: list[str], expected: int
) -> None:
    context.write(f"{directive}FROM scratch as x\n")
    status, output, _ = context.run("--check", *words)
    assert status == expected
    assert context.run(*words)[0] == 0, "only --check fails"
    assert context.run("--check", "--json", *words)[0] == expected
    assert output.splitlines()[-1] in {"no findings", "1 finding"}


def test_check_prints_findings_for_people(context: Context) -> None:
    context.write("FROM scratch as x\nRUN --mount=type=tmpfs,target=/t true\n")
    lines = context.run("--check")[1].splitlines()
    assert lines[0] == "Dockerfile:1: FromAsCasing: 'as' and 'FROM' keywords' casing do not match"
    assert lines[1] == "hint: FromAsCasing: Write FROM … AS or from … as."
    assert lines[-1] == "1 finding"


def test_a_misspelt_check_is_told(context: Context) -> None:
    context.write("# check=skip=FromASCasing,StageNameCasing\nFROM scratch as x\n")
    (notice,) = context.document()["notices"]
    assert notice["code"] == "plan-check-unknown"
    assert "'FromASCasing': did you mean FromAsCasing?" in notice["message"]


def test_checks_follow_the_target(context: Context) -> None:
    context.write("FROM scratch AS a\nENV x y\nFROM scratch AS b\nENV x y\n")
    assert [item["start_line"] for item in context.document()["findings"]] == [2, 4]
    assert [item["start_line"] for item in context.document("--target", "b")["findings"]] == [4]


def test_the_plan_for_people(context: Context) -> None:
    context.write(FILE)
    text = context.run()[1]
    assert text.startswith(
        "Dockerfile: target app, linux/amd64\n\ngroup 1:\n  build: from image docker.io/library/golang"
    )
    assert "\ngroup 2:\n  app: from scratch\n" in text
    assert "          5-6  RUN --mount=type=cache,target=/c go build" in text
    assert "        14-16  COPY <<EOF /etc/x\n" in text
    assert "\nnot needed: unused\n" in text
    assert "note: Dockerfile:4: WORKDIR: the value of $GOPATH depends on the base image" in text


def test_hostile_text_does_not_reach_the_terminal(context: Context) -> None:
    context.write(b"FROM scratch\nRUN \x1b[2J\xff \xe2\x80\xae\nLABEL a=\x1b]0;x\x07\n")
    text = context.run()[1]
    assert "\x1b" not in text
    assert "\\x1b[2J" in text
    assert all(line.isprintable() for line in text.splitlines())
    assert context.run("--json")[0] == 0


def test_a_mistake_is_shown_with_its_lines(context: Context) -> None:
    context.write("FROM scratch AS build\nCOPPY a b\n")
    status, output, errors = context.run()
    assert (status, output) == (1, "")
    assert errors.splitlines() == [
        "error: Dockerfile:2: unknown instruction 'COPPY'",
        "   1 |     FROM scratch AS build",
        "   2 | >>> COPPY a b",
        "hint: did you mean COPY?",
    ]


def test_a_mistake_is_one_json_document_with_json(context: Context) -> None:
    context.write("FROM scratch\nENV A=${B\n")
    status, output, errors = context.run("--json")
    assert (status, errors) == (1, "")
    error = json.loads(output)["error"]
    assert (error["code"], error["line"]) == ("dockerfile-expansion", 2)
    assert error["excerpt"][1] == "   2 | >>> ENV A=${B"


def test_a_misspelt_target_has_the_nearest_name(context: Context) -> None:
    context.write("FROM scratch AS build\n")
    status, _, errors = context.run("--target", "biuld")
    assert status == 1
    assert errors.splitlines()[-1] == "hint: did you mean build?"


def test_a_missing_dockerfile_and_bad_usage(context: Context) -> None:
    assert context.run()[0] == 1
    context.write("FROM scratch\n")
    assert context.run("--platform", "x/y/z/w")[0] != 0
    assert context.run("--build-arg", "BUILDKIT_DOCKERFILE_CHECK=x")[0] == 2
    assert context.run("--build-arg", "=x")[0] == 2
