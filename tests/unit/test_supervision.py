"""What the process outside hears while an event waits for a slow reader, and how events are written then."""

from __future__ import annotations

import os
import threading
import time

from executor.isolation.supervisor import Control, EventPipe, Supervision
from executor.progress import ignore_events


def test_a_full_pipe_is_written_whole_and_listened_beside() -> None:
    read, write = os.pipe()
    data = os.urandom(1 << 20)
    called = threading.Event()
    pipe = EventPipe(write)
    pipe.while_full = called.set
    got: list[bytes] = []

    def drain() -> None:
        # whoever reads begins only once the writer has had to wait
        called.wait(30)
        while chunk := os.read(read, 1 << 16):
            got.append(chunk)

    reader = threading.Thread(target=drain)
    reader.start()
    pipe.write(data)
    os.close(write)
    reader.join()
    os.close(read)
    assert b"".join(got) == data


def _supervision(silence_seconds: float) -> tuple[Supervision, EventPipe, int]:
    control_read, control_write = os.pipe()
    events = EventPipe(os.open(os.devnull, os.O_WRONLY))
    return Supervision(Control(control_read, silence_seconds, 0.0, events), ignore_events), events, control_write


def _code(supervision: Supervision) -> str:
    # a verdict before the start is the conclusion, and nothing is started
    return str(supervision._conclusion()["code"])


def test_renewals_are_heard_while_an_event_waits() -> None:
    supervision, events, control = _supervision(0.3)
    for _ in range(4):
        os.write(control, b".")
        time.sleep(0.1)
        events.while_full()
    # what is in the pipe counts before the clock does, however late it is read
    os.write(control, b".")
    time.sleep(0.4)
    events.while_full()
    assert _code(supervision) == "builder-died"  # no verdict
    time.sleep(0.4)
    events.while_full()
    assert _code(supervision) == "lease-silent"


def test_a_cancel_is_heard_while_an_event_waits() -> None:
    supervision, events, control = _supervision(30)
    os.write(control, b".c")
    events.while_full()
    assert _code(supervision) == "cancelled"
    # the first reason stays
    os.close(control)
    events.while_full()
    assert _code(supervision) == "cancelled"


def test_the_end_of_the_worker_is_heard_while_an_event_waits() -> None:
    supervision, events, control = _supervision(30)
    os.close(control)
    events.while_full()
    assert _code(supervision) == "worker-gone"
