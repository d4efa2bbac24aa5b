"""Commits fetched from a real git server, honest and hostile."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.context.git import Checkout, FetchLimits, fetch_commit
from executor.context.tree import TreeLimits
from executor.errors import GitError, HostError
from executor.spec import GitContext
from tests.support.git_server import COMMIT_TIME, GitServer, Repository, git_server, silent_server

PASSWORD = "a-password-worth-hiding"
ANY = {"uploadpack.allowAnySHA1InWant": "true"}
FILES: dict[str, bytes | tuple[str, bytes]] = {
    "Dockerfile": b"FROM scratch\n",
    "run.sh": ("100755", b"#!/bin/sh\n"),
    "deep/er/file": b"deep\n",
    "link": ("120000", b"deep/er"),
    "outside": ("120000", b"/etc/passwd"),
    "new\nline": b"1",
    os.fsdecode(b"not-utf8-\xff"): b"2",
    "empty": b"",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "repositories") as state:
        yield state


def fetch(
    server: GitServer,
    tmp_path: Path,
    commit: str,
    *,
    name: str = "app.git",
    ref: str = "refs/heads/main",
    username: str = "",
    password: str = "",
    timeout_seconds: float = 20.0,
    limits: FetchLimits = FetchLimits(),  # noqa: B008
) -> Checkout:
    context = GitContext(
        server.url(name),
        commit,
        ref=ref,
        username=username,
        password=password,
        allow_private=True,
        timeout_seconds=timeout_seconds,
    )
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return fetch_commit(context, work / "checkout", limits=limits)


def app(server: GitServer, *, config: dict[str, str] | None = None, name: str = "app.git") -> Repository:
    return Repository(server.root / name, config=config)


def depths(repository: Repository, server: GitServer) -> int:
    """How many packs were asked for: requests that got as far as negotiating."""
    return sum(1 for seen in server.seen if seen.method == "GET")


def assert_nothing_left(tmp_path: Path) -> None:
    assert list((tmp_path / "work").iterdir()) == []


def test_the_files_of_a_commit_are_written_as_git_has_them(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit(FILES)
    checkout = fetch(server, tmp_path, commit)
    assert (checkout.commit, checkout.commit_time) == (commit, COMMIT_TIME)
    found = {str(path.relative_to(checkout.path)) for path in checkout.path.rglob("*")}
    assert found == {*FILES, "deep", "deep/er"}
    assert (checkout.path / "run.sh").read_bytes() == b"#!/bin/sh\n"
    assert (checkout.path / "new\nline").read_bytes() == b"1"
    assert (checkout.path / os.fsdecode(b"not-utf8-\xff")).read_bytes() == b"2"
    assert str((checkout.path / "outside").readlink()) == "/etc/passwd"
    modes = {name: stat.S_IMODE((checkout.path / name).lstat().st_mode) for name in ("run.sh", "empty", "deep", "")}
    assert modes == {"run.sh": 0o755, "empty": 0o644, "deep": 0o755, "": 0o755}
    times = {path.lstat().st_mtime for path in [checkout.path, *checkout.path.rglob("*")]}
    assert times == {COMMIT_TIME}
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["checkout"]


def test_modes_do_not_depend_on_the_umask(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit(FILES)
    before = os.umask(0o077)
    try:
        checkout = fetch(server, tmp_path, commit)
    finally:
        os.umask(before)
    assert stat.S_IMODE((checkout.path / "run.sh").lstat().st_mode) == 0o755
    assert stat.S_IMODE((checkout.path / "deep/er/file").lstat().st_mode) == 0o644


def test_an_old_commit_is_fetched_alone_where_the_server_gives_commits(server: GitServer, tmp_path: Path) -> None:
    repository = app(server, config=ANY)
    wanted = repository.commit({"n": b"1"})
    repository.commit({"n": b"2"}, parent=wanted)
    checkout = fetch(server, tmp_path, wanted)
    assert (checkout.path / "n").read_bytes() == b"1"
    assert depths(repository, server) == 1


def test_the_tip_is_fetched_by_its_ref_where_the_server_gives_no_commits(server: GitServer, tmp_path: Path) -> None:
    repository = app(server)
    first = repository.commit({"n": b"1"})
    tip = repository.commit({"n": b"2"}, parent=first)
    checkout = fetch(server, tmp_path, tip)
    assert (checkout.path / "n").read_bytes() == b"2"
    assert depths(repository, server) == 2


@pytest.mark.parametrize("later", [1, 70], ids=["a little history", "all of the history"])
def test_a_commit_the_ref_has_moved_on_from_is_found_in_its_history(
    server: GitServer, tmp_path: Path, later: int
) -> None:
    repository = app(server)
    wanted = parent = repository.commit({"n": b"wanted"})
    for number in range(later):
        parent = repository.commit({"n": b"%d" % number}, parent=parent, date=COMMIT_TIME + number)
    checkout = fetch(server, tmp_path, wanted)
    assert checkout.commit == wanted
    assert (checkout.path / "n").read_bytes() == b"wanted"


def test_a_commit_is_found_under_any_branch_when_no_ref_is_known(server: GitServer, tmp_path: Path) -> None:
    repository = app(server)
    wanted = repository.commit({"n": b"side"}, ref="refs/heads/side")
    repository.commit({"n": b"later"}, parent=wanted, ref="refs/heads/side")
    repository.commit({"n": b"main"})
    checkout = fetch(server, tmp_path, wanted, ref="")
    assert (checkout.path / "n").read_bytes() == b"side"


def test_a_commit_removed_by_a_forced_push_is_not_found(server: GitServer, tmp_path: Path) -> None:
    repository = app(server)
    gone = repository.commit({"n": b"gone"})
    repository.commit({"n": b"forced"})
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, gone)
    assert caught.value.code == "git-commit-not-found"
    assert not caught.value.retryable
    assert all(word in caught.value.message for word in (gone, "refs/heads/main", "127.0.0.1"))
    assert_nothing_left(tmp_path)


def test_a_commit_of_another_branch_is_not_reachable_from_the_ref(server: GitServer, tmp_path: Path) -> None:
    repository = app(server)
    repository.commit({"n": b"main"})
    other = repository.commit({"n": b"other"}, ref="refs/heads/other")
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, other)
    assert caught.value.code == "git-commit-not-found"


@pytest.mark.parametrize("config", [{}, ANY], ids=["refs only", "any commit"])
def test_a_commit_that_never_was_is_not_found(server: GitServer, tmp_path: Path, config: dict[str, str]) -> None:
    app(server, config=config).commit(FILES)
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, "1" * 40)
    assert caught.value.code == "git-commit-not-found"


@pytest.mark.parametrize("config", [{}, ANY], ids=["refs only", "any commit"])
def test_a_ref_that_is_not_there_is_not_found(server: GitServer, tmp_path: Path, config: dict[str, str]) -> None:
    app(server, config=config).commit(FILES)
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, "1" * 40, ref="refs/heads/none")
    assert caught.value.code == "git-commit-not-found"


def test_an_empty_repository_has_no_commit(server: GitServer, tmp_path: Path) -> None:
    app(server)
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, "1" * 40)
    assert caught.value.code == "git-commit-not-found"


@pytest.mark.parametrize("config", [{}, ANY], ids=["refs only", "any commit"])
@pytest.mark.parametrize("asked", ["tag", "commit"])
def test_an_annotated_tag_leads_to_its_commit(
    server: GitServer, tmp_path: Path, config: dict[str, str], asked: str
) -> None:
    repository = app(server, config=config)
    commit = repository.commit(FILES)
    repository.git("tag", "-a", "v1", "-m", "one", commit)
    tag = repository.git("rev-parse", "refs/tags/v1")
    assert tag != commit
    checkout = fetch(server, tmp_path, tag if asked == "tag" else commit, ref="refs/tags/v1")
    assert checkout.commit == commit


def test_a_tree_is_not_a_commit(server: GitServer, tmp_path: Path) -> None:
    repository = app(server, config=ANY)
    commit = repository.commit(FILES)
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, repository.git("rev-parse", f"{commit}^{{tree}}"))
    assert caught.value.code == "git-commit-not-found"


# credentials


def test_the_credential_opens_a_private_repository(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.basic_auth = f"bot:{PASSWORD}"
    commit = app(server, config=ANY).commit(FILES)
    written: list[bytes] = []
    remove = shutil.rmtree

    def scan_then_remove(path: Path, **options: Any) -> None:
        written.extend(file.read_bytes() for file in Path(path).rglob("*") if file.is_file())
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", scan_then_remove)
    checkout = fetch(server, tmp_path, commit, username="bot", password=PASSWORD)
    assert checkout.commit == commit
    assert any(b"repositoryformatversion" in data for data in written), "the object database was not looked at"
    written += [file.read_bytes() for file in checkout.path.rglob("*") if file.is_file() and not file.is_symlink()]
    secrets = (PASSWORD.encode(), base64.b64encode(f"bot:{PASSWORD}".encode()))
    assert not any(secret in data for data in written for secret in secrets)


@pytest.mark.parametrize("given", [("", ""), ("bot", "wrong")], ids=["none", "a wrong one"])
def test_a_refused_credential_is_said_so_and_not_shown(
    server: GitServer, tmp_path: Path, given: tuple[str, str]
) -> None:
    server.basic_auth = f"bot:{PASSWORD}"
    commit = app(server, config=ANY).commit(FILES)
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, commit, username=given[0], password=given[1])
    assert caught.value.code == "git-auth-failed"
    assert not caught.value.retryable
    assert "wrong" not in str(caught.value)
    assert len(server.seen) == 1
    assert_nothing_left(tmp_path)


def test_no_credential_reaches_the_host_of_a_redirect(server: GitServer, tmp_path: Path) -> None:
    with git_server(tmp_path / "evil") as evil:
        commit = Repository(evil.root / "app.git", config=ANY).commit(FILES)
        server.redirects["/app.git"] = evil.url("app.git")
        with pytest.raises(GitError) as caught:
            fetch(server, tmp_path, commit, username="bot", password=PASSWORD)
        assert caught.value.code == "git-url-refused"
        assert str(evil.port) in caught.value.message
        assert len(server.seen) == 1
        assert evil.seen == []
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    "target",
    ["file:///etc", "https://127.0.0.1/app.git", "//169.254.169.254/app.git", "http://[", "http://user@127.0.0.1/a"],
)
def test_redirects_to_elsewhere_are_refused(server: GitServer, tmp_path: Path, target: str) -> None:
    commit = app(server, config=ANY).commit(FILES)
    server.redirects["/app.git"] = target
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, commit)
    assert caught.value.code == "git-url-refused"


def test_a_redirect_on_the_same_server_is_followed(server: GitServer, tmp_path: Path) -> None:
    server.basic_auth = f"bot:{PASSWORD}"
    commit = app(server, config=ANY).commit(FILES)
    server.redirects["/old-name.git"] = "/app.git"
    checkout = fetch(server, tmp_path, commit, name="old-name.git", username="bot", password=PASSWORD)
    assert checkout.commit == commit


def test_a_redirect_loop_ends(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit(FILES)
    server.redirects["/app.git"] = "/app.git"
    with pytest.raises(GitError):
        fetch(server, tmp_path, commit)
    assert len(server.seen) < 100


def test_an_answer_other_than_git_s_own_is_an_error(server: GitServer, tmp_path: Path) -> None:
    server.redirects["/app.git/info/refs"] = "/elsewhere?x="
    with pytest.raises(GitError):
        fetch(server, tmp_path, "1" * 40)


# servers that are away, slow or broken


@pytest.mark.parametrize(("status", "code", "retryable"), [
    (403, "git-auth-failed", False),
    (404, "git-repository-not-found", False),
    (429, "git-unreachable", True),
    (503, "git-unreachable", True),
])  # fmt: skip
def test_statuses_tell_what_is_wrong(
    server: GitServer, tmp_path: Path, status: int, code: str, retryable: bool
) -> None:
    server.statuses["/app.git"] = status
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, "1" * 40)
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with silent_server() as port:
        context = GitContext(
            f"http://127.0.0.1:{port}/app.git", "1" * 40, ref="refs/heads/main", allow_private=True, timeout_seconds=0.3
        )
        with pytest.raises(GitError) as caught:
            fetch_commit(context, tmp_path / "work/checkout")
    assert (caught.value.code, caught.value.retryable) == ("git-timeout", True)
    assert_nothing_left(tmp_path)


def test_a_silent_tls_server_is_given_up(tmp_path: Path) -> None:
    with silent_server() as port:
        context = GitContext(f"https://127.0.0.1:{port}/a", "1" * 40, allow_private=True, timeout_seconds=0.3)
        with pytest.raises(GitError) as caught:
            fetch_commit(context, tmp_path / "checkout")
    assert caught.value.code == "git-timeout"


def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with silent_server() as port:
        pass
    context = GitContext(f"http://127.0.0.1:{port}/a", "1" * 40, allow_private=True)
    with pytest.raises(GitError) as caught:
        fetch_commit(context, tmp_path / "checkout")
    assert (caught.value.code, caught.value.retryable) == ("git-unreachable", True)


def test_a_transfer_cut_short_is_retryable(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit({"n": os.urandom(100_000)})
    server.cut_after = 20_000
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, commit)
    assert (caught.value.code, caught.value.retryable) == ("git-unreachable", True)
    assert_nothing_left(tmp_path)


def test_a_transfer_has_a_size_limit(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit({"n": os.urandom(100_000)})
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, commit, limits=FetchLimits(transfer_bytes=50_000))
    assert (caught.value.code, caught.value.retryable) == ("git-too-large", False)


def test_a_transfer_has_a_deadline(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit(FILES)
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, commit, limits=FetchLimits(total_seconds=0.0))
    assert (caught.value.code, caught.value.retryable) == ("git-timeout", True)


# the address is the one that was checked


def test_the_connection_goes_to_the_address_that_was_looked_up_once(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit(FILES)
    answers = iter([("127.0.0.1",), ("192.0.2.1",)])
    context = GitContext(server.url("app.git", "git.invalid"), commit, allow_private=True)
    checkout = fetch_commit(context, tmp_path / "checkout", lookup=lambda host, port: next(answers))
    assert checkout.commit == commit
    assert next(answers) == ("192.0.2.1",), "the name was looked up twice"
    assert {seen.headers["Host"] for seen in server.seen} == {f"git.invalid:{server.port}"}


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1%lo"]
)
def test_a_name_of_a_private_address_is_not_connected_to(server: GitServer, tmp_path: Path, address: str) -> None:
    context = GitContext(server.url("app.git", "git.example.com"), "1" * 40)
    with pytest.raises(GitError) as caught:
        fetch_commit(context, tmp_path / "checkout", lookup=lambda host, port: ("93.184.215.14", address))
    assert caught.value.code == "git-url-refused"
    assert server.seen == []


def test_proxies_and_git_s_own_settings_of_the_environment_take_no_part(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = app(server, config=ANY).commit(FILES)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f'[url "http://127.0.0.1:1/"]\n\tinsteadOf = {server.url("")}\n')
    monkeypatch.setenv("HOME", str(home))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(server, tmp_path, commit).commit == commit


# TLS


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for `name`, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.2"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = directory / "certificate.pem", directory / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[GitServer, Path]]:
    public, private = certificate(tmp_path, "git.example.com")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(public, private)
    with git_server(tmp_path / "repositories", tls=tls) as state:
        yield state, public


def loopback(host: str, port: int) -> tuple[str, ...]:
    return ("127.0.0.1",)


def test_https_is_verified_against_the_authorities(tls_server: tuple[GitServer, Path], tmp_path: Path) -> None:
    server, authorities = tls_server
    server.basic_auth = f"bot:{PASSWORD}"
    commit = app(server, config=ANY).commit(FILES)
    url = server.url("app.git", "git.example.com")
    context = GitContext(url, commit, username="bot", password=PASSWORD, allow_private=True)
    checkout = fetch_commit(context, tmp_path / "checkout", lookup=loopback, ca_bundle=authorities)
    assert checkout.commit == commit


def test_https_with_an_unknown_authority_is_refused(tls_server: tuple[GitServer, Path], tmp_path: Path) -> None:
    server, _ = tls_server
    other = tmp_path / "other"
    other.mkdir()
    authorities, _ = certificate(other, "git.example.com")
    context = GitContext(server.url("app.git", "git.example.com"), "1" * 40, password=PASSWORD, allow_private=True)
    with pytest.raises(GitError) as caught:
        fetch_commit(context, tmp_path / "checkout", lookup=loopback, ca_bundle=authorities)
    assert (caught.value.code, caught.value.retryable) == ("git-certificate-refused", False)
    assert server.seen == []


def test_https_under_another_name_is_refused(tls_server: tuple[GitServer, Path], tmp_path: Path) -> None:
    server, authorities = tls_server
    context = GitContext(server.url("app.git", "other.example.com"), "1" * 40, allow_private=True)
    with pytest.raises(GitError) as caught:
        fetch_commit(context, tmp_path / "checkout", lookup=loopback, ca_bundle=authorities)
    assert caught.value.code == "git-certificate-refused"
    assert server.seen == []


# hostile trees


@pytest.mark.parametrize("name", [b".git", b".GIT", b".GiT", b"..", b".", b"a/b", b"../planted", b"x" * 300])
@pytest.mark.parametrize("kind", ["file", "link", "directory", "submodule"])
def test_names_that_git_forbids_are_refused(server: GitServer, tmp_path: Path, name: bytes, kind: str) -> None:
    planted = tmp_path / "work" / "planted"
    planted.parent.mkdir()
    planted.write_bytes(b"untouched")
    repository = app(server, config=ANY)
    blob = repository.blob(b"/etc/passwd")
    entry = {
        "file": ("100644", blob, name),
        "link": ("120000", blob, name),
        "directory": ("40000", repository.tree(("100644", blob, b"config")), name),
        "submodule": ("160000", "1" * 40, name),
    }[kind]
    commit = repository.commit_tree(repository.tree(("100644", blob, b"Dockerfile"), entry))
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, commit)
    assert caught.value.code == "git-tree-refused"
    assert planted.read_bytes() == b"untouched"
    assert [path.name for path in planted.parent.iterdir()] == ["planted"]


def test_a_file_below_a_link_of_the_same_name_is_refused(server: GitServer, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    repository = app(server, config=ANY)
    link = repository.blob(str(victim).encode())
    inner = repository.tree(("100644", repository.blob(b"evil"), b"file"))
    commit = repository.commit_tree(repository.tree(("120000", link, b"a"), ("40000", inner, b"a")))
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, commit)
    assert caught.value.code == "git-tree-refused"
    assert list(victim.iterdir()) == []
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 5000], ids=["empty", "NUL", "long"])
def test_impossible_links_are_refused(server: GitServer, tmp_path: Path, target: bytes) -> None:
    repository = app(server, config=ANY)
    commit = repository.commit({"link": ("120000", target)})
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, commit)
    assert caught.value.code == "git-tree-refused"


def bomb(repository: Repository, width: int, depth: int) -> str:
    """A tree whose every level holds `width` times the next one: few objects, very many files."""
    tree = repository.tree(("100644", repository.blob(b"x" * 1000), b"file"))
    for _ in range(depth):
        tree = repository.tree(*(("40000", tree, b"%d" % number) for number in range(width)))
    return repository.commit_tree(tree)


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (TreeLimits(entries=500), "500 entries"),
        (TreeLimits(total_bytes=100_000), "100000 bytes"),
        (TreeLimits(file_bytes=999), "999 bytes"),
        (TreeLimits(depth=3), "3 directories"),
    ],
)
def test_a_tree_may_not_unpack_to_more_than_its_limits(
    server: GitServer, tmp_path: Path, limits: TreeLimits, word: str
) -> None:
    commit = bomb(app(server, config=ANY), width=10, depth=8 if limits.depth > 3 else 4)
    with pytest.raises(GitError) as caught:
        fetch(server, tmp_path, commit, limits=FetchLimits(tree=limits))
    assert caught.value.code == "git-tree-refused"
    assert word in caught.value.message
    assert_nothing_left(tmp_path)


def test_a_submodule_is_an_empty_directory_and_is_not_fetched(server: GitServer, tmp_path: Path) -> None:
    repository = app(server, config=ANY)
    secret = tmp_path / "repositories" / "secret.git"
    inner = Repository(secret).commit({"secret": b"s"})
    modules = b'[submodule "sub"]\n\tpath = sub\n\turl = file://' + str(secret).encode() + b"\n"
    tree = repository.tree(("100644", repository.blob(modules), b".gitmodules"), ("160000", inner, b"sub"))
    commit = repository.commit_tree(tree)
    warnings: list[tuple[str, str]] = []
    context = GitContext(server.url("app.git"), commit, allow_private=True)
    checkout = fetch_commit(
        context, tmp_path / "checkout", on_warning=lambda code, message: warnings.append((code, message))
    )
    assert list((checkout.path / "sub").iterdir()) == []
    assert [code for code, _ in warnings] == ["git-submodule-empty"]
    assert warnings[0][1].startswith("sub:")
    assert not any("secret" in seen.path for seen in server.seen)


def test_a_large_file_pointer_is_warned_about(server: GitServer, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    commit = app(server, config=ANY).commit({"model.bin": pointer})
    warnings: list[str] = []
    context = GitContext(server.url("app.git"), commit, allow_private=True)
    checkout = fetch_commit(context, tmp_path / "checkout", on_warning=lambda code, message: warnings.append(code))
    assert (checkout.path / "model.bin").read_bytes() == pointer
    assert warnings == ["git-lfs-pointer"]


def test_filters_hooks_and_line_ends_are_left_alone(server: GitServer, tmp_path: Path) -> None:
    repository = app(server, config={**ANY, "filter.evil.smudge": f"touch {tmp_path}/planted"})
    files: dict[str, bytes | tuple[str, bytes]] = {
        ".gitattributes": b"* filter=evil text eol=crlf ident working-tree-encoding=UTF-16\n",
        "text": b"one\ntwo $Id$\n",
        ".gitconfig": b'[filter "evil"]\n\tsmudge = touch /planted\n',
    }
    commit = repository.commit(files)
    for name in ("post-checkout", "post-merge", "reference-transaction"):
        hook = repository.path / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/planted\n")
        hook.chmod(0o755)
    checkout = fetch(server, tmp_path, commit)
    assert {path.name: path.read_bytes() for path in checkout.path.iterdir()} == files
    assert not (tmp_path / "planted").exists()


# the destination


def test_a_directory_with_files_is_not_written_to(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit(FILES)
    destination = tmp_path / "work" / "checkout"
    destination.mkdir(parents=True)
    (destination / "mine").write_bytes(b"mine")
    with pytest.raises(HostError) as caught:
        fetch(server, tmp_path, commit)
    assert caught.value.code == "git-checkout-failed"
    assert [path.name for path in destination.iterdir()] == ["mine"]


def test_a_destination_that_is_a_link_is_not_followed(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit(FILES)
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "checkout").symlink_to(victim)
    with pytest.raises(HostError):
        fetch(server, tmp_path, commit)
    assert list(victim.iterdir()) == []


def test_progress_is_told(server: GitServer, tmp_path: Path) -> None:
    commit = app(server, config=ANY).commit({"n": b"x" * 1000})
    told: list[tuple[str, int, int]] = []
    context = GitContext(server.url("app.git"), commit, allow_private=True)
    fetch_commit(context, tmp_path / "checkout", lambda *event: told.append(event))
    assert told[0][0] == "objects"
    assert told[-1] == ("files", 1000, 1000)


FULL_DISK = """
import sys
from pathlib import Path
from executor.context.git import fetch_commit
from executor.errors import DiskFullError
from executor.spec import GitContext
try:
    fetch_commit(GitContext(sys.argv[1], sys.argv[2], allow_private=True), Path(sys.argv[3]) / "checkout")
