"""The builder's own namespaces: entered before a byte of a repository, registry or image is looked at.

The launcher (the process a person or a worker started) makes a private mount namespace, lays out a small root in it
and forks the builder as process 1 of a new pid namespace. The builder pivots into that root and takes a user
namespace that holds subordinate ids only. What it can then reach is the Python it runs on, system libraries, name
resolution, certificates, its store and its context.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from executor.errors import IsolationError
from executor.isolation import idmap, syscalls

# looked up by libc and OpenSSL while a build talks to registries and forges
ETC_FILES = (
    "resolv.conf",
    "hosts",
    "nsswitch.conf",
    "host.conf",
    "gai.conf",
    "services",
    "protocols",
    "passwd",
    "group",
    "localtime",
    "ld.so.cache",
    "ssl",
    "pki",
    "ca-certificates",
    "crypto-policies",
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
SYSTEM_DIRECTORIES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
STORE_PATH = "/store"
CONTEXT_PATH = "/context"
# short names for layer directories: mount data has 4 096 bytes for all of them
LINKS_PATH = "/l"
# not /tmp: a Python, a context or a repository that is there on the host is seen at its own path
TEMPORARY_PATH = "/t"


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host that the builder sees; missing sources are left out when `optional`."""

    source: str
    target: str
    writable: bool = False
    optional: bool = False


def python_directories() -> tuple[str, ...]:
    """Where this Python, its packages and our own code live, outermost first and none inside another."""
    import executor

    wanted = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, *executor.__path__}
    real = {os.path.realpath(item) for item in wanted if item and Path(item).exists()}
    found = real | {item for item in wanted if Path(item).is_dir()}
    # `python -m` in / puts the whole machine on the path
    return _outermost(item for item in found if os.path.realpath(item) != "/")


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    kept: list[str] = []
    for path in sorted(paths):
        if not any(path == item or path.startswith(item.rstrip("/") + "/") for item in kept):
            kept.append(path)
    return tuple(kept)


def builder_binds(store: str, context: str | None, extra: Iterable[Bind] = ()) -> tuple[Bind, ...]:
    """Everything of the host that a builder sees."""
    system = [item for item in SYSTEM_DIRECTORIES if Path(item).is_dir() and not Path(item).is_symlink()]
    binds = [Bind(item, item) for item in _outermost([*system, *python_directories()])]
    binds += [Bind(f"/etc/{name}", f"/etc/{name}", optional=True) for name in ETC_FILES]
    binds += [Bind(f"/dev/{name}", f"/dev/{name}", writable=True) for name in DEVICES]
    binds.append(Bind("/sys", "/sys"))
    binds.append(Bind(store, STORE_PATH, writable=True))
    if context is not None:
        binds.append(Bind(context, CONTEXT_PATH))
    return (*binds, *extra)


def enter_launcher_namespace(plan: idmap.IdPlan) -> None:
    """Give this process, single-threaded, a mount namespace of its own, and a user namespace where it needs one."""
    if plan.nested:
        _unshare_mapped(plan)
    else:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def _unshare_mapped(plan: idmap.IdPlan) -> None:
    """unshare(2) with a second process outside, because only a process outside may write a map of many ids."""
    uid, gid, pid = os.geteuid(), os.getegid(), os.getpid()
    ready_read, ready_write = os.pipe()
    answer_read, answer_write = os.pipe()
    outside = os.fork()
    if outside == 0:
        os.close(ready_write)
        os.close(answer_read)
        _write_from_outside(plan, (pid, uid, gid), ready_read, answer_write)
    os.close(ready_read)
    os.close(answer_write)
    try:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        except OSError as error:
            raise IsolationError(
                f"the kernel refused a user namespace: {error.strerror or error}",
                code="user-namespaces-refused",
                hint="allow unprivileged user namespaces, or run in a container with the seccomp profile of deploy/",
            ) from error
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        os.write(ready_write, b".")
        complaint = _read_all(answer_read)
    finally:
        os.close(ready_write)
        os.close(answer_read)
        os.waitpid(outside, 0)
    if complaint != b"ok":
        raise IsolationError(complaint.decode(errors="replace") or "the id map could not be written")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def _write_from_outside(plan: idmap.IdPlan, target: tuple[int, int, int], ready: int, answer: int) -> None:
    status = 1
    try:
        if os.read(ready, 1) == b".":
            idmap.write_launcher_map(target[0], plan, target[1], target[2])
            os.write(answer, b"ok")
            status = 0
    except IsolationError as error:
        os.write(answer, str(error).encode())
    finally:
        os._exit(status)


