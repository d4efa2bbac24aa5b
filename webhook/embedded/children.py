"""Child processes that end with the process that started them, whatever ends it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from executor.errors import HostError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TAIL_BYTES = 16 * 1024
_LOG_LIMIT_BYTES = 32 * 1024 * 1024


class ChildFailedError(HostError):
    """A process of the embedded mode did not start, or keeps dying."""

    code = "child-failed"


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """How a child is started and stopped.

    `stop_signal` asks it to end and SIGKILL follows after `stop_seconds`; `death_signal` is what the kernel sends it
    when this process dies without a word.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path
    directory: Path
    environment: Mapping[str, str] = field(repr=False)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0
    death_signal: signal.Signals = signal.SIGKILL
    pass_descriptors: tuple[int, ...] = ()


class Child:
    """One running process, known by the pid that started it."""

    def __init__(self, command: ChildCommand) -> None:
        self.command = command
        _put_away_long_log(command.log)
        self._log_start = command.log.stat().st_size if command.log.exists() else 0
        self._process = _start(command)
        self.started = time.monotonic()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> str | None:
        """How it ended, in words; None while it runs."""
        status = self._process.poll()
        return None if status is None else describe_status(status)

    def ask_to_stop(self) -> None:
        self._send(self.command.stop_signal)

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        self._process.wait()

    def wait(self, seconds: float) -> bool:
        """Whether it ended within the time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def tail(self, lines: int = 15) -> str:
        """The last lines it wrote since it was started."""
        with self.command.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            text = log.read(_TAIL_BYTES).decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])

    def _send(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def describe_status(status: int) -> str:
    """An exit status of `subprocess` in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _start(command: ChildCommand) -> subprocess.Popen[bytes]:
    try:
        with _open_log(command.log) as log:
            # the caller has no threads (the supervisor runs on signals), so code between fork and exec is safe here;
            # a session of its own keeps a terminal's Ctrl-C from reaching the children before their turn
            return subprocess.Popen(
                command.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=command.directory,
                env=dict(command.environment),
                start_new_session=True,
                pass_fds=command.pass_descriptors,
                preexec_fn=_bind_life(command.death_signal),  # noqa: PLW1509
            )
    except OSError as error:
        raise ChildFailedError(f"{command.name}: cannot start {command.arguments[0]}: {error.strerror}") from error


def _put_away_long_log(log: Path) -> None:
    """Begin a new log where the old one is long; of the old ones, the last is kept."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))


def _open_log(path: Path) -> io.FileIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    return io.FileIO(descriptor, "ab")


def _bind_life(death_signal: signal.Signals) -> Callable[[], None]:
    """What a child does between fork and exec, so that it cannot outlive this process (prctl(2), PR_SET_PDEATHSIG)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        # the parent may have died before the call: then no signal will come
        if os.getppid() != parent:
            os._exit(1)
        # the supervisor waits for its signals with them blocked, and exec would keep them so
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    return bind


def module_arguments(module: str) -> tuple[str, ...]:
    """The command that runs one of our modules by this Python, without the working directory on its path."""
    return (sys.executable, "-P", "-m", module)
