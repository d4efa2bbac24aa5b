"""`RUN --mount`: the tables of golden cases, and what the steps rely on."""

from __future__ import annotations

import json
import re

import pytest

from executor.dockerfile.instructions import Run
from executor.dockerfile.mountvalues import parse_record
from executor.dockerfile.parse import parse_syntax
from executor.dockerfile.runmount import Mount, cache_directory_name, check_mounts, parse_mount
from executor.dockerfile.words import Expander
from executor.errors import DockerfileError, Location
from tests.support.golden_tables import rows

PLACE = Location("Dockerfile", 7, 8)
VARIABLES = {"A": "alpha", "EMPTY": "", "N": "750", "K": "cache"}


def mount(text: str) -> Mount:
    return parse_mount(text, PLACE).expanded(lambda word: Expander().expand(word, VARIABLES, PLACE))


@pytest.mark.parametrize(("text", "expected"), rows("mounts/accepted.txt", 2))
def test_accepted(text: str, expected: str) -> None:
    if expected.startswith("ERROR "):
        with pytest.raises(DockerfileError, match=re.escape(expected.removeprefix("ERROR "))) as caught:
            mount(text)
        assert caught.value.location == PLACE
        return
    found = mount(text)
    for name, value in json.loads(expected).items():
        shown = found.target_path("/w") if name == "at" else getattr(found, name)
        assert (list(shown) if isinstance(shown, tuple) else shown) == value, name


@pytest.mark.parametrize(("text", "message", "hint"), rows("mounts/refused.txt", 3))
def test_refused_before_anything_is_expanded(text: str, message: str, hint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_mount(text, PLACE)
    assert caught.value.message.startswith("RUN --mount: ")
    assert message in caught.value.message
    assert caught.value.location == PLACE
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["target=", "type=cache", "target=.", "target=/x/..,type=$K", "target=../.."])
def test_nothing_is_mounted_over_the_root(text: str) -> None:
    with pytest.raises(DockerfileError, match="below the root"):
        mount(text).target_path("/")


def test_sockets_are_numbered() -> None:
    assert mount("type=ssh").target_path("/w", 2) == "/run/buildkit/ssh_agent.2"


def test_the_stage_is_known_before_anything_is_expanded() -> None:
    assert parse_mount("type=$T,from=base,target=$X", PLACE).source_stage == "base"
    assert parse_mount("type=$T,target=$X", PLACE).source_stage is None


def test_the_type_is_known_where_it_is_no_variable() -> None:
    assert parse_mount("type=ssh", PLACE).is_of_type("ssh")
    assert parse_mount("target=/x", PLACE).is_of_type("bind")
    assert not parse_mount("type=$T", PLACE).is_of_type("bind")


def test_values_are_expanded_and_the_stage_is_not() -> None:
    seen: list[str] = []

    def expand(word: str) -> str:
        seen.append(word)
        return word

    parse_mount("from=base,source=$A,target=/x,rw", PLACE).expanded(expand)
    assert seen == ["$A", "/x"]


def test_a_cache_id_names_a_directory_whatever_it_is() -> None:
    ids = ["", "/", "..", "../../etc", "a/b", "A", "a", "\udcff", "x" * 10_000, "a\nb"]
    names = {cache_directory_name(item) for item in ids} | {cache_directory_name(item, "scope") for item in ids}
    assert len(names) == 2 * len(ids)
    assert all(re.fullmatch("[0-9a-f]{64}", name) for name in names)
    assert cache_directory_name("bc", "a") != cache_directory_name("c", "ab")


def run(line: str) -> Run:
    instruction = parse_syntax(f"FROM scratch\n{line}\n".encode(), "Dockerfile").stages[0].instructions[0]
    assert isinstance(instruction, Run)
    return instruction


def test_all_mounts_of_a_run() -> None:
    found = check_mounts(run("RUN --mount=target=/a --mount=type=secret,id=b true"))
    assert [words.fields for words in found] == [("target=/a",), ("type=secret", "id=b")]


def test_mistakes_are_told_with_the_place_of_the_run() -> None:
    with pytest.raises(DockerfileError, match="unknown option 'traget'") as caught:
        check_mounts(run("RUN --mount=target=/a \\\n --mount=traget=/b true"))
    assert (caught.value.location or PLACE).line == 2


def test_quotes_that_the_flag_keeps_are_those_of_the_record() -> None:
    assert check_mounts(run("""RUN --mount='"source=a,b",target=/x' true"""))[0].fields == ("source=a,b", "target=/x")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a", ("a",)),
        ("a,", ("a", "")),
        (",", ("", "")),
        ('"a,b",c', ("a,b", "c")),
        ('"a\nb"', ("a\nb",)),
        ('""', ("",)),
        ('"",""', ("", "")),
        ('"a""b"', ('a"b',)),
        (" a , b ", (" a ", " b ")),
    ],
)
def test_records(text: str, fields: tuple[str, ...]) -> None:
    assert parse_record(text) == fields


@pytest.mark.parametrize("text", ["", '"', '"a', 'a"', '"a"b', 'a,"b', "a\nb", '"a" ,b'])
def test_records_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_record(text)
