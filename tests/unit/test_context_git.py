"""What `fetch_commit` refuses before it speaks to anybody, and how it loads libgit2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from executor.context.git import fetch_commit
from executor.errors import GitError, HostError
from executor.spec import GitContext
from tests.support.git_server import COMMIT_TIME, Repository

COMMIT = "1" * 40
ROOT = Path(__file__).parents[2]


def never(host: str, port: int) -> tuple[str, ...]:
    raise AssertionError(f"{host} was looked up")


@pytest.mark.parametrize(
    ("context", "code"),
    [
        (GitContext("ssh://git@github.com/o/r", COMMIT), "git-url-refused"),
        (GitContext("git@github.com:o/r", COMMIT), "git-url-refused"),
        (GitContext("ext::sh -c id", COMMIT), "git-url-refused"),
        (GitContext("-x", COMMIT), "git-url-refused"),
        (GitContext("http://127.0.0.1/r", COMMIT), "git-url-refused"),
        (GitContext("http://git.example.com/r", COMMIT, username="u", password="p"), "git-url-refused"),
        (GitContext("file:///srv/git/r", COMMIT), "git-url-refused"),
        (GitContext("https://git.example.com/r", "HEAD"), "git-commit-invalid"),
        (GitContext("https://git.example.com/r", "a" * 64), "git-object-format"),
        (GitContext("https://git.example.com/r", COMMIT, ref="main"), "git-ref-invalid"),
        (GitContext("https://git.example.com/r", COMMIT, ref="refs/heads/../x"), "git-ref-invalid"),
    ],
)
def test_what_is_asked_for_is_checked_before_anything_is_done(tmp_path: Path, context: GitContext, code: str) -> None:
    with pytest.raises(GitError) as caught:
        fetch_commit(context, tmp_path / "checkout", lookup=never)
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_the_host_s_fault(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        fetch_commit(GitContext("https://git.example.com/r", COMMIT), tmp_path / "none" / "checkout", lookup=never)


def test_unreadable_authorities_are_the_host_s_fault(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("no certificate")
    context = GitContext("https://git.example.com/r", COMMIT)
    for name in ("bundle", "none"):
        with pytest.raises(HostError) as caught:
            fetch_commit(
                context, tmp_path / "checkout", lookup=lambda host, port: ("8.8.8.8",), ca_bundle=tmp_path / name
            )
        assert caught.value.code == "git-certificates-unreadable"


def python(program: str, **environment: str) -> str:
    """What a Python of its own prints, with little in its environment."""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_libgit2_is_not_loaded_by_importing_the_module() -> None:
    assert python("import sys, executor.context.git, tasks.checkout; print('pygit2' in sys.modules)") == "False"


def test_a_machine_without_home_configuration_and_certificates_can_read_a_local_repository(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "roots" / "app.git")
    commit = repository.commit({"a": b"1"})
    program = f"""
import os
from pathlib import Path
from executor.context.git import fetch_commit
from executor.spec import GitContext
before = dict(os.environ)
context = GitContext("file://{repository.path}", "{commit}", local_root="{tmp_path}/roots")
print(fetch_commit(context, Path("{tmp_path}/checkout")).commit_time, dict(os.environ) == before)
"""
    found = python(program, SSL_CERT_FILE="/nonexistent", SSL_CERT_DIR="/nonexistent")
    assert found == f"{COMMIT_TIME} True"


@pytest.mark.root
def test_a_repository_of_another_user_is_read(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "roots" / "app.git")
    commit = repository.commit({"a": b"1"})
    for path in [repository.path, *repository.path.rglob("*")]:
        os.chown(path, 12345, 12345)
    context = GitContext(f"file://{repository.path}", commit, local_root=str(tmp_path / "roots"))
    assert fetch_commit(context, tmp_path / "checkout").commit == commit


@pytest.mark.parametrize(("date", "expected"), [(0, 0), (1, 1), (4_102_444_800, 4_102_444_800)])
def test_the_commit_s_time_is_the_files_time(tmp_path: Path, date: int, expected: int) -> None:
    repository = Repository(tmp_path / "roots" / "app.git")
    commit = commit_at(repository, str(date))
    checkout = fetch_commit(context_of(repository, commit, tmp_path), tmp_path / "checkout")
    assert checkout.commit_time == expected
    assert (tmp_path / "checkout" / "a").stat().st_mtime == expected


@pytest.mark.parametrize(("date", "expected"), [("-5", 0), ("9223372036854775807", 253_402_300_799)])
def test_a_commit_s_impossible_time_is_bounded(tmp_path: Path, date: str, expected: int) -> None:
    repository = Repository(tmp_path / "roots" / "app.git")
    commit = commit_at(repository, date)
    assert fetch_commit(context_of(repository, commit, tmp_path), tmp_path / "checkout").commit_time == expected


def commit_at(repository: Repository, date: str) -> str:
    """A commit with any text as its time."""
    tree = repository.tree(("100644", repository.blob(b"1"), b"a"))
    who = f"A <a@example.com> {date} +0000"
    data = f"tree {tree}\nauthor {who}\ncommitter {who}\n\nmessage\n".encode()
    return repository.git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", data=data)


def context_of(repository: Repository, commit: str, tmp_path: Path) -> GitContext:
    return GitContext(f"file://{repository.path}", commit, local_root=str(tmp_path / "roots"))
