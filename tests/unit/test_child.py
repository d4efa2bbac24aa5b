from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from executor.errors import HostError, UsageError
from tasks.child import ExecutorChild, read_until_end

FAKE = (sys.executable, "-I", str(Path(__file__).parents[1] / "support" / "fake_executor.py"), "--lease-seconds", "60")


def specification(directory: Path, *script: list[Any]) -> bytes:
    arguments = {"ledger": str(directory / "ledger"), "script": json.dumps(script)}
    return json.dumps({"build_args": arguments, "context": {"commit": "c"}}).encode()


def program(text: str) -> tuple[str, ...]:
    """A program in place of the executor; the descriptors are the last arguments."""
    return (sys.executable, "-c", "import os, sys, time\nevents, control = int(sys.argv[2]), int(sys.argv[4])\n" + text)


def run(command: tuple[str, ...], directory: Path, data: bytes = b"{}") -> tuple[list[dict[str, Any]], str]:
    events: list[dict[str, Any]] = []
    with ExecutorChild(command, directory) as child:
        child.send_specification(data)
        assert read_until_end(child, events.append, lambda: False, within_seconds=60)
        how = child.end()
    return events, how


def never() -> bool:
    return False


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_events_come_in_order_and_whole(tmp_path: Path) -> None:
    lines = [["log", "x" * 300_000], ["log", "é"], ["result"]]
    events, how = run(FAKE, tmp_path, specification(tmp_path, *lines))
    assert [event["seq"] for event in events] == [1, 2, 3]
    assert [len(event.get("data", "")) for event in events] == [300_000, 1, 0]
    assert how == "ended with status 0"


def test_a_specification_larger_than_a_pipe_does_not_block(tmp_path: Path) -> None:
    text = "time.sleep(0.3)\ndata = sys.stdin.buffer.read()\nsys.exit(len(data) // 1_000_000)"
    _, how = run(program(text), tmp_path, b"x" * 7_000_000)
    assert how == "ended with status 7"


def test_an_executor_that_never_reads_does_not_block(tmp_path: Path) -> None:
    _, how = run(program("os._exit(3)"), tmp_path, b"x" * 7_000_000)
    assert how == "ended with status 3"


def test_the_end_of_the_control_pipe_ends_the_tree(tmp_path: Path) -> None:
    with ExecutorChild(FAKE, tmp_path) as child:
        child.send_specification(specification(tmp_path, ["spawn"], ["log", "spawned"], ["sleep", 600]))
        seen: list[dict[str, Any]] = []
        read_until_end(child, seen.append, lambda: bool(seen), within_seconds=60)
        assert child.end() == "ended with status 75"
    grandchild = int((tmp_path / "ledger").read_text().split("spawned ")[1].split()[0])
    assert not Path(f"/proc/{grandchild}").exists()


def test_one_that_ignores_everything_is_killed_with_its_group(tmp_path: Path) -> None:
    text = (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'if pid := os.fork(): os.write(events, b\'{"v":1,"type":"step-progress","pid":%d}\\n\' % pid)\n'
        "time.sleep(600)"
    )
    seen: list[dict[str, Any]] = []
    with ExecutorChild(program(text), tmp_path, farewell_seconds=0.2) as child:
        child.send_specification(b"{}")
        read_until_end(child, seen.append, lambda: bool(seen), within_seconds=60)
        assert child.end().startswith("was killed by SIGKILL")
    end = time.monotonic() + 30
    state = Path(f"/proc/{seen[0]['pid']}/stat")
    while state.exists() and " Z " not in state.read_text() and time.monotonic() < end:
        time.sleep(0.02)
    assert not state.exists() or " Z " in state.read_text()


