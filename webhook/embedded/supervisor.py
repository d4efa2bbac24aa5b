"""Starts children in order, starts again what dies, and stops everything in the opposite order."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from webhook.embedded.children import Child, ChildCommand, ChildFailedError
from webhook.embedded.follow import LogFollower
from webhook.embedded.signals import Signals

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# a child that lived as long is taken for healthy: its next death is the first one again
HEALTHY_SECONDS = 60.0
_READY_POLL_SECONDS = 0.05
_PAUSE_SECONDS = 0.2
_WATCH_SECONDS = 1.0
_FOLLOW_SECONDS = 0.2


class StoppedError(Exception):
    """Somebody asked to stop while the children were still being started; never leaves `webhook.up`."""


@dataclass(frozen=True, slots=True)
class Service:
    """One child to keep running: how to start it, and how to see that it is ready."""

    command: ChildCommand
    is_ready: Callable[[Child], bool]
    ready_seconds: float = 60.0


@dataclass(slots=True)
class _Running:
    service: Service
    child: Child
    deaths: int = 0
    start_again_at: float | None = None

    @property
    def name(self) -> str:
        return self.service.command.name


def pause_seconds(deaths: int) -> float:
    """How long to wait before a child is started again after so many deaths in a row."""
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(deaths - 1, 16), LONGEST_PAUSE_SECONDS))


class Supervisor:
    """The children of one `up`; used from one thread."""

    def __init__(
        self,
        signals: Signals,
        say: Callable[[str], None],
        follower: LogFollower | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signals = signals
        self._say = say
        self._follower = follower
        self._clock = clock
        self._running: list[_Running] = []

    def start(self, *services: Service) -> None:
        """Start services together and wait until all are ready; `ChildFailedError` shows what a failed one wrote."""
        begun = []
        for service in services:
            running = _Running(service, Child(service.command))
            self._running.append(running)
            begun.append((running, self._clock() + service.ready_seconds))
        for running, deadline in begun:
            self._await_ready(running, deadline)

    def pause(self) -> None:
        """A moment of waiting before something is started; `StoppedError` when somebody asks to stop."""
        if self._wait(_PAUSE_SECONDS) is not None:
            raise StoppedError

    def watch(self) -> signal.Signals:
        """Keep the children running until a signal asks to stop; gives that signal."""
        while True:
            if received := self._wait(self._next_wait()):
                return received
            for running in self._running:
                self._mend(running)

    def names_in_stopping_order(self) -> list[str]:
        return [running.name for running in reversed(self._running)]

    def stop(self) -> None:
        """Stop every child, the last one started first; a further signal makes it quick."""
        hurry = False
        for running in reversed(self._running):
            child = running.child
            if child.ended() is not None:
                continue
            deadline = self._clock() + running.service.command.stop_seconds
            child.ask_to_stop()
            while child.ended() is None and not hurry and self._clock() < deadline:
                hurry = self._wait(min(_READY_POLL_SECONDS * 4, max(0.0, deadline - self._clock()))) is not None
            if child.ended() is None:
                self._say(f"{running.name} (pid {child.pid}) did not stop: killed")
                child.kill()
        self._follow()
        self._running.clear()

    def _await_ready(self, running: _Running, deadline: float) -> None:
        child = running.child
        while not running.service.is_ready(child):
            if ended := child.ended():
                raise self._failed(running, f"ended while it was being started: {ended}")
            if self._clock() > deadline:
                raise self._failed(running, f"not ready after {running.service.ready_seconds:.0f} s")
            if self._wait(_READY_POLL_SECONDS) is not None:
                raise StoppedError

    def _failed(self, running: _Running, what: str) -> ChildFailedError:
        log = running.service.command.log
        tail = running.child.tail()
        shown = "".join(f"\n  {running.name} | {line}" for line in tail.splitlines()) or "\n  (it wrote nothing)"
        return ChildFailedError(f"{running.name}: {what}; its last lines:{shown}", hint=f"the whole log is {log}")

    def _mend(self, running: _Running) -> None:
        """Notice a death, or start again what died long enough ago."""
        now = self._clock()
        if running.start_again_at is not None:
            if now >= running.start_again_at:
                running.start_again_at = None
                self._start_again(running, now)
            return
        ended = running.child.ended()
        if ended is None:
            return
        lived = now - running.child.started
        self._note_death(running, f"(pid {running.child.pid}) ended: {ended}", now, healthy=lived >= HEALTHY_SECONDS)

    def _start_again(self, running: _Running, now: float) -> None:
        try:
            running.child = Child(running.service.command)
        except ChildFailedError as error:
            self._note_death(running, error.message, now, healthy=False)
        else:
            self._say(f"{running.name} was started again (pid {running.child.pid})")

    def _note_death(self, running: _Running, what: str, now: float, *, healthy: bool) -> None:
        running.deaths = 1 if healthy else running.deaths + 1
        pause = pause_seconds(running.deaths)
        running.start_again_at = now + pause
        log = running.service.command.log
        self._say(f"{running.name} {what}; starting it again in {pause:g} s (log: {log})")

    def _next_wait(self) -> float:
        limit = _FOLLOW_SECONDS if self._follower else _WATCH_SECONDS
        due = [
            running.start_again_at - self._clock() for running in self._running if running.start_again_at is not None
        ]
        return max(0.0, min([limit, *due]))

    def _wait(self, seconds: float) -> signal.Signals | None:
        received = self._signals.wait(seconds)
        self._follow()
        return received

    def _follow(self) -> None:
        if self._follower:
            self._follower.show_new_lines()
