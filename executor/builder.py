"""A build inside the builder's namespaces: context, plan, stages, image, push."""

from __future__ import annotations

import base64
import os
import platform as host
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from executor.context.directory import ContextFile, DirectorySource
from executor.context.ignore import IgnoreRules
from executor.dockerfile.excerpt import with_excerpts
from executor.dockerfile.instructions import Dockerfile, DockerfileWarning
from executor.dockerfile.lint.check import CheckReport, check
from executor.dockerfile.lint.rules import Finding
from executor.dockerfile.lint.subject import Subject
from executor.dockerfile.parse import parse
from executor.dockerfile.reader import EMPTY_CONTINUATION
from executor.errors import UsageError
from executor.isolation.runner import HOSTNAME, Runner
from executor.isolation.sandbox import LINKS_PATH, TEMPORARY_PATH
from executor.oci import (
    CONFIG_DOCKER,
    CONFIG_OCI,
    MANIFEST_DOCKER,
    MANIFEST_OCI,
    Descriptor,
    Manifest,
    Platform,
)
from executor.plan import Plan, make_plan
from executor.progress import Observer
from executor.push import FinishedImage, Pusher
from executor.reference import Reference
from executor.registry.client import RegistryClient
from executor.rootfs.contained import Root
from executor.rootfs.overlay import Overlays
from executor.spec import BuildResult, BuildSpec, DirectoryContext
from executor.steps.base import BaseImages
from executor.steps.files import CopySource
from executor.steps.mounts import StepMounts
from executor.steps.run import CommandSteps
from executor.steps.snapshot import Snapshots
from executor.steps.stage import StageBuilder, Steps
from executor.steps.state import StageState
from executor.store import Store

LEVEL = "userns"
# what --reproducible clamps to without SOURCE_DATE_EPOCH: 1980-01-01, the earliest time that FAT and zip can hold
REPRODUCIBLE_EPOCH = 315_532_800
# the last second that RFC 3339 can write
LAST_MOMENT = 253_402_300_799
_EPOCH = re.compile(r"[0-9]{1,18}")
REVISION = "org.opencontainers.image.revision"
CREATED = "org.opencontainers.image.created"
_HOSTS = f"127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True, slots=True)
class _Context:
    """The build context as it was found; commit and time where it is a commit."""

    source: DirectorySource
    commit: str = ""
    commit_time: int | None = None


@dataclass(frozen=True, slots=True)
class _Cell:
    """What the builder's process has for running commands."""

    runner: Runner
    id_map: str


def build(spec: BuildSpec, *, build_id: str, id_map: str, runner: Runner, observer: Observer) -> BuildResult:
    """Build and push what `spec` asks for.

    Raises `PushwrightError`s that say who can fix it. The image's blobs are in the store afterwards.
    """
    store = Store.open(Path(spec.store))
    with RegistryClient(spec.registries, proxies=spec.proxies) as client:
        work = store.work_dir(build_id)
        return _Build(spec, store, client, work, observer).run(_Cell(runner, id_map))


