"""The errors that the life of a build adds to the executor's tree.

::

    PushwrightError
    ├── HostError
    │   ├── RedisUnavailableError    (retryable)
    │   ├── ExecutorDiedError        (retryable) the executor ended without a result
    │   ├── LeaseLostError           somebody else may run this build now
    │   └── RecordDamagedError       a record that this version cannot read
    ├── RegistryError
    │   └── TagConflictError         an immutable tag already names another image
    └── UsageError
        └── BuildNotFoundError
"""

from __future__ import annotations

from executor.errors import HostError, RegistryError, UsageError


class RedisUnavailableError(HostError):
    """Redis could not be reached, or answered that it cannot serve now."""

    code = "redis-unavailable"
    retryable = True


class ExecutorDiedError(HostError):
    """The executor's process ended, or was killed, without saying how its build went."""

    code = "executor-died"
    retryable = True


class LeaseLostError(HostError):
    """This worker's claim on a build is no longer valid; whatever it still wants to write must not be written."""

    code = "lease-lost"


class RecordDamagedError(HostError):
    """A record in Redis that does not read as one of this version."""

    code = "record-damaged"


class TagConflictError(RegistryError):
    """A tag that must not move already names another image."""

    code = "tag-conflict"


class BuildNotFoundError(UsageError):
    """No build has this id."""

    code = "build-not-found"
