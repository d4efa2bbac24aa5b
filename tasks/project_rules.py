"""What each field of a project may be; the registration is where a wrong or hostile one is refused."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from executor.context.hosts import check_clone_url, parse_clone_url
from executor.errors import GitError, UsageError
from executor.reference import REPOSITORY_PATTERN, Reference, registry_host
from executor.spec import Credential
from tasks.refs import check_branch, shown

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
PATH_LIMIT = 1000
SECRET_RANGE = (16, 500)
REGISTRIES_LIMIT = 32


class ProjectInvalidError(UsageError):
    """A field of a project that breaks its rules; `field` is its name in the API."""

    code = "project-invalid"

    def __init__(self, field: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{field}: {message}", hint=hint)
        self.field = field


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """Which clone URLs this server takes: `file://` only below a root, private addresses only when allowed.

    A name is not resolved here; whoever connects checks the address it resolves to then.
    """

    local_roots: Sequence[Path] = ()
    allow_private: bool = False


def check_name(value: object) -> str:
    """A project's name, a slug that is safe in URLs, keys and file names."""
    if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
        raise ProjectInvalidError(
            "name",
            f"expected a slug, [a-z0-9][a-z0-9._-]{{0,62}}, found {shown(value)}",
        )
    return value


def check_url(value: object, policy: UrlPolicy, *, has_credential: bool = False) -> str:
    """A clone URL without credentials in it, by the rules that are applied again before it is cloned."""
    if not isinstance(value, str):
        raise ProjectInvalidError("url", f"expected a URL, found {shown(value)}")
    try:
        url = parse_clone_url(value)
        check_clone_url(url, allow_private=policy.allow_private, has_credential=has_credential)
    except GitError as error:
        raise ProjectInvalidError("url", error.message, hint=error.hint) from error
    path = unquote(url.path)
    if len(path) < 2 or ".." in path.split("/") or not path.isprintable():
        raise ProjectInvalidError("url", f"expected a repository's path without '..', found {shown(path)}")
    if url.scheme == "file" and not any(Path(path).is_relative_to(root) for root in policy.local_roots):
        raise ProjectInvalidError(
            "url",
            "expected http:// or https://, found a file:// URL outside of the roots for local repositories",
            hint="PUSHWRIGHT_GIT_LOCAL_ROOTS names the directories whose repositories may be cloned",
        )
    return value


def check_project_branch(value: object) -> str:
    """The branch whose pushes are built."""
    try:
        return check_branch(value)
    except UsageError as error:
        raise ProjectInvalidError("branch", error.message.removeprefix("branch: ")) from error


def check_path(field: str, value: object) -> str:
    """A path inside the repository, without `..`, in its plain form; "" for the root."""
    if not isinstance(value, str) or len(value.encode("utf-8", "surrogatepass")) > PATH_LIMIT:
        raise ProjectInvalidError(field, f"expected a path of at most {PATH_LIMIT} bytes, found {shown(value)}")
    if any(unicodedata.category(item) in {"Cc", "Cs"} for item in value):
        raise ProjectInvalidError(field, f"expected no control characters, found {shown(value)}")
    if value.startswith("/") or ".." in value.split("/"):
        raise ProjectInvalidError(field, f"expected a relative path without '..', found {shown(value)}")
    plain = posixpath.normpath(value) if value else ""
    return "" if plain == "." else plain


def check_dockerfile(value: object) -> str:
    """The Dockerfile's path, relative to the repository's root."""
    path = check_path("dockerfile", value)
    if not path:
        raise ProjectInvalidError("dockerfile", "expected a file's path, found none")
    return path


def check_image(value: object, name: str) -> str:
    """Where the image goes, a repository with neither tag nor digest; "" for the server's default."""
    if not isinstance(value, str):
        raise ProjectInvalidError("image", f"expected a repository, found {shown(value)}")
    if not value:
        if not REPOSITORY_PATTERN.fullmatch(name):
            raise ProjectInvalidError(
                "name", f"{name!r} cannot be a repository's name, which is what it becomes without an image"
            )
        return ""
    try:
        reference = Reference.parse(value)
    except UsageError as error:
        raise ProjectInvalidError("image", error.message, hint=error.hint) from error
    if reference.tag or reference.digest:
        raise ProjectInvalidError("image", f"expected a repository without tag and digest, found {shown(value)}")
    return reference.name


def check_secret(value: object) -> str:
    """A webhook's secret that somebody chose."""
    low, high = SECRET_RANGE
    if not isinstance(value, str) or not low <= len(value) <= high or not value.isprintable():
        raise ProjectInvalidError("secret", f"expected `generated`, or {low} to {high} printable characters")
    return value


def check_credential(field: str, value: object, *, allow_token: bool = False) -> Credential:
    """A user name and password; for a registry (`allow_token`) also `{"identity_token"}`."""
    if not isinstance(value, Mapping):
        raise ProjectInvalidError(field, f"expected an object with username and password, found {shown(value)}")
    names = {"username", "password"} | ({"identity_token"} if allow_token else set())
    if unknown := sorted(set(value) - names):
        raise ProjectInvalidError(field, f"expected only {', '.join(sorted(names))}, found {shown(unknown[0])}")
    texts = {name: _credential_text(field, name, value.get(name, "")) for name in names}
    if texts.get("identity_token"):
        if texts["password"]:
            raise ProjectInvalidError(field, "expected either a password or an identity token, found both")
    elif not texts["password"] or not texts["username"]:
        raise ProjectInvalidError(field, "expected a username and a password, found one of them missing")
    if ":" in texts["username"]:
        # RFC 7617 section 2: the colon ends the user name
        raise ProjectInvalidError(field, "expected a username without a colon")
    return Credential(**texts)


def check_registries(value: object) -> Mapping[str, Credential]:
    """Credentials by registry host."""
    if not isinstance(value, Mapping) or len(value) > REGISTRIES_LIMIT:
        raise ProjectInvalidError("registries", f"expected an object of at most {REGISTRIES_LIMIT} hosts")
    checked: dict[str, Credential] = {}
    for host, credential in value.items():
        try:
            known = registry_host(str(host))
        except UsageError as error:
            raise ProjectInvalidError("registries", error.message) from error
        checked[known] = check_credential(f"registries.{known}", credential, allow_token=True)
    return checked


def _credential_text(field: str, name: str, value: Any) -> str:
    # a line break would end the header that it is sent in
    if not isinstance(value, str) or len(value) > 8192 or not value.isprintable():
        raise ProjectInvalidError(field, f"expected {name} to be printable characters")
    return value
