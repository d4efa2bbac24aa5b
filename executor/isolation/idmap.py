"""Which ids a build may use: subordinate ranges, and the maps of the namespaces that hold them.

The launching process may itself need a user namespace before it can mount anything (when it lacks CAP_SYS_ADMIN);
there its own id is 0 and the subordinate ids follow from 1. The builder's namespace, nested or not, maps 0..N-1 to
the subordinate ids alone. The kernel's rules are in user_namespaces(7).
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from executor.errors import HostError, IsolationError
from executor.isolation import syscalls

WANTED_IDS = 65536
# an image's uid U is the builder's U + 1: the builder's own 0 is not in RUN's namespace
ID_SHIFT = 1
# below 2^31 and above the ranges that systemd hands out to its containers (systemd.io/UIDS-GIDS)
DEFAULT_ROOT_START = 1_879_048_192
FEWEST_IDS = 1000
CAP_SETUID = 7
CAP_SYS_ADMIN = 21


@dataclass(frozen=True, slots=True)
class IdRange:
    """`count` ids from `start`, as the launching process's namespace numbers them."""

    start: int
    count: int


@dataclass(frozen=True, slots=True)
class IdPlan:
    """The ids of one build.

    `uids` and `gids` are the subordinate ranges as the launching process sees them. `nested` tells that the launcher
    enters a user namespace of its own first; `with_newuidmap` that its maps need the setuid programs of shadow.
    """

    uids: IdRange
    gids: IdRange
    nested: bool
    with_newuidmap: bool

    @property
    def count(self) -> int:
        return min(self.uids.count, self.gids.count)

    @property
    def owner(self) -> tuple[int, int]:
        """The builder's uid and gid as the launcher sees them once it is in its own namespace."""
        return (1, 1) if self.nested else (self.uids.start, self.gids.start)

    @property
    def builder_maps(self) -> tuple[str, str]:
        """The builder's uid and gid maps, in the launcher's numbering."""
        uid, gid = self.owner
        return f"0 {uid} {self.count}\n", f"0 {gid} {self.count}\n"

    @property
    def run_map(self) -> str:
        """The map of RUN's namespace, in the builder's numbering: everything but the builder's own id."""
        return f"0 {ID_SHIFT} {self.count - ID_SHIFT}\n"

    @property
    def name(self) -> str:
        """What the store calls trees made under this map."""
        return f"{self.uids.start}-{self.gids.start}-{self.count}"


def parse_subordinate_ids(text: str, names: tuple[str, ...]) -> IdRange | None:
    """The largest range that a file in the form of /etc/subuid gives to one of `names` (subuid(5))."""
    best: IdRange | None = None
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) != 3 or parts[0] not in names or not (parts[1].isdigit() and parts[2].isdigit()):
            continue
        found = IdRange(int(parts[1]), int(parts[2]))
        if best is None or found.count > best.count:
            best = found
    return best


def parse_id_map(text: str) -> tuple[IdRange, ...]:
    """The ids that exist in a namespace, from its /proc/self/uid_map."""
    rows = (line.split() for line in text.splitlines())
    return tuple(IdRange(int(row[0]), int(row[2])) for row in rows if len(row) == 3)


def _within(wanted: IdRange, existing: tuple[IdRange, ...]) -> bool:
    return any(
        item.start <= wanted.start and wanted.start + wanted.count <= item.start + item.count for item in existing
    )


def root_range(subordinate: IdRange | None, existing: tuple[IdRange, ...]) -> IdRange | None:
    """The range for root: that of /etc/subuid, else a documented default, else what this namespace has above 0."""
    candidates = [IdRange(subordinate.start, min(subordinate.count, WANTED_IDS))] if subordinate else []
    candidates.append(IdRange(DEFAULT_ROOT_START, WANTED_IDS))
    for item in existing:
        start = max(item.start, 1)
        # ids that the namespace's own services use are left alone where there is room
        start = start + 65536 if item.start + item.count - start >= 2 * WANTED_IDS else start
        candidates.append(IdRange(start, min(item.start + item.count - start, WANTED_IDS)))
    return next((item for item in candidates if item.count >= FEWEST_IDS and _within(item, existing)), None)


