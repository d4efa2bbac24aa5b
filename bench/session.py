"""The rounds: every contender builds every workload, one after the other, and again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import bases, places
from bench.contenders import SEARCH_PATH, Account, Contender, account_for, inodes, programs_directory, put_in
from bench.errors import BenchError
from bench.measure import Cost, Surroundings, run_chain
from bench.pushed import PushedImage, look_up
from bench.results import Run, Series
from bench.workloads import BASE_KNOWN, WARM, Base, Workload
from tests.support.docker_engine import DockerEngine, EngineError, docker_engine
from tests.support.docker_registry import docker_registry, free_port

Say = Callable[[str], None]
_VERSION_SECONDS = 60
_CHECK = "check"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a session does."""

    workloads: tuple[Workload, ...]
    contenders: tuple[Contender, ...]
    sizes: tuple[float, ...]
    runs: int
    timeout_seconds: float
    ordinary_user: str | None = None
    modes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contender that has shown that it works here, and what it needs to be run."""

    contender: Contender
    account: Account | None
    words: str
    own: frozenset[tuple[int, int]]


@dataclass(slots=True)
class _Slot:
    """One contender's place in one workload: its directories, and what was measured so far."""

    entrant: Entrant
    workload: Workload
    size: float
    context: Path
    state: Path
    registry: Path
    runs: list[Run] = field(default_factory=list)
    sampled: Cost | None = None
    image: PushedImage | None = None
    error: str = ""

    @property
    def repository(self) -> str:
        return f"bench/{self.workload.number if self.workload.number >= 0 else _CHECK}"


