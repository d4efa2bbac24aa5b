"""The Celery application: it carries the ids of builds and nothing else."""

from __future__ import annotations

import logging
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from celery import Celery
from kombu.exceptions import OperationalError

from executor.errors import UsageError
from tasks.records import QUEUE
from tasks.settings import Settings

TASK = "tasks.build.run"
logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> Celery:
    """The application of these settings; the worker adds the task, everybody else only names it."""
    if not settings.redis_url:
        raise UsageError("REDIS_URL: expected the address of a Redis, found nothing")
    app = Celery("pushwright", broker=broker_url(settings.redis_url), set_as_current=False)
    app.conf.update(
        # a message is a hint: lost, it is found again by the sweep; doubled, the second claim finds nothing to do
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_publish_retry=False,
        task_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_default_queue=QUEUE,
        task_create_missing_queues=False,
        task_track_started=False,
        worker_pool="threads",
        worker_concurrency=settings.concurrency,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # concerns late acknowledgement alone, and says nothing when set
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=4,
        broker_pool_limit=4,
        broker_transport_options={
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # the pause between tries to reconnect does not grow beyond this
            "max_retries": 1,
            "interval_start": 0.2,
            "interval_step": 0.5,
            "interval_max": 2,
        },
    )
    return app


def announce(app: Celery, build_id: str) -> bool:
    """Tells the workers of a build that was queued; when that fails the sweep does it a little later."""
    try:
        app.send_task(TASK, args=[build_id], ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        logger.warning("build %s: not announced, the sweep will: %s", build_id, type(error).__name__)
        return False
    return True


def broker_url(redis_url: str) -> str:
    """The same Redis as `tasks.connection` takes it, in kombu's spelling of Unix sockets."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    # `unix://[user:password@]/path?db=0` is redis-py's form; kombu's is `redis+socket://`
    database = parse_qs(parts.query).get("db", ["0"])[0]
    login = parts.netloc.rpartition("@")[0]
    return f"redis+socket://{login + '@' if login else ''}{unquote(parts.path)}?{urlencode({'virtual_host': database})}"
