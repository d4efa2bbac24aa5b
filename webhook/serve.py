"""`pushwright serve`: the application under gunicorn, one process with threads."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from executor.errors import PushwrightError, UsageError
from tasks.settings import Settings
from webhook.access import check_bind, read_token
from webhook.listen import DEFAULT_LISTEN, open_listener, parse_listen
from webhook.services import EXTENSION, Services

if TYPE_CHECKING:
    from flask import Flask

DEFAULT_THREADS = 24
# what a stop waits for answers that are on their way; followed logs are ended by us
GRACEFUL_SECONDS = 10
# a client that neither sends nor takes a byte for this long is given up
SOCKET_SECONDS = 30
# a request line with headers that takes longer is given up, however steadily it trickles in
HEAD_SECONDS = 10.0


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threads, which give up heads that trickle in, and end followed logs when they are asked to stop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # connections whose request line and headers are awaited by a thread, and until when
        self._heads: dict[Any, float] = {}

    def handle(self, conn: Any) -> Any:
        """One connection's turn, in a thread of the pool."""
        self._heads[conn] = time.monotonic() + HEAD_SECONDS
        try:
            return super().handle(conn)
        finally:
            self._heads.pop(conn, None)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """The head is there; from here on the views have bounds of their own."""
        self._heads.pop(conn, None)
        return super().handle_request(req, conn)

    def notify(self) -> None:
        """Called by the main loop about every second."""
        super().notify()
        now = time.monotonic()
        for conn, until in list(self._heads.items()):
            if now > until:
                self._heads.pop(conn, None)
                # the thread that waits on it reads an end of file
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def handle_exit(self, sig: int, frame: Any) -> None:
        app: Flask | None = getattr(self, "wsgi", None)
        if app is not None:
            found: Services = app.extensions[EXTENSION]
            found.streams.stop()
        super().handle_exit(sig, frame)


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn without its command line, configuration files and environment variable."""

    def __init__(self, settings: Settings, options: Mapping[str, Any], streams: int) -> None:
        self._settings = settings
        self._options = options
        self._streams = streams
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            if name in self.cfg.settings:  # older versions lack what we switch off
                self.cfg.set(name, value)

    def load(self) -> Flask:
        # in the process that answers: connections to Redis do not survive a fork
        from webhook.app import create_app

        return create_app(self._settings, streams=self._streams)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit status."""
    options = _parser().parse_args(arguments)
    settings = Settings.from_environ(os.environ)
    if not settings.redis_url:
        raise UsageError(
            "REDIS_URL: expected the address of a Redis, found nothing",
            hint="`pushwright up` brings its own Redis; `serve` needs REDIS_URL",
        )
    serve(settings, listen=options.listen, descriptor=options.fd, threads=options.threads)
    return 0


def serve(settings: Settings, *, listen: str, descriptor: int | None = None, threads: int = DEFAULT_THREADS) -> None:
    """Answers at `listen` (`host:port` or `unix:/path`), or on a listening socket that was handed over."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    token = read_token(settings)
    bind = _bound(listen, descriptor, token)
    Server(settings, _gunicorn_options(bind, threads), streams=max(1, threads // 2)).run()


def _bound(listen: str, descriptor: int | None, token: str) -> str:
    """What gunicorn is told to bind; refused where others reach it without a token."""
    if listen.startswith("unix:") and descriptor is None:
        return listen
    if descriptor is None:
        host, port = parse_listen(listen)
        check_bind(host, token)
        listener = open_listener(host, port)
    else:
        listener = socket.socket(fileno=descriptor)
    if listener.family != socket.AF_UNIX:
        check_bind(listener.getsockname()[0], token)
        _limit_waiting(listener)
    # gunicorn makes it its own, and closes this descriptor
    return f"fd://{listener.detach()}"


def _limit_waiting(listener: socket.socket) -> None:
    """Sockets accepted from this one inherit the bounds (Linux: sk_clone), so that no client holds a thread for ever.

    Python's own timeouts are not inherited, and gunicorn sets none on its threads' sockets.
    """
    import struct

    bound = struct.pack("ll", SOCKET_SECONDS, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bound)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)


def _gunicorn_options(bind: str, threads: int) -> dict[str, Any]:
    return {
        "bind": bind,
        "workers": 1,
        "worker_class": Worker,
        "threads": threads,
        "worker_connections": 1000,
        "graceful_timeout": GRACEFUL_SECONDS,
        "timeout": 60,
        "keepalive": 5,
        "limit_request_line": 4094,
        "limit_request_fields": 60,
        "limit_request_field_size": 8190,
        "umask": 0o077,
        "control_socket_disable": True,
        "loglevel": "info",
        "proc_name": "pushwright-web",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pushwright serve", description="The web server: webhooks, API and the read-only registry."
    )
    parser.add_argument("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help=f"default: {DEFAULT_LISTEN}")
    parser.add_argument("--fd", type=int, metavar="NUMBER", help="a listening socket that was handed over, instead")
    parser.add_argument("--threads", type=_threads, default=DEFAULT_THREADS, help=f"default: {DEFAULT_THREADS}")
    return parser


def _threads(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 2 <= int(text) <= 512:
        raise argparse.ArgumentTypeError("expected a whole number from 2 to 512")
    return int(text)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PushwrightError as failure:
        print(f"error: {failure.message}", file=sys.stderr)
        if failure.hint:
            print(f"hint: {failure.hint}", file=sys.stderr)
        sys.exit(failure.exit_status)
