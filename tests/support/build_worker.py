"""A real worker's process whose builds are scripted: `python -m tests.support.build_worker`, settings by environment.

Tags are appended to the file named by `WORKER_TAGS`, one JSON line each, and read back from it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from executor.errors import RegistryUnavailableError
from executor.oci import Descriptor, Digest
from executor.spec import BuildSpec, GitContext
from tasks.lifecycle import Build
from tasks.settings import Settings
from tasks.tags import Publisher
from tasks.worker import run_worker


class FilePublisher:
    """A registry as a file of lines that any number of processes append to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put_tag(self, repository: str, tag: str, descriptor: Descriptor, data: bytes) -> None:
        assert Digest.of(data) == descriptor.digest
        held = self._path.with_suffix(".held")
        while held.exists():
            held.with_suffix(".waits").touch()
            time.sleep(0.02)
        down = self._path.with_suffix(".down")
        if down.exists():
            raise RegistryUnavailableError(f"{repository}: the registry is away")
        line = {"repository": repository, "tag": tag, "digest": descriptor.digest, "pid": os.getpid()}
        with self._path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(line) + "\n")

    def tag_digest(self, repository: str, tag: str) -> Digest | None:
        matching = [line for line in read_puts(self._path) if (line["repository"], line["tag"]) == (repository, tag)]
        return Digest(matching[-1]["digest"]) if matching else None


def read_puts(path: Path) -> list[dict[str, Any]]:
    """Every tag that was put, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class ScriptedCollaborators:
    """Hands the build's own configuration to the fake executor as build args."""

    def __init__(self, publisher: FilePublisher) -> None:
        self._publisher = publisher

    def specification(self, build: Build) -> BuildSpec:
        arguments = {name: str(value) for name, value in build.config.items()}
        context = GitContext("https://git.example/x.git", build.commit)
        return BuildSpec(context, store="/nowhere", build_args=arguments)

    @contextmanager
    def publisher(self, build: Build) -> Iterator[Publisher]:
        yield self._publisher


def deafen_once(marker: Path) -> None:
    """The first worker to get here will look healthy and take no message, as after a bad reconnect."""
    from celery import signals

    if marker.exists():
        return
    marker.touch()

    def deafen(sender: Any, **_: Any) -> None:
        sender.task_consumer.channel.qos.can_consume = lambda: False

    signals.worker_ready.connect(deafen, weak=False)


def main() -> None:
    import logging

    logging.basicConfig(level="INFO", format="%(asctime)s %(process)d %(threadName)s %(message)s")
    settings = Settings.from_environ(os.environ)
    publisher = FilePublisher(Path(os.environ["WORKER_TAGS"]))
    swept = threading.Event()
    if marker := os.environ.get("WORKER_DEAF_ONCE"):
        deafen_once(Path(marker))
    executor = (sys.executable, "-I", str(Path(__file__).with_name("fake_executor.py")))
    sys.exit(run_worker(settings, ScriptedCollaborators(publisher), swept.set, executor))


if __name__ == "__main__":
    main()
