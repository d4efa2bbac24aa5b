"""One stage from its FROM to its last instruction."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from executor.dockerfile.instructions import Copy, Instruction, Run, Stage, Workdir
from executor.errors import DockerfileError, Location, PushwrightError
from executor.os_errors import host_error, step_error
from executor.plan import ImageSource, Plan, PlannedStage, ScratchSource, Source, StageSource
from executor.progress import Observer
from executor.rootfs.contained import Root
from executor.steps import base, files
from executor.steps.configure import configure
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
    context: files.CopySource
    created: str
    observer: Observer

    def build(self, planned: PlannedStage, earlier: Mapping[int, StageState]) -> StageState:
        """The stage's last state; `earlier` are those of the stages it may need."""
        state = self._begin(planned, earlier)
        total = len(planned.stage.instructions) + 1
        for position, instruction in enumerate(planned.stage.instructions):
            name = _step_name(planned.stage, position + 2, total, instruction.text)
            line = instruction.location.line
            with self.steps.step(name, stage=planned.stage.title, line=line) as step, _located(instruction.location):
                state = self._apply(state, instruction, planned.copies.get(position), earlier, step)
        return state

    def _begin(self, planned: PlannedStage, earlier: Mapping[int, StageState]) -> StageState:
        stage = planned.stage
        name = _step_name(stage, 1, len(stage.instructions) + 1, stage.text)
        with self.steps.step(name, stage=stage.title, line=stage.location.line) as step:
            match planned.base:
                case ScratchSource():
                    return base.state_from_scratch(planned, self.plan.begin_scope)
                case StageSource(index):
                    return base.state_from_stage(planned, earlier[index])
                case ImageSource() as source:
                    image, layers = self.images.load(source, step=step)
                    return base.state_from_image(planned, image, layers, self.plan.begin_scope)

    def _apply(
        self,
        state: StageState,
        instruction: Instruction,
        source: Source | None,
        earlier: Mapping[int, StageState],
        step: int,
    ) -> StageState:
        match instruction:
            case Run():
                return self.commands.run(state, instruction, step=step, observer=self.observer, created=self.created)
            case Workdir():
                return files.change_working_dir(state, instruction, self.snapshots, self.created)
            case Copy():
                with self._copy_source(source, earlier, step) as copied:
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

    @contextlib.contextmanager
    def _copy_source(
        self, source: Source | None, earlier: Mapping[int, StageState], step: int
    ) -> Iterator[files.CopySource]:
        if source is None:
            yield self.context
            return
        directories: tuple[Path, ...] = ()
        match source:
            case ScratchSource():
                pass
            case StageSource(index):
                directories = earlier[index].directories
            case ImageSource() as image:
                directories = tuple(layer.directory for layer in self.images.load(image, step=step)[1])
        with self.snapshots.overlays.view(directories) as view, Root.at(view) as root:
            yield files.CopySource(root)


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


def _step_name(stage: Stage, number: int, total: int, text: str) -> str:
    """`[build 2/5] RUN make`, as BuildKit shows steps; a long instruction is cut."""
    line = " ".join(text.split())
    return f"[{stage.title} {number}/{total}] {line if len(line) <= 200 else line[:200] + '…'}"