def test_cancel_is_heard(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    with ExecutorChild(FAKE, tmp_path) as child:
        child.send_specification(specification(tmp_path, ["log", "begun"], ["sleep", 600]))
        read_until_end(child, events.append, lambda: bool(events), within_seconds=60)
        child.cancel()
        assert read_until_end(child, events.append, never, within_seconds=60)
        assert child.end() == "ended with status 130"
    assert events[-1]["code"] == "cancelled"


def test_renewals_never_block_even_when_nobody_reads(tmp_path: Path) -> None:
    with ExecutorChild(program("time.sleep(600)"), tmp_path, farewell_seconds=0.2) as child:
        child.send_specification(b"{}")
        for _ in range(100_000):
            child.renew()
        os.kill(child.pid, signal.SIGKILL)
        assert read_until_end(child, lambda _: None, never, within_seconds=60)
        child.renew()
        assert "SIGKILL" in child.end()
    child.renew()


def test_a_descriptor_held_by_a_left_over_process_does_not_hold_us(tmp_path: Path) -> None:
    text = "pid = os.fork()\nif pid == 0:\n    os.setsid()\n    time.sleep(20)\nelse:\n    os._exit(9)"
    _, how = run(program(text), tmp_path)
    assert how.startswith("ended with status 9")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"not json\\n", UsageError),
        (b"[]\\n", UsageError),
        (b'{\\"v\\":1,\\"type\\":\\"made-up\\"}\\n', UsageError),
        (b"\\xff\\xfe\\n", UsageError),
        (b"[" * 100_000 + b"\\n", UsageError),
        (b'{\\"v\\":1,\\"type\\":[]}\\n', UsageError),
        (b'{\\"v\\":1,\\"type\\":\\"error\\"}\\n', UsageError),
        (b'{\\"v\\":1,\\"type\\":\\"error\\",\\"code\\":[],\\"message\\":\\"\\"}\\n', UsageError),
        (b'{\\"v\\":1,\\"type\\":\\"step-finished\\",\\"step\\":1,\\"seconds\\":NaN}\\n', UsageError),
        (b'{\\"v\\":1,\\"type\\":\\"step-finished\\",\\"step\\":1,\\"seconds\\":1e999}\\n', UsageError),
        (b'{\\"v\\":1,\\"type\\":\\"step-finished\\",\\"step\\":\\"\\x1b]0;x\\x07\\"}\\n', UsageError),
    ],
)
def test_a_line_that_is_no_event_is_refused(tmp_path: Path, line: bytes, error: type[Exception]) -> None:
    text = f'os.write(events, b"{line.decode()}")\ntime.sleep(600)'
    with ExecutorChild(program(text), tmp_path, farewell_seconds=0.2) as child:
        child.send_specification(b"{}")
        with pytest.raises(error, match="event"):
            read_until_end(child, lambda _: None, never, within_seconds=60)


def test_an_endless_line_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    text = "while True: os.write(events, b'x' * 1_000_000)"
    with ExecutorChild(program(text), tmp_path, farewell_seconds=0.2) as child:
        child.send_specification(b"{}")
        with pytest.raises(HostError, match="too long"):
            read_until_end(child, lambda _: None, never, within_seconds=60)


def test_of_what_it_wrote_to_standard_error_the_end_is_kept(tmp_path: Path) -> None:
    _, how = run(program("sys.stderr.write('x' * 3_000_000 + 'the reason'); sys.stderr.flush(); os.abort()"), tmp_path)
    assert how.startswith("was killed by SIGABRT: ")
    assert how.endswith("the reason")
    assert len(how) < 10_000


def test_a_program_that_is_missing_is_our_error(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(HostError) as caught:
        ExecutorChild((str(tmp_path / "nothing"),), tmp_path)
    assert caught.value.code == "executor-not-started"
    assert open_descriptors() == before


@pytest.mark.parametrize("ending", ["os._exit(0)", "os.abort()", "time.sleep(600)"])
def test_no_descriptor_and_no_process_is_left(tmp_path: Path, ending: str) -> None:
    def once() -> None:
        with ExecutorChild(program(ending), tmp_path, farewell_seconds=0.2) as child:
            child.send_specification(b"{}")
            read_until_end(child, lambda _: None, never, within_seconds=0.3)

    once()
    before = settled(open_descriptors)
    once()
    assert settled(open_descriptors) == before


def settled(count: Callable[[], int]) -> int:
    """The count once the threads that copy pipes are through."""
    time.sleep(0.2)
    return count()
