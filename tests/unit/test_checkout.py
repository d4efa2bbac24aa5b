"""What a build clones: the registered project's URL and credential, under the server's policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from executor.context.git import fetch_commit
from executor.errors import GitError, UsageError
from executor.spec import Credential, GitContext
from tasks.checkout import check_clone_url, git_context
from tasks.lifecycle import Build, State
from tasks.projects import Project
from tasks.settings import Settings
from tests.support.git_server import Repository

COMMIT = "1" * 40
SETTINGS = Settings(data_dir=Path("/nonexistent"))
PROJECT = Project(name="app", url="https://github.com/o/app.git", context="services/now")
BUILD = Build(
    id="01J00000000000000000000000",
    project="app",
    repository="app",
    commit=COMMIT,
    config_digest="d",
    state=State.RUNNING,
    reason="",
    attempt=1,
    fence=1,
    owner="w",
    lease_until=0,
    cancel=False,
    not_before=0,
    ref="refs/heads/main",
    sequence=1,
    config={"url": "https://evil.example/app.git", "context": "services/then", "dockerfile": "Dockerfile"},
    tags=(),
    rebuild=0,
    image=None,
    results=(),
    error=None,
    created=0,
    queued=0,
    started=0,
    finished=0,
)


def test_url_and_credential_are_the_project_s_and_the_rest_is_the_build_s() -> None:
    project = replace(PROJECT, git_credential=Credential(username="bot", password="secret"))
    assert git_context(project, BUILD, SETTINGS) == GitContext(
        url="https://github.com/o/app.git",
        commit=COMMIT,
        ref="refs/heads/main",
        username="bot",
        password="secret",
        sub_path="services/then",
    )


def test_the_password_is_not_shown() -> None:
    project = replace(PROJECT, git_credential=Credential(username="bot", password="secret-password"))
    assert "secret-password" not in repr(git_context(project, BUILD, SETTINGS))


def test_private_hosts_follow_the_settings() -> None:
    project = replace(PROJECT, url="http://git.internal:3000/app.git")
    assert not git_context(project, BUILD, SETTINGS).allow_private
    allowed = replace(SETTINGS, allow_private_git_hosts=True)
    assert git_context(project, BUILD, allowed).allow_private
    local = replace(project, url="http://127.0.0.1/app.git")
    assert git_context(local, BUILD, allowed).allow_private
    with pytest.raises(GitError) as caught:
        git_context(local, BUILD, SETTINGS)
    assert caught.value.code == "git-url-refused"


def test_a_credential_is_not_sent_in_the_clear() -> None:
    project = replace(PROJECT, url="http://git.example.com/a", git_credential=Credential(username="b", password="s"))
    with pytest.raises(GitError) as caught:
        git_context(project, BUILD, SETTINGS)
    assert caught.value.code == "git-url-refused"
    check_clone_url(project.url, SETTINGS)
    with pytest.raises(GitError):
        check_clone_url(project.url, SETTINGS, has_credential=True)


def test_another_project_s_build_is_refused() -> None:
    with pytest.raises(UsageError):
        git_context(PROJECT, replace(BUILD, project="other"), SETTINGS)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"commit": "HEAD"}, "git-commit-invalid"),
        ({"ref": "main"}, "git-ref-invalid"),
        ({"ref": ""}, "git-ref-invalid"),
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, str], code: str) -> None:
    with pytest.raises(GitError) as caught:
        git_context(PROJECT, replace(BUILD, **change), SETTINGS)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_a_local_repository_is_cloned_from_the_root_that_holds_it(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "two" / "app.git")
    commit = repository.commit({"a": b"1"})
    (tmp_path / "one").mkdir()
    settings = replace(SETTINGS, git_local_roots=(tmp_path / "none", tmp_path / "one", tmp_path / "two"))
    project = replace(PROJECT, url=f"file://{repository.path}")
    check_clone_url(project.url, settings)
    context = git_context(project, replace(BUILD, commit=commit), settings)
    assert context.local_root == str(tmp_path / "two")
    assert fetch_commit(context, tmp_path / "checkout").commit == commit


@pytest.mark.parametrize("place", ["elsewhere.git", "one/link.git", "one/../elsewhere.git", "one/none.git"])
def test_a_local_repository_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    elsewhere = Repository(tmp_path / "elsewhere.git")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "link.git").symlink_to(elsewhere.path)
    settings = replace(SETTINGS, git_local_roots=(tmp_path / "one",))
    url = f"file://{tmp_path}/{place}"
    for policy in (settings, SETTINGS):
        with pytest.raises(GitError) as caught:
            check_clone_url(url, policy)
        assert caught.value.code == "git-url-refused"
        with pytest.raises(GitError):
            git_context(replace(PROJECT, url=url), BUILD, policy)
