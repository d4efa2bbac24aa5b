"""Sources of ADD and COPY: the table of golden cases, checksums, and what people are shown of a URL."""

from __future__ import annotations

import dataclasses
import json

import pytest

from executor.dockerfile.addsource import (
    Checksum,
    GitSource,
    LocalSource,
    Source,
    UrlSource,
    add_sources,
    classify,
    require_local,
    shown,
)
from executor.errors import DockerfileError, Location
from tests.support.golden_tables import rows

PLACE = Location("Dockerfile", 5)
KINDS = {LocalSource: "local", UrlSource: "url", GitSource: "git"}
URL, GIT = "https://example.com/a.tgz", "https://example.com/a.git"


def as_json(source: Source) -> dict[str, object]:
    return {"kind": KINDS[type(source)], **dataclasses.asdict(source)}


@pytest.mark.parametrize(("text", "expected"), rows("sources/add.txt", 2))
def test_source(text: str, expected: str) -> None:
    if expected.startswith("ERROR "):
        with pytest.raises(DockerfileError) as caught:
            classify(text, PLACE)
        assert expected.removeprefix("ERROR ") in caught.value.message
        assert caught.value.location == PLACE and caught.value.hint
    else:
        wanted = json.loads(expected)
        found = as_json(classify(text, PLACE))
        assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize("length", [("sha256", 64), ("sha384", 96), ("sha512", 128)], ids=lambda item: item[0])
def test_the_checksum_of_a_url(length: tuple[str, int]) -> None:
    algorithm, digits = length
    (source,) = add_sources([URL], PLACE, checksum=f"{algorithm}:{'0a' * (digits // 2)}")
    assert isinstance(source, UrlSource)
    assert source.checksum == Checksum(algorithm, "0a" * (digits // 2))


@pytest.mark.parametrize(
    "checksum",
    [
        *("abc", "sha256:abc", f"sha256:{'A' * 64}", f"md5:{'0' * 32}", f"sha1:{'0' * 40}", f"sha256:{'0' * 128}"),
        *(f"sha512:{'0' * 64}", f" sha256:{'0' * 64}", f"sha256:{'0' * 64}\n", "0" * 40),
    ],
)
def test_what_is_no_checksum_of_a_url(checksum: str) -> None:
    with pytest.raises(DockerfileError, match="expected sha256:"):
        add_sources([URL], PLACE, checksum=checksum)


@pytest.mark.parametrize("checksum", ["a", "be1f38e", "0" * 40, "0" * 64])
def test_the_checksum_of_a_repository(checksum: str) -> None:
    (source,) = add_sources([GIT], PLACE, checksum=checksum)
    assert isinstance(source, GitSource)
    assert (source.commit, source.ref) == (checksum, None)


@pytest.mark.parametrize("checksum", ["xyz", "BE1F38E", "0" * 65, f"sha256:{'0' * 64}"])
def test_what_is_no_checksum_of_a_repository(checksum: str) -> None:
    with pytest.raises(DockerfileError, match="the commit begins with"):
        add_sources([GIT], PLACE, checksum=checksum)


def test_two_checksums_must_agree() -> None:
    (source,) = add_sources([f"{GIT}?checksum=abc"], PLACE, checksum="abc")
    assert isinstance(source, GitSource) and source.commit == "abc"
    with pytest.raises(DockerfileError, match="contradicts the checksum"):
        add_sources([f"{GIT}?checksum=abc"], PLACE, checksum="abd")


@pytest.mark.parametrize("sources", [[], [URL, URL], [URL, "a"], ["a", "b"]])
def test_a_checksum_needs_one_source(sources: list[str]) -> None:
    with pytest.raises(DockerfileError, match="expected one source"):
        add_sources(sources, PLACE, checksum=f"sha256:{'0' * 64}")


def test_a_checksum_is_not_for_local_files() -> None:
    with pytest.raises(DockerfileError, match="expected a URL or a git repository"):
        add_sources(["a.tgz"], PLACE, checksum=f"sha256:{'0' * 64}")


def test_the_git_directory_is_kept_where_flag_or_url_say_so() -> None:
    sources = add_sources([GIT, URL, "a", f"{GIT}?keep-git-dir=true"], PLACE, keep_git_dir=True)
    assert [source.keep_git_dir for source in sources if isinstance(source, GitSource)] == [True, True]
    with pytest.raises(DockerfileError, match="contradicts keep-git-dir=false"):
        add_sources([f"{GIT}?keep-git-dir=false"], PLACE, keep_git_dir=True)


def test_copy_takes_only_paths() -> None:
    require_local(["a", "./git@x:y", "github.com/a/b", "ftp://x/y"], PLACE)
    for text, what in ((URL, "a URL"), (GIT, "a git repository"), ("git@example.com:a", "a git repository")):
        with pytest.raises(DockerfileError, match=what) as caught:
            require_local(["a", text], PLACE)
        assert caught.value.hint == "use ADD for what is not in the build context"


@pytest.mark.parametrize(
    "text",
    [
        *("https://me:hunter2@example.com/a", "https://me:hunter2@example.com/a.git", "https://hunter2@example.com/a"),
        *("https://me:hunter2@example.com:x/a", "https://example.com/a?token=hunter2", "https://me:hunter2@/x"),
        "https://me:hun@hunter2@example.com/a",
    ],
)
def test_a_password_is_never_shown(text: str) -> None:
    assert "hunter2" not in shown(text)
    with pytest.raises(DockerfileError) as caught:
        require_local([text], PLACE)
    assert "hunter2" not in str(caught.value)
    try:
        found = repr(classify(text, PLACE))
    except DockerfileError as error:
        found = str(error)
    assert "hunter2" not in found


@pytest.mark.parametrize("character", ["\0", "\n", "\t", "\r", "\x1b", "\x7f"])
@pytest.mark.parametrize("base", ["https://example.com/a", "git@example.com:a", "ssh://example.com/a"])
def test_control_characters_are_refused(base: str, character: str) -> None:
    with pytest.raises(DockerfileError):
        classify(f"{base}{character}b", PLACE)


def test_a_query_of_many_parts_is_refused() -> None:
    with pytest.raises(DockerfileError, match="too many parts"):
        classify(f"{GIT}?{'&'.join(['ref=a'] * 10_000)}", PLACE)
