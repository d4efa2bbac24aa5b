"""Deliveries, refs and sealed values: whatever is sent, the answer is one of the few that were promised."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.errors import UsageError
from tasks import forges
from tasks.forges import Headers, Ignored, PayloadError, Ping, PushEvent, generic, github
from tasks.refs import check_commit, check_commit_prefix, check_ref, shown
from tasks.vault import Vault, VaultError, generate_key

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
REFS = st.sampled_from(["refs/heads/main", "refs/tags/v1", "main", "", "refs/heads/", "refs/heads/\ud800", "HEAD"])
COMMITS = st.sampled_from(["0" * 40, "a" * 40, "a" * 64, "0" * 64, "a" * 39, "A" * 40, ""])
PUSHES = st.fixed_dictionaries(
    {
        "ref": REFS | JSON,
        "before": COMMITS | JSON,
        "after": COMMITS | JSON,
        "deleted": st.booleans() | JSON,
        "forced": st.booleans() | JSON,
        "repository": JSON | st.fixed_dictionaries({"full_name": st.just("a/b") | JSON, "clone_url": st.text() | JSON}),
    }
)
KINDS = st.sampled_from(["application/json", "application/x-www-form-urlencoded", "text/plain", ""])
EVENTS = st.sampled_from(["push", "ping", "create", ""]) | st.text(max_size=20)


def read(event: str, kind: str, body: bytes) -> None:
    headers = Headers([("X-GitHub-Event", event), ("Content-Type", kind)])
    for forge in (github, generic):
        try:
            delivery = forge.parse(headers, body, "")
        except PayloadError as error:
            assert error.message.isprintable()
            continue
        assert isinstance(delivery, PushEvent | Ping | Ignored)
        if isinstance(delivery, PushEvent):
            for change in delivery.refs:
                assert check_ref(change.ref) == change.ref
                assert change.deleted == (change.after == "")
                assert all(not commit or check_commit(commit) for commit in (change.before, change.after))


@given(EVENTS, KINDS, st.binary(max_size=300))
def test_any_bytes_are_a_delivery_or_a_payload_error(event: str, kind: str, body: bytes) -> None:
    read(event, kind, body)


@given(EVENTS, KINDS, JSON | PUSHES)
@settings(max_examples=300)
def test_any_json_is_a_delivery_or_a_payload_error(event: str, kind: str, value: Any) -> None:
    read(event, kind, json.dumps(value).encode())


@given(st.text(), st.binary(max_size=100), st.lists(st.binary(max_size=40), max_size=3))
def test_only_the_right_signature_verifies(header: str, body: bytes, secrets: list[bytes]) -> None:
    forge = forges.detect(Headers([("X-GitHub-Event", "push")]))
    right = {forges.sign(body, secret) for secret in secrets if secret}
    assert forges.verify(forge, Headers([("X-Hub-Signature-256", header)]), body, secrets) == (header in right)
    for signature in right:
        assert forges.verify(forge, Headers([("X-Hub-Signature-256", signature)]), body, secrets)


REF_TEXTS = st.text(alphabet=st.sampled_from("ab/.@{-~^:?*[\\ \tlock~é\u202e\x7f") | st.characters(), max_size=12)


@given(
    REF_TEXTS | st.lists(st.sampled_from(["a", ".", "..", "lock", ".lock", "/", "@", "@{", "-", "HEAD"])).map("".join)
)
@settings(max_examples=150, deadline=None)
def test_git_accepts_every_ref_that_we_accept(text: str) -> None:
    ref = f"refs/heads/{text}"
    try:
        check_ref(ref)
    except UsageError as error:
        assert error.message.isprintable() and error.message.isascii()
        return
    assert subprocess.run(["git", "check-ref-format", ref], check=False).returncode == 0
    assert (
        subprocess.run(["git", "check-ref-format", "--branch", text], check=False, capture_output=True).returncode == 0
    )


@given(st.text(max_size=80))
def test_only_hex_digits_are_commits(text: str) -> None:
    is_hex = set(text.lower()) <= set("0123456789abcdef") and text.isascii()
    try:
        assert check_commit_prefix(text) == text.lower()
        assert is_hex and 4 <= len(text) <= 64
    except UsageError:
        assert not is_hex or not 4 <= len(text) <= 64


@given(st.text() | st.none() | st.integers())
def test_what_is_shown_of_a_hostile_value_is_one_short_ascii_line(value: object) -> None:
    text = shown(value)
    assert text.isascii() and text.isprintable()
    assert not isinstance(value, str) or len(text) <= 80 * 10 + 2


VAULT = Vault([generate_key()])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), TEXTS)
def test_a_sealed_text_opens_at_its_place_only(text: str, context: str, other: str) -> None:
    sealed = VAULT.seal(text, context)
    assert VAULT.open(sealed, context) == text
    if other != context:
        with pytest.raises(VaultError):
            VAULT.open(sealed, other)
