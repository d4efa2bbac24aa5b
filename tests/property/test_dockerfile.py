"""Properties of reading, checking and planning Dockerfiles, and how much work they are: counted, never timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from executor.context.ignore import IgnoreRules
from executor.dockerfile.excerpt import excerpt
from executor.dockerfile.lint.check import FINDINGS_LIMIT, CheckReport, check
from executor.dockerfile.lint.nearest import CANDIDATES_LIMIT, nearest
from executor.dockerfile.lint.options import CheckOptionError, CheckOptions
from executor.dockerfile.lint.rules import RULES
from executor.dockerfile.lint.subject import Subject
from executor.dockerfile.parse import parse, parse_syntax
from executor.dockerfile.words import Expander
from executor.errors import ContextError, DockerfileError, Location, PushwrightError, UsageError
from executor.oci import Platform
from executor.plan import make_plan
from executor.plan_document import plan_document

LINES = [
    "FROM a",
    "from b as C",
    "FROM scratch AS a",
    "FROM --platform=$X a",
    "FROM $B",
    "ARG B=a C=$B D",
    "ENV A=$B PATH=/x:$PATH",
    "ENV key $D",
    "LABEL x=${A:-$B}",
    "RUN x \\",
    "RUN --mount=type=cache,target=$A <<E",
    "E",
    "# x",
    "# check=skip=all",
    "# check=experimental=all;error=true",
    "# escape=`",
    "",
    "COPY --from=0 a b",
    "COPY --chown=$A $B <<E /c/",
    "ADD *.txt ../b /d",
    "EXPOSE $A 80/TCP 1:2:3",
    "WORKDIR $A/x",
    "CMD x",
    'ENTRYPOINT ["a", "b"]',
    "HEALTHCHECK --interval=1s CMD x",
    "ONBUILD COPY $Z /z",
    "ONBUILD RUN <<E",
    "USER $U",
    "VOLUME $A [",
    "MAINTAINER x",
    "STOPSIGNAL $S",
    'SHELL ["x"]',
]
LINE = st.one_of(
    st.sampled_from(LINES),
    st.text(alphabet="FROMUNCPYEVARG ab=\\`<'\"$#[]{}:-,\x00\x01\t\x0b\x1b\x85\ud800", max_size=24),
)
TEXT = st.one_of(
    st.lists(LINE, max_size=16).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from(LINES), max_size=24).map(lambda lines: "\n".join(["FROM scratch", *lines]).encode()),
    st.binary(max_size=200),
)
RULES_TEXT = st.text(alphabet="ab*?!/#[]\\-^.\n \x00", max_size=30)


def subject(source: bytes, ignore: IgnoreRules | None = None) -> Subject:
    return Subject(
        dockerfile=parse_syntax(source, "Dockerfile"),
        source=source,
        platform=Platform(),
        build_platform=Platform(),
        ignore=ignore,
    )


@settings(max_examples=400)
@given(TEXT, RULES_TEXT)
@example(b"ARG X=${Y:?}\nFROM a\n", "")
def test_any_bytes_give_findings_or_our_error(source: bytes, patterns: str) -> None:
    try:
        rules = IgnoreRules.parse(patterns)
    except ContextError:
        rules = IgnoreRules()
    try:
        report = check(subject(source, rules))
    except (DockerfileError, UsageError) as error:
        assert error.location is not None
        shown = excerpt(source, error.location)
        assert all(line.isprintable() for line in shown)
        return
    lines = source.count(b"\n") + 1
    assert [finding.location.line for finding in report.findings] == sorted(
        finding.location.line for finding in report.findings
    )
    for finding in report.findings:
        assert finding.rule in RULES
        assert 1 <= finding.location.line <= (finding.location.end_line or 0) <= lines
    assert len(set(report.findings)) == len(report.findings)


@settings(max_examples=400)
@given(TEXT)
def test_any_bytes_give_a_document_or_our_error_with_its_place(source: bytes) -> None:
    try:
        dockerfile = parse_syntax(source, "Dockerfile")
        plan = make_plan(dockerfile, target="", build_args={}, platform=Platform(), build_platform=Platform())
        document = plan_document(plan, CheckReport(()))
    except PushwrightError as error:
        assert error.location is not None
        assert 1 <= error.location.line <= source.count(b"\n") + 1
        return
    assert json.loads(json.dumps(document)) == document
    order = [index for group in document["groups"] for index in group]
    assert sorted(order) == document["order"]
    place = {index: number for number, group in enumerate(document["groups"]) for index in group}
    for index in order:
        assert all(place[needed] < place[index] for needed in document["stages"][index]["needs"])


@given(TEXT)
def test_what_can_be_built_reads_the_same_either_way(source: bytes) -> None:
    try:
        dockerfile = parse(source, "Dockerfile")
    except DockerfileError as error:
        if error.code == "dockerfile-unsupported":
            assert parse_syntax(source, "Dockerfile").stages
        else:
            with pytest.raises(DockerfileError):
                parse_syntax(source, "Dockerfile")
        return
    assert parse_syntax(source, "Dockerfile") == dockerfile


@given(st.binary(max_size=400), st.integers(-2, 30), st.integers(-2, 30))
def test_an_excerpt_is_printable_and_marks_its_place(text: bytes, line: int, end: int) -> None:
    shown = excerpt(text, Location("Dockerfile", line, end))
    assert all(item.isprintable() for item in shown)
    marked = [item for item in shown if "| >>>" in item]
    body = text.removeprefix(b"\xef\xbb\xbf")
    lines = body.count(b"\n") + (body != b"" and not body.endswith(b"\n"))
    assert bool(shown) == (1 <= line <= lines)
    assert bool(marked) == bool(shown)


@given(st.text(max_size=60))
def test_check_options_are_understood_or_refused(text: str) -> None:
    try:
        options = CheckOptions.parse(text)
    except CheckOptionError:
        return
    assert {options.runs(rule) for rule in RULES} <= {True, False}
    merged = options.merged(CheckOptions(skip_all=True))
    assert not any(merged.runs(name) for name, rule in RULES.items() if not rule.experimental)
    assert merged.as_error == options.as_error


NAME = st.text(alphabet="abc", max_size=6)


def naive_distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for number, character in enumerate(first, start=1):
        following = [number]
        for column, other in enumerate(second, start=1):
            following.append(min(row[column] + 1, following[-1] + 1, row[column - 1] + (character != other)))
        row = following
    return row[-1]


@given(NAME, st.lists(NAME, max_size=6))
def test_the_nearest_name_is_that_of_a_plain_search(found: str, known: list[str]) -> None:
    best = min((naive_distance(found, name) for name in known), default=3)
    expected = next((name for name in known if naive_distance(found, name) == best), "") if best < 3 else ""
    assert nearest(found, known) == expected


def test_no_more_names_are_compared_than_people_write() -> None:
    names = iter([f"name{number}" for number in range(CANDIDATES_LIMIT + 10)])
    assert nearest("other", names) == ""
    assert next(names) == f"name{CANDIDATES_LIMIT}"


# --- work: lines of our code that run, for inputs of which one is four times the other ---


def work(action: Callable[[], Any]) -> int:
    """How many lines of Python run in `action`; every loop of ours shows in it."""
    counted = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal counted
        if event == "line":
            counted += 1
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(previous)
    return counted


def attempt(action: Callable[[], Any]) -> None:
    try:
        action()
    except PushwrightError:
        return


def everything(source: bytes) -> None:
    """Parse, check, plan."""
    dockerfile = parse_syntax(source, "Dockerfile")
    check(subject(source))
    plan = make_plan(dockerfile, target="", build_args={}, platform=Platform(), build_platform=Platform())
    plan_document(plan, CheckReport(()))


SHAPES: dict[str, Callable[[int], bytes]] = {
    "instructions": lambda n: b"FROM a\n" + b"RUN echo hello\n" * n,
    "comments": lambda n: b"FROM a\n" + b"# comment\n" * n + b"RUN x\n",
    "blank lines": lambda n: b"FROM a\n" + b"\n" * n + b"RUN x\n",
    "one continuation": lambda n: b"FROM a\nRUN x" + b" \\\n y" * n + b"\n",
    "commented continuation": lambda n: b"FROM a\nRUN x \\\n" + b"# c\n" * n + b" y\n",
    "one long here-document": lambda n: b"FROM a\nRUN <<E\n" + b"line\n" * n + b"E\n",
    "many here-documents": lambda n: b"FROM a\n" + b"RUN <<E\nx\nE\n" * n,
    "here-documents of one line": lambda n: b"FROM a\nRUN cat " + b"<<E " * n + b"\n" + b"x\nE\n" * n,
    "unterminated here-documents": lambda n: b"FROM a\nRUN cat " + b"<<E " * n + b"\n" + b"x\n" * n,
    "stages": lambda n: b"FROM a\n" * n,
    "chained stages": lambda n: b"FROM a AS s0\n" + b"".join(b"FROM s%d AS s%d\n" % (i, i + 1) for i in range(n)),
    "copies from stages": lambda n: b"FROM a AS s\nFROM b\n" + b"COPY --from=s a b\n" * n,
    "arguments": lambda n: b"FROM scratch\n" + b"".join(b"ARG A%d=%d\n" % (i, i) for i in range(n)),
    "one ARG": lambda n: b"FROM scratch\nARG " + b" ".join(b"A%d=x" % i for i in range(n)) + b"\n",
    "undefined variables": lambda n: b"FROM scratch\n" + b"".join(b"ENV A%d=$UNKNOWN%d\n" % (i, i) for i in range(n)),
    "words of a COPY": lambda n: b"FROM scratch\nCOPY " + b"a " * n + b"/b/\n",
    "JSON": lambda n: b"FROM scratch\nCMD [" + b'"a", ' * n + b'"b"]\n',
    "quotes": lambda n: b'FROM scratch\nENV A="' + b"'x'$A\\" * n + b'"\n',
    "flags": lambda n: b"FROM scratch\nRUN " + b"--mount=type=tmpfs,target=/x " * n + b"true\n",
    "labels": lambda n: b"FROM scratch\nLABEL " + b"a=b " * n + b"\n",
    "ports": lambda n: b"FROM scratch\nEXPOSE " + b"80 " * n + b"\n",
    "open quotes": lambda n: b"FROM scratch\n" + b"ENV A='x\n" * n,
    "triggers": lambda n: b"FROM scratch\n" + b"ONBUILD RUN x\n" * n + b"FROM scratch\n",
}


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_work_grows_with_the_size_alone(shape: str) -> None:
    make = SHAPES[shape]
    attempt(lambda: everything(make(3)))  # what is done once, imports included
    small = work(lambda: attempt(lambda: everything(make(60))))
    large = work(lambda: attempt(lambda: everything(make(240))))
    # four times the input: a square would be sixteen times the work
    assert large < 6 * small, (small, large)


@pytest.mark.parametrize(
    "word",
    [
        lambda n: "$a" * n,
        lambda n: "${a:-x}" * n,
        lambda n: "${a#" + "*" * n + "b}",
        lambda n: "${a%%" + "?*" * n + "}",
        lambda n: "'" * n,
        lambda n: '"$a' * n,
        lambda n: "\\" * n,
        lambda n: "<" * n,
        lambda n: "${" * n,
        lambda n: "$" * n,
    ],
)
def test_work_of_an_expansion_grows_with_the_word(word: Callable[[int], str]) -> None:
    expander = Expander()
    small = work(lambda: attempt(lambda: expander.expand(word(100), {"a": "abab"})))
    large = work(lambda: attempt(lambda: expander.expand(word(400), {"a": "abab"})))
    assert large < 6 * small + 100, (small, large)


@pytest.mark.parametrize("pattern", ["*", "a*", "*a", "**/", "?*", "[a-z]*", "*/"])
def test_work_of_an_ignore_pattern_grows_with_its_length(pattern: str) -> None:
    path = "/".join(["a" * 10] * 20)

    def match(times: int) -> None:
        rules = IgnoreRules.parse(pattern * times + "b\n!" + pattern * times + "c")
        rules.excludes(path)
        rules.may_descend(path)

    small = work(lambda: attempt(lambda: match(20)))
    large = work(lambda: attempt(lambda: match(80)))
    assert large < 6 * small + 100, (small, large)


def test_findings_are_bounded() -> None:
    source = b"FROM scratch\n" + b"".join(b"ENV A%d=$B%d\n" % (i, i) for i in range(FINDINGS_LIMIT + 10))
    report = check(subject(source))
    assert len(report.findings) == FINDINGS_LIMIT
    assert report.truncated


def test_variables_that_double_stop_at_a_limit() -> None:
    source = b"FROM scratch\nENV a=xxxxxxxx\n" + b"ENV a=$a$a b=$a\n" * 60 + b"MAINTAINER me\n"
    report = check(subject(source))
    assert [finding.rule for finding in report.findings] == ["MaintainerDeprecated"]
    plan = make_plan(
        parse_syntax(source, "Dockerfile"), target="", build_args={}, platform=Platform(), build_platform=Platform()
    )
    with pytest.raises(DockerfileError):
        plan_document(plan, report)
