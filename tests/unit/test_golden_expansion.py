"""Every line of the tables under tests/golden/expansion."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from executor.dockerfile.words import Expander
from executor.errors import DockerfileError

TABLES = Path(__file__).parent.parent / "golden" / "expansion"
ENVIRONMENT = {
    "PWD": "/home",
    "SHELL": "bash",
    "KOREAN": "한국어",
    "EMPTY": "",
    "FOO": "foo.bar.baz",
    "STAR": "a*b",
    "MULTI": "one two",
    "10": "ten",
    "X1": "x",
}


def rows(name: str) -> list[tuple[int, str, str]]:
    found = []
    for number, line in enumerate((TABLES / name).read_text("utf-8").splitlines(), start=1):
        if line.startswith("#") or not line:
            continue
        match = re.fullmatch(r"(?:`(.*)`|\{\{(.*)\}\}) \| (.*)", line)
        assert match, f"{name}:{number}: not of the form `word` | expected"
        word = match[1] if match[1] is not None else match[2]
        found.append((number, word, match[3].replace("{e}", "")))
    assert found
    return found


def check(expander: Expander, word: str, expected: str) -> None:
    if expected.startswith("ERROR "):
        with pytest.raises(DockerfileError) as caught:
            expander.expand(word, ENVIRONMENT)
        assert expected.removeprefix("ERROR ") in caught.value.message
        assert caught.value.code == "dockerfile-expansion"
    else:
        assert expander.expand(word, ENVIRONMENT) == expected


@pytest.mark.parametrize(("line", "word", "expected"), rows("variables.txt"))
def test_expansion(line: int, word: str, expected: str) -> None:
    check(Expander(), word, expected)


@pytest.mark.parametrize(("line", "word", "expected"), rows("backtick.txt"))
def test_expansion_with_backtick(line: int, word: str, expected: str) -> None:
    check(Expander("`"), word, expected)


@pytest.mark.parametrize(("line", "word", "expected"), rows("words.txt"))
def test_expansion_into_words(line: int, word: str, expected: str) -> None:
    assert Expander().expand_words(word, ENVIRONMENT) == json.loads(expected)
