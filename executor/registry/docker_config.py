"""Credentials from Docker's `config.json`."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from executor.errors import UsageError
from executor.reference import REPOSITORY_PATTERN, registry_host
from executor.spec import Credential

# the user name by which Docker's credential stores say that the password is an identity token
_IDENTITY_TOKEN_USER = "<token>"  # noqa: S105 - a marker, not a secret
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_DESKTOP_KEYS = frozenset({f"{_HUB_KEY}access-token", f"{_HUB_KEY}refresh-token"})
_API_PATHS = frozenset({"", "v0", "v1", "v2"})
_log = logging.getLogger(__name__)


def credentials_from_docker_config(text: str) -> dict[str, Credential]:
    """The `auths` of a `config.json`, by `host[:port]` or `host[:port]/path`; `UsageError` when it is damaged.

    Every name of Docker Hub, `https://index.docker.io/v1/` among them, becomes `docker.io`. Credential helpers are
    not run: each registry that only a helper has the secret of is a warning in the log, and `hosts_with_helpers`
    names them.
    """
    config = _decode(text)
    found: dict[str, Credential] = {}
    for key, entry in _object(config.get("auths"), "auths").items():
        where = f"auths[{key[:80]!r}]"
        credential = _credential(_object(entry, where), where)
        # docker desktop keeps tokens of its own beside the hub's entry
        if credential is None or key in _HUB_DESKTOP_KEYS:
            continue
        name = credential_key(key)
        if name not in found or key == _HUB_KEY:
            found[name] = credential
    for host, helper in _helpers(config).items():
        if host not in found:
            _log.warning("docker config: %s: docker-credential-%s is not run; no credentials are used", host, helper)
    return found


def hosts_with_helpers(text: str) -> dict[str, str]:
    """The registries of a `config.json` whose secret only a credential helper has, with the helper's name.

    A `credsStore` counts for each entry of `auths` that has no secret of its own.
    """
    config = _decode(text)
    found = credentials_from_docker_config(text)
    return {host: helper for host, helper in _helpers(config).items() if host not in found}


def credential_key(text: str) -> str:
    """The key of a credential: `host[:port]`, with the path of a namespace where the entry has one."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
    except ValueError:
        raise _damaged(f"expected a registry's host, found {text[:80]!r}") from None
    path = parts.path.strip("/")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _damaged(f"expected a registry's host, found {text[:80]!r}")
    host = registry_host(parts.netloc)
    if path in _API_PATHS:
        return host
    if not REPOSITORY_PATTERN.fullmatch(path):
        raise _damaged(f"expected a registry's host with a repository path, found {text[:80]!r}")
    return f"{host}/{path}"


def _helpers(config: Mapping[str, Any]) -> dict[str, str]:
    store = _text(config, "credsStore", "the document")
    helpers = _object(config.get("credHelpers"), "credHelpers")
    named = {credential_key(host): _text(helpers, host, "credHelpers") for host in helpers}
    without = [key for key, entry in _object(config.get("auths"), "auths").items() if not entry] if store else []
    return {**{credential_key(key): store for key in without}, **named}


def credential_for(credentials: Mapping[str, Credential], registry: str, repository: str) -> Credential | None:
    """The credential for a repository: that of the longest path above it, else that of its host."""
    path = f"{registry}/{repository}" if repository else registry
    while path:
        if path in credentials:
            return credentials[path]
        path = path.rpartition("/")[0]
    return None


def _decode(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        # the error's own text quotes nothing of the document, and neither may ours: it holds secrets
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise _damaged(f"expected JSON, found something else{where}") from None
    return _object(config, "the document")


def _object(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _damaged(f"{where}: expected an object, found {type(value).__name__}")
    return value


def _credential(entry: Mapping[str, Any], where: str) -> Credential | None:
    texts = {name: _text(entry, name, where) for name in ("username", "password", "auth", "identitytoken")}
    if entry.get("registrytoken"):
        raise _damaged(f"{where}.registrytoken: a ready-made registry token cannot be used")
    username, password = texts["username"], texts["password"]
    if texts["auth"]:
        username, password = _decode_auth(texts["auth"], f"{where}.auth")
    token = texts["identitytoken"]
    if username == _IDENTITY_TOKEN_USER and not token:
        username, password, token = "", "", password
    if token:
        return Credential(identity_token=token)
    if not username and not password:
        return None
    if not username or not password:
        raise _damaged(f"{where}: expected a user name and a password, found only one of them")
    return Credential(username, password)


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str):
        raise _damaged(f"{where}.{name}: expected a string, found {type(value).__name__}")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise _damaged(f"{where}.{name}: expected no control characters")
    return value


def _decode_auth(text: str, where: str) -> tuple[str, str]:
    try:
        decoded = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise _damaged(f"{where}: expected base64 of user:password") from None
    # Docker writes, and strips, a trailing NUL
    username, colon, password = decoded.rstrip("\0").partition(":")
    if not colon or any(ord(char) < 32 or ord(char) == 127 for char in decoded.rstrip("\0")):
        raise _damaged(f"{where}: expected base64 of user:password")
    return username, password


def _damaged(fault: str) -> UsageError:
    return UsageError(f"docker config: {fault}", code="docker-config-invalid", hint="`docker login` writes it anew")
