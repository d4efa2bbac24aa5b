"""What the views work with, made once for each process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from flask import current_app, request

from executor.errors import UsageError
from executor.reference import registry_host
from executor.store import Store
from tasks.connection import Client, connect
from tasks.logs import Logs
from tasks.projects import Projects, UrlPolicy
from tasks.records import Records
from tasks.settings import Settings
from tasks.triggers import Deliveries
from tasks.vault import open_vault

EXTENSION = "pushwright"
# tells the workers of a queued build, by the task's name alone; whether it went out does not matter to the caller
Announce = Callable[[str], bool]


class Streams:
    """The places for followed logs: each keeps a thread of the server busy for as long as a build runs."""

    def __init__(self, limit: int) -> None:
        self._places = threading.BoundedSemaphore(limit)
        self.is_stopping = False

    def take(self) -> bool:
        """Whether there was a place."""
        return self._places.acquire(blocking=False)

    def give_back(self) -> None:
        self._places.release()

    def stop(self) -> None:
        """Asks every stream to end soon; safe in a signal handler."""
        self.is_stopping = True


@dataclass(frozen=True, slots=True)
class Services:
    """Collaborators of the views."""

    settings: Settings
    redis: Client
    records: Records
    projects: Projects
    logs: Logs
    deliveries: Deliveries
    streams: Streams
    announce: Announce
    policy: UrlPolicy
    store: Store = field(repr=False)

    def registry(self) -> str:
        """The host of the embedded registry as the asker reaches it."""
        shown = urlsplit(self.settings.public_url).netloc or request.headers.get("Host", "")
        try:
            return registry_host(shown)
        except UsageError:
            return ""


def open_services(settings: Settings, *, announce: Announce | None = None, streams: int = 8) -> Services:
    """The services of these settings; connects to nothing yet."""
    redis = connect(settings.redis_url)
    key_file = settings.secret_key_file or settings.data_dir / "secret.key"
    return Services(
        settings=settings,
        redis=redis,
        records=Records(redis, announce_seconds=settings.announce_seconds),
        projects=Projects(redis, open_vault(settings.secret_key, key_file)),
        logs=Logs(redis),
        deliveries=Deliveries(redis),
        streams=Streams(streams),
        announce=announce or celery_announcer(settings),
        policy=UrlPolicy(settings.git_local_roots, settings.allow_private_git_hosts),
        store=Store(settings.store),
    )


def celery_announcer(settings: Settings) -> Announce:
    """Sends a build's id to the workers' queue; Celery is imported with the first one."""
    lock = threading.Lock()
    made: list[Announce] = []

    def send(build_id: str) -> bool:
        from tasks.app import announce, create_app

        with lock:
            if not made:
                app = create_app(settings)
                made.append(lambda identity: announce(app, identity))
        return made[0](build_id)

    return send


def services() -> Services:
    """The services of the application that answers now."""
    return cast(Services, current_app.extensions[EXTENSION])
