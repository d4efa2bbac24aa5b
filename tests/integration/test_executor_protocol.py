"""The executor as a worker's child: specification on standard input, events, control pipe."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from executor.spec import BuildSpec, Credential, DirectoryContext, Limits, RegistryOptions
from tests.integration.conftest import Bench
from tests.support.executor_run import executor_command, write_context


@dataclass(frozen=True, slots=True)
class Child:
    process: subprocess.Popen[bytes]
    control: int
    events: int

    def read_events(self) -> list[dict[str, Any]]:
        with os.fdopen(os.dup(self.events), "rb") as stream:
            return [json.loads(line) for line in stream]


@contextmanager
def _child(specification: bytes, lease_seconds: float = 30.0) -> Iterator[Child]:
    events_read, events_write = os.pipe()
    control_read, control_write = os.pipe()
    arguments = ["--protocol", "--events-fd", str(events_write), "--control-fd", str(control_read)]
    process = subprocess.Popen(
        executor_command(*arguments, "--lease-seconds", str(lease_seconds)),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(events_write, control_read),
        env={"PATH": os.environ["PATH"]},
    )
    os.close(events_write)
    os.close(control_read)
    assert process.stdin is not None
    process.stdin.write(specification)
    process.stdin.close()
    try:
        yield Child(process, control_write, events_read)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        os.close(control_write)
        os.close(events_read)


def _spec(bench: Bench, dockerfile: str, **changes: Any) -> bytes:
    context = write_context(bench.contexts / f"protocol{time.monotonic_ns()}", dockerfile)
    values: dict[str, Any] = {
        "context": DirectoryContext(str(context)),
        "store": str(bench.data / "store"),
        "registries": RegistryOptions(maps={"docker.io": (bench.host,)}),
        **changes,
    }
    return json.dumps(BuildSpec(**values).to_json()).encode()


def _sleeping(marker: str) -> bool:
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and f"sleep\0{marker}".encode() in (directory / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def _wait(condition: Any, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def test_events_are_numbered_and_end_with_the_result(bench: Bench) -> None:
    with _child(_spec(bench, "FROM busybox:stable\nRUN echo hi\n")) as child:
        events = child.read_events()
        assert child.process.wait(30) == 0
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert all(event["v"] == 1 for event in events)
    assert [event["type"] for event in events][-1] == "result"
    assert json.loads(events[-1]["manifest"])["schemaVersion"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b'{"version": 7}', "version"),
        (b'{"version": 1, "store": "/x", "context": {"kind": "tape"}}', "kind"),
        (b'{"version": 1, "store": 7, "context": {"kind": "directory", "path": "/"}}', "store"),
        (b'{"version": 1, "store": "/x", "context": {"kind": "directory", "path": "/"}, "rootful": true}', "rootful"),
        (b"[" * 200_000, "JSON"),
    ],
)
def test_a_bad_specification_is_an_event(text: bytes, said: str) -> None:
    with _child(text) as child:
        events = child.read_events()
        assert child.process.wait(30) == 2
    assert [event["type"] for event in events] == ["error"]
    assert said in events[0]["message"]


def _ended_by(bench: Bench, how: Any, **options: Any) -> dict[str, Any]:
    """The last event of a build that sleeps, ended by `how` once it does; nothing of it may be left."""
    marker = f"7{time.monotonic_ns() % 10**8}"
    dockerfile = f"FROM busybox:stable\nRUN (setsid sleep {marker} &); trap '' TERM; sleep {marker}\n"
    lease = options.pop("lease_seconds", 30.0)
    with _child(_spec(bench, dockerfile, **options), lease) as child:
        _wait(lambda: _sleeping(marker))
        how(child)
        events = child.read_events()
        child.process.wait(30)
        _wait(lambda: not _sleeping(marker))
    assert list((bench.data / "store" / "work").iterdir()) == []
    last: dict[str, Any] = events[-1]
    return last


def test_a_cancel_ends_the_tree(bench: Bench) -> None:
    assert _ended_by(bench, lambda child: os.write(child.control, b"c"))["code"] == "cancelled"


def test_the_end_of_the_control_pipe_ends_the_tree(bench: Bench) -> None:
    def close(child: Child) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, child.control)
        os.close(null)

    assert _ended_by(bench, close)["code"] == "worker-gone"


def test_silence_ends_the_tree_and_renewals_keep_it(bench: Bench) -> None:
    def renew_and_fall_silent(child: Child) -> None:
        for _ in range(8):
            os.write(child.control, b".")
            time.sleep(0.5)
        assert child.process.poll() is None

    last = _ended_by(bench, renew_and_fall_silent, lease_seconds=4.0)
    assert last["code"] == "lease-silent"


def test_the_deadline_ends_the_tree(bench: Bench) -> None:
    last = _ended_by(bench, lambda child: None, limits=Limits(deadline_seconds=2.0))
    assert last["code"] == "deadline-exceeded"
    assert last["fixable_by"] == "user"


def test_a_stopped_supervisor_does_not_keep_its_builder(bench: Bench) -> None:
    import signal

    marker = f"8{time.monotonic_ns() % 10**8}"
    dockerfile = f"FROM busybox:stable\nRUN sleep {marker}\n"
    with _child(_spec(bench, dockerfile), 4.0) as child:
        _wait(lambda: _sleeping(marker))
        child.process.send_signal(signal.SIGSTOP)
        _wait(lambda: not _sleeping(marker))


def test_secrets_of_the_specification_are_masked_in_every_event(bench: Bench) -> None:
    secret = "hunter2-very-secret"
    options = RegistryOptions(
        maps={"docker.io": (bench.host,)}, credentials={"example.com": Credential("user", secret)}
    )
    # the step prints what it cannot know, in pieces, as a leak over another way would
    halves = f"printf {secret[:8]}; sleep 0.2; printf {secret[8:]}"
    with _child(_spec(bench, f"FROM busybox:stable\nRUN {halves}; exit 3\n", registries=options)) as child:
        events = child.read_events()
    text = json.dumps(events)
    assert secret not in "".join(event.get("data", "") for event in events)
    assert "***" in "".join(event.get("data", "") for event in events)
    assert secret not in text


def test_the_process_list_shows_no_secret(bench: Bench) -> None:
    secret = "hunter2-in-arguments"
    marker = f"9{time.monotonic_ns() % 10**8}"
    options = RegistryOptions(
        maps={"docker.io": (bench.host,)}, credentials={"example.com": Credential("user", secret)}
    )
    with _child(_spec(bench, f"FROM busybox:stable\nRUN sleep {marker}\n", registries=options)) as child:
        _wait(lambda: _sleeping(marker))
        for name in ("cmdline", "environ"):
            for directory in Path("/proc").iterdir():
                if directory.name.isdigit():
                    assert secret.encode() not in _bytes(directory / name)
        os.write(child.control, b"c")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