def require_image_ids(*ids: int) -> None:
    """`HostError` for an id of an image that the builder's namespace, in which this is called, does not have."""
    maps = [parse_id_map(_read(f"/proc/self/{kind}_map")) for kind in ("uid", "gid")]
    count = min(max((item.start + item.count for item in ranges), default=0) for ranges in maps) - ID_SHIFT
    for item in ids:
        if item >= count:
            raise HostError(
                f"id {item} is not among the ids of this build, which has {count}",
                code="id-out-of-range",
                hint=f"use an id below {count}",
            )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _user_names(uid: int) -> tuple[str, ...]:
    try:
        return (pwd.getpwuid(uid).pw_name, str(uid))
    except KeyError:
        return (str(uid),)


def plan_ids() -> IdPlan:
    """The ids this process may hand to builds; `IsolationError` says which line is missing where."""
    uid = os.geteuid()
    capabilities = syscalls.effective_capabilities()
    names = _user_names(uid)
    uids = parse_subordinate_ids(_read("/etc/subuid"), names)
    gids = parse_subordinate_ids(_read("/etc/subgid"), names)
    if capabilities >> CAP_SETUID & 1:
        uids = root_range(uids, parse_id_map(_read("/proc/self/uid_map")))
        gids = root_range(gids, parse_id_map(_read("/proc/self/gid_map")))
        if uids is None or gids is None:
            raise IsolationError(
                f"expected at least {FEWEST_IDS} spare ids in this user namespace, found fewer",
                code="subordinate-ids-missing",
                hint="give the container or pod a larger id range",
            )
        return IdPlan(uids, gids, nested=not capabilities >> CAP_SYS_ADMIN & 1, with_newuidmap=False)
    return _plan_unprivileged(names[0], uids, gids)


def _plan_unprivileged(name: str, uids: IdRange | None, gids: IdRange | None) -> IdPlan:
    if uids is None or gids is None or min(uids.count, gids.count) < FEWEST_IDS:
        missing = "/etc/subgid" if uids is not None else "/etc/subuid"
        raise IsolationError(
            f"expected a range of subordinate ids for user {name} in {missing}, found none",
            code="subordinate-ids-missing",
            hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}",
        )
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        raise IsolationError(
            "expected the programs newuidmap and newgidmap on PATH, found neither or one",
            code="newuidmap-missing",
            hint="as root: apt-get install uidmap",
        )
    uids = IdRange(uids.start, min(uids.count, WANTED_IDS))
    gids = IdRange(gids.start, min(gids.count, WANTED_IDS))
    return IdPlan(uids, gids, nested=True, with_newuidmap=True)


def write_map(pid: int, uid_map: str, gid_map: str) -> None:
    """Write both maps of a process's namespace; needs CAP_SETUID and CAP_SETGID in its parent namespace."""
    for name, text in (("gid_map", gid_map), ("uid_map", uid_map)):
        try:
            Path(f"/proc/{pid}/{name}").write_text(text, encoding="ascii")
        except OSError as error:
            raise IsolationError(
                f"the kernel refused the id map {text.strip()!r} of a new user namespace: {error}",
                hint="`pushwright doctor` shows what this host offers",
            ) from error


def write_launcher_map(pid: int, plan: IdPlan, uid: int, gid: int) -> None:
    """Map the launcher's own id to 0 and the subordinate ids from 1, from outside its new namespace."""
    rows = {
        "uid": (uid, plan.uids),
        "gid": (gid, plan.gids),
    }
    if not plan.with_newuidmap:
        texts = {kind: f"0 {own} 1\n1 {ids.start} {plan.count}\n" for kind, (own, ids) in rows.items()}
        write_map(pid, texts["uid"], texts["gid"])
        return
    for kind, (own, ids) in rows.items():
        numbers = (pid, 0, own, 1, 1, ids.start, plan.count)
        command = [f"new{kind}map", *map(str, numbers)]
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, text=True)
        if done.returncode != 0:
            raise IsolationError(
                f"new{kind}map refused the range {ids.start}+{plan.count}: {done.stderr.strip()[:300]}",
                code="newuidmap-refused",
                hint="is it setuid root (or has it cap_setuid), and does no-new-privileges forbid that here?",
            )