class Session:
    """A benchmark in a temporary directory; `close` through the block that `opened` is."""

    def __init__(self, directory: Path, plan: Plan, say: Say) -> None:
        self.directory = directory
        self.plan = plan
        self.say = say
        self.port = free_port()
        self.host = f"localhost:{self.port}"
        self.noise: list[float] = []
        self.described: dict[str, str] = {}
        self._engine: DockerEngine | None = None
        self._unusable: dict[str, str] = {}
        self._missing: dict[Base, str] = {}
        self._stack = contextlib.ExitStack()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, directory: Path, plan: Plan, say: Say) -> Iterator[Session]:
        """A session whose registry template and engine are gone after the block."""
        # an ordinary user's contender reaches its state and the contexts through it
        directory.chmod(0o755)
        session = cls(directory, plan, say)
        with session._stack:
            yield session

    def measure(self) -> tuple[Series, ...]:
        """Everything that was planned, failures included."""
        self._push_bases()
        entrants = [entrant for contender in self.plan.contenders if (entrant := self._entrant(contender))]
        return tuple(
            series
            for workload in self.plan.workloads
            for mode in workload.modes
            if not self.plan.modes or mode in self.plan.modes
            for series in self._side_by_side(workload, mode, entrants)
        )

    def _push_bases(self) -> None:
        wanted = {workload.base(size) for workload in self.plan.workloads for size in self.plan.sizes}
        template = self.directory / "template"
        with docker_registry(template, port=self.port):
            for base in sorted(wanted | {Base()}, key=lambda base: base.repository):
                self.say(f"making {base.repository}")
                work = self.directory / "bases" / base.repository.replace("/", "-")
                work.mkdir(parents=True)
                try:
                    bases.push(base, self.host, work)
                except BenchError as error:
                    if base == Base():
                        raise
                    # the workloads on it are reported as failed, the others go on
                    self._missing[base] = str(error)
                    self.say(str(error))
        places.remove(self.directory / "bases")

    def _entrant(self, contender: Contender) -> Entrant | None:
        """The contender with the first of its choices that can build and push an image of one step."""
        errors = []
        for settled, words in contender.settled():
            try:
                entrant = self._tried(settled, words)
            except BenchError as error:
                errors.append(f"{words}: {error}" if words else str(error))
            else:
                self.say(f"{contender.name}: {entrant.words}")
                self.described[contender.name] = entrant.words
                return entrant
        message = "\n".join(errors)
        self.say(f"{contender.name}: cannot be measured here: {message}")
        self.described[contender.name] = f"{contender.about}; it could not be measured"
        self._unusable[contender.name] = message
        return None

    def _tried(self, contender: Contender, words: str) -> Entrant:
        account = account_for(contender, self.plan.ordinary_user)
        values = {"bin": str(programs_directory())}
        version = _version(put_in(contender.version, values))
        if contender.service == "docker" and self._engine is None:
            self._engine = self._stack.enter_context(_engine())
        who = account.name if account else f"uid {os.geteuid()}"
        description = "; ".join(filter(None, (contender.about, version, words, f"run as {who}")))
        entrant = Entrant(contender, account, description, inodes(put_in(contender.own, values)))
        check = Workload(-1, _CHECK, write=_write_check)
        slot = self._slot(entrant, check, _CHECK, 1.0)
        try:
            self._reset(slot)
            with self._registry(slot):
                self._build(slot, slot.context, _CHECK)
                look_up(self.host, slot.repository, _CHECK)
        finally:
            self._remove(slot)
        return entrant

    def _side_by_side(self, workload: Workload, mode: str, entrants: Sequence[Entrant]) -> Iterator[Series]:
        self.say(f"workload {workload.number}, {mode}: {workload.title}")
        slots = [self._slot(entrant, workload, mode, size) for size in self.plan.sizes for entrant in entrants]
        try:
            if mode == WARM:
                self._prepare_warm(slots)
            for number in range(self.plan.runs + 1):
                self._round(slots, mode, number)
            yield from (_series(slot, mode, self.plan.runs) for slot in slots)
        finally:
            for slot in slots:
                self._remove(slot)
        for size in self.plan.sizes:
            for name, error in self._unusable.items():
                yield Series(workload.number, workload.title, mode, size, name, error=error)

    def _round(self, slots: Sequence[_Slot], mode: str, number: int) -> None:
        """One run of each; round 0 is the warm-up, sampled and not counted."""
        changed = set()
        for slot in slots:
            if slot.workload.change and slot.context not in changed:
                slot.workload.change(slot.context, number)
                changed.add(slot.context)
        for slot in slots:
            if not slot.error:
                self._guarded(slot, lambda slot: self._measured(slot, mode, number))

    def _measured(self, slot: _Slot, mode: str, number: int) -> None:
        if mode != WARM:
            self._reset(slot)
        with self._registry(slot):
            if mode == BASE_KNOWN:
                self._build(slot, self._primer(slot), "primer")
            # what the run before has left to write is not this one's to wait for
            os.sync()
            self.noise.append(_fixed_work())
            # only root may look at processes that have subordinate ids; half of the sum would be no number
            sampled = number == 0 and os.geteuid() == 0
            cost = self._build(slot, slot.context, f"round-{number}", sampled=sampled)
            slot.image = look_up(self.host, slot.repository, f"round-{number}")
        if number == 0:
            slot.sampled = cost
        else:
            slot.runs.append(Run(cost.wall_seconds, cost.cpu_seconds))
        kind = "warm-up" if number == 0 else f"run {number}"
        self.say(f"  {slot.entrant.contender.name}, size {slot.size:g}, {kind}: {cost.wall_seconds:.3f} s")

    def _prepare_warm(self, slots: Sequence[_Slot]) -> None:
        # all are emptied before the first is filled: slots of one daemon share what it keeps
        for slot in slots:
            if not slot.error:
                self._guarded(slot, self._reset)
        for slot in slots:
            if not slot.error:
                self._guarded(slot, self._build_before)

    def _build_before(self, slot: _Slot) -> None:
        with self._registry(slot):
            self._build(slot, slot.context, "before")

    def _primer(self, slot: _Slot) -> Path:
        """A context of one step on the base of this workload."""
        directory = self.directory / "primer"
        directory.mkdir(exist_ok=True)
        _write_check(directory, bases.reference(slot.workload.base(slot.size), self.host), slot.size)
        return directory

    def _build(self, slot: _Slot, context: Path, tag: str, *, sampled: bool = False) -> Cost:
        values = self._values(slot, f"{self.host}/{slot.repository}:{tag}", context)
        commands = [put_in(command, values) for command in slot.entrant.contender.build]
        return run_chain(commands, self._around(slot), slot.entrant.own if sampled else None)

    def _values(self, slot: _Slot, destination: str, context: Path) -> dict[str, str]:
        return {
            "bin": str(programs_directory()),
            "state": str(slot.state),
            "context": str(context),
            "destination": destination,
            "docker_host": self._engine.host if self._engine else "",
        }

    def _around(self, slot: _Slot) -> Surroundings:
        environment = {
            "PATH": SEARCH_PATH,
            "LANG": "C.UTF-8",
            "HOME": str(slot.state),
            "XDG_RUNTIME_DIR": str(slot.state / "runtime"),
            "TMPDIR": str(slot.state / "tmp"),
            **slot.entrant.contender.environment,
        }
        log = self.directory / "log"
        daemons: tuple[int, ...] = ()
        if slot.entrant.contender.service == "docker" and self._engine:
            daemons = (int((self._engine.directory / "docker.pid").read_text()),)
        return Surroundings(slot.entrant.account, environment, log, self.plan.timeout_seconds, daemons)

    def _reset(self, slot: _Slot) -> None:
        places.make_state(slot.state, slot.entrant.account)
        places.fill_registry(slot.registry, self.directory / "template")
        values = self._values(slot, "", slot.context)
        run_chain([put_in(command, values) for command in slot.entrant.contender.reset], self._around(slot))

    @contextlib.contextmanager
    def _registry(self, slot: _Slot) -> Iterator[None]:
        """The registry of this place, on the port that the bases' names have."""
        with docker_registry(slot.registry, port=self.port):
            yield

    def _slot(self, entrant: Entrant, workload: Workload, mode: str, size: float) -> _Slot:
        name = f"{workload.number}-{mode}-{size:g}"
        context = self.directory / f"context-{name}"
        if not context.exists():
            context.mkdir()
            workload.write(context, bases.reference(workload.base(size), self.host), size)
        place = self.directory / f"{name}-{entrant.contender.name}"
        place.mkdir(mode=0o755, exist_ok=True)
        slot = _Slot(entrant, workload, size, context, place / "state", place / "registry")
        slot.error = self._missing.get(workload.base(size), "")
        return slot

    def _remove(self, slot: _Slot) -> None:
        places.remove(slot.context)
        places.remove(slot.state.parent)

    def _guarded(self, slot: _Slot, act: Callable[[_Slot], None]) -> None:
        """A contender that fails is out of this workload, with the reason; the others go on."""
        try:
            act(slot)
        except BenchError as error:
            slot.error = str(error)
            self.say(f"  {slot.entrant.contender.name}, size {slot.size:g}: failed: {error}")


