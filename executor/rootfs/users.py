"""Users and groups as an image knows them: its passwd and group files, read as hostile text."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from executor.errors import StepFailedError
from executor.rootfs.contained import Root

# real ones have some hundred lines; more than this is not read
_LIMIT_BYTES = 4 * 1024 * 1024
# the kernel's ids have 32 bits, the last of which means "none"
_MAX_ID = (1 << 32) - 2
_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class User:
    """Who a command runs as; ids are the image's own."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True)
class _Passwd:
    name: str
    uid: int
    gid: int
    home: str


def resolve_user(spec: str, root: Root) -> User:
    """Who `USER spec` means in this image.

    A user's groups are those that list its name, unless a group is given. A number is always a uid, though some user's
    name may look like it; one that passwd does not have gets group 0 and home `/`. Unknown names are a
    `StepFailedError`. An empty spec is user 0 without further groups (libcontainer `user.GetExecUser`).
    """
    name, group = _split(spec or "0")
    known = _find_user(name, root)
    uid = known.uid if known else _number(name)
    if uid is None:
        raise _unknown("user", name, "/etc/passwd")
    # by the number, as runc looks it up: of several names for one user it is the first one's
    first = _find_user(str(uid), root)
    home = first.home if first and first.home else "/"
    if group:
        return User(uid, _find_group(group, root), (), home)
    gid = known.gid if known else 0
    if known is None or not spec:
        return User(uid, gid, (), home)
    groups = {item for item in _groups_of(known.name, root) if item != gid}
    return User(uid, gid, tuple(sorted(groups)), home)


def resolve_owner(spec: str, root: Root) -> tuple[int, int]:
    """The uid and gid that `--chown=spec` means: a lone number N is N:N, a lone name brings its primary group."""
    name, group = _split(spec)
    known = None if _NUMBER.fullmatch(name) else _find_user(name, root)
    uid = known.uid if known else _number(name)
    if uid is None:
        raise _unknown("user", name, "/etc/passwd")
    if group:
        return uid, _find_group(group, root)
    return uid, known.gid if known else uid


def _split(spec: str) -> tuple[str, str]:
    name, colon, group = spec.partition(":")
    if not name or (colon and not group) or ":" in group:
        raise StepFailedError(f"owner: expected user or user:group, found {spec[:80]!r}", code="user-invalid")
    return name, group


def _unknown(kind: str, name: str, file: str) -> StepFailedError:
    return StepFailedError(
        f"{kind} {name[:80]!r}: not found in the image's {file}",
        code=f"{kind}-unknown",
        hint=f"create the {kind} in an earlier step, or give its number",
    )


def _number(text: str) -> int | None:
    if not _NUMBER.fullmatch(text):
        return None
    if int(text) > _MAX_ID:
        raise StepFailedError(f"id {text}: expected at most {_MAX_ID}", code="user-invalid")
    return int(text)


def _find_user(name: str, root: Root) -> _Passwd | None:
    """The first passwd line of a name, or of a number."""
    number = _number(name)
    for fields in _lines(root, b"etc/passwd"):
        if len(fields) < 4:
            continue
        uid, gid = _file_number(fields[2]), _file_number(fields[3])
        if uid is None or gid is None:
            continue
        if uid == number if number is not None else fields[0] == name:
            return _Passwd(fields[0], uid, gid, fields[5] if len(fields) > 5 else "")
    return None


def _find_group(name: str, root: Root) -> int:
    if (number := _number(name)) is not None:
        return number
    for fields in _lines(root, b"etc/group"):
        if len(fields) >= 3 and fields[0] == name and (gid := _file_number(fields[2])) is not None:
            return gid
    raise _unknown("group", name, "/etc/group")


def _groups_of(user: str, root: Root) -> Iterator[int]:
    for fields in _lines(root, b"etc/group"):
        if len(fields) >= 4 and user in fields[3].split(",") and (gid := _file_number(fields[2])) is not None:
            yield gid


def _file_number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= _MAX_ID else None


def _lines(root: Root, path: bytes) -> Iterator[list[str]]:
    """The fields of each line of a colon-separated file of the image; none when there is no such file.

    Links are followed inside the image only, and nothing but a regular file of bounded size is read.
    """
    for line in _read(root, path).decode("utf-8", "surrogateescape").split("\n"):
        if line and not line.startswith(("#", "+", "-")):
            yield line.strip().split(":")


def _read(root: Root, path: bytes) -> bytes:
    try:
        resolved = root.resolve(path)
        descriptor = root.open_file(resolved)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.EISDIR}:
            raise
        raise StepFailedError(
            f"/{path.decode()}: expected a regular file in the image: {error.strerror}", code="user-database-invalid"
        ) from error
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read(_LIMIT_BYTES + 1)
    if len(data) > _LIMIT_BYTES:
        raise StepFailedError(f"/{path.decode()}: expected at most {_LIMIT_BYTES} bytes", code="user-database-invalid")
    return data
