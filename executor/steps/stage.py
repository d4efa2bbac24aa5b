"""One stage from its FROM to its last instruction."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from executor.dockerfile.instructions import Add, Copy, Instruction, Run, Workdir
from executor.dockerfile.parse import parse_trigger
from executor.dockerfile.runmount import Mount, check_mounts
from executor.dockerfile.support import require_supported_instruction
from executor.errors import DockerfileError, Location, PushwrightError
from executor.os_errors import host_error, step_error
from executor.plan import ImageSource, Plan, PlannedStage, ScratchSource, Source, StageSource
from executor.progress import Observer
from executor.rootfs.contained import Root
from executor.steps import base, files
from executor.steps.configure import configure
from executor.steps.mounts import MountOrigin, StepMounts
from executor.steps.run import CommandSteps
from executor.steps.snapshot import Snapshots
from executor.steps.state import StageState


class Steps:
    """Numbers the steps of a build and tells the observer of their beginning and end."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def step(self, name: str, *, stage: str = "", line: int = 0) -> Iterator[int]:
        """One step; what is raised in it is told as its error."""
        number, begun = next(self._numbers), time.monotonic()
        self._observer("step-started", step=number, stage=stage, name=name, line=line)
        failed: dict[str, str] = {}
        try:
            yield number
        except PushwrightError as error:
            failed["error"] = error.code
            raise
        except OSError as error:
            told = host_error(error)
            failed["error"] = told.code
            raise told from error
        finally:
            seconds = round(time.monotonic() - begun, 3)
            self._observer("step-finished", step=number, seconds=seconds, **failed)


@dataclass(frozen=True, slots=True)
class StageBuilder:
    """Builds stages of one plan; `context` is what a COPY without --from copies from."""

    plan: Plan
    steps: Steps
    images: base.BaseImages
    snapshots: Snapshots
    commands: CommandSteps
    mounts: StepMounts
    context: files.CopySource
    created: str
    observer: Observer

    def build(self, planned: PlannedStage, earlier: Mapping[int, StageState]) -> StageState:
        """The stage's last state; `earlier` are those of the stages it may need."""
        state = self._begin(planned, earlier)
        total = len(planned.stage.instructions) + 1
        triggers, state = _triggers(state)
        for instruction in triggers:
            state = self._step(f"[{planned.stage.title} onbuild]", state, instruction, _Sources(), planned, earlier)
        for position, instruction in enumerate(planned.stage.instructions):
            sources = _Sources(planned.copies.get(position), planned.mounts.get(position, {}))
            number = f"[{planned.stage.title} {position + 2}/{total}]"
            state = self._step(number, state, instruction, sources, planned, earlier)
        return state

    def _step(
        self,
        number: str,
        state: StageState,
        instruction: Instruction,
        sources: _Sources,
        planned: PlannedStage,
        earlier: Mapping[int, StageState],
    ) -> StageState:
        name = f"{number} {_shown(instruction.text)}"
        line = instruction.location.line
        with self.steps.step(name, stage=planned.stage.title, line=line) as step, _located(instruction.location):
            return self._apply(state, instruction, sources, earlier, step)

    def _begin(self, planned: PlannedStage, earlier: Mapping[int, StageState]) -> StageState:
        stage = planned.stage
        name = f"[{stage.title} 1/{len(stage.instructions) + 1}] {_shown(stage.text)}"
        with self.steps.step(name, stage=stage.title, line=stage.location.line) as step:
            match planned.base:
                case ScratchSource():
                    return base.state_from_scratch(planned, self.plan.begin_scope)
                case StageSource(index):
                    return base.state_from_stage(earlier[index])
                case ImageSource() as source:
                    image, layers = self.images.load(source, step=step)
                    return base.state_from_image(image, layers, self.plan.begin_scope)

    def _apply(
        self,
        state: StageState,
        instruction: Instruction,
        sources: _Sources,
        earlier: Mapping[int, StageState],
        step: int,
    ) -> StageState:
        match instruction:
            case Run():
                return self._run(state, instruction, sources.mounts, earlier, step)
            case Workdir():
                return files.change_working_dir(state, instruction, self.snapshots, self.created)
            case Copy() | Add():
                with self._copy_source(sources.copied, earlier, step) as copied:
                    return files.copy(state, instruction, copied, self.snapshots, self.created)
            case _:
                configured = configure(state, instruction, self.created)
                if configured is None:
                    raise DockerfileError(
                        f"{instruction.keyword} is not supported yet",
                        code="dockerfile-unsupported",
                        location=instruction.location,
                    )
                return configured

    def _run(
        self,
        state: StageState,
        instruction: Run,
        sources: Mapping[str, Source],
        earlier: Mapping[int, StageState],
        step: int,
    ) -> StageState:
        def origin_of(mount: Mount) -> MountOrigin:
            if mount.source_stage is None:
                return MountOrigin(context=self.context if mount.type == "bind" else None)
            return MountOrigin(self._directories(sources[mount.source_stage], earlier, step))

        def expand(word: str) -> str:
            return state.scope.expand(word, instruction.location)

        mounts = [words.expanded(expand) for words in check_mounts(instruction)]
        with self.mounts.prepared(mounts, origin_of, state.working_dir) as prepared:
            return self.commands.run(
                state, instruction, prepared, step=step, observer=self.observer, created=self.created
            )

    @contextlib.contextmanager
    def _copy_source(
        self, source: Source | None, earlier: Mapping[int, StageState], step: int
    ) -> Iterator[files.CopySource]:
        if source is None:
            yield self.context
            return
        directories = self._directories(source, earlier, step)
        with self.snapshots.overlays.view(directories) as view, Root.at(view) as root:
            yield files.CopySource(root)

    def _directories(self, source: Source, earlier: Mapping[int, StageState], step: int) -> tuple[Path, ...]:
        """The layers' trees of a stage or an image, bottom first."""
        match source:
            case ScratchSource():
                return ()
            case StageSource(index):
                return earlier[index].directories
            case ImageSource() as image:
                return tuple(layer.directory for layer in self.images.load(image, step=step)[1])


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where one instruction takes files from, besides the build context."""

    copied: Source | None = None
    mounts: Mapping[str, Source] = field(default_factory=dict)


def _triggers(state: StageState) -> tuple[list[Instruction], StageState]:
    """The ONBUILD triggers that the base brought along, and the state without them: they fire once."""
    texts = state.config.config.on_build
    if not texts:
        return [], state
    found = []
    for number, text in enumerate(texts, start=1):
        trigger = parse_trigger(text, f"ONBUILD trigger {number} of the base")
        require_supported_instruction(trigger)
        if isinstance(trigger, Copy) and trigger.source_stage is not None:
            raise _unplanned(trigger, "COPY --from")
        if isinstance(trigger, Run) and any(words.source_stage for words in check_mounts(trigger)):
            raise _unplanned(trigger, "RUN --mount=from")
        found.append(trigger)
    return found, state.configured(on_build=())


def _unplanned(trigger: Instruction, what: str) -> DockerfileError:
    return DockerfileError(
        f"{what} in an ONBUILD trigger is not supported yet",
        code="dockerfile-unsupported",
        location=trigger.location,
        hint="write the trigger's instruction into the Dockerfile",
    )


@contextlib.contextmanager
def _located(location: Location) -> Iterator[None]:
    """Errors get the line of the Dockerfile that asked for what failed."""
    try:
        yield
    except PushwrightError as error:
        error.location = error.location or location
        raise
    except OSError as error:
        told = step_error(error)
        told.location = location
        raise told from error


def _shown(text: str) -> str:
    """An instruction on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:200] + "…"
