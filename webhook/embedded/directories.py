"""Where `up` keeps what lives as long as it runs: the lock on the data directory and a directory for sockets."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from executor.errors import HostError

# sun_path of sockaddr_un has 108 bytes, the last one a NUL (unix(7))
SOCKET_PATH_LIMIT_BYTES = 107
# the longest name of a socket that is made in a runtime directory
_SOCKET_NAME_BYTES = len("/redis.sock")
LOCK_NAME = "up.lock"
_RUNTIME_PREFIX = "pushwright-"
_PRIVATE_FILE_LIMIT = 64 * 1024
_LOCK_PAUSES_SECONDS = (0.05, 0.1, 0.2)


class AlreadyRunningError(HostError):
    """Another `up` has this data directory."""

    code = "already-running"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock on a data directory: what the lock's file says."""

    pid: int
    url: str
    runtime: str = ""


def make_private_directory(path: Path) -> Path:
    """Make a directory that only its owner may enter; one that exists must be ours, and is closed to others."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            raise HostError(f"{path}: expected a directory, found something else", code="data-directory")
        if status.st_uid != os.geteuid():
            raise HostError(
                f"{path}: expected a directory of uid {os.geteuid()}, found one of uid {status.st_uid}",
                code="data-directory",
                hint="choose another directory with --data, or run as its owner",
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise HostError(
            f"{path}: cannot be made a private directory: {error.strerror}",
            code="data-directory",
            hint="choose another directory with --data or PUSHWRIGHT_HOME",
        ) from error
    return path


def read_private_file(path: Path) -> str:
    """The text of a file that only its owner may read, without its line end; "" when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise HostError(f"{path}: cannot be read: {error.strerror}", code="private-file") from error
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or stat.S_IMODE(mode) & 0o077:
            raise HostError(
                f"{path}: expected a file of mode 0600, found mode {stat.S_IMODE(mode):04o}",
                code="private-file",
                hint=f"if nobody else has read it: chmod 600 {path}; else remove it",
            )
        return file.read(_PRIVATE_FILE_LIMIT).strip()


def write_private_file(path: Path, text: str) -> None:
    """Put a file of mode 0600 in place at once; whoever reads it sees the old text or the new one."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        raise HostError(f"{path}: cannot be written: {error.strerror}", code="private-file") from error


@contextlib.contextmanager
def hold_data_directory(data: Path) -> Iterator[LockFile]:
    """Hold the lock on a data directory; `AlreadyRunningError` names the process that has it."""
    # close-on-exec: a child that lived on would otherwise hold the lock for us
    descriptor = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for pause in (*_LOCK_PAUSES_SECONDS, None):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if pause is None:
                    raise _already_running(data, descriptor) from error
                # `is_held` of some command may have it for a moment
                time.sleep(pause)
        _remove_what_was_left(read_holder(descriptor))
        try:
            yield LockFile(descriptor)
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _remove_what_was_left(holder: Holder | None) -> None:
    """Remove the runtime directory of an `up` that was killed; the lock is ours now, so it is nobody's."""
    if holder is None or not holder.runtime:
        return
    path = Path(holder.runtime)
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if path.name.startswith(_RUNTIME_PREFIX) and stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            shutil.rmtree(path, ignore_errors=True)


def is_held(data: Path) -> bool:
    """Whether an `up` has this data directory now."""
    try:
        descriptor = os.open(data / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class LockFile:
    """The file of the held lock, which tells a second `up` who the first one is."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, holder: Holder) -> None:
        text = json.dumps(asdict(holder)).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)


def read_holder(descriptor: int) -> Holder | None:
    """Who holds a lock, when its file says so."""
    try:
        value = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(pid=int(value["pid"]), url=str(value["url"]), runtime=str(value["runtime"]))
    except (ValueError, KeyError, TypeError):
        return None


def _already_running(data: Path, descriptor: int) -> AlreadyRunningError:
    holder = read_holder(descriptor)
    who = f"process {holder.pid} at {holder.url}" if holder and holder.url else "another process"
    return AlreadyRunningError(
        f"{data}: pushwright is already up on this data directory: {who}",
        hint="use that one, stop it, or give another directory with --data",
    )


@contextlib.contextmanager
def runtime_directory(environment: Mapping[str, str]) -> Iterator[Path]:
    """A fresh private directory whose path is short enough for sockets; removed at the end."""
    path = _make_runtime_directory(environment)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _make_runtime_directory(environment: Mapping[str, str]) -> Path:
    refused = []
    for parent in _runtime_parents(environment):
        try:
            path = Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX, dir=parent))
        except OSError as error:
            refused.append(f"{parent}: {error.strerror}")
            continue
        if len(os.fsencode(path)) + _SOCKET_NAME_BYTES <= SOCKET_PATH_LIMIT_BYTES:
            return path
        path.rmdir()
        refused.append(f"{parent}: too long for a socket's path of {SOCKET_PATH_LIMIT_BYTES} bytes")
    raise HostError(
        f"no directory for sockets: {'; '.join(refused)}",
        code="runtime-directory",
        hint="set XDG_RUNTIME_DIR to a short, writable directory",
    )


def _runtime_parents(environment: Mapping[str, str]) -> list[Path]:
    """Where a runtime directory may be, best first; a shared parent such as /tmp is safe because mkdtemp is."""
    named = environment.get("XDG_RUNTIME_DIR", "")
    candidates = [Path(named)] if named.startswith("/") else []
    candidates += [Path(f"/run/user/{os.geteuid()}"), Path("/run" if os.geteuid() == 0 else "/tmp"), Path("/tmp")]  # noqa: S108
    return list(dict.fromkeys(candidates))
