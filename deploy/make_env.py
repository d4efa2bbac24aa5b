"""Makes what `docker-compose.yml` needs and nobody should choose: `.env` and the files of `deploy/secrets/`.

What is there already is kept, so that a second run changes nothing and a deleted line is made anew.
"""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

REGISTRY = "registry:5000"
USER = "pushwright"
# bcrypt's own alphabet; 22 characters are the 128 bits of a salt
_SALT_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

VALUES: Mapping[str, Callable[[], str]] = {
    "PUSHWRIGHT_REDIS_PASSWORD": lambda: secrets.token_hex(32),
    "PUSHWRIGHT_REGISTRY_PASSWORD": lambda: secrets.token_hex(32),
    "PUSHWRIGHT_API_TOKEN": lambda: secrets.token_hex(32),
    "PUSHWRIGHT_SECRET_KEY": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
}


class MakeEnvError(Exception):
    """Something that the environment cannot be made without."""


def read_values(path: Path) -> dict[str, str]:
    """The `NAME=value` lines of a file, or none."""
    if not path.exists():
        return {}
    lines = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip() for name, separator, value in lines if separator and value.strip()}


def bcrypt(password: str) -> str:
    """The password's hash in the one form that the registry takes in an htpasswd file."""
    library = ctypes.util.find_library("crypt")
    if library is None:
        raise MakeEnvError("expected the system's libcrypt for a bcrypt hash, found none (Debian: libcrypt1)")
    crypt = ctypes.CDLL(library).crypt
    crypt.argtypes, crypt.restype = [ctypes.c_char_p, ctypes.c_char_p], ctypes.c_char_p
    # the last character of the salt carries 2 bits only, and "." is one of the four that do
    salt = "".join(secrets.choice(_SALT_ALPHABET) for _ in range(21)) + "."
    found = crypt(password.encode(), f"$2y$10${salt}".encode())
    if not found or not found.startswith(b"$2y$10$"):
        raise MakeEnvError("expected a bcrypt hash from the system's libcrypt, found that it makes none")
    return str(found.decode("ascii"))


def write_file(path: Path, text: str, mode: int) -> None:
    """Put a file in place at once, never readable by more than `mode` says."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    scratch.replace(path)


def make(root: Path) -> list[str]:
    """Complete the files below `root`; gives the names of the values that were made."""
    env = root / ".env"
    found = read_values(env)
    missing = [name for name in VALUES if name not in found]
    values = {**found, **{name: VALUES[name]() for name in missing}}
    if missing:
        kept = env.read_text(encoding="utf-8").rstrip("\n") + "\n" if found else ""
        write_file(env, kept + "".join(f"{name}={values[name]}\n" for name in missing), 0o600)
    secrets_directory = root / "deploy" / "secrets"
    # the directory keeps others of this machine out; the files are mounted one by one and read by the users inside
    secrets_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    secrets_directory.chmod(0o700)
    password = values["PUSHWRIGHT_REGISTRY_PASSWORD"]
    login = base64.b64encode(f"{USER}:{password}".encode()).decode()
    config = json.dumps({"auths": {REGISTRY: {"auth": login}}}, indent=2) + "\n"
    htpasswd, docker = secrets_directory / "registry.htpasswd", secrets_directory / "docker.json"
    if not docker.exists() or docker.read_text(encoding="utf-8") != config or not htpasswd.exists():
        write_file(docker, config, 0o644)
        write_file(htpasswd, f"{USER}:{bcrypt(password)}\n", 0o644)
    return missing


def main(arguments: list[str]) -> int:
    if len(arguments) > 1:
        print("usage: make_env.py [DIRECTORY]", file=sys.stderr)
        return 2
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    try:
        made = make(root)
    except (OSError, MakeEnvError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(f"{root / '.env'}: {', '.join(made) if made else 'nothing was missing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
