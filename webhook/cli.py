"""The `pushwright` command: finds out which command is meant and imports only that one's code.

`pushwright build` is on the way of every build that people wait for, so nothing slow is imported here.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

from executor.errors import HostError, PushwrightError, UsageError

DISTRIBUTION = "pushwright"
# where each command's code is, and what the list of commands says about it
COMMANDS = {
    "up": ("webhook.commands.up", "everything on one machine: Redis, worker, web server and registry"),
    "serve": ("webhook.commands.serve", "the web server: webhooks, API and the read-only registry"),
    "worker": ("webhook.commands.worker", "a worker that runs builds"),
    "build": ("executor.cli", "build a Dockerfile here and now, without a server"),
    "plan": ("executor.plan_command", "show what a Dockerfile says and how it would be built, and check it"),
    "project": ("webhook.commands.project", "add, list, show and remove projects"),
    "builds": ("webhook.commands.builds", "list builds, newest first"),
    "show": ("webhook.commands.show", "show one build"),
    "logs": ("webhook.commands.logs", "show or follow the log of a build"),
    "rebuild": ("webhook.commands.rebuild", "build a commit again"),
    "cancel": ("webhook.commands.cancel", "stop a build"),
    "tags": ("webhook.commands.tags", "which image and tags does a commit have?"),
    "token": ("webhook.commands.token", "print the token of the server on this machine, for docker login"),
    "doctor": ("webhook.commands.doctor", "what this machine can do, and what to do about the rest"),
}
_USAGE = "usage: pushwright COMMAND [ARGUMENT…]\n       pushwright COMMAND --help\n       pushwright --version\n"
_EXIT_STATUS_HELP = """
exit status:
  0    done
  1    the build failed, or no image will come of it
  2    bad usage, or the server refused the request
  3    this machine or the server cannot do what was asked
  4    a registry refused or is away
  5    not yet: the image is still being built (`tags`)
  6    unknown: no such project, build or commit
"""
_SIGNAL_STATUS = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status; errors are printed as `error:` and `hint:` lines."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
    except PushwrightError as error:
        print_error(error)
        return error.exit_status
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return _reader_went_away()
        place = f": {error.filename}" if error.filename else ""
        print_error(HostError(f"{error.strerror or error}{place}"))
        return HostError.exit_status
    except KeyboardInterrupt:
        return _SIGNAL_STATUS + signal.SIGINT
    except Exception as error:
        print_error(_unexpected(error))
        return HostError.exit_status
    return status


def print_error(error: PushwrightError) -> None:
    """The two lines that a person gets instead of a traceback."""
    where = f"{error.location}: " if error.location else ""
    sys.stdout.flush()
    print(f"error: {where}{error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def commands_help() -> str:
    """What `pushwright --help` says."""
    lines = (f"  {name:<9} {summary}" for name, (_, summary) in COMMANDS.items())
    return f"{_USAGE}\nPush a commit, get an image.\n\ncommands:\n{chr(10).join(lines)}\n{_EXIT_STATUS_HELP}"


def _run(words: list[str]) -> int:
    if not words:
        sys.stderr.write(commands_help())
        return UsageError.exit_status
    name, rest = words[0], words[1:]
    if name in {"-h", "--help", "help"}:
        sys.stdout.write(commands_help())
        return 0
    if name in {"-V", "--version", "version"}:
        print(f"{DISTRIBUTION} {_version()}")
        return 0
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}", hint=_similar(name) or "see `pushwright --help`")
    module, _ = COMMANDS[name]
    status = importlib.import_module(module).main(rest)
    return int(status)


def _reader_went_away() -> int:
    # whoever read us has enough; Python would complain once more when it flushes at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _SIGNAL_STATUS + signal.SIGPIPE


def _unexpected(error: Exception) -> HostError:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return HostError(
        f"unexpected {type(error).__name__}{where}: {error}",
        code="internal",
        hint="this is a fault of Pushwright, please report it",
    )


def _similar(name: str) -> str:
    import difflib

    matches = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"did you mean `pushwright {matches[0]}`?" if matches else ""


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        # a checkout that was never installed
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
