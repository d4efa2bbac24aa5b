"""The one place where Redis clients are made, and where Redis's exceptions become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from executor.errors import UsageError
from tasks.errors import RedisUnavailableError

if TYPE_CHECKING:
    Client: TypeAlias = redis.Redis[str]
else:
    Client = redis.Redis

SCHEMES = frozenset({"redis", "rediss", "unix"})
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 5.0
# a pooled connection idle for longer is pinged before use: Redis, or a proxy before it, may have closed it
HEALTH_CHECK_SECONDS = 10


def connect(url: str) -> Client:
    """A client of the Redis at `url` that answers text; it connects at first use.

    A failed connection is tried once more at once (Redis restarted, a pooled socket is stale); a command that timed
    out is not repeated, since it may have been carried out.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise UsageError(
            "REDIS_URL: expected redis://, rediss:// or unix://, found "
            + (repr(urlsplit(url).scheme + "://…") if url else "nothing"),
            hint="`pushwright up` brings its own Redis; everything else needs REDIS_URL",
        )
    try:
        return redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            health_check_interval=HEALTH_CHECK_SECONDS,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
    except ValueError as error:
        raise UsageError(f"REDIS_URL: not understood: {error}") from error


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turns whatever redis-py raises inside into `RedisUnavailableError`."""
    try:
        yield
    except redis.RedisError as error:
        # redis-py's messages name the address, never the password
        raise RedisUnavailableError(
            f"redis did not answer as expected: {str(error)[:200] or type(error).__name__}",
            hint="check that Redis runs and that REDIS_URL points at it",
        ) from error
