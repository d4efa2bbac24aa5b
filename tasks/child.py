"""The executor as a child process: specification in, events out, and a control pipe that keeps it alive.

Only this process holds the control pipe's write end. When it dies the executor sees end of file and ends its own tree,
so nothing of a build outlives its worker.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from executor.errors import HostError
from executor.progress import EVENT_LIMIT_BYTES, parse_event

READ_BYTES = 256 * 1024
STDERR_BYTES = 8 * 1024
# after end of file on its control pipe the executor has this long to end its tree by itself
FAREWELL_SECONDS = 5.0
LAST_WORDS_SECONDS = 1.0
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


class ExecutorChild:
    """One run of the executor. Leaving the context ends it and its process group, however it stands."""

    def __init__(self, command: Sequence[str], directory: Path, *, farewell_seconds: float = FAREWELL_SECONDS) -> None:
        self._farewell_seconds = farewell_seconds
        events_read, events_write = os.pipe2(os.O_CLOEXEC)
        control_read, control_write = os.pipe2(os.O_CLOEXEC)
        self._events = events_read
        self._control: int | None = control_write
        self._control_lock = threading.Lock()
        self._pending = bytearray()
        self._stderr_reader: threading.Thread | None = None
        self._stderr = bytearray()
        os.set_blocking(events_read, False)
        # a stopped executor must not stop the heartbeat too
        os.set_blocking(control_write, False)
        try:
            self._process = subprocess.Popen(
                [*command, "--events-fd", str(events_write), "--control-fd", str(control_read)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=directory,
                env=dict(ENVIRONMENT),
                pass_fds=(events_write, control_read),
                start_new_session=True,
            )
            self._pid_descriptor = os.pidfd_open(self._process.pid)
        except OSError as error:
            os.close(events_read)
            os.close(control_write)
            raise HostError(
                f"the executor could not be started: {error}", code="executor-not-started", retryable=True
            ) from error
        finally:
            os.close(events_write)
            os.close(control_read)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        os.close(self._events)
        os.close(self._pid_descriptor)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send_specification(self, specification: bytes) -> None:
        """Hands over the specification from a thread, so that an executor that reads late cannot hold us up."""
        stdin, stderr = self._process.stdin, self._process.stderr
        if stdin is None or stderr is None:
            raise AssertionError("the process was started with pipes")
        threading.Thread(target=_write_all, args=(stdin, specification), daemon=True).start()
        self._stderr_reader = threading.Thread(target=self._keep_stderr, args=(stderr,), daemon=True)
        self._stderr_reader.start()

    def renew(self) -> None:
        """Tells the executor that its lease holds."""
        self._tell(b".")

    def cancel(self) -> None:
        """Asks the executor to stop and say so."""
        self._tell(b"c")

    def read(self, timeout_seconds: float) -> list[dict[str, Any]] | None:
        """Events that came within the time; None when none will come any more.

        The end is the end of the executor itself, even if something it started still holds the pipe.
        """
        poll = select.poll()
        poll.register(self._events, select.POLLIN)
        poll.register(self._pid_descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(timeout_seconds * 1000)}
        if not ready:
            return []
        data = self._read_available()
        if not data and (data is not None or self._pid_descriptor in ready):
            return None
        return self._take_events(data or b"")

    def end(self) -> str:
        """Ends the executor and says how it ended, with the last of what it wrote to standard error.

        It gets end of file on its control pipe, on which it ends its tree by itself, and after a while its session
        gets SIGKILL.
        """
        with self._control_lock:
            if self._control is not None:
                os.close(self._control)
                self._control = None
        if self._process.returncode is None:
            poll = select.poll()
            poll.register(self._pid_descriptor, select.POLLIN)
            poll.poll(self._farewell_seconds * 1000)
            # not reaped yet, so the number still means this group
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._stderr_reader is not None:
            # its last words may still be in the pipe, which something it started may hold open
            self._stderr_reader.join(LAST_WORDS_SECONDS)
        status = self._process.returncode
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        text = self._stderr.decode("utf-8", "replace").strip()
        return f"{how}: {text}" if text else how

    def _read_available(self) -> bytes | None:
        """Bytes, nothing at end of file, None where there is nothing yet."""
        try:
            return os.read(self._events, READ_BYTES)
        except BlockingIOError:
            return None

    def _take_events(self, data: bytes) -> list[dict[str, Any]]:
        complete, newline, rest = data.rpartition(b"\n")
        lines: list[bytes] = []
        if newline:
            lines = (bytes(self._pending) + complete).split(b"\n")
            self._pending.clear()
        self._pending += rest
        if len(self._pending) > EVENT_LIMIT_BYTES:
            raise HostError("the executor sent a line that is too long to be an event", code="event-invalid")
        return [parse_event(line) for line in lines if line]

    def _tell(self, word: bytes) -> None:
        with self._control_lock:
            if self._control is not None:
                # full pipe: the executor does not read, and its own clock will end it; broken pipe: it has ended
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    os.write(self._control, word)

    def _keep_stderr(self, stream: IO[bytes]) -> None:
        with stream, contextlib.suppress(OSError, ValueError):
            while data := os.read(stream.fileno(), STDERR_BYTES):
                self._stderr += data
                del self._stderr[:-STDERR_BYTES]


def _write_all(stream: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(OSError), stream:
        stream.write(data)


def read_until_end(
    child: ExecutorChild,
    handle: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    *,
    tick_seconds: float = 0.25,
    within_seconds: float = float("inf"),
) -> bool:
    """Hands over events until the executor ends (True), or until it should stop or the time is up (False)."""
    until = time.monotonic() + within_seconds
    while not should_stop() and time.monotonic() < until:
        events = child.read(tick_seconds)
        if events is None:
            return True
        for event in events:
            handle(event)
    return False
