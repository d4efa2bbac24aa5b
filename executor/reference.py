"""Names of images: `registry/repository[:tag][@digest]`, by the grammar of distribution and the short forms of Docker.

The grammar is that of github.com/distribution/reference; the completion of short names (`debian` is
`docker.io/library/debian`) is Docker's.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from executor.errors import UsageError
from executor.oci import DIGEST_PATTERN, Digest

DEFAULT_REGISTRY = "docker.io"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
NAME_LIMIT = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY_PATTERN = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
TAG_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST_PATTERN = re.compile(rf"(?P<name>{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's name; `tag` and `digest` are each there only when the text gave them."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """A reference from what a person wrote; `UsageError` with code `reference-invalid` when it is none."""
        rest, digest = _cut_digest(text)
        rest, tag = _cut_tag(rest, text)
        if re.fullmatch(r"[0-9a-f]{64}", rest):
            raise _invalid(text, "64 hex digits are an image ID, not a name")
        registry, repository = _split_registry(rest, text)
        if not REPOSITORY_PATTERN.fullmatch(repository):
            raise _invalid(text, _repository_fault(repository))
        if len(registry) + 1 + len(repository) > NAME_LIMIT:
            raise _invalid(text, f"a name has at most {NAME_LIMIT} characters, this one {len(rest)}")
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """`registry/repository`, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def with_tag(self, tag: str) -> Reference:
        """The same repository under another tag, and no digest."""
        if not TAG_PATTERN.fullmatch(tag):
            raise _invalid(f"{self.name}:{tag}", "a tag has 1 to 128 of [A-Za-z0-9_.-] and begins with [A-Za-z0-9_]")
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> Reference:
        """The same name, pinned to `digest`; the tag stays for people to read."""
        return replace(self, digest=digest)

    def or_latest(self) -> Reference:
        """This reference, or its tag `latest` when it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def registry_host(text: str) -> str:
    """A registry's `host[:port]`, lower-cased and every name of Docker Hub as `docker.io`; else `UsageError`."""
    match = _HOST_PATTERN.fullmatch(text)
    if not match or len(text) > NAME_LIMIT or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise _invalid(text, "expected a registry as host[:port]")
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(match["name"][1:-1])
        except ValueError:
            raise _invalid(text, "the brackets hold no IPv6 address") from None
    host = text.lower()
    return DEFAULT_REGISTRY if host in _DOCKER_HUB else host


def _cut_digest(text: str) -> tuple[str, Digest | None]:
    rest, at, digest = text.partition("@")
    if not at:
        return rest, None
    if not DIGEST_PATTERN.fullmatch(digest):
        raise _invalid(text, "after @ comes sha256: and 64 lower-case hex digits")
    return rest, Digest(digest)


def _cut_tag(rest: str, text: str) -> tuple[str, str | None]:
    before, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # no colon, or that of a port
        return rest, None
    if not TAG_PATTERN.fullmatch(tag):
        raise _invalid(text, "a tag has 1 to 128 of [A-Za-z0-9_.-] and begins with [A-Za-z0-9_]")
    return before, tag


def _split_registry(rest: str, text: str) -> tuple[str, str]:
    """Docker's rule: the first component is a registry when it looks like a host, not like a namespace.

    Docker takes a single upper-case word for a host as well; in lower case it would be a namespace, so it is refused.
    """
    first, slash, remainder = rest.partition("/")
    is_host = slash and ("." in first or ":" in first or first.lower() == "localhost")
    if not is_host:
        registry, repository = DEFAULT_REGISTRY, rest
    else:
        try:
            registry, repository = registry_host(first), remainder
        except UsageError as error:
            raise _invalid(text, error.message.rpartition(": ")[2]) from None
    if registry == DEFAULT_REGISTRY and repository and "/" not in repository:
        repository = f"{DEFAULT_NAMESPACE}/{repository}"
    return registry, repository


def _repository_fault(repository: str) -> str:
    if not repository:
        return "the repository's name is missing"
    if repository != repository.lower():
        return "a repository's name is lower-case"
    return "a repository's name is components of a-z and 0-9, joined by one of . _ __ - and separated by /"


def _invalid(text: str, fault: str) -> UsageError:
    shown = text if len(text) <= 120 else text[:117] + "..."
    return UsageError(
        f"expected an image reference, found {shown!r}: {fault}",
        code="reference-invalid",
        hint="write it as [registry/]repository[:tag][@sha256:digest]",
    )
