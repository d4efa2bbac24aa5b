"""Repositories on this machine: read in place, and only below a directory that was allowed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from executor.context.hosts import CloneUrl
from executor.errors import GitError

if TYPE_CHECKING:
    import pygit2

_ALTERNATES_DEPTH = 5  # libgit2 follows no deeper (odb.c, GIT_ALTERNATES_MAX_DEPTH)


def check_local_path(path: str, root: str) -> Path:
    """The real path of a repository, which must be below the real path of `root`; an empty root allows nothing."""
    if not root:
        raise _refused("file:// URLs are not allowed here", hint="name a directory of repositories in the settings")
    try:
        real_root, real = Path(root).resolve(strict=True), Path(path).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        # the same words whether the path is absent or unreadable: what exists outside the root is nobody's business
        raise _refused("no such repository below the allowed directory") from error
    if not real.is_relative_to(real_root):
        raise _refused("no such repository below the allowed directory")
    return real


def open_local_repository(url: CloneUrl, root: str) -> pygit2.Repository:
    """The repository of a file:// URL, with all of its objects below `root`."""
    import pygit2
    from pygit2.enums import RepositoryOpenFlag

    path = check_local_path(url.path, root)
    try:
        repository = pygit2.Repository(str(path), RepositoryOpenFlag.NO_SEARCH)
    except (pygit2.GitError, KeyError, ValueError) as error:
        raise GitError(
            f"git repository {path.name}: it is not one that can be read", code="git-repository-not-found"
        ) from error
    # a `.git` file, a worktree's common directory and alternates each lead elsewhere
    common = Path(repository.path)
    if (pointer := common / "commondir").is_file():
        common = common / pointer.read_text(encoding="utf-8", errors="surrogateescape").strip()
    check_local_path(repository.path, root)
    _check_objects(common / "objects", root, _ALTERNATES_DEPTH)
    return repository


def _check_objects(objects: Path, root: str, depth: int) -> None:
    real = check_local_path(str(objects), root)
    alternates = real / "info" / "alternates"
    if not alternates.is_file() or not depth:
        return
    for line in alternates.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        if line and not line.startswith("#"):
            _check_objects(real / line, root, depth - 1)


def _refused(message: str, *, hint: str | None = None) -> GitError:
    return GitError(f"git repository on this machine: {message}", code="git-url-refused", hint=hint)
