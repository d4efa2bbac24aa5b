"""Trying again: which failures, how often, and how long to wait in between."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from executor.errors import RegistryUnavailableError

T = TypeVar("T")
_log = logging.getLogger(__name__)


class RetryLaterError(RegistryUnavailableError):
    """A registry that cannot serve now, and perhaps said when it will."""

    def __init__(self, message: str, *, code: str, hint: str | None = None, after_seconds: float | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.after_seconds = after_seconds


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter: `retries` further attempts after the first, each wait at most `cap_seconds`."""

    retries: int = 4
    first_seconds: float = 0.5
    cap_seconds: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    def but_at_most(self, retries: int) -> RetryPolicy:
        return replace(self, retries=min(self.retries, retries))

    def wait(self, attempt: int, error: RegistryUnavailableError) -> None:
        """Sleep after the failure of `attempt` (counted from 0): what the registry asked for, or 2^attempt."""
        seconds = self.first_seconds * 2**attempt * (0.5 + self.jitter())
        asked = error.after_seconds if isinstance(error, RetryLaterError) else None
        if asked is not None:
            # a little above what was asked for, so that many builds do not come back in the same instant
            seconds = max(asked, 0.0) + self.jitter()
        seconds = min(seconds, self.cap_seconds)
        _log.info("%s; trying again in %.1f s", error.message, seconds)
        self.sleep(seconds)

    def run(self, operation: Callable[[], T]) -> T:
        """The result of `operation`, tried again whenever it raises a retryable `RegistryUnavailableError`."""
        attempt = 0
        while True:
            try:
                return operation()
            except RegistryUnavailableError as error:
                if not error.retryable or attempt >= self.retries:
                    raise
                self.wait(attempt, error)
            attempt += 1
