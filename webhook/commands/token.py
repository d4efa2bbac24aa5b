"""`pushwright token`: the API token of the server on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from webhook.client import ServerAwayError, local_server
from webhook.commands.arguments import Parser, add_data_option, add_json_option, data_directory
from webhook.commands.output import print_json

_EXAMPLES = """\
examples:
  pushwright token | docker login --username pushwright --password-stdin 127.0.0.1:8080
  curl -H "Authorization: Bearer $(pushwright token)" http://127.0.0.1:8080/api/v1/projects
"""


def main(arguments: Sequence[str]) -> int:
    parser = Parser("token", "Print the API token of the server that is up on this machine.", _EXAMPLES)
    add_json_option(parser)
    add_data_option(parser)
    options = parser.parse_args(arguments)
    address = local_server(data_directory(options))
    if not address.token:
        raise ServerAwayError(f"the server {address.url} has no token", code="token-unset")
    if options.json:
        print_json({"url": address.url, "token": address.token})
    else:
        print(address.token)
    return 0
