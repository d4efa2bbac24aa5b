"""A worker's process: Celery's consumer, the threads that run builds, and the sweep."""

from __future__ import annotations

import argparse
import logging
import os
import re
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from celery import Celery, signals
from celery.exceptions import SecurityWarning

from executor.errors import PushwrightError
from tasks.app import TASK, announce, create_app
from tasks.build import BuildRunner, Collaborators
from tasks.connection import connect
from tasks.logs import Logs
from tasks.projects import Projects
from tasks.records import Records
from tasks.settings import Settings
from tasks.specification import ProjectBuilds, clean_store
from tasks.sweep import Sweeper
from tasks.tags import MovingTags
from tasks.vault import open_vault
from tasks.watch import ConsumerWatch, start_anew

logger = logging.getLogger(__name__)
BUILD_ID = re.compile(r"[0-9A-Z]{26}")
EXECUTOR = (sys.executable, "-I", "-m", "executor")


def run_worker(
    settings: Settings,
    collaborators: Collaborators,
    tidy: Callable[[], object],
    command: tuple[str, ...] = EXECUTOR,
) -> int:
    """Runs builds until SIGTERM or Ctrl-C; those still running are then given back. Gives the exit status."""
    app = create_app(settings)
    redis = connect(settings.redis_url)
    records, logs = Records(redis, announce_seconds=settings.announce_seconds), Logs(redis)
    stopping = threading.Event()
    owner = f"{socket.gethostname()}:{os.getpid()}"

    def tell(build_id: str) -> bool:
        return announce(app, build_id)

    runner = BuildRunner(records, logs, MovingTags(redis), collaborators, settings, command, owner, tell, stopping)
    sweeper = Sweeper(redis, records, logs, settings=settings, announce=tell, clean_store=tidy)
    watch = ConsumerWatch(redis, settings.concurrency)
    add_task(app, runner, watch)

    def stop(**_: object) -> None:
        stopping.set()

    signals.worker_shutting_down.connect(stop, weak=False)
    watching = (settings.sweep_seconds, stopping, start_anew)
    threading.Thread(target=sweeper.run, args=(stopping,), name="sweep", daemon=True).start()
    threading.Thread(target=watch.run, args=watching, name="watch", daemon=True).start()
    worker = app.Worker(
        hostname=f"pushwright@{owner}",
        loglevel="INFO",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    try:
        worker.start()
    finally:
        stopping.set()
        signals.worker_shutting_down.disconnect(stop)
    return int(worker.exitcode or 0)


def add_task(app: Celery, runner: BuildRunner, watch: ConsumerWatch) -> None:
    """Gives the application the one task it has."""

    @app.task(name=TASK, max_retries=0, ignore_result=True)
    def run(build_id: object) -> None:
        with watch.running():
            if not isinstance(build_id, str) or not BUILD_ID.fullmatch(build_id):
                logger.warning("a message without a build's id was dropped")
                return
            try:
                runner.run(build_id)
            except PushwrightError as error:
                # the record says what happened, or the sweep will find it running for nobody
                logger.error("build %s: %s", build_id, error)


def main(arguments: Sequence[str] | None = None) -> int:
    """`pushwright worker`, `python -m tasks.worker`: a worker of the environment's settings."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # builds run in namespaces of their own whoever starts the worker, and nothing but JSON is ever decoded
    warnings.filterwarnings("ignore", category=SecurityWarning)
    try:
        settings = Settings.from_environ(os.environ)
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        vault = open_vault(settings.secret_key, settings.secret_key_file or settings.data_dir / "secret.key")
        collaborators = ProjectBuilds(settings, Projects(connect(settings.redis_url), vault))
        if options.ready_file is not None:
            _tell_when_ready(options.ready_file)
        return run_worker(settings, collaborators, lambda: clean_store(settings))
    except PushwrightError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pushwright worker",
        description="Run builds that are queued in REDIS_URL; settings come from the environment.",
    )
    parser.add_argument(
        "--ready-file", type=Path, metavar="FILE", help="a file that is made once this worker takes builds"
    )
    return parser


def _tell_when_ready(file: Path) -> None:
    file.unlink(missing_ok=True)

    def tell(**_: object) -> None:
        file.touch(mode=0o600)

    signals.worker_ready.connect(tell, weak=False)


if __name__ == "__main__":
    sys.exit(main())
