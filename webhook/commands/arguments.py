"""What the commands' parsers have in common: errors as errors, the server, and secrets kept off the command line."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn, TextIO

from executor.errors import UsageError
from webhook.client import Client, find_server

SECRET_SOURCES = "@FILE, env:NAME, or - for standard input"  # noqa: S105
_SECRET_LIMIT = 64 * 1024


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are `UsageError`s, and whose help keeps the lines of its examples."""

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"pushwright {prog}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # a shortened flag would change its meaning when a new one begins the same
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see `{self.prog} --help`")


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """`--server`, `--token` and `--data`: which server a command speaks to."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--server",
        metavar="URL",
        default="",
        help="the server, e.g. http://127.0.0.1:8080 (default: $PUSHWRIGHT_SERVER, else the one up on this machine)",
    )
    group.add_argument(
        "--token",
        metavar="SOURCE",
        default="",
        help=f"its API token: {SECRET_SOURCES} (default: $PUSHWRIGHT_TOKEN, else the one of the server up here)",
    )
    add_data_option(group)


def add_data_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        help="the data directory (default: $PUSHWRIGHT_HOME, else the user's; /var/lib/pushwright for root)",
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, as the API answered it")


def data_directory(options: argparse.Namespace) -> Path:
    """The data directory as told, else as the settings have it."""
    if options.data is not None:
        return Path(os.path.abspath(options.data))
    from tasks.settings import Settings

    return Settings.from_environ(os.environ).data_dir


def open_client(options: argparse.Namespace) -> Client:
    """A client of the server that the options and the environment name."""
    token = read_secret(options.token, "--token") if options.token else ""
    return Client(find_server(options.server, token, os.environ, lambda: data_directory(options)))


def read_secret(text: str, where: str, standard_input: TextIO | None = None) -> str:
    """A secret from where `text` says it is; the secret itself is refused, without being repeated."""
    if not is_secret_source(text):
        raise UsageError(
            f"{where}: expected a place to read a secret from, found a text",
            hint=f"everyone here can see arguments; give {SECRET_SOURCES}",
        )
    return read_secret_source(text, where, standard_input)


def read_redis_url(text: str, where: str) -> str:
    """A Redis's URL, or what is read from the place that `text` names; a password in it is for such places only."""
    if is_secret_source(text):
        return read_secret_source(text, where)
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise UsageError(
            f"{where}: expected no password in the URL",
            hint=f"everyone here can see arguments; set REDIS_URL, or give {SECRET_SOURCES}",
        )
    return text


def is_secret_source(text: str) -> bool:
    """Whether a text says where a secret is, rather than being one."""
    return text == "-" or text.startswith(("@", "env:"))


def read_secret_source(text: str, where: str, standard_input: TextIO | None = None) -> str:
    """The secret in a file, a variable or on standard input, without the line end that editors add."""
    if text == "-":
        value = (standard_input or sys.stdin).read(_SECRET_LIMIT)
    elif text.startswith("@"):
        value = _read_secret_file(Path(text[1:]), where)
    else:
        name = text.removeprefix("env:")
        value = os.environ.get(name, "")
        if not value:
            raise UsageError(f"{where}: the variable {name} is not set or empty")
    value = value.rstrip("\r\n")
    if not value:
        raise UsageError(f"{where}: expected a secret, found nothing")
    return value


def _read_secret_file(path: Path, where: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_SECRET_LIMIT)
    except OSError as error:
        raise UsageError(f"{where}: {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: {path}: expected text in UTF-8, found other bytes") from error


def read_login(text: str, where: str) -> dict[str, str]:
    """A user name and password: `USER:SOURCE`, or a source that holds `USER:PASSWORD`."""
    if is_secret_source(text):
        username, separator, password = read_secret_source(text, where).partition(":")
        if not separator or not username or not password:
            raise UsageError(f"{where}: expected USER:PASSWORD in what {text!r} names, found another text")
        return {"username": username, "password": password}
    username, separator, source = text.partition(":")
    if not separator or not username:
        raise UsageError(f"{where}: expected USER:SOURCE", hint=f"SOURCE is {SECRET_SOURCES}")
    if not is_secret_source(source):
        # not quoted: this is where people put passwords
        raise UsageError(
            f"{where}: expected a place to read the password from, found a text",
            hint=f"everyone here can see arguments: give {username}:SOURCE, where SOURCE is {SECRET_SOURCES}",
        )
    return {"username": username, "password": read_secret_source(source, where)}
