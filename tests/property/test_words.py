"""Properties of words, patterns, parsing and ignore rules, against naive models."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from executor.context.ignore import IgnoreRules
from executor.dockerfile import patterns
from executor.dockerfile.parse import parse
from executor.dockerfile.words import Expander, split_words
from executor.errors import ContextError, DockerfileError, PushwrightError
from executor.oci import Platform
from executor.plan import make_plan

LEXED = st.text(alphabet="ab$'\"\\`{}:-+?#%/*<> \t\n1_.", max_size=40)
ENVIRONMENT = {"a": "abab", "b": "", "1": "one"}


@given(LEXED)
def test_expansion_gives_a_text_or_our_error(word: str) -> None:
    for expander in (Expander(), Expander("`"), Expander(quotes="ordinary"), Expander(keep_unset=True)):
        try:
            text = expander.expand(word, ENVIRONMENT)
            words = expander.expand_words(word, ENVIRONMENT)
        except DockerfileError:
            continue
        assert "".join("".join(words).split()) == "".join(text.split())


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_a_single_quoted_text_is_itself(text: str) -> None:
    quoted = "'" + text.replace("'", "'\\''") + "'"
    assert Expander().expand(quoted, {}) == text
    assert Expander().expand_words("x" + quoted, {}) == ["x" + text]


@given(st.text(max_size=30))
def test_an_escaped_text_is_itself(text: str) -> None:
    assert Expander().expand("".join(f"\\{character}" for character in text), {"a": "no"}) == text


@given(LEXED)
@example("a\\")
def test_splitting_loses_only_space(text: str) -> None:
    joined = "".join(split_words(text, "\\"))
    assert "".join(joined.split()) == "".join(text.split()) or text.endswith("\\")
    assert "".join(joined.split()).rstrip("\\") == "".join(text.split()).rstrip("\\")


PATTERN = st.text(alphabet="ab*?", max_size=8)
VALUE = st.text(alphabet="ab\n", max_size=12)


def regex(pattern: str, star: str) -> str:
    return "".join({"*": star, "?": "."}.get(character, re.escape(character)) for character in pattern)


@given(PATTERN, VALUE)
def test_prefixes_are_those_of_a_regex(pattern: str, value: str) -> None:
    for star, longest in ((".*", True), (".*?", False)):
        match = re.match(regex(pattern, star), value)
        expected = value[match.end() :] if match else value
        assert patterns.trim_prefix(pattern, value, longest) == expected


@given(PATTERN, VALUE)
def test_suffixes_are_those_of_a_reversed_regex(pattern: str, value: str) -> None:
    for star, longest in ((".*", True), (".*?", False)):
        match = re.match(regex(pattern[::-1], star), value[::-1])
        expected = value[: len(value) - match.end()] if match else value
        assert patterns.trim_suffix(pattern, value, longest) == expected


@given(PATTERN.filter(lambda text: text.strip("*") != ""), VALUE)
def test_replacement_is_that_of_a_regex(pattern: str, value: str) -> None:
    expression = regex(pattern, ".*")
    assert patterns.replace(pattern, value, "X", every=True, limit=1000) == re.sub(expression, "X", value)
    assert patterns.replace(pattern, value, "X", every=False, limit=1000) == re.sub(expression, "X", value, count=1)


IGNORE_PATTERN = st.text(alphabet="ab*?/", min_size=1, max_size=8)
PATH = st.lists(st.text(alphabet="ab", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


def naive_ignore(pattern: str) -> str:
    """The pattern as moby/patternmatcher turns it into a backtracking regular expression."""
    result, position = "", 0
    while position < len(pattern):
        if pattern.startswith("**", position):
            position += 2
            slash = pattern.startswith("/", position)
            position += slash
            result += ".*" if position == len(pattern) else "(.*/)?"
            continue
        result += {"*": "[^/]*", "?": "[^/]"}.get(pattern[position], re.escape(pattern[position]))
        position += 1
    return result


def naive_matches(pattern: str, path: str) -> bool:
    if pattern.startswith("**") and not set(pattern[2:]) & set("*?"):
        suffix = pattern[2:]
        return path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])
    return re.fullmatch(naive_ignore(pattern), path) is not None


def parents(path: str) -> list[str]:
    names = path.split("/")
    return ["/".join(names[: number + 1]) for number in range(len(names))]


@given(st.lists(st.tuples(st.booleans(), IGNORE_PATTERN), min_size=1, max_size=4), PATH)
def test_ignore_rules_agree_with_the_model(lines: list[tuple[bool, str]], path: str) -> None:
    # the model knows neither cleaning nor runs of more than two stars
    cleaned = [(negated, re.sub(r"\*{3,}", "**", re.sub("/+", "/", pattern)).strip("/")) for negated, pattern in lines]
    kept = [(negated, re.sub(r"(\*\*/)+(?=\*\*)", "", pattern)) for negated, pattern in cleaned if pattern]
    expected = False
    for negated, pattern in kept:
        if any(naive_matches(pattern, parent) for parent in parents(path)):
            expected = not negated
    rules = IgnoreRules.parse("\n".join(("!" if negated else "") + pattern for negated, pattern in kept))
    assert rules.excludes(path) == expected
    for parent in parents(path)[:-1]:
        assert expected or rules.may_descend(parent)


@given(st.text(max_size=60))
def test_ignore_rules_give_rules_or_our_error(text: str) -> None:
    try:
        rules = IgnoreRules.parse(text)
    except ContextError:
        return
    rules.excludes("a/b")
    rules.may_descend("a/b")


LINE = st.one_of(
    st.sampled_from(
        ["FROM a", "FROM a AS b", "RUN x \\", "RUN <<E", "E", "# x", "# escape=`", "", "COPY --from=0 a b", "ARG a=$b"]
    ),
    st.text(alphabet="FROMUNCPYEV ab=\\`<'\"$#[],-\x01\t\x0b\x85", max_size=20),
)


@given(st.one_of(st.lists(LINE, max_size=12).map("\n".join).map(str.encode), st.binary(max_size=200)))
def test_any_bytes_give_a_plan_or_our_error_with_its_place(text: bytes) -> None:
    try:
        dockerfile = parse(text, "Dockerfile")
        make_plan(dockerfile, target="", build_args={}, platform=Platform(), build_platform=Platform())
    except PushwrightError as error:
        assert error.location is not None
        assert 1 <= error.location.line <= text.count(b"\n") + 1
        return
    locations = [item.location for stage in dockerfile.stages for item in stage.instructions]
    assert [item.line for item in locations] == sorted({item.line for item in locations})
    assert all((item.end_line or 0) <= text.count(b"\n") + 1 for item in locations)
