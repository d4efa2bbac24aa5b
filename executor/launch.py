"""Starting a build: from a specification to the builder in its namespaces, and its last event."""

from __future__ import annotations

import errno
import os
import traceback
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor.context.staging import is_open_to_strangers, stage
from executor.errors import ContextError, DiskFullError, HostError, PushwrightError
from executor.isolation import idmap, sandbox
from executor.isolation.runner import Runner
from executor.isolation.supervisor import Cell, Control, Supervision
from executor.progress import ENVELOPE, EventWriter, Masker, Observer, error_fields
from executor.spec import BuildResult, BuildSpec, DirectoryContext
from executor.store import Store

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def launch(spec: BuildSpec, observer: Observer, control: Control) -> dict[str, Any]:
    """Build `spec` and return its last event, of type `result` or `error`; everything it made but its store is gone.

    Call it once in a process that has one thread: the process moves into namespaces of its own and stays there.
    """
    try:
        return _launch(spec, observer, control)
    except PushwrightError as error:
        return {"type": "error", **error_fields(error)}
    except OSError as error:
        return {"type": "error", **error_fields(_os_error(error))}


def _launch(spec: BuildSpec, observer: Observer, control: Control) -> dict[str, Any]:
    plan = idmap.plan_ids()
    location = Path(spec.store).absolute()
    context = _context_path(spec)
    # images may be private: nobody else on this machine shall look into the data directory
    location.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sandbox.enter_launcher_namespace(plan)
    store = Store.create(location, owner=plan.owner[0], ids=(plan.uids.start, plan.count))
    store.remove_abandoned()
    build_id = uuid.uuid4().hex
    with store.lease(build_id):
        try:
            event = _build(spec, store, build_id, context, plan, Supervision(control, observer))
            if event["type"] == "result":
                # needed after the build only, and by no build that fails
                from executor.export import export

                result = BuildResult.from_json({key: event[key] for key in event.keys() - ENVELOPE})
                export(spec, result, store)
            return event
        finally:
            store.remove_work_dir(build_id)


def _build(
    spec: BuildSpec, store: Store, build_id: str, context: Path | None, plan: idmap.IdPlan, supervision: Supervision
) -> dict[str, Any]:
    work = store.work_dir(build_id)
    os.chown(work, *plan.owner)
    if context is not None and not is_open_to_strangers(context):
        context = _staged(context, work, plan)
    # a mount point for every build at once: each has a mount namespace of its own
    root = store.root.parent / "builder"
    root.mkdir(mode=0o755, exist_ok=True)
    binds = sandbox.builder_binds(str(store.root), str(context) if context else None, _git_binds(spec))
    return supervision.run(Cell(plan, str(root), binds), _body(_seen_from_inside(spec), build_id, plan))


def _staged(context: Path, work: Path, plan: idmap.IdPlan) -> Path:
    destination = work / "staged"
    destination.mkdir(mode=0o755)
    os.chown(destination, *plan.owner)
    stage(context, destination, plan.owner)
    return destination


def _context_path(spec: BuildSpec) -> Path | None:
    if not isinstance(spec.context, DirectoryContext):
        return None
    path = Path(spec.context.path).absolute()
    if not path.is_dir():
        raise ContextError(f"expected a directory as build context, found none at {path}", code="context-missing")
    return path


def _git_binds(spec: BuildSpec) -> tuple[sandbox.Bind, ...]:
    """A repository on this machine is seen by the builder at its own path, when its root was allowed."""
    if isinstance(spec.context, DirectoryContext) or not spec.context.local_root:
        return ()
    return (sandbox.Bind(spec.context.local_root, spec.context.local_root, optional=True),)


def _seen_from_inside(spec: BuildSpec) -> BuildSpec:
    context = spec.context
    if isinstance(context, DirectoryContext):
        context = replace(context, path=sandbox.CONTEXT_PATH)
    return replace(spec, context=context, store=sandbox.STORE_PATH)


def _body(spec: BuildSpec, build_id: str, plan: idmap.IdPlan) -> Callable[[Runner, Callable[[bytes], None]], int]:
    def body(runner: Runner, write: Callable[[bytes], None]) -> int:
        # the outer observer numbers and masks; this one only carries
        observer = EventWriter(write, Masker(()))
        try:
            from executor.builder import build

            result = build(spec, build_id=build_id, id_map=plan.run_map, runner=runner, observer=observer)
        except PushwrightError as error:
            observer("error", **error_fields(error))
        except OSError as error:
            observer("error", **error_fields(_os_error(error)))
        except Exception as error:
            observer("error", **error_fields(_unexpected(error)))
        else:
            observer("result", **result.to_json())
        return 0

    return body


def _os_error(error: OSError) -> PushwrightError:
    if error.errno in _FULL:
        return DiskFullError(
            f"no space is left for the build: {error}", hint="free space where the data directory is, or run gc"
        )
    return _unexpected(error)


def _unexpected(error: Exception) -> HostError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return HostError(
        f"unexpected {type(error).__name__}{where}: {error}",
        code="internal",
        hint="this is a fault of Pushwright, please report it",
    )
