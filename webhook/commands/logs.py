"""`pushwright logs`: the log of a build, live while it runs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from executor.errors import UserError
from executor.log_text import LogText
from webhook.client import Client, ServerAwayError, api_path, problem_error
from webhook.commands.arguments import Parser, add_json_option, add_server_options, open_client

_EXAMPLES = """\
examples:
  pushwright logs 01k9m2v7w0d3
  pushwright logs -f 01k9m2v7w0d3
  pushwright logs 01k9m2v7w0d3 --json            # one event per line

exit status:
  0  the log was shown; with -f: and the build succeeded
  1  with -f: the build did not succeed
  3  the server is away, also after a while of trying again
  6  no such build
"""
# how long a followed log is asked for again without a single new line
_AWAY_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0


def main(arguments: Sequence[str]) -> int:
    parser = Parser("logs", "Show or follow the log of a build.", _EXAMPLES)
    parser.add_argument("build", metavar="BUILD", help="its id, as `pushwright builds` lists it")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the build is over")
    add_json_option(parser)
    add_server_options(parser)
    options = parser.parse_args(arguments)
    client = open_client(options)
    entries = follow_log(client, options.build) if options.follow else _whole_log(client, options.build)
    end = _print_entries(entries, options)
    return UserError.exit_status if options.follow and (end or {}).get("state") != "succeeded" else 0


def _whole_log(client: Client, build: str) -> Iterator[dict[str, Any]]:
    for entry in client.lines(api_path("builds", build, "logs"), {}):
        if isinstance(problem := entry.get("error"), dict):
            raise problem_error(problem)
        yield entry


def follow_log(
    client: Client,
    build: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """The entries of a log until its end; when the answer breaks off, it is taken up where it was."""
    cursor = ""
    pause, last_seen = _FIRST_PAUSE_SECONDS, clock()
    while True:
        parameters: dict[str, str | int] = {"follow": 1}
        if cursor:
            parameters["after"] = cursor
        try:
            for entry in client.lines(api_path("builds", build, "logs"), parameters):
                if isinstance(problem := entry.get("error"), dict):
                    raise problem_error(problem)
                pause, last_seen = _FIRST_PAUSE_SECONDS, clock()
                cursor = str(entry.get("cursor") or cursor)
                yield entry
                if "end" in entry:
                    return
        except ServerAwayError:
            if clock() - last_seen > _AWAY_SECONDS:
                raise
        # an answer that ended without an end: the server was restarted
        sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _print_entries(entries: Iterator[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any] | None:
    """Print entries as they come; gives the end, when there was one."""
    text = LogText()
    for entry in entries:
        if isinstance(end := entry.get("end"), dict):
            if options.json:
                _print_line({"end": end})
            else:
                sys.stdout.write(text.end(end))
                sys.stdout.flush()
            return end
        if isinstance(event := entry.get("event"), dict):
            if options.json:
                _print_line(event)
            else:
                sys.stdout.write(text.event(event))
                sys.stdout.flush()
    return None


def _print_line(value: dict[str, Any]) -> None:
    print(json.dumps(value, separators=(",", ":")), flush=True)
