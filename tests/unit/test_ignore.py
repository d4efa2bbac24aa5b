"""`.dockerignore`: the rules of moby/patternmatcher."""

from __future__ import annotations

import pytest

from executor.context.ignore import IGNORE_LIMIT_BYTES, IgnoreRules
from executor.errors import ContextError


def excluded(text: str, path: str) -> bool:
    return IgnoreRules.parse(text).excludes(path)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a/b/c", True),
        ("a", "b/a", False),
        ("a", "ab", False),
        ("/a", "a", True),
        ("a/", "a", True),
        ("./a", "a", True),
        ("x/../a", "a", True),
        ("../a", "a", False),
        ("/", "a", False),
        (".", "a", False),
        ("  a  ", "a", True),
        ("a b", "a b", True),
        ("*", "a", True),
        ("*", ".a", True),
        ("*", "a/b", True),
        ("*.txt", "a.txt", True),
        ("*.txt", "b/a.txt", False),
        ("*/*.txt", "b/a.txt", True),
        ("*/a", "a", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a[b-d]c", "acc", True),
        ("a[b-d]c", "aec", False),
        ("a[^b-d]c", "aec", True),
        ("a[^b]c", "a/c", False),
        ("a[!b]c", "a!c", True),
        ("a[\\]]c", "a]c", True),
        ("a[\\-x]c", "a-c", True),
        ("a\\*c", "a*c", True),
        ("a\\*c", "abc", False),
        ("a.c", "abc", False),
        ("a+(b)", "a+(b)", True),
        ("**", "a", True),
        ("**", "a/b", True),
        ("**/a", "a", True),
        ("**/a", "b/c/a", True),
        ("**/a", "ba", False),
        ("**/a", "b/a/c", True),
        ("**/*.go", "a/b.go", True),
        ("**/*.go", "b.go", True),
        ("**/*", "a", True),
        ("a/**", "a", False),
        ("a/**", "a/b", True),
        ("a/**", "a/b/c", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/xb", False),
        ("**/a/**/b", "x/a/y/b", True),
        ("**/**/a", "b/a", True),
        ("*a*b*c", "xaxbxcxc", True),
        ("*a*b*c", "xaxcxbx", False),
        ("**.txt", "a.txt", True),
        ("**.txt", "b/a.txt", True),
        ("**.txt", "b/a.txt/c", True),
        ("**.txt", "a.txtx", False),
        ("a**", "abc", True),
        ("a**", "a", True),
        ("a**", "ab/c", True),
        ("a**", "ba", False),
        ("a**b", "ab", True),
        ("a**b", "ax/b", True),
        ("a**b", "axb", False),
        ("a/**.txt", "a/x/.txt", True),
        ("a/**.txt", "a/x.txt", False),
        ("caf\u00e9/*", "caf\u00e9/x", True),
    ],
)
def test_one_pattern(pattern: str, path: str, expected: bool) -> None:
    assert excluded(pattern, path) is expected


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("# a\n#b", "#b", False),
        (" #b", "#b", True),
        ("\n\n  \n", "a", False),
        ("a\r\nb\r\n", "b", True),
        ("\ufeffa", "a", True),
        ("*\n!a", "a", False),
        ("*\n!a", "b", True),
        ("!a\n*", "a", True),
        ("*\n! a", "a", False),
        ("*\n!a/b", "a/b/c", False),
        ("*\n!a/b", "a/c", True),
        ("a\n!a/b\na/b/c", "a/b/c", True),
        ("**\n!**/*.go", "x/y.go", False),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README.md", False),
    ],
)
def test_the_last_match_wins(text: str, path: str, expected: bool) -> None:
    assert excluded(text, path) is expected


def test_the_path_is_cleaned() -> None:
    rules = IgnoreRules.parse("a/b")
    assert rules.excludes("/a//b/")
    assert rules.excludes("./a/x/../b")
    assert not IgnoreRules.parse("**").excludes("")
    assert not IgnoreRules.parse("**").excludes(".")


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("a", "b", True),
        ("a", "a", False),
        ("a\n!a/b/c", "a", True),
        ("a\n!a/b/c", "a/b", True),
        ("a\n!a/b/c", "a/x", False),
        ("*\n!**/keep", "deep/down", True),
        ("*\n!src/*/keep", "src/x", True),
        ("*\n!src/*/keep", "lib", False),
        ("*\n!src/*.c", "src/x", False),
        ("*\n!a/**", "a/b", True),
        ("*\n!a**b", "x", True),
    ],
)
def test_a_directory_is_left_only_when_nothing_below_can_come_back(text: str, path: str, expected: bool) -> None:
    assert IgnoreRules.parse(text).may_descend(path) is expected


@pytest.mark.parametrize(
    "pattern", ["[", "[a", "[]", "[]a]", "[^]", "[a-]", "[-a]", "[z-a]", "a\\", "[a\\", "x\0y", "a" * 5000]
)
def test_a_bad_pattern_names_its_line(pattern: str) -> None:
    with pytest.raises(ContextError, match=r"^\.dockerignore:2: bad pattern") as caught:
        IgnoreRules.parse(f"ok\n{pattern}")
    assert caught.value.code == "ignore-pattern"


def test_a_lone_exclamation_mark_is_refused() -> None:
    with pytest.raises(ContextError, match=r"^x\.dockerignore:1: expected a pattern behind '!'"):
        IgnoreRules.parse("!", "x.dockerignore")


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(ContextError, match="at most"):
        IgnoreRules.parse("#" * (IGNORE_LIMIT_BYTES + 1))
    with pytest.raises(ContextError, match="at most"):
        IgnoreRules.parse("a\n" * 10_001)


@pytest.mark.parametrize(
    "pattern",
    [
        "*a" * 100 + "b",
        "**/a/" * 50 + "b",
        "a**" * 50 + "b",
        "*" * 3000 + "b",
        "[a-z]*" * 200 + "!",
        "**/*a" * 40 + "b",
    ],
)
def test_no_pattern_explodes(pattern: str) -> None:
    rules = IgnoreRules.parse(pattern)
    assert not rules.excludes("a" * 4000)
    assert not rules.excludes("a/" * 2000 + "c")


def test_names_that_are_not_utf_8() -> None:
    assert excluded("*.txt", "\udcff.txt")
    assert not excluded("*.txt", "\udcff\n.tx")
    assert excluded("a?b", "a\nb")


def test_patterns_from_a_list() -> None:
    rules = IgnoreRules.from_patterns(["*.o", "!x.o"], "COPY --exclude")
    assert rules.excludes("y.o")
    assert not rules.excludes("x.o")
