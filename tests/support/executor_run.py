"""The real executor as a process, and small images made with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor.errors import HostError

BUSYBOX = Path("/bin/busybox")
BASE_DOCKERFILE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc /tmp /root && chmod 1777 /tmp && \\
    printf 'root:x:0:0:root:/root:/bin/sh\\napp:x:1000:1000:app:/home/app:/bin/sh\\n' > /etc/passwd && \\
    printf 'root:x:0:\\napp:x:1000:\\nextra:x:2000:app\\n' > /etc/group
CMD ["sh"]
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an executor ended: its status, its events, what it wrote to standard error."""

    status: int
    events: list[dict[str, Any]]
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        last = self.events[-1]
        assert last["type"] == "result", (last, self.stderr)
        return last

    @property
    def error(self) -> dict[str, Any]:
        last = self.events[-1]
        assert last["type"] == "error", last
        return last

    def output(self, stream: str | None = None) -> str:
        """What the steps printed."""
        logs = [event for event in self.events if event["type"] == "step-log"]
        return "".join(event["data"] for event in logs if stream in {None, event["stream"]})


def executor_command(*arguments: str) -> list[str]:
    return [sys.executable, "-I", "-m", "executor", *arguments]


def run_executor(*arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
    """`pushwright build` with events as JSON; the environment is empty but for what is given."""
    done = subprocess.run(
        executor_command("--progress", "json", *map(str, arguments)),
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return Ended(done.returncode, events, done.stderr.decode(errors="replace"))


def write_context(directory: Path, dockerfile: str, files: Mapping[str, str | bytes] | None = None) -> Path:
    """A build context with these files, readable by all."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in {"Dockerfile": dockerfile, **(files or {})}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def push_base_image(directory: Path, host: str, data: Path, name: str = "library/busybox:stable") -> dict[str, Any]:
    """Build a base image from the host's static busybox, and push it to a registry."""
    if not BUSYBOX.exists():
        raise HostError("expected /bin/busybox of busybox-static, found none", hint="apt-get install busybox-static")
    context = write_context(directory, BASE_DOCKERFILE)
    shutil.copy(BUSYBOX, context / "busybox")
    done = run_executor("-c", context, "-d", f"{host}/{name}", "--data-dir", data)
    return done.result


def layer_names(listing: Sequence[str]) -> set[str]:
    """The names of a tar listing without trailing slashes."""
    return {name.rstrip("/") for name in listing}
