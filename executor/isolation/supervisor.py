"""The process that stays outside: it starts a builder in its namespaces, relays its events, and ends it.

A builder lives as long as its supervisor hears from whoever asked for the build. The supervisor ends the tree by
killing process 1 of the builder's pid namespace (pid_namespaces(7)); the builder ends itself when the supervisor is
gone or stopped, by the same clock in shared memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from executor.errors import BuildCancelledError, BuildDeadlineError, HostError, PushwrightError
from executor.isolation import idmap, sandbox
from executor.isolation.runner import Runner, spawn_runner
from executor.progress import ENVELOPE, EVENT_LIMIT_BYTES, Observer, error_fields, parse_event

BuilderBody = Callable[[Runner, Callable[[bytes], None]], int]
RENEW = b"."
CANCEL = b"c"
_FOREVER = float("inf")
_GRACE_SECONDS = 2.0
_TICK_MILLISECONDS = 500
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class EventPipe:
    """Writes lines to a pipe whose reader may be slow; while it is full, `while_full` is called every now and then."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._poller = select.poll()
        self._poller.register(descriptor, select.POLLOUT)
        self.while_full: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                self._poller.poll(_TICK_MILLISECONDS)
                self.while_full()


@dataclass(frozen=True, slots=True)
class Control:
    """Who may end a build: a pipe that must speak at least every `silence_seconds`, and a deadline (0: none).

    `events` is where the observer writes, when that is a pipe: a slow reader must not keep us from listening.
    """

    pipe: int | None = None
    silence_seconds: float = 25.0
    deadline_seconds: float = 0.0
    events: EventPipe | None = None


class SharedClock:
    """The monotonic time until which a builder may live, in memory that it shares with its supervisor."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)
        self.set(_FOREVER)

    def set(self, moment: float) -> None:
        self._memory[:8] = struct.pack("=d", moment)

    def passed(self) -> bool:
        (moment,) = struct.unpack("=d", self._memory[:8])
        return bool(time.monotonic() > moment)


@dataclass(frozen=True, slots=True)
class Cell:
    """What the builder's process gets to run in: the id plan, the directory for its root, what it sees of the host."""

    plan: idmap.IdPlan
    root: str
    binds: tuple[sandbox.Bind, ...]


