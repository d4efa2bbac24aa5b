"""Signals as values: asked for when the supervisor is ready for them, instead of interrupting it anywhere."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Protocol

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_WAITED_FOR = STOP_SIGNALS | {signal.SIGCHLD}


class Signals(Protocol):
    """What the supervisor sleeps on."""

    def wait(self, seconds: float) -> signal.Signals | None:
        """The signal to stop that came within the time; None when there was none, also when only a child ended."""


class BlockedSignals:
    """The signals of this process, which stay blocked and are taken one by one (sigtimedwait(2))."""

    def wait(self, seconds: float) -> signal.Signals | None:
        received = signal.sigtimedwait(_WAITED_FOR, max(0.0, seconds))
        if received is None or received.si_signo not in STOP_SIGNALS:
            return None
        return signal.Signals(received.si_signo)


@contextlib.contextmanager
def block_signals() -> Iterator[BlockedSignals]:
    """Block what the supervisor waits for, and put the mask back at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    try:
        yield BlockedSignals()
    finally:
        # what came while everything was being stopped was answered by stopping
        while signal.sigtimedwait(_WAITED_FOR, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