@contextlib.contextmanager
def _engine() -> Iterator[DockerEngine]:
    try:
        context = docker_engine()
        engine = context.__enter__()
    except (EngineError, OSError) as error:
        raise BenchError(f"the Docker engine does not start: {error}") from error
    try:
        yield engine
    finally:
        context.__exit__(None, None, None)


def _version(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
            env={"PATH": SEARCH_PATH, "HOME": "/nonexistent"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{command[0]} is not installed or does not start: {error}") from error
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: exit status {done.returncode}: {(done.stdout + done.stderr).strip()}")
    return done.stdout.strip().partition("\n")[0]


def _write_check(directory: Path, base: str, size: float) -> None:
    (directory / "Dockerfile").write_text(f"FROM {base}\nRUN true\nCOPY Dockerfile /primer\n")


def _fixed_work() -> float:
    """How long the same piece of work takes now: the measure of what else the machine does."""
    started = time.perf_counter()
    digest = hashlib.sha256()
    block = bytes(1 << 20)
    for _ in range(32):
        digest.update(block)
    return time.perf_counter() - started


def _series(slot: _Slot, mode: str, wanted: int) -> Series:
    entrant, workload = slot.entrant, slot.workload
    ours = entrant.contender.name.startswith("pushwright")
    series = Series(workload.number, workload.title, mode, slot.size, entrant.contender.name, error=slot.error)
    if slot.error:
        return series
    if slot.image is None or slot.sampled is None or len(slot.runs) != wanted:
        raise BenchError(f"{entrant.contender.name}: {len(slot.runs)} of {wanted} runs were made")
    return replace(
        series,
        runs=tuple(slot.runs),
        peak_bytes=slot.sampled.peak_bytes,
        run_cpu_seconds=slot.sampled.run_cpu_seconds,
        layers=slot.image.layers,
        image_bytes=slot.image.size_bytes,
        target=workload.targets.get(mode) if ours else None,
    )
