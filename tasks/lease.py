"""Holding on to a claim while its build runs, and noticing why it must not run on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import TracebackType
from typing import Self

from tasks.errors import RedisUnavailableError
from tasks.lifecycle import Claim
from tasks.records import Records
from tasks.settings import Settings

logger = logging.getLogger(__name__)


class Interruption(StrEnum):
    """Why a build must end before its time."""

    LEASE_LOST = "lease-lost"
    STOPPING = "worker-stopping"
    CANCELLED = "cancelled"
    DEADLINE = "deadline-exceeded"


class InterruptedBuild(Exception):
    """The build has to end now; never seen by people."""

    def __init__(self, why: Interruption) -> None:
        super().__init__(str(why))
        self.why = why


class Lease:
    """Renews a claim from a thread of its own for as long as the context lasts.

    `claimed_at` is the monotonic time before the claim was asked for. Without a renewal for
    `Settings.silence_seconds` the lease counts as lost here, before Redis can give the build to anybody else.
    """

    def __init__(
        self, records: Records, claim: Claim, settings: Settings, stopping: threading.Event, claimed_at: float
    ) -> None:
        self._records = records
        self._claim = claim
        self._settings = settings
        self._stopping = stopping
        self._renewed_at = claimed_at
        self._deadline_at = claimed_at + settings.build_deadline_seconds
        self._lost = False
        self._cancelled = False
        self._on_renewal: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{claim.build.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def interruption(self) -> Interruption | None:
        """Why the build must not run on, or None."""
        now = time.monotonic()
        if self._lost or now - self._renewed_at > self._settings.silence_seconds:
            return Interruption.LEASE_LOST
        if self._cancelled:
            return Interruption.CANCELLED
        if self._stopping.is_set():
            return Interruption.STOPPING
        return Interruption.DEADLINE if now > self._deadline_at else None

    def check(self) -> None:
        """Raises `InterruptedBuild` when the build must not run on: to be called before anything is published."""
        if why := self.interruption():
            raise InterruptedBuild(why)

    def is_lost(self) -> bool:
        return self.interruption() is Interruption.LEASE_LOST

    @contextmanager
    def telling(self, on_renewal: Callable[[], None]) -> Iterator[None]:
        """Calls `on_renewal` after every renewal while the context lasts."""
        with self._lock:
            self._on_renewal = on_renewal
        try:
            yield
        finally:
            with self._lock:
                self._on_renewal = None

    def _run(self) -> None:
        pause = self._settings.heartbeat_seconds
        while not self._closed.wait(pause):
            asked_at = time.monotonic()
            try:
                renewal = self._records.renew(self._claim, self._settings.lease_seconds)
            except RedisUnavailableError as error:
                logger.warning("build %s: lease not renewed: %s", self._claim.build.id, error.message)
                pause = min(1.0, self._settings.heartbeat_seconds)
                continue
            pause = self._settings.heartbeat_seconds
            if not renewal.held:
                self._lost = True
                return
            self._renewed_at = asked_at
            self._cancelled = self._cancelled or renewal.cancel
            with self._lock:
                if self._on_renewal:
                    self._on_renewal()
