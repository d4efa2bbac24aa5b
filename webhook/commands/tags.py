"""`pushwright tags`: which image and tags does this commit have, or why has it none?"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from executor.errors import UsageError, UserError
from webhook.client import EXIT_UNKNOWN, Client, NotKnownError, RequestRefusedError, ServerAwayError, api_path
from webhook.commands.arguments import Parser, add_json_option, add_server_options, open_client
from webhook.commands.output import error_lines, image_references, print_fields, print_json, printable

EXIT_BUILT = 0
EXIT_NONE_WILL_COME = UserError.exit_status
EXIT_NOT_YET = 5
_PENDING = frozenset({"queued", "running"})
_EXAMPLES = """\
examples:
  pushwright tags demo 4f2a91c
  git push && pushwright tags demo "$(git rev-parse HEAD)" --wait --format tags
  docker pull "$(pushwright tags demo 4f2a91c --format pull)"

exit status:
  0  built: the image and its tags are printed
  1  not built, and nothing is on its way: failed, cancelled, superseded or skipped
  2  bad usage, or an abbreviation that several commits share
  3  the server is away
  5  not yet: queued or running (with --wait: still so when the time was up)
  6  unknown: no such project, or no push of such a commit
"""
# longer and longer between two questions: the first builds answered are the short ones
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_AWAY_SECONDS = 60.0


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    client = open_client(options)
    try:
        answer = _wait(client, options) if options.wait else _ask(client, options)
    except RequestRefusedError as error:
        _raise_with_candidates(error)
        raise
    status = exit_status(answer["state"], answer["digest"])
    if options.json:
        print_json(answer)
    elif options.format and status == EXIT_BUILT:
        _print_format(answer, options.format)
    elif not options.format:
        _print_answer(answer)
    return status


def exit_status(state: str, digest: str | None) -> int:
    """What the answer's state means to a script."""
    if digest:
        return EXIT_BUILT
    return EXIT_NOT_YET if state in _PENDING else EXIT_NONE_WILL_COME


def _parser() -> argparse.ArgumentParser:
    parser = Parser("tags", "Which image and tags does a commit have?", _EXAMPLES)
    parser.add_argument("project", metavar="PROJECT")
    parser.add_argument("commit", metavar="COMMIT", help="a commit id, or its first digits, 4 at least")
    parser.add_argument("--wait", action="store_true", help="wait until it is built or will not be; also for its push")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=3600.0, help="how long --wait waits (default: 3600)"
    )
    parser.add_argument(
        "--format",
        choices=("tags", "digest", "pull"),
        help="print one thing only: every repository:tag, the digest, or repository@digest",
    )
    add_json_option(parser)
    add_server_options(parser)
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    # what is no number is never over
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, found {text!r}")
    return seconds


def _ask(client: Client, options: argparse.Namespace) -> dict[str, Any]:
    return client.get(api_path("projects", options.project, "commits", options.commit))


def _wait(
    client: Client,
    options: argparse.Namespace,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """The answer once it is final, or as it is when the time is up; a server that restarts is waited for."""
    end = clock() + options.timeout
    pause, last_answered = _FIRST_PAUSE_SECONDS, clock()
    while True:
        answer: dict[str, Any] | None = None
        try:
            answer = _ask(client, options)
            if exit_status(answer["state"], answer["digest"]) != EXIT_NOT_YET:
                return answer
            last_answered = clock()
        except NotKnownError as error:
            # the push may not have arrived yet; a project does not arrive by itself
            if error.code != "commit-unknown" or clock() >= end:
                raise
            last_answered = clock()
        except ServerAwayError:
            if clock() >= end or clock() - last_answered > _AWAY_SECONDS:
                raise
        remaining = end - clock()
        if remaining <= 0 and answer is not None:
            return answer
        sleep(max(0.0, min(pause, remaining)))
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)


def _raise_with_candidates(error: RequestRefusedError) -> None:
    candidates = error.problem.get("candidates")
    if error.code == "commit-ambiguous" and isinstance(candidates, list):
        more = ", …" if error.problem.get("more") else ""
        hint = f"give more digits of one of {', '.join(printable(item) for item in candidates)}{more}"
        raise UsageError(error.message, code=error.code, hint=hint) from error


def _print_format(answer: dict[str, Any], wanted: str) -> None:
    if wanted == "tags":
        for reference in image_references(answer["images"]):
            print(printable(reference))
    elif wanted == "digest":
        print(printable(answer["digest"]))
    else:
        print(printable(f"{answer['repository']}@{answer['digest']}"))


def _print_answer(answer: dict[str, Any]) -> None:
    fields: dict[str, object] = {
        "commit": answer["commit"],
        "state": f"{answer['state']} ({answer['reason']})" if answer["reason"] else answer["state"],
        "build": answer["build"],
    }
    if answer["digest"]:
        fields["image"] = f"{answer['repository']}@{answer['digest']}"
        fields["tags"] = image_references(answer["images"])
    elif answer["error"]:
        fields["error"] = error_lines(answer["error"])
    print_fields(fields)


__all__ = ["EXIT_BUILT", "EXIT_NONE_WILL_COME", "EXIT_NOT_YET", "EXIT_UNKNOWN", "exit_status", "main"]