except DiskFullError as error:
    print(error.code, error.retryable, [path.name for path in Path(sys.argv[3]).iterdir()])
"""


@pytest.mark.root
@pytest.mark.parametrize("data", [os.urandom(1 << 20), b"x" * (1 << 20)], ids=["while fetching", "while writing"])
def test_a_full_disk_is_said_so(server: GitServer, tmp_path: Path, data: bytes) -> None:
    commit = app(server, config=ANY).commit({"n": data})
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=512k small "$1" && shift && exec "$@"'
    command = [sys.executable, "-c", FULL_DISK, server.url("app.git"), commit, str(small)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(small), *command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "disk-full True []\n", done.stderr


# repositories on this machine


def local(path: Path, commit: str, root: Path | str) -> GitContext:
    return GitContext(f"file://{path}", commit, ref="refs/heads/main", local_root=str(root))


def test_a_repository_below_the_local_root_is_read(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "roots" / "app.git")
    wanted = repository.commit(FILES)
    repository.commit({"n": b"later"}, parent=wanted)
    checkout = fetch_commit(local(repository.path, wanted, tmp_path / "roots"), tmp_path / "checkout")
    assert checkout.commit == wanted
    assert (checkout.path / "deep/er/file").read_bytes() == b"deep\n"
    assert not (checkout.path / ".git").exists()


def test_a_working_tree_below_the_local_root_is_read(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "roots" / "app" / ".git", config={"core.bare": "false"})
    commit = repository.commit(FILES)
    context = local(tmp_path / "roots" / "app", commit, tmp_path / "roots")
    assert fetch_commit(context, tmp_path / "checkout").commit == commit


def test_a_missing_commit_of_a_local_repository_is_not_found(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "roots" / "app.git")
    repository.commit(FILES)
    with pytest.raises(GitError) as caught:
        fetch_commit(local(repository.path, "1" * 40, tmp_path / "roots"), tmp_path / "checkout")
    assert caught.value.code == "git-commit-not-found"


@pytest.mark.parametrize("how", ["no root", "outside", "dots", "link", "gitfile", "alternates", "objects", "encoded"])
def test_a_repository_outside_the_local_root_is_refused(tmp_path: Path, how: str) -> None:
    roots = tmp_path / "roots"
    roots.mkdir()
    secret = Repository(tmp_path / "secret.git")
    commit = secret.commit({"secret": b"s"})
    path, root = secret.path, str(roots)
    if how == "no root":
        root = ""
    elif how == "dots":
        path = roots / ".." / "secret.git"
    elif how == "encoded":
        path = roots / "%2e%2e" / "secret.git"
    elif how == "link":
        path = roots / "link.git"
        path.symlink_to(secret.path)
    elif how == "gitfile":
        path = roots / "app"
        path.mkdir()
        (path / ".git").write_text(f"gitdir: {secret.path}\n")
    elif how == "alternates":
        path = Repository(roots / "app.git").path
        (path / "objects/info").mkdir(exist_ok=True)
        (path / "objects/info/alternates").write_text(f"{secret.path}/objects\n")
    elif how == "objects":
        path = Repository(roots / "app.git").path
        (path / "objects").rename(path / "was")
        (path / "objects").symlink_to(secret.path / "objects")
    with pytest.raises(GitError) as caught:
        fetch_commit(local(path, commit, root), tmp_path / "checkout")
    assert caught.value.code == "git-url-refused"
    assert not (tmp_path / "checkout").exists()


def test_what_is_no_repository_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "roots/app").mkdir(parents=True)
    Repository(tmp_path / "roots" / ".git")
    with pytest.raises(GitError) as caught:
        fetch_commit(local(tmp_path / "roots/app", "1" * 40, tmp_path / "roots"), tmp_path / "checkout")
    assert caught.value.code == "git-repository-not-found"


@pytest.mark.parametrize("name", [b"", b"..", b".git", b"a/b"])
def test_names_that_git_forbids_are_refused_in_a_local_repository_too(tmp_path: Path, name: bytes) -> None:
    repository = Repository(tmp_path / "roots" / "app.git")
    commit = repository.commit_tree(repository.tree(("100644", repository.blob(b"x"), name)))
    with pytest.raises(GitError) as caught:
        fetch_commit(local(repository.path, commit, tmp_path / "roots"), tmp_path / "checkout")
    assert caught.value.code == "git-tree-refused"
    assert list(tmp_path.iterdir()) == [tmp_path / "roots"]


def test_a_missing_object_refuses_the_tree(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "roots" / "app.git")
    commit = repository.commit({"kept": b"1", "lost": b"2"})
    lost = repository.git("rev-parse", f"{commit}:lost")
    (repository.path / "objects" / lost[:2] / lost[2:]).unlink()
    with pytest.raises(GitError) as caught:
        fetch_commit(local(repository.path, commit, tmp_path / "roots"), tmp_path / "checkout")
    assert caught.value.code == "git-tree-refused"
    assert "lost" in caught.value.message
    assert not (tmp_path / "checkout").exists()


def test_an_object_that_is_not_what_its_entry_says_is_refused(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "roots" / "app.git")
    blob = repository.blob(b"x")
    tree = repository.tree(("100644", blob, b"file"))
    for entry in [("100644", tree, b"a"), ("40000", blob, b"a"), ("120000", tree, b"a")]:
        commit = repository.commit_tree(repository.tree(entry))
        with pytest.raises(GitError) as caught:
            fetch_commit(local(repository.path, commit, tmp_path / "roots"), tmp_path / "checkout")
        assert caught.value.code == "git-tree-refused"