def _read_all(descriptor: int) -> bytes:
    chunks = []
    while chunk := os.read(descriptor, 65536):
        chunks.append(chunk)
    return b"".join(chunks)


def lay_out_root(root: str, binds: Iterable[Bind], symlinks: Mapping[str, str]) -> None:
    """Mount a small read-only root file system at `root`, in the launcher's mount namespace."""
    # the builder, who is a stranger to these directories, walks through them
    with _umask(0o022):
        _lay_out_root(root, binds, symlinks)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


def _lay_out_root(root: str, binds: Iterable[Bind], symlinks: Mapping[str, str]) -> None:
    syscalls.mount("tmpfs", root, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755,size=16m")
    for name in ("proc", "tmp", LINKS_PATH[1:], TEMPORARY_PATH[1:], "dev", "etc"):
        Path(root, name).mkdir(mode=0o755)
    for link, target in symlinks.items():
        Path(root + link).symlink_to(target)
    for item in binds:
        target = root + item.target
        if Path(target).is_symlink() or not Path(item.source).exists():
            if item.optional or Path(target).is_symlink():
                continue
            raise IsolationError(f"expected {item.source}, which every build needs, found nothing there")
        _make_mount_point(Path(target), directory=Path(item.source).is_dir())
        syscalls.bind(item.source, target, read_only=not item.writable)


def _make_mount_point(target: Path, *, directory: bool) -> None:
    if target.exists():
        return
    if directory:
        target.mkdir(mode=0o755, parents=True)
    else:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        target.touch(mode=0o644)


def system_symlinks() -> dict[str, str]:
    """`/bin -> usr/bin` and its like on merged-/usr systems."""
    links = (item for item in SYSTEM_DIRECTORIES if Path(item).is_symlink())
    return {item: str(Path(item).readlink()) for item in links}


def spawn_builder(plan: idmap.IdPlan, root: str, body: Callable[[], int]) -> int:
    """Fork the builder as process 1 of a new pid namespace and run `body` in it; its pid, as the launcher sees it.

    The caller must be single-threaded and must not start threads afterwards: a process whose children go to another
    pid namespace cannot (clone(2), EINVAL).
    """
    mapped_read, mapped_write = os.pipe()
    entered_read, entered_write = os.pipe()
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.close(mapped_write)
            os.close(entered_read)
            _enter_builder_namespaces(root, entered_write, mapped_read)
            status = body()
        except BaseException as error:
            os.write(2, f"builder: {type(error).__name__}: {error}\n".encode(errors="replace"))
        finally:
            os._exit(status)
    os.close(mapped_read)
    os.close(entered_write)
    try:
        complaint = _read_all(entered_read)
        if complaint != b"ok":
            raise IsolationError(
                "the builder could not enter its namespaces: " + complaint.decode(errors="replace"),
                hint="`pushwright doctor` shows what this host offers",
            )
        idmap.write_map(pid, *plan.builder_maps)
        os.write(mapped_write, b".")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(mapped_write)
        os.close(entered_read)
    return pid


def keep_descriptors(kept: Iterable[int]) -> None:
    """Close every descriptor but standard error and `kept`; standard input and output become /dev/null.

    What the launcher was handed or has opened - event and control pipes, the lock of its lease, a terminal - is none
    of the builder's, nor of the processes it starts.
    """
    wanted = {0, 1, 2, *kept}
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number not in wanted:
            # the descriptor of the listing itself is closed already
            with contextlib.suppress(OSError):
                os.close(number)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    os.close(null)


def _enter_builder_namespaces(root: str, entered: int, mapped: int) -> None:
    os.setsid()
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("proc", f"{root}/proc", "proc", flags)
        syscalls.make_read_only(f"{root}/sys")
        syscalls.pivot_root(root)
        syscalls.join_new_session_keyring()
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    except OSError as error:
        os.write(entered, (error.strerror or str(error)).encode())
        os._exit(70)
    os.write(entered, b"ok")
    os.close(entered)
    if os.read(mapped, 1) != b".":
        os._exit(70)
    os.close(mapped)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    _mount_own_places()


def _mount_own_places() -> None:
    """Places that belong to the builder itself: temporary files, and short names of layers."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("tmpfs", TEMPORARY_PATH, "tmpfs", flags, "mode=0700,size=1g")
    tempfile.tempdir = os.environ["TMPDIR"] = TEMPORARY_PATH
    syscalls.mount("tmpfs", LINKS_PATH, "tmpfs", flags, "mode=0755,size=1m")
    os.umask(0o022)
