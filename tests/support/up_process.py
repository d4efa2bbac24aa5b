"""`pushwright up` and the other commands as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# long enough for a loaded machine: reached only by what will never happen
GUARD_SECONDS = 120.0
COMMAND = (sys.executable, "-P", "-m", "webhook.cli")


def until(condition: Callable[[], bool], what: str = "what was waited for") -> None:
    """Wait for something that must come."""
    end = time.monotonic() + GUARD_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come")
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> list[int]:
    """Every process that descends from one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for item in found:
        found += parents.get(item, [])
    return found[1:]


def clean_environment(data: Path, **more: str) -> dict[str, str]:
    """This process's environment without what would configure Pushwright, and with a home of its own."""
    ours = ("PUSHWRIGHT_", "REDIS_", "DOCKER_CONFIG", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "HOME": str(data.parent), "PUSHWRIGHT_HOME": str(data), **more}


def run_command(
    data: Path, *words: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One command that ends by itself."""
    return subprocess.run(
        [*COMMAND, *words],
        env=dict(environment or clean_environment(data)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )


class Up:
    """A running `pushwright up`."""

    def __init__(self, process: subprocess.Popen[bytes], data: Path, output: Path) -> None:
        self.process = process
        self.data = data
        self.output = output

    @property
    def server(self) -> dict[str, Any]:
        """What it tells other commands: `url`, `token`, `pid`."""
        value: dict[str, Any] = json.loads((self.data / "server.json").read_text())
        return value

    @property
    def url(self) -> str:
        return str(self.server["url"])

    def said(self) -> str:
        return self.output.read_text()

    def child(self, name: str) -> int:
        """The pid of the child that runs a module or program."""
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                command = Path(f"/proc/{pid}/cmdline").read_text()
                if int(fields[1]) == self.process.pid and name in command:
                    return pid
        raise AssertionError(f"no child with {name}")

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_command(self.data, *words)

    def json(self, *words: str) -> Any:
        """What a command that must succeed says in JSON."""
        done = self.command(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop; gives its exit status."""
        self.process.send_signal(number)
        return self.process.wait(GUARD_SECONDS)


@contextlib.contextmanager
def running_up(
    data: Path,
    arguments: Sequence[str] = ("--listen", "127.0.0.1:0"),
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Up]:
    """`pushwright up`, ready; whatever is left of it at the end is killed."""
    output = data.parent / f"{data.name}.up.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, "up", "--data", str(data), *arguments],
            env=dict(environment or clean_environment(data)),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    up = Up(process, data, output)
    try:
        until(lambda: "pushwright is up" in up.said() or process.poll() is not None, "pushwright up")
        assert process.poll() is None, up.said()
        yield up
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(GUARD_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
