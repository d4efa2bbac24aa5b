"""Instructions to a plan: which stages the target needs, in which order, and what each is made from.

Pure: no image is looked at, nothing is read. References between stages are resolved for the whole file, so that a
mistake in a stage nobody needs is told, too; only needed stages are in the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from executor.dockerfile.instructions import Arg, Copy, Dockerfile, Run, Stage
from executor.dockerfile.runmount import check_mounts
from executor.dockerfile.scope import GlobalScope, StageScope, is_plain_text, is_predefined, platform_args
from executor.dockerfile.suggest import did_you_mean
from executor.dockerfile.words import Expander
from executor.errors import DockerfileError, Location, UsageError
from executor.oci import OciError, Platform
from executor.reference import Reference

SCRATCH = "scratch"
_KNOWN_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd"})


@dataclass(frozen=True, slots=True)
class StageSource:
    """An earlier stage, by its index in the Dockerfile."""

    index: int


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image of a registry; `text` is the reference as written, expanded."""

    text: str
    reference: Reference
    platform: Platform
    location: Location
    stage_names: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def hint(self) -> str | None:
        """For an image that is not to be had: the stage that its name may be a slip for."""
        return did_you_mean(self.text, self.stage_names)


@dataclass(frozen=True, slots=True)
class ScratchSource:
    """No image at all."""


Source = StageSource | ImageSource | ScratchSource


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage to build: its base, its platform, and where its instructions, by position, take files from.

    `copies` are the sources of COPY --from; `mounts` those of RUN --mount=from=…, by the name that `from` gives.
    """

    stage: Stage
    base: Source
    platform: Platform
    copies: Mapping[int, Source]
    mounts: Mapping[int, Mapping[str, Source]] = field(default_factory=dict)

    def sources(self) -> Iterator[Source]:
        """Everything this stage is made from."""
        yield self.base
        yield from self.copies.values()
        for sources in self.mounts.values():
            yield from sources.values()

    def dependencies(self) -> tuple[int, ...]:
        """Indices of the stages that must be there first, each once."""
        return tuple(dict.fromkeys(item.index for item in self.sources() if isinstance(item, StageSource)))


@dataclass(frozen=True, slots=True)
class Plan:
    """The needed stages, each behind those it depends on, the target last.

    `resolved` are all stages of the file, by index.
    """

    dockerfile: Dockerfile
    stages: tuple[PlannedStage, ...]
    platform: Platform
    global_scope: GlobalScope
    build_args: Mapping[str, str]
    unused_build_args: tuple[str, ...] = ()
    resolved: tuple[PlannedStage, ...] = ()

    @property
    def target(self) -> PlannedStage:
        return self.stages[-1]

    def images(self) -> tuple[ImageSource, ...]:
        """The images to be had, each reference and platform once, in the order of their need."""
        found: dict[tuple[str, str], ImageSource] = {}
        for planned in self.stages:
            for item in planned.sources():
                if isinstance(item, ImageSource):
                    found.setdefault((str(item.reference), str(item.platform)), item)
        return tuple(found.values())

    def begin_scope(self, env: list[str]) -> StageScope:
        """The variables behind a FROM of an image (or scratch) with this `Config.Env`.

        A stage from another stage goes on with that stage's last scope instead.
        """
        return StageScope.begin(env, self.global_scope, self.build_args)


def make_plan(
    dockerfile: Dockerfile,
    *,
    target: str = "",
    build_args: Mapping[str, str],
    platform: Platform,
    build_platform: Platform,
) -> Plan:
    """What is to be built for `target`: a stage's name in any case, or its index; the last stage when empty."""
    for name, value in build_args.items():
        if not name or "=" in name or not is_plain_text(name + value):
            raise UsageError(f"build argument {name[:60]!r}: expected NAME=value in UTF-8 without NUL characters")
    expander = Expander(dockerfile.escape)
    wanted = _find_target(dockerfile, target)
    predefined = platform_args(platform, build_platform, wanted.name or "" if target else "")
    scope = GlobalScope.resolve(dockerfile.global_args, build_args, predefined, expander)
    resolver = _Resolver(dockerfile, scope, platform, build_platform)
    planned = resolver.resolve_all()
    return Plan(
        dockerfile=dockerfile,
        stages=tuple(planned[index] for index in _needed(planned, wanted.index)),
        platform=planned[wanted.index].platform,
        global_scope=scope,
        build_args=dict(build_args),
        unused_build_args=_unused(dockerfile, build_args),
        resolved=tuple(planned),
    )


def _find_target(dockerfile: Dockerfile, target: str) -> Stage:
    if not target:
        return dockerfile.stages[-1]
    for stage in reversed(dockerfile.stages):
        if stage.name == target.lower():
            return stage
    if target.isascii() and target.isdigit() and len(target) < 9 and int(target) < len(dockerfile.stages):
        return dockerfile.stages[int(target)]
    names = [stage.name for stage in dockerfile.stages if stage.name]
    raise DockerfileError(
        f"target stage {target[:80]!r} could not be found",
        code="dockerfile-target",
        location=Location(dockerfile.file, 1),
        hint=did_you_mean(target, names) or f"the stages are {', '.join(names[:20]) or 'all without names'}",
    )