class Supervision:
    """One builder from its start to its end; the clocks run from the moment this is made."""

    def __init__(self, control: Control, observer: Observer) -> None:
        self._control = control
        self._observer = observer
        self._clock = SharedClock()
        self._verdict: PushwrightError | None = None
        self._last: dict[str, Any] | None = None
        self._begun = time.monotonic()
        self._heard = self._begun
        self._pid = 0
        # whoever may end the build: the control pipe, and signals by way of a pipe of their own
        self._voices = select.poll()
        if control.pipe is not None:
            self._voices.register(control.pipe, select.POLLIN)
        if control.events is not None:
            control.events.while_full = self._heed

    def run(self, cell: Cell, body: BuilderBody) -> dict[str, Any]:
        """Start `body` as the builder and return its last event, of type `result` or `error`.

        `body` gets the runner of commands and a function that writes event lines; its return is not looked at. The
        calling process must be single-threaded and in the launcher's namespace, and cannot fork afterwards.
        """
        self._heed()
        if self._verdict is not None:
            return self._conclusion()
        events_read, events_write = os.pipe()
        alive_read, alive_write = os.pipe()
        self._set_clock()
        sandbox.lay_out_root(cell.root, cell.binds, sandbox.system_symlinks())

        def inside() -> int:
            sandbox.keep_descriptors((events_write, alive_read))
            runner = spawn_runner()
            watch = (self._clock, alive_read)
            threading.Thread(target=_watch_supervisor, args=watch, daemon=True, name="supervisor-watch").start()
            return body(runner, lambda line: _write_all(events_write, line))

        self._pid = sandbox.spawn_builder(cell.plan, cell.root, inside)
        os.close(events_write)
        os.close(alive_read)
        try:
            self._watch(events_read)
        finally:
            _kill_and_reap(self._pid)
            self._pid = 0
            os.close(events_read)
            os.close(alive_write)
        return self._conclusion()

    def _conclusion(self) -> dict[str, Any]:
        if self._verdict is None and self._last is not None:
            return self._last
        error = self._verdict or HostError(
            "the builder ended without a result: it was killed, or this host ran out of memory",
            code="builder-died",
            retryable=True,
        )
        return {"type": "error", **error_fields(error)}

    def _set_clock(self) -> None:
        limits = [_FOREVER]
        if self._control.pipe is not None:
            limits.append(self._heard + self._control.silence_seconds)
        if self._control.deadline_seconds:
            limits.append(self._begun + self._control.deadline_seconds)
        # the supervisor acts first and says why; the builder's own clock is for when it cannot
        self._clock.set(min(limits) + _GRACE_SECONDS)

    def _watch(self, events: int) -> None:
        """Relay events until the builder closes its end, or somebody or some clock ends it."""
        poller = select.poll()
        poller.register(events, select.POLLIN)
        if self._control.pipe is not None:
            poller.register(self._control.pipe, select.POLLIN)
        pending = b""
        with self._hearing_signals() as stop:
            poller.register(stop, select.POLLIN)
            while self._verdict is None:
                ready = {descriptor for descriptor, _ in poller.poll(_TICK_MILLISECONDS)}
                self._heed()
                if events in ready and self._verdict is None:
                    chunk = os.read(events, 1 << 16)
                    pending = self._relay(pending + chunk)
                    if not chunk:
                        return

    @contextlib.contextmanager
    def _hearing_signals(self) -> Iterator[int]:
        """Have the signals that ask for an end written to a pipe, whose reading end this gives."""
        stop_read, stop_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        former = {number: signal.signal(number, lambda *_: None) for number in _STOP_SIGNALS}
        wakeup = signal.set_wakeup_fd(stop_write, warn_on_full_buffer=False)
        self._voices.register(stop_read, select.POLLIN)
        try:
            yield stop_read
        finally:
            self._voices.unregister(stop_read)
            signal.set_wakeup_fd(wakeup)
            for number, handler in former.items():
                signal.signal(number, handler)
            os.close(stop_read)
            os.close(stop_write)

    def _heed(self) -> None:
        """Hear whoever may end the build, then look at the clocks; the first reason to end it ends it at once."""
        if self._verdict is None:
            for descriptor, _ in self._voices.poll(0):
                if descriptor == self._control.pipe:
                    self._listen(os.read(descriptor, 4096))
                elif set(os.read(descriptor, 64)) & set(_STOP_SIGNALS):
                    self._end(BuildCancelledError("the build was interrupted"))
            self._check_clocks()

    def _end(self, reason: PushwrightError) -> None:
        if self._verdict is None:
            self._verdict = reason
            if self._pid:
                # not reaped yet, so the number still means the builder
                os.kill(self._pid, signal.SIGKILL)

    def _listen(self, said: bytes) -> None:
        if not said:
            self._end(BuildCancelledError("the worker that asked for this build is gone", code="worker-gone"))
        elif CANCEL in said:
            self._end(BuildCancelledError("the build was cancelled"))
        else:
            self._heard = time.monotonic()
            self._set_clock()

    def _check_clocks(self) -> None:
        now = time.monotonic()
        limit = self._control.deadline_seconds
        if limit and now - self._begun > limit:
            reason = f"the build ran longer than {limit:g} seconds"
            self._end(BuildDeadlineError(reason, hint="raise the build deadline, or make it faster"))
        elif self._control.pipe is not None and now - self._heard > self._control.silence_seconds:
            reason = f"no renewal was heard for {self._control.silence_seconds:g} seconds"
            self._end(BuildCancelledError(reason, code="lease-silent"))

    def _relay(self, data: bytes) -> bytes:
        *lines, rest = data.split(b"\n")
        if len(rest) > EVENT_LIMIT_BYTES:
            raise HostError("the builder wrote an event of more than 16 MiB", code="event-invalid")
        for line in lines:
            event = parse_event(line)
            if event["type"] in {"result", "error"}:
                self._last = event
            else:
                fields = {key: value for key, value in event.items() if key not in ENVELOPE}
                self._observer(event["type"], **fields)
        return rest


def _watch_supervisor(clock: SharedClock, alive: int) -> None:
    poller = select.poll()
    poller.register(alive, select.POLLIN)
    while not poller.poll(500) and not clock.passed():
        pass
    # process 1 of a pid namespace takes everything in it along (pid_namespaces(7))
    os._exit(75)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _kill_and_reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
