"""Running the command of a step: its own user, mount, pid, ipc and uts namespaces, made by a small process.

The builder has threads, and a process with threads must not fork and go on in Python; so the builder forks one small
runner before it starts any, and asks it over a socket. For each command the runner forks a *monitor*, which makes the
pid namespace and writes the id map, and the monitor forks the command's process 1, which mounts, pivots and executes.
Mounts are made with the builder's rights and belong to its namespace, so that nothing in the step can change them,
not even with CAP_SYS_ADMIN in the user namespace of the step.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, NoReturn

from executor.errors import HostError, PushwrightError
from executor.isolation import idmap, mounts, syscalls
from executor.isolation.idmap import ID_SHIFT

# Docker's default set: docs.docker.com/engine/containers/run, "Runtime privilege and Linux capabilities"
DEFAULT_CAPABILITIES: Mapping[str, int] = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "MKNOD": 27,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}
HOSTNAME = "buildkitsandbox"
_HEADER = struct.Struct("=I")
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41
_SETUP_FAILED = 125
_LAST_CAPABILITY = 63
# what names and links in an image bring about when places are mounted there; anything else is the machine's
_OF_THE_IMAGE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EROFS, errno.ENAMETOOLONG, errno.EEXIST})


@dataclass(frozen=True, slots=True)
class Command:
    """An argument vector and all it runs in.

    `lowers` are layer directories, topmost first; `upper` and `work` are the overlay's, `root` an empty directory to
    mount on; ids are the image's. `name_files` are files of the builder that the step sees read-only, by path.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    lowers: tuple[str, ...]
    upper: str
    work: str
    root: str
    id_map: str
    network: str = "host"
    hostname: str = HOSTNAME
    open_files: int = 1 << 20
    processes: int = 0
    name_files: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[mounts.StepMount, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit status (128 + number for a signal), or why it could not be started.

    `created` are the mount points that were made for the command in its root, parents first; `by_host` tells that the
    machine, not the image or the command, is what the complaint is about.
    """

    status: int
    complaint: str = ""
    created: tuple[str, ...] = ()
    by_host: bool = False


class Runner:
    """The builder's end of the socket; safe to use from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def start(self, command: Command, stdout: int, stderr: int) -> int:
        """Start `command` with these descriptors; what comes back is for `wait`."""
        status_read, status_write = os.pipe()
        payload = json.dumps(asdict(command)).encode()
        message = _HEADER.pack(len(payload)) + payload
        try:
            for output in (stdout, stderr):
                # so that the command may open /dev/stdout again: a pipe is mode 0600 and would belong to the builder
                os.fchown(output, command.uid + ID_SHIFT, command.gid + ID_SHIFT)
            with self._lock:
                sent = socket.send_fds(self._connection, [message], [stdout, stderr, status_write])
                self._connection.sendall(message[sent:])
        except ConnectionError as error:
            os.close(status_read)
            raise HostError(
                "the process that starts commands was killed, or this host ran out of memory",
                code="builder-died",
                retryable=True,
            ) from error
        except BaseException:
            os.close(status_read)
            raise
        finally:
            os.close(status_write)
        return status_read

    @staticmethod
    def wait(status: int) -> Ended:
        """Block until the command and every process it left are gone."""
        with os.fdopen(status, "rb") as stream:
            text = stream.read()
        if not text:
            return Ended(_SETUP_FAILED, "the process that ran the command was killed", by_host=True)
        fields: dict[str, Any] = json.loads(text)
        return Ended(fields["status"], fields["complaint"], tuple(fields["created"]), fields["by_host"])


def spawn_runner() -> Runner:
    """Fork the runner; call it while the process has one thread."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    if os.fork() == 0:
        ours.close()
        try:
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return Runner(ours)


def _serve(connection: socket.socket) -> None:
    # monitors report over pipes of their own; nobody waits for them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, _HEADER.size, 3)
        if not data:
            return
        while len(data) < _HEADER.size:
            data += connection.recv(_HEADER.size - len(data))
        (left,) = _HEADER.unpack(data)
        chunks = []
        while left:
            chunk = connection.recv(min(left, 1 << 20))
            if not chunk:
                return
            chunks.append(chunk)
            left -= len(chunk)
        if os.fork() == 0:
            connection.close()
            _monitor(_command(b"".join(chunks)), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _command(payload: bytes) -> Command:
    fields: dict[str, Any] = json.loads(payload)
    for name in ("argv", "groups", "lowers"):
        fields[name] = tuple(fields[name])
    fields["mounts"] = tuple(mounts.StepMount(**item) for item in fields["mounts"])
    return Command(**fields)


def _monitor(command: Command, stdout: int, stderr: int, status: int) -> NoReturn:
    """Fork the command's process 1, map its ids, wait for it, report."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    outcome: dict[str, Any] = {"status": _SETUP_FAILED, "complaint": "", "created": [], "by_host": True}
    try:
        outcome = _run(command, stdout, stderr)
    except (OSError, PushwrightError) as error:
        outcome["complaint"] = _told(error)
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(status, json.dumps(outcome).encode())
        os._exit(0)


def _run(command: Command, stdout: int, stderr: int) -> dict[str, Any]:
    report_read, report_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        os.close(report_read)
        os.close(mapped_write)
        _become_command(command, (stdout, stderr), report_write, mapped_read)
    for descriptor in (stdout, stderr, report_write, mapped_read):
        os.close(descriptor)
    with os.fdopen(report_read, "rb") as report:
        set_up = _read_report(report)
        complaint, by_host = set_up["complaint"], set_up["by_host"]
        if not complaint:
            idmap.write_map(pid, command.id_map, command.id_map)
            os.write(mapped_write, b".")
            ended = _read_report(report, {"complaint": "", "by_host": False})
            complaint, by_host = ended["complaint"], ended["by_host"]
    os.close(mapped_write)
    _, waited = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(waited)
    return {
        "status": code if code >= 0 else 128 - code,
        "complaint": complaint,
        "created": set_up.get("created", []),
        "by_host": by_host,
    }


_KILLED = {"complaint": "the command's first process was killed while it was set up", "by_host": True}


def _read_report(report: BinaryIO, silence: Mapping[str, Any] = _KILLED) -> Mapping[str, Any]:
    """One line of what a command's first process reports; `silence` stands for none."""
    line = report.readline()
    fields: dict[str, Any] = json.loads(line) if line else {}
    return fields or silence


def _write_report(report: int, **fields: Any) -> None:
    os.write(report, json.dumps({"complaint": "", "by_host": False, **fields}).encode() + b"\n")


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _become_command(command: Command, output: tuple[int, int], report: int, mapped: int) -> NoReturn:
    status = _SETUP_FAILED
    try:
        places = _enter_namespaces(command)
        _write_report(report, created=places.created)
        if os.read(mapped, 1) != b".":
            os._exit(status)
        _forbid_user_namespaces(places.user_limits)
        report = _settle_descriptors(output, report)
        _take_identity(command)
        status = _execute(command, report)
    except Exception as error:
        by_image = isinstance(error, OSError) and error.errno in _OF_THE_IMAGE
        _write_report(report, complaint=_told(error), by_host=not by_image)
    finally:
        os._exit(status)


def _enter_namespaces(command: Command) -> mounts.StepPlaces:
    os.setsid()
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.set_hostname(command.hostname)
    if command.network == "none":
        syscalls.unshare(syscalls.CLONE_NEWNET)
        _raise_loopback()
    lowers = ":".join(command.lowers)
    options = f"lowerdir={lowers},upperdir={command.upper},workdir={command.work},userxattr"
    syscalls.mount("overlay", command.root, "overlay", 0, options)
    places = mounts.mount_step_places(command.root, command.name_files, command.mounts)
    syscalls.pivot_root(command.root)
    syscalls.join_new_session_keyring()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWIPC)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    return places


