"""Files of the store: written whole or not at all, and locks that end with their holder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from executor.errors import DiskFullError, StoreError
from executor.rootfs.remove import remove_tree

NEW_PREFIX = ".new-"
# between making a file and locking it lie microseconds; whoever looks for abandoned ones leaves a minute
GRACE_SECONDS = 60.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextlib.contextmanager
def storing(what: str) -> Iterator[None]:
    """Turn what the file system refuses into `DiskFullError` or `StoreError`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(
                f"{what}: {error.strerror}", hint="free space or inodes where the data directory lives"
            ) from error
        raise StoreError(
            f"{what}: {error.strerror or error}", hint="check the data directory's owner and mode"
        ) from error


def flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_name() -> str:
    return f"{NEW_PREFIX}{os.urandom(12).hex()}"


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a small file through another name; without `replace`, one that is there already stays."""
    beside = path.parent / new_name()
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)  # whatever the umask
            os.fsync(stream.fileno())
        if replace:
            os.rename(beside, path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)
        flush_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def names(directory: Path) -> list[str]:
    """The names in a directory, sorted; none when it does not exist."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove(path: Path) -> None:
    """Remove a file or tree, if it exists."""
    try:
        # whoever may write above could have put a link here
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_tree(parent, path.name)
    finally:
        os.close(parent)


def boot_id() -> str | None:
    """What the kernel calls this boot of the machine (proc(5), /proc/sys/kernel/random/boot_id)."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return None


def write_marker(path: Path, key: str, boot: str | None) -> None:
    write_whole(path, json.dumps({"key": key, "boot": boot}).encode())


def read_marker(path: Path) -> tuple[str, str | None] | None:
    """Key and boot of a complete unpacked layer; None when the marker is missing or no marker."""
    try:
        value = json.loads(path.read_bytes())
        return str(value["key"]), value["boot"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Hold the lock on a directory itself, waiting for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def take_lock_file(path: Path, attempts: int = 50) -> int | None:
    """A descriptor holding the lock on `path`, which is made when absent; None when another holds it.

    Somebody who merely asks whether it is held has it for an instant, hence the attempts.
    """
    for _ in range(attempts):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        if try_lock(descriptor) and _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
        time.sleep(0.01)
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file that was opened is still the one of that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def is_abandoned(path: Path) -> bool:
    """Whether something unfinished is held by nobody any more."""
    try:
        if time.time() - path.lstat().st_mtime < GRACE_SECONDS:
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)
