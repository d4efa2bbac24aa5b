"""What this host offers: each isolation level tried for real, in a process that ends afterwards."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from executor.errors import PushwrightError
from executor.isolation import idmap, sandbox, syscalls
from executor.isolation.runner import Command, Runner, spawn_runner


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried: whether it is there, what was found, and what to do when it is not."""

    name: str
    available: bool
    detail: str
    hint: str = ""


def probe(data_directory: Path) -> list[Check]:
    """Try what builds need, below `data_directory`, which must exist; nothing is left behind."""
    checks = [_check_kernel()]
    try:
        plan = idmap.plan_ids()
    except PushwrightError as error:
        return [*checks, Check("subordinate ids", available=False, detail=error.message, hint=error.hint or "")]
    how = "newuidmap" if plan.with_newuidmap else "written directly"
    checks.append(Check("subordinate ids", available=True, detail=f"{plan.count} from {plan.uids.start}, {how}"))
    return [*checks, _try_level(plan, data_directory), *_not_yet()]


def _check_kernel() -> Check:
    release = os.uname().release
    numbers = tuple(int(part) if part.isdigit() else 0 for part in release.split(".")[:2])
    return Check(
        "kernel",
        available=numbers >= (5, 12),
        detail=f"Linux {release}",
        hint="" if numbers >= (5, 12) else "overlayfs in user namespaces and mount_setattr need Linux 5.12",
    )


def _not_yet() -> list[Check]:
    hint = "this version has the level userns only"
    return [
        Check(f"level {name}", available=False, detail="not there yet", hint=hint) for name in ("chroot", "restricted")
    ]


def _try_level(plan: idmap.IdPlan, data_directory: Path) -> Check:
    """Enter the namespaces of a build in a child and run one command in an overlay, as a RUN step would."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        outcome = Check("level userns", available=False, detail="the probe was killed")
        try:
            outcome = _enter_and_run(plan, data_directory)
        except PushwrightError as error:
            outcome = Check("level userns", available=False, detail=error.message, hint=error.hint or "")
        except OSError as error:
            outcome = Check("level userns", available=False, detail=str(error))
        finally:
            os.write(write, json.dumps(asdict(outcome)).encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return Check(**json.loads(text)) if text else Check("level userns", available=False, detail="the probe was killed")


def _enter_and_run(plan: idmap.IdPlan, data_directory: Path) -> Check:
    read, write = os.pipe()
    sandbox.enter_launcher_namespace(plan)
    # both in the data directory: a build writes nowhere else either, and /tmp may be read-only
    with (
        tempfile.TemporaryDirectory(dir=data_directory) as store,
        tempfile.TemporaryDirectory(dir=data_directory) as root,
    ):
        os.chown(store, *plan.owner)
        sandbox.lay_out_root(root, sandbox.builder_binds(store, None), sandbox.system_symlinks())
        builder = sandbox.spawn_builder(plan, root, lambda: _run_inside(spawn_runner(), plan, write))
        os.close(write)
        with os.fdopen(read, "rb") as stream:
            said = stream.read().decode(errors="replace")
        os.waitpid(builder, 0)
        syscalls.umount(root)
    if said == "ok":
        return Check("level userns", available=True, detail="user namespaces, overlayfs, a step ran as nobody")
    return Check("level userns", available=False, detail=said or "the builder died", hint=_HINT)


_HINT = (
    "in a container: the seccomp profile of deploy/, systempaths=unconfined and a volume for the data directory; "
    "on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or the AppArmor profile of deploy/"
)


def _run_inside(runner: Runner, plan: idmap.IdPlan, report: int) -> int:
    store = Path(sandbox.STORE_PATH)
    for name in ("lower", "upper", "work", "root"):
        (store / name).mkdir()
    for name in ("lower", "upper"):
        os.chown(store / name, idmap.ID_SHIFT, idmap.ID_SHIFT)
    command = Command(
        argv=("/probe",),
        env={},
        cwd="/",
        uid=0,
        gid=0,
        groups=(),
        lowers=(str(store / "lower"),),
        upper=str(store / "upper"),
        work=str(store / "work"),
        root=str(store / "root"),
        id_map=plan.run_map,
    )
    out_read, out_write = os.pipe()
    ended = runner.wait(runner.start(command, out_write, out_write))
    # 127: everything was set up, and the command that is not there was looked for
    os.write(report, b"ok" if ended.status == 127 else (ended.complaint or str(ended.status)).encode())
    os.close(out_read)
    for base in ("upper", "work"):
        _remove(store / base)
    return 0


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