class _Resolver:
    """Finds what FROM and COPY --from mean, stage after stage."""

    def __init__(
        self, dockerfile: Dockerfile, scope: GlobalScope, platform: Platform, build_platform: Platform
    ) -> None:
        self._dockerfile = dockerfile
        self._scope = scope
        self._platform = platform
        self._build_platform = build_platform
        self._by_name: dict[str, int] = {}
        self._all_names = {stage.name: stage for stage in dockerfile.stages if stage.name}
        self._stage_names = tuple(self._all_names)

    def resolve_all(self) -> list[PlannedStage]:
        planned: list[PlannedStage] = []
        for stage in self._dockerfile.stages:
            base, platform = self._base(stage, planned)
            copies = {
                position: self._copy_source(copy, stage)
                for position, copy in enumerate(stage.instructions)
                if isinstance(copy, Copy) and copy.source_stage is not None
            }
            mounts = {
                position: self._mount_sources(run, stage)
                for position, run in enumerate(stage.instructions)
                if isinstance(run, Run) and run.mounts
            }
            planned.append(PlannedStage(stage, base, platform, copies, mounts))
            # only from here on: a stage cannot be its own base, and a repeated name means the later stage
            if stage.name:
                self._by_name[stage.name] = stage.index
        return planned

    def _base(self, stage: Stage, planned: list[PlannedStage]) -> tuple[Source, Platform]:
        name = self._scope.expand(stage.base, stage.location)
        platform = self._stage_platform(stage)
        if not name:
            raise DockerfileError(
                f"FROM: the base name {stage.base[:80]!r} is empty after expansion",
                location=stage.location,
                hint="give its ARG a default, or pass --build-arg",
            )
        if name.lower() in self._by_name:
            base = planned[self._by_name[name.lower()]]
            return StageSource(base.stage.index), base.platform
        if name == SCRATCH:
            return ScratchSource(), platform
        return self._image(name, platform, stage.location, "FROM"), platform

    def _stage_platform(self, stage: Stage) -> Platform:
        if not stage.platform:
            return self._platform
        text = self._scope.expand(stage.platform, stage.location)
        try:
            return platform_of_from(text, self._build_platform)
        except OciError as error:
            raise DockerfileError(
                f"FROM --platform={stage.platform[:60]}: expected os/architecture[/variant], found {text[:60]!r}",
                code="platform-invalid",
                location=stage.location,
                hint="as in linux/amd64 or $BUILDPLATFORM",
            ) from error

    def _copy_source(self, copy: Copy, stage: Stage) -> Source:
        name = copy.source_stage or ""
        lowered = name.lower()
        if _is_index(name):
            if not 0 <= int(name) < stage.index:
                raise self._bad_source(copy, f"expected the index of an earlier stage (below {stage.index})", name)
            return StageSource(int(name))
        if stage.name == lowered:
            raise self._bad_source(copy, "a stage cannot copy from itself: expected an earlier stage or an image", name)
        if lowered in self._by_name:
            return StageSource(self._by_name[lowered])
        if lowered in self._all_names:
            line = self._all_names[lowered].location.line
            raise self._bad_source(copy, f"expected an earlier stage, but this one begins later, at line {line}", name)
        if name == SCRATCH:
            return ScratchSource()
        return self._image(name, self._platform, copy.location, "COPY --from")

    def _mount_sources(self, run: Run, stage: Stage) -> dict[str, Source]:
        """What the mounts' `from` name: an earlier stage or an image; a number is the name of an image here."""
        found: dict[str, Source] = {}
        for words in check_mounts(run):
            name = words.source_stage
            if name is None or name in found:
                continue
            if name.lower() in self._by_name:
                found[name] = StageSource(self._by_name[name.lower()])
            elif name.lower() in {stage.name, *self._all_names}:
                raise self._bad_source(run, "expected an earlier stage or an image", name)
            elif name == SCRATCH:
                found[name] = ScratchSource()
            else:
                found[name] = self._image(name, self._platform, run.location, "RUN --mount")
        return found

    @staticmethod
    def _bad_source(instruction: Copy | Run, expected: str, found: str) -> DockerfileError:
        where = "COPY --from" if isinstance(instruction, Copy) else "RUN --mount=from"
        return DockerfileError(
            f"{where}: {expected}; found {found[:80]!r}", code="dockerfile-stage", location=instruction.location
        )

    def _image(self, text: str, platform: Platform, location: Location, where: str) -> ImageSource:
        try:
            reference = Reference.parse(text)
        except UsageError as error:
            raise DockerfileError(
                f"{where}: {error.message}",
                code=error.code,
                location=location,
                hint=did_you_mean(text, self._by_name) or error.hint,
            ) from error
        return ImageSource(text, reference, platform, location, self._stage_names)


def platform_of_from(text: str, build_platform: Platform) -> Platform:
    """The platform that an expanded `FROM --platform` means; `OciError` when it is none.

    A lone system or architecture is completed by those of the machine, as containerd does.
    """
    if text.lower() in _KNOWN_SYSTEMS:
        text = f"{text}/{build_platform.architecture}"
    elif text and "/" not in text:
        text = f"{build_platform.os}/{text}"
    return Platform.from_text(text)


def _is_index(text: str) -> bool:
    digits = text[1:] if text[:1] in {"+", "-"} else text
    return digits.isascii() and digits.isdigit() and len(digits) < 10


def _needed(planned: list[PlannedStage], target: int) -> list[int]:
    """What `target` needs, itself included, in the order of the file: stages depend on earlier ones only."""
    needed = {target}
    for index in range(target, -1, -1):
        if index in needed:
            needed.update(planned[index].dependencies())
    return sorted(needed)


def _unused(dockerfile: Dockerfile, build_args: Mapping[str, str]) -> tuple[str, ...]:
    """The build arguments that no ARG of the file declares and that mean nothing by themselves."""
    stage_args = (item for stage in dockerfile.stages for item in stage.instructions if isinstance(item, Arg))
    declared = {definition.name for arg in (*dockerfile.global_args, *stage_args) for definition in arg.definitions}
    return tuple(sorted(name for name in build_args if name not in declared and not is_predefined(name)))
