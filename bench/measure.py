"""What a chain of commands cost: wall time, CPU time of all its processes, and, sampled, memory and the part of RUN."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.contenders import Account
from bench.errors import BenchError

SAMPLE_SECONDS = 0.02
# utime, stime, cutime, cstime in /proc/PID/stat, counted behind the name in parentheses; proc(5)
_UTIME, _STIME, _CUTIME, _CSTIME, _START = 11, 12, 13, 14, 19
_TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took. The last two are known of a sampled run only."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int | None = None
    run_cpu_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Who runs the commands of a contender, in what environment, and which daemons work for them."""

    account: Account | None
    environment: Mapping[str, str]
    log: Path
    timeout_seconds: float
    daemons: tuple[int, ...] = ()


@dataclass(slots=True)
class _Sampler:
    """Looks at the processes below `roots` until the block ends; those whose program is in `own` are the builder's."""

    roots: list[int]
    own: frozenset[tuple[int, int]]
    peak_bytes: int = 0
    run_ticks: dict[tuple[int, str], int] = field(default_factory=dict)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        size = 0
        for pid in descendants(self.roots):
            try:
                if self._is_own(pid):
                    size += _memory(pid)
                else:
                    stat = _stat(pid)
                    self.run_ticks[pid, stat[_START]] = int(stat[_UTIME]) + int(stat[_STIME])
            except OSError:
                # it ended meanwhile, or is a zombie without a program
                continue
        self.peak_bytes = max(self.peak_bytes, size)

    def _is_own(self, pid: int) -> bool:
        program = Path(f"/proc/{pid}/exe")
        status = program.stat()
        # buildah and runc start themselves again from a sealed copy in memory (CVE-2019-5736); no RUN here does
        return (status.st_dev, status.st_ino) in self.own or str(program.readlink()).startswith("/memfd:")


def run_chain(
    commands: Sequence[Sequence[str]], around: Surroundings, own: frozenset[tuple[int, int]] | None = None
) -> Cost:
    """Run the commands one after the other; the first that fails is an error with the end of what it printed.

    With `own` the processes are sampled, which costs a little time: what it says of wall time is not to be counted.
    """
    sampler = _Sampler(list(around.daemons), own) if own is not None else None
    cpu = -sum(map(_ticks_with_children, descendants(around.daemons))) * _TICK
    started = time.monotonic()
    with sampler.watching() if sampler else contextlib.nullcontext():
        for command in commands:
            cpu += _run(command, around, sampler)
    wall = time.monotonic() - started
    cpu += sum(map(_ticks_with_children, descendants(around.daemons))) * _TICK
    if sampler is None:
        return Cost(wall, cpu)
    return Cost(wall, cpu, sampler.peak_bytes, sum(sampler.run_ticks.values()) * _TICK)


def _run(command: Sequence[str], around: Surroundings, sampler: _Sampler | None) -> float:
    account = around.account
    with around.log.open("ab") as log:
        start = log.tell()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(around.environment),
                cwd="/",
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=account.groups if account else None,
            )
        except OSError as error:
            raise BenchError(f"{command[0]} cannot be started: {error}") from error
        if sampler:
            sampler.roots.append(process.pid)
        cpu = _wait(process, around.timeout_seconds)
    if process.returncode:
        raise BenchError(f"{_shown(command)}: exit status {process.returncode}\n{_end_of(around.log, start)}")
    return cpu


def _wait(process: subprocess.Popen[bytes], seconds: float) -> float:
    """The CPU seconds of the process and all it waited for; `returncode` is set as `Popen.wait` would."""
    descriptor = os.pidfd_open(process.pid)
    in_time = False
    try:
        in_time = bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        # also when interrupted: nothing that was started here is left running
        if not in_time:
            os.killpg(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        os.close(descriptor)
    if not in_time:
        raise BenchError(f"it took longer than {seconds:.0f} s and was killed")
    return usage.ru_utime + usage.ru_stime


def descendants(roots: Sequence[int]) -> list[int]:
    """These processes and all below them that are alive."""
    found: list[int] = []
    left = list(roots)
    while left:
        pid = left.pop()
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                left += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except OSError:
            continue
        found.append(pid)
    return found


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _ticks_with_children(pid: int) -> int:
    try:
        stat = _stat(pid)
    except OSError:
        return 0
    return sum(int(stat[field]) for field in (_UTIME, _STIME, _CUTIME, _CSTIME))


def _memory(pid: int) -> int:
    """The process's share of memory: pages shared by several processes are divided among them (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _shown(command: Sequence[str]) -> str:
    text = " ".join(command)
    return text if len(text) < 300 else f"{text[:300]}…"


def _end_of(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 3000))
        return file.read().decode(errors="replace").strip()
