"""Starting a build: from a specification to the builder in its namespaces, and its last event."""

from __future__ import annotations

import os
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor.context.staging import is_open_to_strangers, stage
from executor.errors import ContextError, HostError, PushwrightError, UsageError
from executor.isolation import idmap, sandbox
from executor.isolation.runner import Runner
from executor.isolation.supervisor import Cell, Control, Supervision
from executor.oci import Digest
from executor.os_errors import host_error
from executor.progress import ENVELOPE, EventWriter, Masker, Observer, error_fields
from executor.spec import BuildResult, BuildSpec, DirectoryContext
from executor.store import Store


def launch(spec: BuildSpec, observer: Observer, control: Control) -> dict[str, Any]:
    """Build `spec` and return its last event, of type `result` or `error`; everything it made but its store is gone.

    Call it once in a process that has one thread: the process moves into namespaces of its own and stays there.
    """
    try:
        return _launch(spec, observer, control)
    except BrokenPipeError:
        # nobody listens any more
        raise
    except Exception as error:
        return {"type": "error", **error_fields(_told(error))}


def _launch(spec: BuildSpec, observer: Observer, control: Control) -> dict[str, Any]:
    supervision = Supervision(control, observer)
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
            event = _build(spec, store, build_id, context, plan, supervision)
            if event["type"] == "result":
                result = _checked_result(event)
                # needed after the build only, and by no build that fails
                from executor.export import export

                export(spec, result, store)
            return event
        finally:
            store.remove_work_dir(build_id)


def _build(
    spec: BuildSpec, store: Store, build_id: str, context: Path | None, plan: idmap.IdPlan, supervision: Supervision
) -> dict[str, Any]:
    if context is not None and not is_open_to_strangers(context):
        staged = store.staging_dir(build_id)
        stage(context, staged, plan.owner)
        context = staged
    # a mount point for every build at once: each has a mount namespace of its own
    root = store.root.parent / "builder"
    root.mkdir(mode=0o755, exist_ok=True)
    binds = sandbox.builder_binds(str(store.root), str(context) if context else None, _git_binds(spec))
    return supervision.run(Cell(plan, str(root), binds), _body(_seen_from_inside(spec), build_id, plan))


def _checked_result(event: Mapping[str, Any]) -> BuildResult:
    """The result as a value: the builder has read hostile bytes, and what it says is taken for no more than that."""
    result = BuildResult.from_json({key: event[key] for key in event.keys() - ENVELOPE})
    try:
        manifest = result.manifest.encode()
    except UnicodeEncodeError as error:
        raise HostError("the builder gave a manifest that is no text", code="result-invalid") from error
    found = str(Digest.of(manifest))
    if (found, len(manifest)) != (result.digest, result.size):
        raise HostError(
            f"the builder named the manifest {result.digest[:80]}, and gave one that is {found}", code="result-invalid"
        )
    return result


def _context_path(spec: BuildSpec) -> Path | None:
    if not isinstance(spec.context, DirectoryContext):
        return None
    path = Path(spec.context.path).absolute()
    if not os.path.isdir(path):
        raise ContextError(f"expected a directory as build context, found none at {path}", code="context-missing")
    return path


def _git_binds(spec: BuildSpec) -> tuple[sandbox.Bind, ...]:
    """A repository on this machine is seen by the builder at its own path, when its root was allowed."""
    if isinstance(spec.context, DirectoryContext) or not spec.context.local_root:
        return ()
    if os.path.realpath(spec.context.local_root) == "/":
        raise UsageError("expected a directory of repositories as local root, found /: a build would see all files")
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
        except Exception as error:
            observer("error", **error_fields(_told(error)))
        else:
            observer("result", **result.to_json())
        return 0

    return body


def _told(error: Exception) -> PushwrightError:
    match error:
        case PushwrightError():
            return error
        case OSError():
            return host_error(error)
        case MemoryError():
            return HostError("this machine ran short of memory", code="host-exhausted", retryable=True)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return HostError(
        f"unexpected {type(error).__name__}{where}: {error}",
        code="internal",
        hint="this is a fault of Pushwright, please report it",
    )
