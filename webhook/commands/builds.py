"""`pushwright builds`: the list of builds, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from executor.errors import UsageError
from webhook.client import Client, api_path
from webhook.commands.arguments import Parser, add_json_option, add_server_options, open_client
from webhook.commands.output import SHORT_COMMIT, duration_text, print_json, print_table, short_ref, time_text

_EXAMPLES = """\
examples:
  pushwright builds
  pushwright builds --project demo --limit 200
  pushwright builds --json | jq '.builds[] | select(.state == "failed") | .id'
"""
_PAGE = 200


def main(arguments: Sequence[str]) -> int:
    parser = Parser("builds", "List builds, newest first.", _EXAMPLES)
    parser.add_argument("--project", metavar="NAME", default="", help="only those of one project")
    parser.add_argument("--limit", metavar="N", type=int, default=20, help="how many at most (default: 20)")
    add_json_option(parser)
    add_server_options(parser)
    options = parser.parse_args(arguments)
    if options.limit < 1:
        raise UsageError(f"--limit: expected a number of at least 1, found {options.limit}")
    builds, following = _fetch(open_client(options), options.project, options.limit)
    if options.json:
        print_json({"builds": builds, "next": following})
    elif not builds:
        print("no builds")
    else:
        print_table(("BUILD", "PROJECT", "COMMIT", "REF", "STATE", "QUEUED", "TOOK"), map(_row, builds))
    return 0


def _fetch(client: Client, project: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
    """The newest builds, page by page, and the cursor of what was not asked for."""
    builds: list[dict[str, Any]] = []
    following: str | None = None
    while len(builds) < limit:
        parameters: dict[str, str | int] = {"limit": min(_PAGE, limit - len(builds))}
        if project:
            parameters["project"] = project
        if following:
            parameters["before"] = following
        page = client.get(api_path("builds"), parameters)
        builds += page["builds"]
        following = page["next"]
        if not following or not page["builds"]:
            break
    return builds, following


def _row(build: dict[str, Any]) -> tuple[object, ...]:
    state = f"{build['state']} ({build['reason']})" if build["reason"] else build["state"]
    return (
        build["id"],
        build["project"],
        build["commit"][:SHORT_COMMIT],
        short_ref(build["ref"]),
        state,
        time_text(build["queued"]),
        duration_text(build["started"], build["finished"]),
    )
