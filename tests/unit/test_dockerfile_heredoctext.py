"""What here-documents stand for: every folder under tests/golden/heredocs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from executor.dockerfile.heredoctext import ShellText, copied_content, file_name, run_heredoc
from executor.dockerfile.instructions import Add, Copy, Heredoc, Run
from executor.dockerfile.parse import parse_syntax
from executor.errors import DockerfileError, Location
from tests.support.golden_tables import GOLDEN

CASES = sorted(path.parent for path in (GOLDEN / "heredocs").glob("*/Dockerfile"))
PLACE = Location("Dockerfile", 1)


def meaning(text: bytes) -> object:
    instruction = parse_syntax(text, "Dockerfile").stages[0].instructions[0]
    if isinstance(instruction, Run):
        found = run_heredoc(instruction)
        if isinstance(found, ShellText):
            return {"shell": found.text}
        return {"script": found.name, "path": found.path, "content": found.content.decode()}
    assert isinstance(instruction, Copy | Add)
    place = instruction.location
    return {
        "files": {
            file_name(item, place): copied_content(item, {"X": "value"}, place).decode()
            for item in instruction.heredocs
        }
    }


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_heredoc(case: Path) -> None:
    expected = json.loads((case / "expected.json").read_text("utf-8"))
    text = (case / "Dockerfile").read_bytes()
    if isinstance(expected, str):
        with pytest.raises(DockerfileError) as caught:
            meaning(text)
        assert expected.removeprefix("ERROR ") in caught.value.message
        assert caught.value.location is not None
    else:
        assert meaning(text) == expected


def test_bytes_that_are_not_utf8_stay() -> None:
    text = b"FROM scratch\nCOPY <<EOF /f\n\xff$X\xe9\nEOF\nRUN <<EOF\n#!/bin/sh\n\xff\nEOF\n"
    copy, run = parse_syntax(text, "Dockerfile").stages[0].instructions
    assert isinstance(copy, Copy) and isinstance(run, Run)
    assert copied_content(copy.heredocs[0], {"X": "é"}, copy.location) == b"\xff\xc3\xa9\xe9\n"
    script = run_heredoc(run)
    assert not isinstance(script, ShellText)
    assert script.content == b"#!/bin/sh\n\xff\n"


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "/etc/x", "a\0b", "x" * 256, "é" * 128])
def test_a_name_that_is_no_file_of_one_directory(name: str) -> None:
    with pytest.raises(DockerfileError, match="can name a file"):
        file_name(Heredoc(name, ""), PLACE)


@pytest.mark.parametrize("name", ["EOF", "...", "-rf", "a b", "x" * 255, "\udcff"])
def test_a_name_that_is_one(name: str) -> None:
    assert file_name(Heredoc(name, ""), PLACE) == name