def _raise_loopback() -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))


def _settle_descriptors(output: tuple[int, int], report: int) -> int:
    """Descriptors 0 to 2 as the command gets them, the report on 3 until exec, nothing else (CVE-2024-21626)."""
    null = os.open("/dev/null", os.O_RDONLY)
    # out of the way first, so that no dup2 below lands on one that is still needed
    high = [os.dup(item) for item in (null, *output, report)]
    while min(high) < 4:
        high = [os.dup(item) for item in high]
    for number, item in enumerate(high):
        os.dup2(item, number, inheritable=number < 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    return 3


def _take_identity(command: Command) -> None:
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # before the rights of root are given up, as runc does: the command may be where its user could not go by itself
    _enter_directory(command.cwd)
    for number in range(_LAST_CAPABILITY):
        if number not in DEFAULT_CAPABILITIES.values():
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
            except OSError as error:
                # the first that this kernel does not know
                if error.errno != errno.EINVAL:
                    raise
                break
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower_limit(resource.RLIMIT_NOFILE, command.open_files)
    if command.processes:
        _lower_limit(resource.RLIMIT_NPROC, command.processes)
    os.setgroups(command.groups)
    os.setresgid(command.gid, command.gid, command.gid)
    os.setresuid(command.uid, command.uid, command.uid)
    syscalls.drop_inheritable_capabilities()
    syscalls.clear_ambient_capabilities()


def _enter_directory(path: str) -> None:
    try:
        os.chdir(path)
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else errno.ENOENT
        raise OSError(number, f"the working directory {path} cannot be entered: {_told(error)}") from error


def _forbid_user_namespaces(limits: int) -> None:
    """As Docker's seccomp profile does: a step that can make user namespaces has all capabilities in them.

    The limit is that of the namespace this process is in now (namespaces(7), /proc/sys/user).
    """
    limit = os.open("max_user_namespaces", os.O_WRONLY | os.O_CLOEXEC, dir_fd=limits)
    os.write(limit, b"0")
    os.close(limit)


def _lower_limit(kind: int, wanted: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (value, value))


def _execute(command: Command, report: int) -> int:
    # Python ignores some, and whoever started us may have had others ignored (nohup, a shell's background job)
    syscalls.reset_signals(set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP})
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    try:
        os.execvpe(command.argv[0], command.argv, dict(command.env))  # noqa: S606 - that is what a step is
    except (OSError, ValueError) as error:
        _write_report(report, complaint=f"{command.argv[0]}: {_told(error)}")
        return 127 if isinstance(error, FileNotFoundError) else 126
