"""Where a repository is pulled from: its mapped hosts and mirrors in order, then the registry itself."""

from __future__ import annotations

from dataclasses import dataclass

from executor.errors import UsageError
from executor.reference import DEFAULT_REGISTRY, REPOSITORY_PATTERN, Reference, registry_host
from executor.spec import RegistryOptions


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A repository at a registry, under the names by which that registry knows it."""

    registry: str
    repository: str

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"


def push_endpoint(reference: Reference) -> Endpoint:
    """Where a reference is pushed to: always the registry that it names."""
    return Endpoint(reference.registry, reference.repository)


class MirrorRules:
    """The order of places to pull from, by Kaniko's `--registry-map`, `--registry-mirror` and
    `--skip-default-registry-fallback`: a registry's maps, then for Docker Hub its mirrors, then the registry."""

    def __init__(self, options: RegistryOptions) -> None:
        mapped = {registry_host(key): tuple(map(_place, places)) for key, places in options.maps.items()}
        if options.mirrors:
            mirrors = tuple(map(_place, options.mirrors))
            mapped[DEFAULT_REGISTRY] = (*mapped.get(DEFAULT_REGISTRY, ()), *mirrors)
        self._mapped = mapped
        self._falls_back = not options.skip_default_fallback

    def pull_endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Where to pull a reference from, in order; never empty."""
        own = push_endpoint(reference)
        places = self._mapped.get(reference.registry, ())
        found = [Endpoint(host, f"{prefix}{reference.repository}") for host, prefix in places]
        if self._falls_back or not found:
            found.append(own)
        return tuple(dict.fromkeys(found))


def _place(text: str) -> tuple[str, str]:
    """A mirror's host, and the prefix of repositories there (empty, or ending with a slash)."""
    host, _, path = text.strip().rstrip("/").partition("/")
    if "://" in text or (path and not REPOSITORY_PATTERN.fullmatch(path)):
        raise UsageError(
            f"expected a mirror as host[:port][/path], found {text[:100]!r}",
            code="mirror-invalid",
            hint="leave the scheme out; plain HTTP is asked for by declaring the host insecure",
        )
    return registry_host(host), f"{path}/" if path else ""
