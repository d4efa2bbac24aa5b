"""`pushwright rebuild`: the same commit again, whatever exists."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from webhook.client import Client, api_path
from webhook.commands.arguments import Parser, add_json_option, add_server_options, open_client
from webhook.commands.output import print_json

_EXAMPLES = """\
examples:
  pushwright rebuild 01k9m2v7w0d3                # what that build was
  pushwright rebuild demo 4f2a91c0…              # a full commit id of a project, also one never pushed here

The image of a rebuild is tagged <commit>-rN; the tag <commit> stays with the first one.
"""


def main(arguments: Sequence[str]) -> int:
    parser = Parser("rebuild", "Build a commit again.", _EXAMPLES)
    parser.add_argument("build", metavar="BUILD|PROJECT", help="a build's id; or, with COMMIT, a project's name")
    parser.add_argument("commit", metavar="COMMIT", nargs="?", default="", help="a full commit id")
    parser.add_argument("--ref", default="", help="with COMMIT: the full ref it is on, e.g. refs/heads/main")
    add_json_option(parser)
    add_server_options(parser)
    options = parser.parse_args(arguments)
    if options.ref and not options.commit:
        parser.error("--ref goes with PROJECT and COMMIT")
    answer = _ask(open_client(options), options)
    if options.json:
        print_json(answer)
    else:
        build = answer["build"]
        print(build["id"])
    return 0


def _ask(client: Client, options: argparse.Namespace) -> dict[str, Any]:
    if not options.commit:
        return client.post(api_path("builds", options.build, "rebuild"))
    body: dict[str, Any] = {"commit": options.commit, "force": True}
    if options.ref:
        body["ref"] = options.ref
    return client.post(api_path("projects", options.build, "builds"), body)
