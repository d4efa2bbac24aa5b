"""`pushwright project`: what is registered, and under which rules it is built."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from executor.errors import UsageError
from executor.registry.docker_config import credentials_from_docker_config, hosts_with_helpers
from webhook.client import Client, api_path
from webhook.commands.arguments import (
    SECRET_SOURCES,
    Parser,
    add_json_option,
    add_server_options,
    open_client,
    read_login,
    read_secret,
)
from webhook.commands.output import print_fields, print_json, print_table, printable, time_text

_EXAMPLES = f"""\
examples:
  pushwright project add demo --url https://github.com/acme/demo.git
  pushwright project add demo --url https://git.example/demo.git --branch release \\
      --dockerfile build/Dockerfile --context src --image registry.example/acme/demo \\
      --git-credential bot:env:GIT_TOKEN --registry-credential registry.example=bot:@/run/secrets/registry
  pushwright project list
  pushwright project show demo --json

A secret is never written on the command line, where everyone on the machine can see it, but is read from
SOURCE: {SECRET_SOURCES}.
"""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    actions = {"add": _add, "list": _list, "show": _show, "remove": _remove}
    return actions[options.action](options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser("project", "Add, list, show and remove projects.", _EXAMPLES)
    # a subparser is made like its parent, but is told its whole program name
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=_SubParser)
    _add_options(actions.add_parser("add", help="register a repository; prints the hook's URL and its secret once"))
    listed = actions.add_parser("list", help="the registered projects")
    shown = actions.add_parser("show", help="one project")
    removed = actions.add_parser("remove", help="forget a project; its builds and images stay")
    for action in (shown, removed):
        action.add_argument("name", metavar="NAME")
    for action in (listed, shown, removed):
        add_json_option(action)
        add_server_options(action)
    return parser


class _SubParser(Parser):
    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog.removeprefix("pushwright "), str(options.get("help") or ""), _EXAMPLES)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a slug: lower-case letters, digits, '.', '_' and '-'")
    parser.add_argument("--url", required=True, help="the repository's clone URL")
    parser.add_argument("--branch", help="the branch whose pushes are built (default: main)")
    parser.add_argument("--dockerfile", metavar="PATH", help="the Dockerfile's path (default: Dockerfile)")
    parser.add_argument("--context", metavar="PATH", help="the directory of the build context (default: the root)")
    parser.add_argument("--image", metavar="REPOSITORY", help="where the image goes, without a tag (default: server's)")
    parser.add_argument(
        "--secret",
        metavar="SOURCE",
        default="generated",
        help="the webhook's secret: `generated` (default), or at least 16 characters from SOURCE",
    )
    parser.add_argument("--git-credential", metavar="USER:SOURCE", help="what the git server is shown for a clone")
    parser.add_argument(
        "--registry-credential",
        metavar="HOST=USER:SOURCE",
        action="append",
        default=[],
        help="what a registry is shown; may be given for several hosts",
    )
    parser.add_argument(
        "--docker-config",
        metavar="FILE",
        help="take registry credentials from a Docker config.json; they are kept sealed, the file is not needed again",
    )
    add_json_option(parser)
    add_server_options(parser)


def _add(options: argparse.Namespace) -> int:
    _check_standard_input_is_read_once(options)
    client = open_client(options)
    body: dict[str, Any] = {"name": options.name, "url": options.url}
    for name in ("branch", "dockerfile", "context", "image"):
        if (value := getattr(options, name)) is not None:
            body[name] = value
    generated = options.secret == "generated"  # noqa: S105
    body["secret"] = options.secret if generated else read_secret(options.secret, "--secret")
    if options.git_credential:
        body["git_credential"] = read_login(options.git_credential, "--git-credential")
    given = _read_registries(options.registry_credential)
    if registries := {**_from_docker_config(options.docker_config), **given}:
        body["registries"] = registries
    project = client.post(api_path("projects"), body)
    hook = _hook_url(client, project)
    if options.json:
        print_json({**project, "hook_url": hook})
        return 0
    print_fields({**_fields(client, project), "secret": project.get("secret") or "(the one you gave)"})
    print()
    print("Give your forge this hook URL and secret, content type application/json, push events.")
    if project.get("secret"):
        print("The secret is not shown again.")
    return 0


def _check_standard_input_is_read_once(options: argparse.Namespace) -> None:
    sources = [options.token, options.secret, options.git_credential or "", *options.registry_credential]
    if sum(source == "-" or source.endswith((":-", "=-")) for source in sources) > 1:
        raise UsageError("standard input was named as the source of more than one secret")


def _read_registries(credentials: Sequence[str]) -> dict[str, dict[str, str]]:
    registries = {}
    for text in credentials:
        host, separator, login = text.partition("=")
        if not separator or not host:
            raise UsageError("--registry-credential: expected HOST=USER:SOURCE", hint=f"SOURCE is {SECRET_SOURCES}")
        if host in registries:
            raise UsageError(f"--registry-credential: {host} was given twice")
        registries[host] = read_login(login, "--registry-credential")
    return registries


def _from_docker_config(path: str | None) -> dict[str, dict[str, str]]:
    """The user names and passwords of a config.json; what a project cannot keep is an error, never left out."""
    if path is None:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--docker-config: {path} cannot be read: {error}") from error
    if helpers := hosts_with_helpers(text):
        raise UsageError(
            f"--docker-config: {path} leaves {', '.join(sorted(helpers))} to a credential helper",
            hint="helpers are not supported yet; give --registry-credential for these hosts",
        )
    registries = {}
    for host, credential in credentials_from_docker_config(text).items():
        if credential.identity_token:
            raise UsageError(f"--docker-config: {host} has an identity token, which a project cannot keep yet")
        registries[host] = {"username": credential.username, "password": credential.password}
    return registries


def _list(options: argparse.Namespace) -> int:
    answer = open_client(options).get(api_path("projects"))
    if options.json:
        print_json(answer)
        return 0
    projects = answer["projects"]
    if not projects:
        print("no projects; add one: pushwright project add NAME --url URL")
        return 0
    rows = [
        (item["name"], item["url"], item["branch"], item["dockerfile"], item["image"] or "(default)")
        for item in projects
    ]
    print_table(("NAME", "URL", "BRANCH", "DOCKERFILE", "IMAGE"), rows)
    for item in projects:
        if problem := _problem(item):
            print(f"warning: project {printable(item['name'])}: {printable(problem)}", file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    client = open_client(options)
    project = client.get(api_path("projects", options.name))
    if options.json:
        print_json({**project, "hook_url": _hook_url(client, project)})
    else:
        print_fields(_fields(client, project))
    return 0


def _remove(options: argparse.Namespace) -> int:
    open_client(options).delete(api_path("projects", options.name))
    if options.json:
        print_json({"removed": options.name})
    else:
        print(f"removed {options.name}; its builds and images stay")
    return 0


def _hook_url(client: Client, project: dict[str, Any]) -> str:
    return urljoin(client.address.url + "/", str(project["links"]["hook"]))


def _fields(client: Client, project: dict[str, Any]) -> dict[str, object]:
    return {
        "name": project["name"],
        "url": project["url"],
        "branch": project["branch"],
        "dockerfile": project["dockerfile"],
        "context": project["context"],
        "image": project["image"] or "(the server's default)",
        "git user": project["git_credential"],
        "registries": project["registries"],
        "created": time_text(project["created"]),
        "hook": _hook_url(client, project),
        **({"problem": _problem(project)} if project.get("problem") else {}),
    }


def _problem(project: dict[str, Any]) -> str:
    problem = project.get("problem")
    return f"{problem.get('message')} [{problem.get('code')}]" if isinstance(problem, dict) else ""
