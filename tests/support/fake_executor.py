"""A program that speaks the executor's protocol and does what the build arg `script` says instead of building.

`script` is a JSON list of actions, done in order: `["log", text]`, `["sleep", seconds]`, `["spawn"]` (a grandchild in a
session of its own that writes to a heartbeat file until it is killed), `["error", {fields}]`, `["result"]`,
`["exit", status]`, `["die"]` (SIGKILL to itself), `["stderr", text]`, `["hold"]` (as spawn, but also keeps the events
pipe open), `["deaf"]` (from now on the control pipe is not read), `["wait-file", path]`.

Every run appends lines `<pid> <word> <monotonic time>` to the file in build arg `ledger`: `begin`, `spawned <pid>`, and
how it ended when it ended by itself. Like the real one, it ends its tree at `c`, at end of file and at silence.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class FakeExecutor:
    """One run."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.events: int = arguments.events_fd
        self.control: int = arguments.control_fd
        lease: float = arguments.lease_seconds
        self.silence = max(lease - 5.0, lease / 2)
        self.heard = time.monotonic()
        self.seq = 0
        self.children: list[int] = []
        self.is_deaf = False
        self.ledger: Path | None = None

    def emit(self, event_type: str, **fields: Any) -> None:
        self.seq += 1
        event = {"v": 1, "seq": self.seq, "ts": time.time(), "type": event_type, **fields}
        data = json.dumps(event).encode() + b"\n"
        while data:
            data = data[os.write(self.events, data) :]

    def note(self, text: str) -> None:
        if self.ledger is not None:
            with self.ledger.open("a") as ledger:
                ledger.write(f"{os.getpid()} {text} {time.monotonic():.3f}\n")

    def leave(self, status: int, text: str) -> None:
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.note(text)
        os._exit(status)

    def watch(self, seconds: float) -> None:
        """Waits, minding the control pipe."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.is_deaf:
                time.sleep(left)
                return
            if select.select([self.control], [], [], min(left, 0.1))[0]:
                said = os.read(self.control, 4096)
                if not said:
                    self.leave(75, "end-of-file")
                if b"c" in said:
                    self.emit("error", code="cancelled", message="cancelled", retryable=False, exit_status=130)
                    self.leave(130, "cancelled")
                self.heard = time.monotonic()
            if time.monotonic() - self.heard > self.silence:
                self.leave(75, "silence")

    def spawn(self, heartbeat: Path, *, holds_pipe: bool = False) -> None:
        child = os.fork()
        if child:
            self.children.append(child)
            self.note(f"spawned {child}")
            return
        os.setsid()
        os.close(self.control)
        if not holds_pipe:
            os.close(self.events)
        while True:
            with heartbeat.open("a") as file:
                file.write(f"{os.getpid()} {time.monotonic():.3f}\n")
            time.sleep(0.1)

    def result(self, specification: dict[str, Any]) -> None:
        salt = specification["build_args"].get("salt", "")
        manifest = json.dumps({"schemaVersion": 2, "commit": specification["context"].get("commit"), "salt": salt})
        self.emit(
            "result",
            digest="sha256:" + hashlib.sha256(manifest.encode()).hexdigest(),
            size=len(manifest),
            media_type=MANIFEST_TYPE,
            manifest=manifest,
            config_digest="sha256:" + "0" * 64,
            platform="linux/amd64",
        )

    def run(self) -> None:
        specification = json.loads(sys.stdin.buffer.read())
        arguments = specification["build_args"]
        self.ledger = Path(arguments["ledger"])
        self.note("begin")
        heartbeat = Path(arguments["ledger"] + ".heartbeat")
        for action, *rest in json.loads(arguments["script"]):
            match action:
                case "log":
                    self.emit("step-log", step=1, stream="stdout", data=rest[0])
                case "sleep":
                    self.watch(rest[0])
                case "wait-file":
                    while not Path(rest[0]).exists():
                        self.watch(0.05)
                case "spawn":
                    self.spawn(heartbeat)
                case "hold":
                    self.spawn(heartbeat, holds_pipe=True)
                case "deaf":
                    self.is_deaf = True
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                case "stderr":
                    os.write(2, rest[0].encode())
                case "error":
                    self.emit("error", **{"fixable_by": "user", "exit_status": 1, **rest[0]})
                    self.leave(1, "error")
                case "result":
                    self.result(specification)
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "exit":
                    self.leave(rest[0], "exit")
                case "environment":
                    self.emit("step-log", step=1, stream="stdout", data=json.dumps(self.surroundings()))
        self.leave(0, "end")

    @staticmethod
    def surroundings() -> dict[str, Any]:
        descriptors = {
            name: os.readlink(f"/proc/self/fd/{name}")
            for name in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{name}")
        }
        return {
            "environ": dict(os.environ),
            "cwd": os.getcwd(),
            "argv": sys.argv,
            "fds": descriptors,
            "sid": os.getsid(0),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--protocol", action="store_true")
    parser.add_argument("--lease-seconds", type=float)
    parser.add_argument("--events-fd", type=int)
    parser.add_argument("--control-fd", type=int)
    FakeExecutor(parser.parse_args()).run()


if __name__ == "__main__":
    main()
