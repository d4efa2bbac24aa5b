"""Names of commits and refs."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.context.revision import check_commit, check_ref
from executor.errors import GitError


def test_a_full_object_name_is_a_commit() -> None:
    check_commit("0123456789abcdef0123456789abcdef01234567")


@pytest.mark.parametrize("commit", ["", "HEAD", "main", "A" * 40, "a" * 39, "a" * 41, "-" + "a" * 39, "a" * 40 + "\n"])
def test_what_is_no_object_name_is_refused(commit: str) -> None:
    with pytest.raises(GitError) as caught:
        check_commit(commit)
    assert caught.value.code == "git-commit-invalid"


def test_a_sha_256_name_is_understood_and_refused() -> None:
    with pytest.raises(GitError) as caught:
        check_commit("a" * 64)
    assert caught.value.code == "git-object-format"


@pytest.mark.parametrize("ref", ["refs/heads/main", "refs/tags/v1.0", "refs/heads/feature/ü", "refs/pull/1/head"])
def test_full_refs_are_accepted(ref: str) -> None:
    check_ref(ref)


REFUSED = [
    "",
    "main",
    "HEAD",
    "@{-1}",
    "-u",
    "--upload-pack=x",
    "heads/main",
    "refs/heads/../../x",
    "refs/heads/a..b",
    "refs/heads/a b",
    "refs/heads/a\n",
    "refs/heads/a\0",
    "refs/heads/a:b",
    "refs/heads/a*",
    "refs/heads/a?",
    "refs/heads/a[",
    "refs/heads/a^",
    "refs/heads/a~1",
    "refs/heads/a\\b",
    "refs/heads/a@{1}",
    "refs/heads//a",
    "refs/heads/.a",
    "refs/heads/a.",
    "refs/heads/a/",
    "refs/heads/a.lock",
    "refs/heads/a.lock/b",
    "refs/heads/\u202ea",
    "refs/" + "x" * 2000,
]


@pytest.mark.parametrize("ref", REFUSED)
def test_other_refs_are_refused(ref: str) -> None:
    with pytest.raises(GitError) as caught:
        check_ref(ref)
    assert caught.value.code == "git-ref-invalid"


@given(st.text(alphabet="ab./@{}~^:?*[\\ -", max_size=12))
def test_git_accepts_every_ref_that_is_accepted(rest: str) -> None:
    ref = f"refs/heads/{rest}"
    try:
        check_ref(ref)
    except GitError:
        return
    assert subprocess.run(["git", "check-ref-format", ref], check=False).returncode == 0
