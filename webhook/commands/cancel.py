"""`pushwright cancel`: stop a build that waits or runs."""

from __future__ import annotations

from collections.abc import Sequence

from webhook.client import api_path
from webhook.commands.arguments import Parser, add_json_option, add_server_options, open_client
from webhook.commands.output import print_json

_EXAMPLES = """\
examples:
  pushwright cancel 01k9m2v7w0d3

A waiting build is over at once, a running one within seconds. One that is over already is an error (exit status 2).
"""


def main(arguments: Sequence[str]) -> int:
    parser = Parser("cancel", "Stop a build.", _EXAMPLES)
    parser.add_argument("build", metavar="BUILD", help="its id, as `pushwright builds` lists it")
    add_json_option(parser)
    add_server_options(parser)
    options = parser.parse_args(arguments)
    build = open_client(options).post(api_path("builds", options.build, "cancel"))
    if options.json:
        print_json(build)
    else:
        print(f"{build['id']}: {'cancelled' if build['state'] == 'cancelled' else 'asked to stop'}")
    return 0
