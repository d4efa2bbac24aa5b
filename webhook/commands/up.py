"""`pushwright up`: everything on one machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from executor.errors import UsageError
from webhook.commands.arguments import (
    SECRET_SOURCES,
    Parser,
    add_data_option,
    data_directory,
    read_redis_url,
    read_secret,
)
from webhook.listen import DEFAULT_LISTEN
from webhook.up import UpOptions, run_up

_EXAMPLES = """\
examples:
  pushwright up
  pushwright up --data ~/pushwright --listen 127.0.0.1:0
  pushwright up --registry registry.example/team --concurrency 4
  pushwright up --listen 0.0.0.0:8080 --token @/etc/pushwright/token

Redis, the worker and the web server run as children of this process and end with it; their output is in
<data directory>/logs. Every other setting (docs/settings.md) is taken from the environment.

exit status:
  0  stopped by a signal, in order
  2  bad usage, or an address that is not loopback without a token that was set explicitly
  3  a part did not start, or another `up` has this data directory
"""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.concurrency is not None and options.concurrency < 1:
        raise UsageError(f"--concurrency: expected a number of at least 1, found {options.concurrency}")
    return run_up(
        UpOptions(
            data=data_directory(options),
            listen=options.listen,
            redis_url=read_redis_url(options.redis, "--redis") if options.redis else "",
            registry=options.registry,
            concurrency=options.concurrency,
            git_local_roots=tuple(Path(os.path.abspath(root)) for root in options.git_local_root),
            token=read_secret(options.token, "--token") if options.token else "",
            verbose=options.verbose,
        ),
        os.environ,
        _say,
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser("up", "Run everything on this machine: Redis, worker, web server and registry.", _EXAMPLES)
    parser.add_argument(
        "--listen", metavar="HOST:PORT", default=DEFAULT_LISTEN, help=f"port 0 is any free one ({DEFAULT_LISTEN})"
    )
    parser.add_argument(
        "--redis",
        metavar="URL",
        default="",
        help="a Redis of yours instead of one of our own (default: $REDIS_URL); with a password: " + SECRET_SOURCES,
    )
    parser.add_argument(
        "--registry",
        metavar="HOST/PREFIX",
        default="",
        help="where images go instead of the embedded registry (default: $PUSHWRIGHT_REGISTRY)",
    )
    parser.add_argument("--concurrency", metavar="N", type=int, help="builds at the same time (default: 2)")
    parser.add_argument(
        "--git-local-root",
        metavar="DIR",
        action="append",
        default=[],
        help="projects may have file:// URLs below this directory; may be repeated",
    )
    parser.add_argument(
        "--token",
        metavar="SOURCE",
        default="",
        help=f"the API token: {SECRET_SOURCES} (default: one is made and kept in the data directory)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show what the children write")
    add_data_option(parser)
    return parser


def _say(text: str) -> None:
    # whoever read this may be gone; the builds go on
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
