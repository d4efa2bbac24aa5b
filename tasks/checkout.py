"""Where a build's files come from: the clone URL policy and the credential around the executor's `GitContext`."""

from __future__ import annotations

from pathlib import Path

from executor.context.hosts import CloneUrl, parse_clone_url
from executor.context.hosts import check_clone_url as check_policy
from executor.context.local import check_local_path
from executor.context.revision import check_commit, check_ref
from executor.errors import GitError, UsageError
from executor.spec import GitContext
from tasks.lifecycle import Build
from tasks.projects import Project
from tasks.settings import Settings


def check_clone_url(url: str, settings: Settings, *, has_credential: bool = False) -> None:
    """Refuse, as `GitError` with code `git-url-refused`, a URL that this server will not clone from.

    No name is resolved here: whoever connects checks the addresses of that moment. A `file://` URL must lie below one
    of the settings' local roots, and must exist by then.
    """
    parsed = parse_clone_url(url)
    check_policy(parsed, allow_private=settings.allow_private_git_hosts, has_credential=has_credential)
    if parsed.scheme == "file":
        _local_root(parsed, settings)


def git_context(project: Project, build: Build, settings: Settings) -> GitContext:
    """What the executor is asked to fetch: URL and credential of the registered project, commit and ref of the build.

    The commit's files are one thing and which part of them is the context another: that was decided when the build
    was triggered, and is read from its record.
    """
    if build.project != project.name:
        raise UsageError(f"build {build.id}: expected one of project {project.name}, found one of {build.project}")
    check_commit(build.commit)
    check_ref(build.ref)
    credential = project.git_credential
    check_clone_url(project.url, settings, has_credential=credential is not None)
    parsed = parse_clone_url(project.url)
    return GitContext(
        url=project.url,
        commit=build.commit,
        ref=build.ref,
        username=credential.username if credential else "",
        password=credential.password if credential else "",
        sub_path=str(build.config.get("context", "")),
        local_root=str(_local_root(parsed, settings)) if parsed.scheme == "file" else "",
        allow_private=settings.allow_private_git_hosts,
    )


def _local_root(url: CloneUrl, settings: Settings) -> Path:
    """The first allowed root that really holds the repository, links resolved."""
    for root in settings.git_local_roots:
        try:
            check_local_path(url.path, str(root))
        except GitError:
            continue
        return root
    raise GitError(
        "git repository on this machine: expected one below PUSHWRIGHT_GIT_LOCAL_ROOTS, found none there",
        code="git-url-refused",
        hint="PUSHWRIGHT_GIT_LOCAL_ROOTS names the directories whose repositories may be cloned",
    )
