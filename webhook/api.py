"""`/api/v1`: projects, builds, logs, and which tags a commit has (docs/api.md)."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from tasks.errors import BuildNotFoundError
from tasks.lifecycle import Build, BuildRequest, State
from tasks.logs import CURSOR
from tasks.projects import ProjectUnknownError, new_project
from tasks.queries import answer_commit
from tasks.refs import check_commit, check_ref
from tasks.triggers import build_request
from webhook.bodies import only_members, read_object
from webhook.problems import RequestError
from webhook.services import services
from webhook.shapes import build_shape, commit_shape, project_shape
from webhook.streams import LogSource, as_ndjson, as_text, has_left

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")

BUILD_ID = re.compile(r"[0-9A-Za-z]{26}")
PAGE_LIMIT = 200
PAGE_DEFAULT = 50
_SWITCH = {"": False, "0": False, "1": True}
_FORMATS = {"ndjson": (as_ndjson, "application/x-ndjson"), "text": (as_text, "text/plain; charset=utf-8")}


@blueprint.post("/projects")
def add_project() -> ResponseReturnValue:
    at = services()
    project, secret = new_project(read_object(request), at.policy)
    shape = project_shape(at.projects.add(project))
    if secret:
        shape["secret"] = secret
    return shape, 201, {"Location": shape["links"]["self"]}


@blueprint.get("/projects")
def list_projects() -> ResponseReturnValue:
    return {"projects": [project_shape(project) for project in services().projects.list()]}


@blueprint.get("/projects/<name>")
def show_project(name: str) -> ResponseReturnValue:
    return project_shape(services().projects.describe(name))


@blueprint.delete("/projects/<name>")
def remove_project(name: str) -> ResponseReturnValue:
    services().projects.remove(name)
    return "", 204


@blueprint.post("/projects/<name>/builds")
def build_commit(name: str) -> ResponseReturnValue:
    at = services()
    asked = read_object(request)
    only_members(asked, "commit", "ref", "force")
    project = at.projects.get(name)
    commit = check_commit(asked.get("commit"))
    ref = check_ref(asked.get("ref", project.ref))
    force = asked.get("force", False)
    if not isinstance(force, bool):
        raise RequestError("force: expected true or false")
    sequence = at.records.next_sequence(project.name, ref)
    return _create(build_request(project, at.settings.registry, commit, ref, sequence), force=force)


@blueprint.get("/projects/<name>/commits/<commit>")
def show_commit(name: str, commit: str) -> ResponseReturnValue:
    at = services()
    if not at.projects.is_registered(name):
        # what a removed project built stays on record
        _require_builds(name)
    return commit_shape(answer_commit(at.records, name, commit), at.registry())


@blueprint.get("/builds")
def list_builds() -> ResponseReturnValue:
    at = services()
    project = request.args.get("project") or None
    before = request.args.get("before") or None
    limit = _limit(request.args.get("limit", ""))
    if before is not None:
        _check_build_id(before)
    if project is not None and not at.projects.is_registered(project):
        _require_builds(project)
    builds = at.records.list_builds(project, before, limit + 1)
    shown = builds[:limit]
    following = shown[-1].id if len(builds) > limit else None
    return {"builds": [build_shape(build, at.registry()) for build in shown], "next": following}


@blueprint.get("/builds/<build_id>")
def show_build(build_id: str) -> ResponseReturnValue:
    return build_shape(_build(build_id), services().registry())


@blueprint.post("/builds/<build_id>/cancel")
def cancel_build(build_id: str) -> ResponseReturnValue:
    at = services()
    only_members(read_object(request))
    if not _build(build_id).state.is_final:
        build = at.records.request_cancel(build_id)
        if build.state is State.CANCELLED or not build.state.is_final:
            return build_shape(build, at.registry()), 202
    raise RequestError(f"build {build_id} is over, so that there is nothing to cancel", code="build-finished")


@blueprint.post("/builds/<build_id>/rebuild")
def rebuild(build_id: str) -> ResponseReturnValue:
    at = services()
    only_members(read_object(request))
    build = _build(build_id)
    project = at.projects.get(build.project)
    # not a push: it takes the place among the pushes that its commit had
    again = build_request(project, at.settings.registry, build.commit, build.ref, build.sequence)
    return _create(again, force=True)


@blueprint.get("/builds/<build_id>/logs")
def show_logs(build_id: str) -> ResponseReturnValue:
    at = services()
    follow = _choice("follow", _SWITCH)
    render, media_type = _choice("format", {"": _FORMATS["ndjson"], **_FORMATS})
    after = request.args.get("after", "")
    if after and not CURSOR.fullmatch(after):
        raise RequestError("after: expected a cursor that came with an event of this log")
    source = LogSource(at.records, at.logs, _build(build_id).id)
    if follow and not at.streams.take():
        raise RequestError(
            "every place for a followed log is taken",
            code="too-many-streams",
            hint="ask again in a moment, or without follow=1",
        )
    connection = request.environ.get("gunicorn.socket")
    items = source.items(after, follow=follow, is_stopping=lambda: at.streams.is_stopping or has_left(connection))
    response = Response(render(items), content_type=media_type)
    if follow:
        # also when the client is gone before the first line
        response.call_on_close(at.streams.give_back)
    # a proxy that collects the answer first would show nothing while the build runs
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _create(asked: BuildRequest, *, force: bool) -> ResponseReturnValue:
    at = services()
    build, created = at.records.create(asked, force=force)
    if created:
        at.announce(build.id)
    return {"build": build_shape(build, at.registry()), "created": created}, 202


def _build(build_id: str) -> Build:
    _check_build_id(build_id)
    return services().records.get(build_id)


def _check_build_id(build_id: str) -> None:
    if not BUILD_ID.fullmatch(build_id):
        raise BuildNotFoundError(f"expected the id of a build, found {build_id[:40]!a}, which names none")


def _require_builds(project: str) -> None:
    if not services().records.list_builds(project, None, 1):
        raise ProjectUnknownError(
            f"project {project[:80]!a} is not registered",
            hint="register it: pushwright project add NAME --url URL",
        )


def _limit(text: str) -> int:
    if not text:
        return PAGE_DEFAULT
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= PAGE_LIMIT:
        raise RequestError(f"limit: expected a whole number from 1 to {PAGE_LIMIT}, found {text[:40]!a}")
    return int(text)


def _choice(name: str, choices: dict[str, Any]) -> Any:
    text = request.args.get(name, "")
    if text not in choices:
        words = " or ".join(word for word in choices if word)
        raise RequestError(f"{name}: expected {words}, found {text[:40]!a}")
    return choices[text]
