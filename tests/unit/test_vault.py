"""Secrets at rest: what is sealed opens at its own place only, and the key is nobody else's."""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path

import pytest

from tasks.vault import Vault, VaultError, generate_key, open_vault

CONTEXT = "project:demo:webhook_secrets"


def test_a_sealed_text_opens_and_shows_nothing() -> None:
    vault = Vault([generate_key()])
    sealed = vault.seal("s3cret text ü", CONTEXT)
    assert vault.open(sealed, CONTEXT) == "s3cret text ü"
    raw = base64.urlsafe_b64decode(sealed)
    assert b"s3cret" not in raw and b"demo" not in raw
    assert vault.seal("s3cret text ü", CONTEXT) != sealed


def test_a_value_moved_to_another_field_does_not_open() -> None:
    vault = Vault([generate_key()])
    sealed = vault.seal("the secret", CONTEXT)
    for other in ("project:demo:git_credential", "project:other:webhook_secrets", "", CONTEXT + "x", CONTEXT[:-1]):
        with pytest.raises(VaultError) as caught:
            vault.open(sealed, other)
        assert caught.value.code == "vault-moved"
        assert "the secret" not in str(caught.value).replace(f"the secret of {other}", "")


def test_a_text_with_nul_cannot_pretend_to_have_another_context() -> None:
    vault = Vault([generate_key()])
    sealed = vault.seal("b\0text", "a")
    assert vault.open(sealed, "a") == "b\0text"
    with pytest.raises(VaultError):
        vault.open(sealed, "a\0b")


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "text", "unicode"])
def test_an_altered_value_does_not_open(change: str) -> None:
    vault = Vault([generate_key()])
    sealed = vault.seal("the secret", CONTEXT)
    altered = {
        "flip": sealed[:-10] + ("A" if sealed[-10] != "A" else "B") + sealed[-9:],
        "cut": sealed[:-4],
        "empty": "",
        "text": "not sealed at all",
        "unicode": "ü" * 20,
    }[change]
    with pytest.raises(VaultError) as caught:
        vault.open(altered, CONTEXT)
    assert caught.value.code == "vault-sealed"


def test_another_key_does_not_open_and_a_rotation_opens_both() -> None:
    old, new = generate_key(), generate_key()
    sealed = Vault([old]).seal("kept", CONTEXT)
    with pytest.raises(VaultError):
        Vault([new]).open(sealed, CONTEXT)
    rotating = Vault([new, old])
    assert rotating.open(sealed, CONTEXT) == "kept"
    assert Vault([new]).open(rotating.seal("fresh", CONTEXT), CONTEXT) == "fresh"


@pytest.mark.parametrize("key", ["", "short", "ü" * 44, "!" * 44, base64.urlsafe_b64encode(b"x" * 16).decode()])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(VaultError) as caught:
        Vault([key])
    assert caught.value.code == "vault-key-invalid"
    assert not key or key not in str(caught.value)


def test_no_key_is_refused() -> None:
    with pytest.raises(VaultError):
        Vault([])


def test_the_key_file_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret.key"
    old = os.umask(0)
    try:
        sealed = open_vault("", path).seal("kept", CONTEXT)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_vault("", path).open(sealed, CONTEXT) == "kept"
    assert [item.name for item in path.parent.iterdir()] == ["secret.key"]


def test_two_processes_that_make_the_key_at_once_use_the_same(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    barrier = threading.Barrier(8)
    vaults: list[Vault] = []

    def make() -> None:
        barrier.wait()
        vaults.append(open_vault("", path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sealed = vaults[0].seal("kept", CONTEXT)
    assert [vault.open(sealed, CONTEXT) for vault in vaults] == ["kept"] * 8


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret.key"
    open_vault("", path)
    path.chmod(mode)
    with pytest.raises(VaultError, match="0600") as caught:
        open_vault("", path)
    assert caught.value.code == "vault-key-exposed"


def test_a_key_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    open_vault("", target)
    (tmp_path / "secret.key").symlink_to(target)
    with pytest.raises(VaultError):
        open_vault("", tmp_path / "secret.key")


def test_an_emptied_key_file_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    path.touch(0o600)
    with pytest.raises(VaultError) as caught:
        open_vault("", path)
    assert caught.value.code == "vault-key-invalid"
    assert path.read_text() == ""


def test_keys_of_the_environment_come_before_the_file(tmp_path: Path) -> None:
    old, new = generate_key(), generate_key()
    sealed = Vault([old]).seal("kept", CONTEXT)
    assert open_vault(f"{new}, {old}", tmp_path / "unused").open(sealed, CONTEXT) == "kept"
    assert not (tmp_path / "unused").exists()


def test_a_key_file_may_hold_two_keys_and_comments(tmp_path: Path) -> None:
    old, new = generate_key(), generate_key()
    path = tmp_path / "secret.key"
    path.write_text(f"# since May\n{new}\n\n{old}\n")
    path.chmod(0o600)
    assert open_vault("", path).open(Vault([old]).seal("kept", CONTEXT), CONTEXT) == "kept"
