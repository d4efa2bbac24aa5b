"""The reader and the parser on hostile and odd input; the ordinary rules are golden cases."""

from __future__ import annotations

import pytest

from executor.dockerfile.heredoctext import used_text
from executor.dockerfile.instructions import Copy, Healthcheck, Run
from executor.dockerfile.parse import parse, parse_trigger
from executor.dockerfile.reader import DOCKERFILE_LIMIT_BYTES, INSTRUCTION_LIMIT, LINE_LIMIT_BYTES, read
from executor.dockerfile.words import EXPANSION_LIMIT_CHARACTERS, NESTING_LIMIT, Expander
from executor.errors import DockerfileError, Location


def refused(text: bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(text, "Dockerfile")
    assert caught.value.location is not None
    return caught.value


def test_a_file_above_the_limit_is_refused() -> None:
    assert refused(b"#" * (DOCKERFILE_LIMIT_BYTES + 1)).code == "dockerfile-too-large"


def test_a_file_at_the_limit_is_read() -> None:
    line = b"#" * 60_000 + b"\n"
    text = (b"FROM scratch\n" + line * (DOCKERFILE_LIMIT_BYTES // len(line) + 1))[:DOCKERFILE_LIMIT_BYTES]
    assert len(text) == DOCKERFILE_LIMIT_BYTES
    assert len(parse(text, "Dockerfile").stages) == 1


def test_the_line_limit_is_that_of_buildkit() -> None:
    fits = b"RUN " + b"x" * (LINE_LIMIT_BYTES - 4)
    assert parse(b"FROM scratch\n" + fits + b"\n", "Dockerfile").stages[0].instructions
    error = refused(b"FROM scratch\n\n" + fits + b"x\n")
    assert (error.code, error.location) == ("dockerfile-too-large", Location("Dockerfile", 3))


def test_more_instructions_than_the_limit_are_refused() -> None:
    assert refused(b"FROM scratch\n" + b"RUN\n" * INSTRUCTION_LIMIT).code == "dockerfile-too-large"


def test_a_hundred_thousand_continuation_lines_are_one_instruction() -> None:
    text = b"FROM scratch\nRUN a \\\n" + b" b \\\n# comment\n" * 100_000 + b" c\n"
    (run,) = parse(text, "Dockerfile").stages[0].instructions
    assert isinstance(run, Run)
    assert run.location == Location("Dockerfile", 2, 200_003)
    assert run.command.text.count("b") == 100_000
    assert run.command.text.endswith(" c")


def test_deep_json_is_not_json() -> None:
    (run,) = parse(b"FROM scratch\nRUN " + b"[" * 60_000 + b"\n", "Dockerfile").stages[0].instructions
    assert isinstance(run, Run)
    assert run.command.in_shell


def test_nested_onbuild_is_refused_without_descending() -> None:
    assert "ONBUILD as its trigger" in refused(b"FROM scratch\n" + b"ONBUILD " * 8000 + b"RUN x\n").message


def test_three_hundred_thousand_flags_are_read() -> None:
    assert "RUN --mount" in refused(b"FROM scratch\nRUN " + b"--mount=a \\\n" * 300_000 + b"x\n").message


def test_many_unfinished_heredocs_are_refused() -> None:
    error = refused(b"FROM scratch\nRUN cat " + b"<<A " * 10_000 + b"\n" + b"A\n" * 9_999)
    assert "unterminated here-document" in error.message


@pytest.mark.parametrize("word", ["${a:-" * 50_000, "${a:-" * 50_000 + "}" * 50_000, '"' + "${a#" * 20_000])
def test_deep_substitutions_are_refused(word: str) -> None:
    with pytest.raises(DockerfileError, match=f"deeper than {NESTING_LIMIT}"):
        Expander().expand(word, {})


def test_substitutions_nest_up_to_the_limit() -> None:
    depth = NESTING_LIMIT - 1
    assert Expander().expand("${a:-" * depth + "x" + "}" * depth, {}) == "x"


@pytest.mark.parametrize("word", ["$a$a", '"$a$a"', "${a:-x}${a//x/yy}", "${a//x/yy}", "${b:-$a$a}"])
def test_an_expansion_cannot_grow_without_bounds(word: str) -> None:
    with pytest.raises(DockerfileError, match="expands to more than"):
        Expander().expand(word, {"a": "x" * (EXPANSION_LIMIT_CHARACTERS - 1)})


@pytest.mark.parametrize("word", ["${a#*x*x*x*x*x*x*x*x*x*y}", "${a%%x*x*x*x*x*x*x*x*x*y*}", "${a//x*x*x*x*x*x*y/z}"])
def test_a_hostile_pattern_does_not_backtrack(word: str) -> None:
    value = "x" * 20_000
    assert Expander().expand(word, {"a": value}) == value


def test_an_endless_pattern_is_refused() -> None:
    with pytest.raises(DockerfileError, match="more than 4096 characters"):
        Expander().expand("${a#" + "?" * 5000 + "}", {"a": "x"})


def test_bytes_survive_in_run_and_copy() -> None:
    run, copy = parse(b"FROM scratch\nRUN echo \xff\nCOPY \xe9 /\n", "Dockerfile").stages[0].instructions
    assert isinstance(run, Run)
    assert isinstance(copy, Copy)
    assert run.command.text.encode("utf-8", "surrogateescape") == b"echo \xff"
    assert copy.sources[0].encode("utf-8", "surrogateescape") == b"\xe9"


def test_a_lone_surrogate_in_json_is_no_byte() -> None:
    (run,) = parse(rb"FROM scratch" + b'\nRUN ["\\udc80"]\n', "Dockerfile").stages[0].instructions
    assert isinstance(run, Run)
    assert run.command.arguments == ("\ufffd",)


def test_hints_name_the_nearest_right_word() -> None:
    assert refused(b"FROM scratch\nCOYP a b\n").hint == "did you mean COPY?"
    assert refused(b"FORM scratch\n").hint == "did you mean FROM?"
    assert refused(b"FROM scratch\nCOPY --chwon=1 a b\n").hint == "did you mean --chown?"
    assert "known are ADD, ARG" in (refused(b"FROM scratch\nXYZZY\n").hint or "")


def test_every_line_of_every_error_is_that_of_the_file() -> None:
    text = b"# syntax=docker/dockerfile:1\n\nFROM scratch\nRUN a \\\n # c\n b\n\nBOGUS\n"
    location = refused(text).location
    assert location == Location("Dockerfile", 8, 8)


def test_heredocs_are_nodes_of_their_line() -> None:
    reading = read(b"FROM scratch\nRUN <<-'A' cat 3<<B\n\tone\n\tA\n $two\nB\nRUN x\n", "Dockerfile")
    _, run, after = reading.lines
    assert [item.name for item in run.heredocs] == ["A", "B"]
    assert [used_text(item) for item in run.heredocs] == ["one\n", " $two\n"]
    assert [item.expand for item in run.heredocs] == [False, True]
    assert [item.descriptor for item in run.heredocs] == [0, 3]
    assert run.location == Location("Dockerfile", 2, 6)
    assert after.location.line == 7


@pytest.mark.parametrize(
    ("written", "name", "expand"),
    [
        ("<<EOF", "EOF", True),
        ("<<'E F'", "E F", False),
        ('<<"EOF"', "EOF", False),
        ("<<eo'f'", "eof", False),
        ("<<$EOF", "$EOF", True),
        ("<<  EOF", "EOF", True),
    ],
)
def test_names_of_heredocs(written: str, name: str, expand: bool) -> None:
    reading = read(f"FROM scratch\nRUN {written}\nx\n{name}\n".encode(), "Dockerfile")
    (heredoc,) = reading.lines[1].heredocs
    assert (heredoc.name, heredoc.expand, heredoc.content) == (name, expand, "x\n")


def test_a_trigger_is_one_instruction() -> None:
    assert isinstance(parse_trigger("COPY . /app", "debian ONBUILD"), Copy)
    assert isinstance(parse_trigger("HEALTHCHECK NONE", "debian ONBUILD"), Healthcheck)
    with pytest.raises(DockerfileError, match="must be one instruction"):
        parse_trigger("RUN a\nRUN b", "debian ONBUILD")
    with pytest.raises(DockerfileError, match="unknown instruction 'FROM'"):
        parse_trigger("FROM debian", "debian ONBUILD")


def test_the_keyword_of_an_empty_continuation_is_missing() -> None:
    assert "expected an instruction, found none" in refused(b"FROM scratch\n\\\n").message
