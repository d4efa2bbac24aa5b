"""docs/errors.md and the source name the same codes, with the same exit statuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.error_codes import codes, error_classes, exit_statuses

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ([0-9, –]*) \| (.+) \|$", re.MULTILINE)


def rows() -> dict[str, tuple[set[int], str]]:
    found = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(found) == len({code for code, _, _ in found}), "a code has two rows"
    return {
        code: ({int(number) for number in re.findall(r"\d+", statuses)}, meaning) for code, statuses, meaning in found
    }


def test_every_code_is_documented() -> None:
    missing = {code: uses.places for code, uses in codes().items() if code not in rows()}
    assert not missing


def test_no_code_is_documented_that_does_not_exist() -> None:
    assert sorted(set(rows()) - set(codes())) == []


def test_the_exit_statuses_are_those_of_the_classes() -> None:
    wrong = {
        code: (sorted(statuses), sorted(exit_statuses(code)))
        for code, (statuses, _) in rows().items()
        if code in codes() and statuses != exit_statuses(code)
    }
    assert not wrong


def test_codes_are_kebab_case() -> None:
    assert not [code for code in codes() if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", code)]


@pytest.mark.parametrize("name", ["UserError", "HostError", "RegistryError", "UsageError", "BuildCancelledError"])
def test_the_reader_of_the_source_sees_the_tree(name: str) -> None:
    assert name in error_classes()


def test_the_reader_of_the_source_sees_codes_of_all_kinds() -> None:
    found = codes()
    assert exit_statuses("dockerfile-syntax") == {1}
    assert exit_statuses("registry-unauthorized") == {4}
    assert any(place.startswith("executor/") for place in found["run-failed"].places)
