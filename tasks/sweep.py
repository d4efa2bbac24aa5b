"""Putting right what nobody else will: lost builds, lost messages, logs left open, directories of killed executors."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable

from executor.errors import PushwrightError
from tasks.connection import Client, redis_errors
from tasks.errors import BuildNotFoundError
from tasks.logs import Logs
from tasks.records import Records
from tasks.settings import Settings

logger = logging.getLogger(__name__)
LOCK = "pw:sweep"
# logs of builds that ended this long ago without their worker archiving them
LOG_GRACE_MS = 60_000
# killed executors are rare, and looking for what they left reads directories
STORE_SECONDS = 60.0


class Sweeper:
    """Sweeps again and again in a thread; any number of them in any number of workers get along."""

    def __init__(
        self,
        redis: Client,
        records: Records,
        logs: Logs,
        *,
        settings: Settings,
        announce: Callable[[str], object],
        clean_store: Callable[[], object],
    ) -> None:
        self._redis = redis
        self._records = records
        self._logs = logs
        self._settings = settings
        self._announce = announce
        self._clean_store = clean_store
        self._next_store = 0.0
        self._token = secrets.token_hex(8)

    def run(self, stopping: threading.Event) -> None:
        """Sweeps until told to stop; an absent Redis is waited for."""
        while not stopping.wait(self._settings.sweep_seconds):
            for sweep in (self.sweep, self._sweep_store):
                try:
                    sweep()
                except PushwrightError as error:
                    logger.warning("sweep: %s", error)
                except Exception:
                    logger.exception("sweep: a fault")

    def sweep(self) -> bool:
        """One sweep of the records, unless another worker did it just now."""
        with redis_errors():
            pause_ms = max(1, round(self._settings.sweep_seconds * 800))
            if not self._redis.set(LOCK, self._token, nx=True, px=pause_ms):
                return False
        overdue = self._records.overdue()
        for build_id in overdue.retaken:
            logger.warning("build %s: its worker was lost; it is queued again", build_id)
        for build_id in overdue.ended:
            logger.warning("build %s: its worker was lost for the last time", build_id)
            self._logs.archive(build_id)
        for build_id in overdue.unannounced:
            self._announce(build_id)
        self._archive_logs()
        return True

    def _archive_logs(self) -> None:
        with redis_errors():
            seconds, _ = self._redis.time()
        for build_id in self._logs.unarchived():
            try:
                build = self._records.get(build_id)
            except BuildNotFoundError:
                self._logs.archive(build_id)
                continue
            if build.state.is_final and build.finished < seconds * 1000 - LOG_GRACE_MS:
                self._logs.archive(build_id)

    def _sweep_store(self) -> None:
        if time.monotonic() >= self._next_store:
            self._next_store = time.monotonic() + STORE_SECONDS
            self._clean_store()
