"""`pushwright show`: everything about one build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from webhook.client import api_path
from webhook.commands.arguments import Parser, add_json_option, add_server_options, open_client
from webhook.commands.output import (
    duration_text,
    error_lines,
    image_references,
    print_fields,
    print_json,
    short_ref,
    time_text,
)

_EXAMPLES = """\
examples:
  pushwright show 01k9m2v7w0d3
  pushwright show 01k9m2v7w0d3 --json
"""


def main(arguments: Sequence[str]) -> int:
    parser = Parser("show", "Show one build.", _EXAMPLES)
    parser.add_argument("build", metavar="BUILD", help="its id, as `pushwright builds` lists it")
    add_json_option(parser)
    add_server_options(parser)
    options = parser.parse_args(arguments)
    build = open_client(options).get(api_path("builds", options.build))
    if options.json:
        print_json(build)
    else:
        print_build(build)
    return 0


def print_build(build: dict[str, Any]) -> None:
    """One build as lines of names and values."""
    results = build["results"]
    print_fields(
        {
            "build": build["id"],
            "project": build["project"],
            "commit": build["commit"],
            "ref": short_ref(build["ref"]),
            "state": f"{build['state']} ({build['reason']})" if build["reason"] else build["state"],
            "attempt": build["attempt"],
            "queued": time_text(build["queued"]),
            "started": time_text(build["started"]),
            "finished": time_text(build["finished"]),
            "took": duration_text(build["started"], build["finished"]),
            "image": [f"{item['repository']}@{item['digest']} {item['platform']}" for item in results],
            "tags": image_references(results),
            **({"error": error_lines(build["error"])} if build["error"] else {}),
        }
    )
