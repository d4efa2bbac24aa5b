"""Builds and projects as the API shows them (docs/api.md)."""

from __future__ import annotations

from typing import Any

from tasks.lifecycle import Build
from tasks.projects import Project, UnreadableProject
from tasks.queries import CommitAnswer, shown_build

API = "/api/v1"


def build_links(build: Build) -> dict[str, str]:
    """Where more is to be had about a build; ids, names and commits are safe in a path."""
    return {
        "self": f"{API}/builds/{build.id}",
        "logs": f"{API}/builds/{build.id}/logs",
        "commit": f"{API}/projects/{build.project}/commits/{build.commit}",
    }


def build_shape(build: Build, registry: str) -> dict[str, Any]:
    """A build; images of the embedded registry are shown at `registry`."""
    return {**shown_build(build, registry), "links": build_links(build)}


def project_shape(project: Project | UnreadableProject) -> dict[str, Any]:
    """A project, without its secrets."""
    links = {"self": f"{API}/projects/{project.name}", "hook": f"/hooks/{project.name}"}
    return {**project.to_json(), "links": links}


def commit_shape(answer: CommitAnswer, registry: str) -> dict[str, Any]:
    """The answer about a commit, with its builds."""
    return {
        **answer.to_json(registry),
        "builds": [build_shape(build, registry) for build in answer.builds],
        "links": {"self": f"{API}/projects/{answer.project}/commits/{answer.commit}"},
    }
