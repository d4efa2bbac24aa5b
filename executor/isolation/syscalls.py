"""Thin wrappers of the Linux system calls that Python's `os` lacks on 3.11.

Each raises `OSError` with the call's name in its text. Numbers are those of x86-64 and of the generic table that
aarch64 and riscv64 share (Linux `include/uapi/asm-generic/unistd.h`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100
_MOUNT_ATTR_RDONLY = 0x00000001
_KEYCTL_JOIN_SESSION_KEYRING = 1
_CAPABILITY_VERSION_3 = 0x20080522

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_GENERIC = platform.machine() != "x86_64"
_SYS_PIVOT_ROOT = 41 if _GENERIC else 155
_SYS_KEYCTL = 219 if _GENERIC else 250
_SYS_CAPGET = 90 if _GENERIC else 125
_SYS_RT_SIGACTION = 134 if _GENERIC else 13
_SYS_CAPSET = 91 if _GENERIC else 126

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def _bytes(path: str | bytes | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def mount(source: str | bytes | None, target: str | bytes, kind: str | None, flags: int = 0, data: str = "") -> None:
    """mount(2); `data` is cut off by the kernel at 4 096 bytes, so longer is refused here."""
    if len(data) >= 4096:
        raise OSError(7, f"mount {os.fsdecode(target)}: options of {len(data)} bytes, at most 4095 fit")
    result = _libc.mount(
        _bytes(source),
        _bytes(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        os.fsencode(data) if data else None,
    )
    _check(result, f"mount {kind or 'bind'} on {os.fsdecode(target)}")


def umount(target: str | bytes, flags: int = MNT_DETACH) -> None:
    _check(_libc.umount2(_bytes(target), ctypes.c_int(flags)), f"umount {os.fsdecode(target)}")


def make_read_only(target: str | bytes) -> None:
    """Every mount at and below `target` becomes read-only (mount_setattr, Linux 5.12)."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        _bytes(target),
        ctypes.c_uint(_AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )
    _check(result, f"mount_setattr {os.fsdecode(target)}")


def bind(source: str | bytes, target: str | bytes, *, read_only: bool = False) -> None:
    """Bind a file or a tree of mounts."""
    mount(source, target, None, MS_BIND | MS_REC)
    if read_only:
        make_read_only(target)


def openat2(root: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2), Linux 5.6, never through magic links; an empty path is `root` itself."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve | RESOLVE_NO_MAGICLINKS)
    size = ctypes.c_size_t(len(how))
    while True:
        found = _libc.syscall(ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(root), path or b".", how, size)
        if found >= 0:
            return int(found)
        number = ctypes.get_errno()
        # EAGAIN: a rename elsewhere made a `..` unsafe to judge; asking again is what the manual page says
        if number not in {errno.EINTR, errno.EAGAIN}:
            raise OSError(number, os.strerror(number), os.fsdecode(path))


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open `path` as a process would whose root directory is `root`."""
    return openat2(root, os.fsencode(path), flags, RESOLVE_IN_ROOT)


def pivot_root(new_root: str | bytes) -> None:
    """Make `new_root`, a mount point, the root, and let go of the old one."""
    os.chdir(new_root)
    # pivot_root(".", ".") stacks the old root on the new one, from where it is detached (pivot_root(2), NOTES)
    _check(_libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT), b".", b"."), f"pivot_root {os.fsdecode(new_root)}")
    umount(".")
    os.chdir("/")


def prctl(option: int, argument: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    result = _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero)
    return _check(result, f"prctl({option})")


def clear_ambient_capabilities() -> None:
    zero = ctypes.c_ulong(0)
    result = _libc.prctl(ctypes.c_int(PR_CAP_AMBIENT), ctypes.c_ulong(PR_CAP_AMBIENT_CLEAR_ALL), zero, zero, zero)
    _check(result, "prctl(PR_CAP_AMBIENT)")


def set_hostname(name: str) -> None:
    data = name.encode()
    _check(_libc.sethostname(data, ctypes.c_size_t(len(data))), "sethostname")


def join_new_session_keyring() -> None:
    """Leave the session keyring of whoever started us; where nobody has keyrings there is nothing to leave."""
    none = ctypes.c_char_p(None)
    result = _libc.syscall(ctypes.c_long(_SYS_KEYCTL), ctypes.c_int(_KEYCTL_JOIN_SESSION_KEYRING), none)
    # not in this kernel, or kept from this container and so from everything in it
    if result < 0 and ctypes.get_errno() not in {errno.ENOSYS, errno.EPERM, errno.EACCES}:
        _check(result, "keyctl(JOIN_SESSION_KEYRING)")


def reset_signals(numbers: Iterable[int]) -> None:
    """Every signal's default action, also for the two that the C library keeps to itself and cannot be asked about."""
    default = bytes(32)
    for number in numbers:
        result = _libc.syscall(
            ctypes.c_long(_SYS_RT_SIGACTION), ctypes.c_int(number), default, None, ctypes.c_size_t(8)
        )
        _check(result, f"rt_sigaction({number})")


def effective_capabilities() -> int:
    """The bit set of this thread's effective capabilities."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    _check(_libc.syscall(ctypes.c_long(_SYS_CAPGET), ctypes.create_string_buffer(header), data), "capget")
    low, _, _, high, _, _ = struct.unpack("=6I", data.raw)
    return int(low) | int(high) << 32


def drop_inheritable_capabilities() -> None:
    """Keep effective and permitted capabilities and empty the inheritable set (CVE-2022-27651)."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    _check(_libc.syscall(ctypes.c_long(_SYS_CAPGET), header, data), "capget")
    words = list(struct.unpack("=6I", data.raw))
    words[2] = words[5] = 0
    _check(_libc.syscall(ctypes.c_long(_SYS_CAPSET), header, struct.pack("=6I", *words)), "capset")
