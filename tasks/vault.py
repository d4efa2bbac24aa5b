"""Secrets at rest: authenticated encryption (Fernet), each value bound to the field it belongs to.

The first key seals, all of them open: to rotate, put a new key in front and remove the old one when everything was
written anew.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from executor.errors import HostError, UsageError

KEY_BYTES = 32


class VaultError(HostError):
    """A sealed value that cannot be opened, or a key that cannot be used."""

    code = "vault-sealed"


class Vault:
    """Seals texts and opens them again; `context` names the one place where a value may be used."""

    def __init__(self, keys: Sequence[str]) -> None:
        from cryptography.fernet import Fernet, MultiFernet

        if not keys:
            raise VaultError("expected at least one key, found none", code="vault-key-invalid")
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError as error:
            # the library's own message may quote the key
            raise VaultError(
                f"expected keys of {KEY_BYTES} bytes in URL-safe base64, found another text",
                code="vault-key-invalid",
                hint="make one: head -c 32 /dev/urandom | base64 | tr +/ -_",
            ) from error

    def seal(self, text: str, context: str) -> str:
        """`text` encrypted for `context`, which is part of what is authenticated."""
        if "\0" in context:
            raise UsageError("context: expected no NUL, found one", code="vault-context")
        return self._fernet.encrypt(f"{context}\0{text}".encode()).decode("ascii")

    def open(self, sealed: str, context: str) -> str:
        """The text again; `VaultError` when the value was altered, moved from another field, or has another key."""
        from cryptography.fernet import InvalidToken

        try:
            plain = self._fernet.decrypt(sealed.encode()).decode()
        except (InvalidToken, ValueError) as error:
            raise VaultError(
                f"the secret of {context} does not open with this key",
                hint="every process needs the key that sealed it; during a rotation, both keys",
            ) from error
        found, _, text = plain.partition("\0")
        if not hmac.compare_digest(found.encode(), context.encode()):
            raise VaultError(f"the secret of {context} was sealed for another place", code="vault-moved")
        return text


def open_vault(keys: str, key_file: Path) -> Vault:
    """A vault with the given comma-separated keys, else with those in `key_file`, which is made when it is missing."""
    if given := _split(keys.replace(",", "\n")):
        return Vault(given)
    try:
        text = _read_key_file(key_file) or _create_key_file(key_file)
    except OSError as error:
        raise VaultError(
            f"{key_file}: expected a key file that can be read or made, found: {error.strerror}",
            code="vault-key-unreadable",
        ) from error
    return Vault(_split(text))


def generate_key() -> str:
    """A fresh key in the form that `open_vault` takes."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode("ascii")


def _split(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _read_key_file(path: Path) -> str:
    """The file's text, or "" when there is none; refused when others than its owner can read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        status = os.fstat(file.fileno())
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode) or mode & 0o077:
            raise VaultError(
                f"{path}: expected a regular file of mode 0600, found mode {mode:04o}",
                code="vault-key-exposed",
                hint=f"if nobody else has read it: chmod 600 {path}",
            )
        text = file.read(64 * 1024)
    if not _split(text):
        raise VaultError(f"{path}: expected a key, found an empty file", code="vault-key-invalid")
    return text


def _create_key_file(path: Path) -> str:
    """A new key file; of two processes that make it at once, both read what the first one wrote."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(generate_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        # a link, unlike a rename, does not replace what another process put there meanwhile
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(scratch)
    finally:
        scratch.unlink()
    return _read_key_file(path)
