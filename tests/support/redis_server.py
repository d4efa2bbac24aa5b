"""A real Redis on a private Unix socket, with a password, that can be stopped, killed and started on the same data."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.connection import Client, connect


class RedisServer:
    """One server; with `keeps_data` every write is on disk before its answer."""

    def __init__(self, *, keeps_data: bool = False) -> None:
        # a Unix socket's path has at most 108 bytes, and pytest's directories are long
        self.directory = Path(tempfile.mkdtemp(prefix="pw-redis-"))
        self.password = secrets.token_hex(16)
        self._keeps_data = keeps_data
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    @property
    def url(self) -> str:
        return f"unix://:{self.password}@{self.directory}/socket?db=0"

    def client(self) -> Client:
        return connect(self.url)

    def start(self) -> None:
        """Starts the server and waits until it answers; standing data is loaded."""
        configuration = [
            "port 0",
            f"unixsocket {self.directory}/socket",
            "unixsocketperm 700",
            f"dir {self.directory}",
            f"requirepass {self.password}",
            'save ""',
            f"appendonly {'yes' if self._keeps_data else 'no'}",
            "appendfsync always",
            "maxmemory-policy noeviction",
        ]
        path = self.directory / "redis.conf"
        path.write_text("\n".join(configuration) + "\n")
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", str(path)], stdout=log, stderr=log)
        client = self.client()
        until = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except Exception:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise RuntimeError(f"redis-server: {(self.directory / 'log').read_text()[-2000:]}") from None
                time.sleep(0.02)
        client.close()

    def stop(self) -> None:
        """Asks the server to end, as a restart of the machine would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None
