"""From a record to what the executor is asked to do, credentials included, and to where the image's tags go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from executor.errors import HostError
from executor.registry.docker_config import credentials_from_docker_config
from executor.spec import BuildSpec, Credential, Limits, RegistryOptions
from tasks.checkout import git_context
from tasks.lifecycle import Build
from tasks.projects import Project, Projects
from tasks.settings import Settings
from tasks.tags import Publisher, RegistryPublisher, StorePublisher, is_embedded

REVISION = "org.opencontainers.image.revision"
SOURCE = "org.opencontainers.image.source"


class ProjectBuilds:
    """The specifications and publishers of registered projects' builds."""

    def __init__(self, settings: Settings, projects: Projects) -> None:
        self._settings = settings
        self._projects = projects

    def specification(self, build: Build) -> BuildSpec:
        """What the executor is handed for this build."""
        project = self._projects.get(build.project)
        names = {REVISION: build.commit, SOURCE: project.url}
        embedded = is_embedded(build.repository)
        return BuildSpec(
            context=git_context(project, build, self._settings),
            store=str(self._settings.store),
            dockerfile=str(build.config.get("dockerfile", "Dockerfile")),
            # without a tag: the image is pushed by digest, and its tags are put by whoever holds the lease
            destinations=() if embedded else (build.repository,),
            keep_as=(build.repository,) if embedded else (),
            labels=names,
            # what one project's steps keep in a cache mount is no other project's business
            cache_scope=f"project {project.name}",
            annotations=names,
            network=self._settings.run_network,
            proxies=self._settings.proxies,
            registries=self._registries(project),
            limits=Limits(deadline_seconds=self._settings.build_deadline_seconds),
        )

    @contextmanager
    def publisher(self, build: Build) -> Iterator[Publisher]:
        """Where this build's tags are put: the embedded registry's store, or the repository's own registry."""
        if is_embedded(build.repository):
            from executor.store import Store

            yield StorePublisher(Store.open(self._settings.store))
            return
        from executor.registry.client import RegistryClient

        options = self._registries(self._projects.get(build.project))
        with RegistryClient(options, proxies=self._settings.registry_proxies) as client:
            yield RegistryPublisher(client)

    def _registries(self, project: Project) -> RegistryOptions:
        settings = self._settings
        # what a project brings along wins over what the machine has
        credentials: dict[str, Credential] = {**_machine_credentials(settings.docker_config), **project.registries}
        return RegistryOptions(
            credentials=credentials,
            maps=settings.registry_maps,
            mirrors=settings.registry_mirrors,
            insecure=settings.insecure_registries,
            skip_tls_verify=settings.skip_tls_verify_registries,
            certificates={host: _read_text(path) for host, path in settings.registry_certificates.items()},
        )


def clean_store(settings: Settings) -> None:
    """Removes what executors that were killed left in the store."""
    from executor.store import Store

    if (settings.store / "version").exists():
        Store.open(settings.store).remove_abandoned()


def _machine_credentials(path: Path | None) -> dict[str, Credential]:
    if path is None or not path.exists():
        return {}
    return credentials_from_docker_config(_read_text(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"{path}: expected a readable text file, found: {error}", code="file-unreadable") from error
