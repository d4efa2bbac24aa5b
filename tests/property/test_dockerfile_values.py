"""Properties of the values of flags and sources: mounts, modes, URLs, here-documents."""

from __future__ import annotations

import csv
import io
import posixpath

from hypothesis import example, given
from hypothesis import strategies as st

from executor.dockerfile.addsource import GitSource, UrlSource, classify, shown
from executor.dockerfile.chmod import parse_chmod
from executor.dockerfile.heredoctext import copied_content
from executor.dockerfile.instructions import Heredoc
from executor.dockerfile.mountvalues import parse_record, parse_size
from executor.dockerfile.runmount import Mount, MountWords, cache_directory_name, parse_mount
from executor.dockerfile.words import Expander
from executor.errors import DockerfileError, Location

PLACE = Location("Dockerfile", 1)
SHIFTS = {"u": 6, "g": 3, "o": 0}
BITS = {"r": 4, "w": 2, "x": 1}

KEYS = (
    *("type", "target", "source", "from", "ro", "rw", "required", "size", "id", "sharing", "mode", "uid", "gid", "env"),
    *("TYPE", "dst", "destination", "src", "readonly", "x"),
)
VALUES = (
    *("bind", "cache", "tmpfs", "secret", "ssh", "/", "/a", "a/../..", "", "true", "0", "755", "10m", "locked"),
    *("../..", "$A", "${B:-/}", "'q'", "\\", '"'),
)
OPTION = st.tuples(st.sampled_from(KEYS), st.none() | st.sampled_from(VALUES)).map(
    lambda pair: pair[0] if pair[1] is None else f"{pair[0]}={pair[1]}"
)
OPTIONS = st.lists(OPTION, min_size=1, max_size=6).map(",".join)


def expand(word: str) -> str:
    return Expander().expand(word, {"A": "cache"}, PLACE)


def parsed(text: str) -> MountWords | None:
    try:
        return parse_mount(text, PLACE)
    except DockerfileError:
        return None


def expanded(words: MountWords) -> Mount | None:
    try:
        return words.expanded(expand)
    except DockerfileError:
        return None


@given(OPTIONS | st.text(max_size=40))
def test_a_mount_is_checked_or_refused(text: str) -> None:
    words = parsed(text)
    mount = expanded(words) if words else None
    if mount is None:
        return
    assert mount.source.startswith("/") and posixpath.normpath(mount.source) == mount.source
    assert not mount.source.startswith("//") and ".." not in mount.source.split("/")
    assert 0 <= mount.mode <= 0o7777
    assert len(cache_directory_name(mount.id)) == 64
    try:
        path = mount.target_path("/w")
    except DockerfileError:
        return
    assert path is None or (path.startswith("/") and path != "/" and posixpath.normpath(path) == path)
    assert (path is None) == (mount.type == "secret" and mount.env is not None and not mount.target)


@given(OPTIONS)
@example("type=secret,id=a")
def test_whatever_does_not_depend_on_variables_is_told_at_once(text: str) -> None:
    words = parsed(text)
    if words is not None and not set("$'\"\\`") & set(text):
        assert expanded(words) is not None


@given(st.lists(st.text(alphabet='ab," =/$', max_size=6), min_size=1, max_size=5))
def test_records_are_those_of_csv(fields: list[str]) -> None:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(fields)
    assert parse_record(written.getvalue()) == tuple(fields)


@given(st.integers(min_value=0, max_value=(1 << 63) - 1), st.sampled_from(["", "b", "B", " b"]))
def test_a_plain_size_is_itself(size: int, unit: str) -> None:
    assert parse_size(f"{size}{unit}") == size


@given(st.text(alphabet="ugoa+-=rwxXst,07", max_size=12), st.integers(0, 0o7777), st.booleans())
def test_a_mode_is_a_mode_or_refused(text: str, mode: int, is_directory: bool) -> None:
    try:
        changed = parse_chmod(text, PLACE)(mode, is_directory)
    except DockerfileError:
        return
    assert 0 <= changed <= 0o7777


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("ugo")), st.sampled_from("+-="), st.sets(st.sampled_from("rwx"))), min_size=1
    ),
    st.integers(0, 0o777),
)
def test_permissions_change_as_a_naive_model_says(clauses: list[tuple[set[str], str, set[str]]], mode: int) -> None:
    held = {(who, letter) for who in "ugo" for letter in "rwx" if mode >> SHIFTS[who] & BITS[letter]}
    for who, operator, letters in clauses:
        meant = {(item, letter) for item in who or "ugo" for letter in letters}
        if operator == "=":
            held = {(item, letter) for item, letter in held if item not in (who or "ugo")}
        held = held - meant if operator == "-" else held | meant
    text = ",".join("".join(sorted(who)) + operator + "".join(sorted(letters)) for who, operator, letters in clauses)
    expected = sum(BITS[letter] << SHIFTS[who] for who, letter in held)
    if len(text) <= 1000:
        assert parse_chmod(text, PLACE)(mode, False) == expected


@given(st.integers(0, 0o7777), st.integers(0, 0o7777), st.booleans())
def test_an_octal_mode_is_what_it_says(wanted: int, mode: int, is_directory: bool) -> None:
    chmod = parse_chmod(f"{wanted:o}", PLACE)
    assert chmod(mode, is_directory) == chmod.created_directory_mode == wanted


URLS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["https://", "http://", "git://", "ssh://", "git@", "me:pw@", ""]),
        st.sampled_from(["h", "u:hunter2@h", "h:80", "[::1]", "", "h:"]),
        st.text(alphabet="/.:%2efgit#?&=@\\ a\n", max_size=12),
        st.sampled_from(["", ".git", ".git#", ".git?", "/..", "%2f.."]),
        st.text(alphabet="ref=tag&:/.%0a#-", max_size=8),
    ),
)


@given(URLS | st.text(max_size=20))
def test_a_source_leads_nowhere_else(text: str) -> None:
    assert "hunter2" not in shown(text) or not text.startswith(("http", "git://", "ssh"))
    try:
        source = classify(text, PLACE)
    except DockerfileError:
        return
    if isinstance(source, UrlSource):
        assert source.name not in {"", ".", ".."} and "/" not in source.name and "\0" not in source.name
    if isinstance(source, GitSource):
        assert ".." not in source.subdir.split("/") and not source.subdir.startswith("/")
        assert not (source.ref or "").startswith("-")


@given(st.text(alphabet=st.characters(exclude_characters="$\\", exclude_categories=["Cs"])), st.booleans())
def test_a_text_without_variables_is_copied_as_it_is(text: str, expands: bool) -> None:
    assert copied_content(Heredoc("EOF", text, expand=expands), {}, PLACE) == text.encode()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_quoted_document_is_copied_as_it_is(text: str) -> None:
    assert copied_content(Heredoc("EOF", text, expand=False), {"a": "b"}, PLACE) == text.encode()