class _Build:
    def __init__(self, spec: BuildSpec, store: Store, client: RegistryClient, work: Path, observer: Observer) -> None:
        self._spec = spec
        self._store = store
        self._client = client
        self._work = work
        self._observer = observer
        self._steps = Steps(observer)
        self._images = BaseImages(client, store, observer)

    def run(self, cell: _Cell) -> BuildResult:
        spec = self._spec
        host_platform = Platform.from_text(f"linux/{host.machine()}")
        platform = Platform.from_text(spec.platform) if spec.platform else host_platform
        self._observer(
            "build-started", level=LEVEL, snapshotter="overlay", platform=str(platform), network=spec.network
        )
        # wrong destinations are told before any work is done
        destinations = [Reference.parse(text) for text in spec.destinations]
        context = self._open_context()
        created = self._created(context)
        found = context.source.read_dockerfile(spec.dockerfile)
        with with_excerpts(found.data, found.path):
            plan, rules = self._plan(context, found, platform, host_platform)
            state = self._build_stages(plan, context.source, rules, created, cell)
        image = self._finish(plan, state, context, created)
        for destination in destinations if spec.push else ():
            with self._steps.step(f"push {destination}") as step:
                Pusher(self._client, self._store, self._observer).push(image, destination, step=step)
        return self._result(image, plan, context, destinations)

    # --- before the stages ---

    def _open_context(self) -> _Context:
        context = self._spec.context
        if isinstance(context, DirectoryContext):
            return _Context(DirectorySource(Path(context.path), context.sub_path))
        from executor.context.git import fetch_commit

        with self._steps.step(f"fetch commit {context.commit}") as step:
            checkout = fetch_commit(
                context,
                self._work / "context",
                lambda item, done, total: self._observer(
                    "step-progress", step=step, what="clone", item=item, done_bytes=done, total_bytes=total
                ),
                lambda code, message: self._observer("warning", code=code, message=message),
            )
        source = DirectorySource(checkout.path, context.sub_path)
        return _Context(source, checkout.commit, checkout.commit_time)

    def _created(self, context: _Context) -> int:
        """The image's time: asked for, else the commit's, else fixed when reproducible, else now."""
        epoch = self._spec.build_args.get("SOURCE_DATE_EPOCH", "")
        for moment in (self._spec.created, int(epoch) if _EPOCH.fullmatch(epoch) else None):
            if moment is not None:
                if not 0 <= moment <= LAST_MOMENT:
                    raise UsageError(f"SOURCE_DATE_EPOCH: expected a time before the year 10000, found {moment}")
                return moment
        if self._spec.reproducible:
            return REPRODUCIBLE_EPOCH
        # whoever made the commit could write any number there
        return int(time.time()) if context.commit_time is None else min(max(context.commit_time, 0), LAST_MOMENT)

    def _plan(
        self, context: _Context, found: ContextFile, platform: Platform, host_platform: Platform
    ) -> tuple[Plan, IgnoreRules]:
        dockerfile = parse(found.data, found.path)
        ignored = context.source.read_ignore(self._spec.dockerfile)
        rules = IgnoreRules()
        if ignored is not None:
            rules = IgnoreRules.parse(ignored.data.decode("utf-8", "surrogateescape"), ignored.path)
        plan = make_plan(
            dockerfile,
            target=self._spec.target,
            build_args=self._spec.build_args,
            platform=platform,
            build_platform=host_platform,
        )
        subject = Subject(
            dockerfile=dockerfile,
            source=found.data,
            platform=platform,
            build_platform=host_platform,
            build_args=self._spec.build_args,
            target_name=plan.target.stage.name or "" if self._spec.target else "",
            ignore=rules,
            needed=frozenset(planned.stage.index for planned in plan.stages),
        )
        self._tell(dockerfile, check(subject))
        for name in plan.unused_build_args:
            self._observer("warning", code="build-arg-unused", message=f"no ARG declares the build argument {name}")
        return plan, rules

    def _tell(self, dockerfile: Dockerfile, report: CheckReport) -> None:
        """Warnings of the parser and of the checks; with `error=true` the latter end the build."""
        # a check says the same of a blank line, and can be skipped
        parsed = [warning for warning in dockerfile.warnings if warning.code != EMPTY_CONTINUATION]
        items: list[DockerfileWarning | Finding] = [*parsed, *report.findings]
        for item in items:
            place = {"file": item.location.file, "line": item.location.line}
            self._observer("warning", code=item.code, message=item.message, **place)
        if violation := report.violation():
            raise violation

    # --- the stages ---

    def _build_stages(
        self, plan: Plan, source: DirectorySource, rules: IgnoreRules, created: int, cell: _Cell
    ) -> StageState:
        spec = self._spec
        snapshots = Snapshots(
            self._store,
            Overlays(self._work, Path(LINKS_PATH)),
            docker_format=spec.image_format == "docker",
            level=spec.compression_level,
            clamp_mtime=created if spec.reproducible else None,
        )
        commands = CommandSteps(
            cell.runner,
            snapshots,
            id_map=cell.id_map,
            network=spec.network,
            proxies=spec.proxies,
            output_limit_bytes=spec.limits.step_output_bytes,
            open_files=spec.limits.open_files,
            processes=spec.limits.processes,
            name_files=self._name_files(),
        )
        mounts = StepMounts(
            snapshots.overlays,
            {name: base64.b64decode(value) for name, value in spec.secrets.items()},
            _new_directory(Path(TEMPORARY_PATH) / "secrets", 0o700),
            _new_directory(Path(spec.store) / "cache" / "mounts", 0o700),
            spec.cache_scope,
        )
        states: dict[int, StageState] = {}
        with source.open_root() as descriptor, Root(os.dup(descriptor)) as root:
            stages = StageBuilder(
                plan=plan,
                steps=self._steps,
                images=self._images,
                snapshots=snapshots,
                commands=commands,
                mounts=mounts,
                context=CopySource(root, rules),
                created=_rfc3339(created),
                observer=self._observer,
            )
            for planned in plan.stages:
                states[planned.stage.index] = stages.build(planned, states)
        return states[plan.target.stage.index]

    def _name_files(self) -> dict[str, str]:
        """What steps see as /etc/hosts and /etc/resolv.conf, as BuildKit makes them."""
        hosts, resolver = self._work / "hosts", self._work / "resolv.conf"
        hosts.write_text(_HOSTS, encoding="ascii")
        try:
            resolver.write_bytes(Path("/etc/resolv.conf").read_bytes())
        except FileNotFoundError:
            resolver.write_bytes(b"")
        return {"/etc/hosts": str(hosts), "/etc/resolv.conf": str(resolver)}

    # --- after the stages ---

    def _finish(self, plan: Plan, state: StageState, context: _Context, created: int) -> FinishedImage:
        """The image's config and manifest, put into the store."""
        named = self._named(context, created)
        labels = {**state.config.config.labels, **named, **self._spec.labels}
        state = state.configured(labels=labels)
        config = replace(state.config, platform=plan.platform, created=_rfc3339(created)).encode()
        docker = self._spec.image_format == "docker"
        config_descriptor = Descriptor(
            CONFIG_DOCKER if docker else CONFIG_OCI, self._store.put_blob(config), len(config)
        )
        manifest = Manifest(
            config=config_descriptor,
            layers=tuple(layer.descriptor for layer in state.layers),
            media_type=MANIFEST_DOCKER if docker else MANIFEST_OCI,
            # Docker's manifests have no annotations
            annotations={} if docker else {**named, **self._spec.annotations},
        ).encode()
        descriptor = Descriptor(
            MANIFEST_DOCKER if docker else MANIFEST_OCI, self._store.put_blob(manifest), len(manifest)
        )
        return FinishedImage(descriptor, manifest, config_descriptor, state.layers)

    @staticmethod
    def _named(context: _Context, created: int) -> dict[str, str]:
        """What an image of a commit says about itself (image-spec, annotations, "Pre-Defined Annotation Keys")."""
        return {REVISION: context.commit, CREATED: _rfc3339(created)} if context.commit else {}

    def _result(
        self, image: FinishedImage, plan: Plan, context: _Context, destinations: Iterable[Reference]
    ) -> BuildResult:
        return BuildResult(
            digest=str(image.manifest.digest),
            size=image.manifest.size,
            media_type=image.manifest.media_type,
            manifest=image.manifest_bytes.decode(),
            config_digest=str(image.config.digest),
            platform=str(plan.platform),
            pushed=tuple(str(item) for item in destinations) if self._spec.push else (),
            base_images=self._images.digests(),
            commit_time=context.commit_time,
            isolation=LEVEL,
        )


def _new_directory(path: Path, mode: int) -> Path:
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    return path


def _rfc3339(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
