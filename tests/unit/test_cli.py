"""The dispatcher: which code a command loads, how errors look, what the helps say."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from executor.errors import HostError, Location, UserError
from webhook import cli

SLOW = {"flask", "celery", "redis", "requests", "pygit2", "argparse", "gunicorn", "cryptography", "http.client"}


def test_importing_the_command_imports_nothing_slow() -> None:
    code = "import sys, webhook.cli; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "webhook.cli" in loaded
    assert not SLOW & set(loaded)


def test_asking_questions_does_not_import_what_runs_builds() -> None:
    code = (
        "import sys, importlib\n"
        "from webhook import cli\n"
        "for name, (module, _) in cli.COMMANDS.items():\n"
        "    if name not in {'build', 'doctor'}: importlib.import_module(module)\n"
        "print(' '.join(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    forbidden = {"executor.builder", "executor.steps", "executor.isolation.sandbox", "tasks.build", "tasks.worker"}
    assert not forbidden & set(loaded)


def test_help_lists_every_command_and_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)
    assert all(f"\n  {status}  " in text for status in range(7))


def test_no_command_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().err.startswith("usage: pushwright COMMAND")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pushwright ")


@pytest.mark.parametrize(
    ("words", "hint"), [(["tag"], "did you mean `pushwright tags`?"), (["xyzzy"], "see `pushwright --help`")]
)
def test_unknown_command_says_what_was_meant(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"error: unknown command {words[0]!r}\nhint: {hint}\n"


def test_build_is_handed_to_the_executor_with_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    class Executor:
        def main(self, arguments: list[str]) -> int:
            assert arguments == ["--context", "."]
            return 4

    monkeypatch.setitem(sys.modules, "executor.cli", Executor())
    assert cli.main(["build", "--context", "."]) == 4


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (HostError("no space", hint="make some"), 3, "error: no space\nhint: make some\n"),
        (UserError("unknown word", location=Location("Dockerfile", 3)), 1, "error: Dockerfile:3: unknown word\n"),
    ],
)
def test_errors_are_two_lines_and_an_exit_status(
    error: HostError | UserError,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Executor:
        def main(self, _arguments: list[str]) -> int:
            raise error

    monkeypatch.setitem(sys.modules, "executor.cli", Executor())
    assert cli.main(["build"]) == status
    assert capsys.readouterr().err == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "/data"), "error: Permission denied: /data\n"),
        (RuntimeError("what?"), "error: unexpected RuntimeError at test_cli.py:"),
    ],
)
def test_what_nobody_foresaw_is_no_traceback(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Executor:
        def main(self, _arguments: list[str]) -> int:
            raise error

    monkeypatch.setitem(sys.modules, "executor.cli", Executor())
    assert cli.main(["build"]) == 3
    assert capsys.readouterr().err.startswith(text)


def test_a_reader_that_went_away_is_no_traceback() -> None:
    code = (
        "import os, sys\n"
        "from webhook import cli\n"
        "reader, writer = os.pipe(); os.dup2(writer, 1); os.close(reader); os.close(writer)\n"
        "sys.exit(cli.main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + 13, "")


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name not in {"build", "serve", "worker"}])
def test_every_command_has_a_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        import_module(cli.COMMANDS[name][0]).main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: pushwright {name} ")
    assert f"examples:\n  pushwright {name}" in text


@pytest.mark.parametrize("name", ["builds", "show", "logs", "rebuild", "cancel", "tags", "token", "doctor"])
def test_every_showing_command_takes_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        import_module(cli.COMMANDS[name][0]).main(["--help"])
    assert " --json " in capsys.readouterr().out


def test_a_wrong_flag_is_bad_usage_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["builds", "--colour"]) == 2
    error = capsys.readouterr().err
    assert error == "error: unrecognized arguments: --colour\nhint: see `pushwright builds --help`\n"
