"""`pushwright doctor`: what this machine can do, why not the rest, and the one line that mends each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from executor.errors import HostError, PushwrightError
from executor.isolation.probe import Check, probe
from webhook.client import Client, local_server
from webhook.commands.arguments import Parser, add_data_option, add_json_option, data_directory
from webhook.commands.output import print_json, printable
from webhook.embedded.directories import make_private_directory
from webhook.embedded.redis_server import find_redis_server

_EXAMPLES = """\
examples:
  pushwright doctor
  pushwright doctor --data /srv/pushwright --json

exit status:
  0  this machine can build
  3  it cannot: no isolation level is available
"""


def main(arguments: Sequence[str]) -> int:
    parser = Parser("doctor", "Try what builds need on this machine.", _EXAMPLES)
    add_json_option(parser)
    add_data_option(parser)
    options = parser.parse_args(arguments)
    checks = examine(data_directory(options))
    can_build = any(check.available for check in checks if check.name.startswith("level "))
    if options.json:
        print_json({"can_build": can_build, "checks": [asdict(check) for check in checks]})
    else:
        _print_checks(checks)
        print(f"\nthis machine {'can' if can_build else 'cannot'} build")
    return 0 if can_build else HostError.exit_status


def examine(data: Path) -> list[Check]:
    """Every check; an overlay is tried where the store will be, which is why the data directory is made."""
    try:
        make_private_directory(data)
    except PushwrightError as error:
        return [_failed("data directory", error)]
    return [Check("data directory", available=True, detail=str(data)), *probe(data), _redis(), _server(data)]


def _redis() -> Check:
    try:
        return Check("redis server", available=True, detail=str(find_redis_server(os.environ)))
    except PushwrightError as error:
        return _failed("redis server", error)


def _server(data: Path) -> Check:
    """Whether a server is up on the data directory; none is no fault."""
    try:
        address = local_server(data)
        Client(address).get("/readyz")
    except PushwrightError as error:
        return _failed("server", error)
    return Check("server", available=True, detail=f"up at {address.url}")


def _failed(name: str, error: PushwrightError) -> Check:
    return Check(name, available=False, detail=error.message, hint=error.hint or "")


def _print_checks(checks: Sequence[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'yes' if check.available else 'no ':<3}  {check.name:<{width}}  {printable(check.detail)}")
        if check.hint and not check.available:
            print(f"     {'':<{width}}  hint: {printable(check.hint)}")
