"""Noticing that this worker no longer takes messages, which from outside looks like an idle worker.

Celery's consumer has more than once stopped consuming after Redis came back (celery/celery issues 8030, 8091, 10205).
A worker that sees messages, has a free slot and begins nothing for a while starts itself anew.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tasks.connection import Client, redis_errors
from tasks.errors import RedisUnavailableError
from tasks.records import QUEUE

logger = logging.getLogger(__name__)
# counted in looks, not in time: a worker that was itself stopped must not conclude anything from the clock
LOOKS = 6
PUT_BACK_SECONDS = 20.0


class ConsumerWatch:
    """Counts what the consumer hands over, and compares it with what waits in Redis."""

    def __init__(self, redis: Client, slots: int) -> None:
        self._redis = redis
        self._slots = slots
        self._lock = threading.Lock()
        self._busy = 0
        self._begun = 0
        self._seen = 0
        self._looks = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around everything that the consumer handed over."""
        with self._lock:
            self._busy += 1
            self._begun += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def is_stuck(self) -> bool:
        """To be asked at regular intervals."""
        try:
            with redis_errors():
                waiting = self._redis.llen(QUEUE)
        except RedisUnavailableError:
            self._looks = 0
            return False
        with self._lock:
            is_idle_beside_work = waiting > 0 and self._busy < self._slots and self._begun == self._seen
            self._seen = self._begun
            self._looks = self._looks + 1 if is_idle_beside_work else 0
            return self._looks >= LOOKS

    def run(self, interval_seconds: float, stopping: threading.Event, restart: Callable[[], object]) -> None:
        """Looks until told to stop; when stuck, has running builds given back and calls `restart`."""
        while not stopping.wait(interval_seconds):
            if self.is_stuck():
                logger.error("messages wait and none is taken: this worker starts anew")
                stopping.set()
                self._wait_until_idle()
                restart()
                return

    def _wait_until_idle(self) -> None:
        end = time.monotonic() + PUT_BACK_SECONDS
        while self._busy and time.monotonic() < end:
            time.sleep(0.1)


def start_anew() -> None:
    """Replaces this process by itself; its pid stays, and its control pipes close, which ends what still runs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606
