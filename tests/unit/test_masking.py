"""Secrets in events: whole, in pieces, beside each other, and in the forms that programs print them in."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.progress import EventWriter, Masker
from executor.secret_values import secrets_of
from executor.spec import BuildSpec, Credential, GitContext, RegistryOptions


def _stream(masker: Masker, pieces: list[str]) -> str:
    return "".join(masker.mask("out", piece) for piece in pieces) + masker.flush("out")


@pytest.mark.parametrize(
    ("secrets", "pieces", "shown"),
    [
        (["hunter2"], ["hunter2"], "***"),
        (["hunter2"], ["hun", "ter", "2"], "***"),
        (["hunter2"], ["hun", "t"], "hunt"),
        (["hunter2"], ["huhunter2hun"], "hu***hun"),
        # one secret begins another: its rest must not follow in the clear
        (["pass", "password1"], ["pass", "word1!"], "***!"),
        (["pass", "password1"], ["pass", "port"], "***port"),
        # one secret's end begins another
        (["abcd", "cdXY"], ["abcd", "Z"], "***Z"),
        (["abcd", "cdXY"], ["ab", "cdXY"], "***XY"),
        (["aaaa"], ["aa", "aaa", "a"], "***aa"),
        (["line1\nline2"], ["line1\n", "line2\n"], "***\n"),
        (["a.c+"], ["abcc", " a.c+"], "abcc ***"),
    ],
)
def test_what_is_shown(secrets: list[str], pieces: list[str], shown: str) -> None:
    assert _stream(Masker(secrets), pieces) == shown


@given(
    st.lists(st.text("ab*", min_size=4, max_size=7), min_size=1, max_size=4),
    st.lists(st.text("ab*", max_size=6), max_size=8),
)
def test_pieces_are_masked_like_the_whole(secrets: list[str], pieces: list[str]) -> None:
    masker = Masker(secrets)
    assert _stream(masker, pieces) == masker.mask_whole("".join(pieces))


def test_streams_are_apart_and_an_ended_step_gives_what_was_held() -> None:
    lines: list[bytes] = []
    observer = EventWriter(lines.append, Masker(["hunter2"]))
    observer("step-log", step=1, stream="stdout", data="hun")
    observer("step-log", step=1, stream="stderr", data="ter2")
    observer("step-finished", step=1, seconds=0)
    logs = [event for event in map(json.loads, lines) if event["type"] == "step-log"]
    assert {(event["stream"], event["data"]) for event in logs} == {("stderr", "ter2"), ("stdout", "hun")}


def test_the_forms_of_a_secret_in_urls_and_headers() -> None:
    spec = BuildSpec(
        context=GitContext("https://bob:in%2Furl@example.com/x.git", "0" * 40, username="git", password="to/ken"),
        store="/s",
        proxies={"HTTP_PROXY": "http://me:proxy-word@proxy:3128", "NO_PROXY": "[broken", "ALL_PROXY": "p:secretly@h:1"},
        registries=RegistryOptions(
            credentials={"r": Credential("u", "p&ss word"), "t": Credential(identity_token="id-t")}
        ),
    )
    masker = Masker(secrets_of(spec))
    for text in (
        "to/ken",
        "to%2Fken",
        base64.b64encode(b"git:to/ken").decode(),
        "p%26ss%20word",
        base64.b64encode(b"u:p&ss word").decode(),
        "id-t",
        "in%2Furl",
        "in/url",
        "proxy-word",
        "secretly",
    ):
        assert masker.mask_whole(f"<{text}>") == "<***>", text
    assert masker.mask_whole("https://proxy:3128 git example.com") == "https://proxy:3128 git example.com"
