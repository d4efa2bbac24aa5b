"""Fetches exactly one commit with libgit2 and writes its files; nothing of git stays in the context."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from executor.context.gateway import Bounds, Failure, Gateway, Origin
from executor.context.hosts import CloneUrl, Lookup, check_clone_url, parse_clone_url, resolve_host
from executor.context.libgit2 import prepare_library
from executor.context.local import open_local_repository
from executor.context.printable import printable
from executor.context.revision import check_commit, check_ref
from executor.context.tree import OnProgress, OnWarning, TreeLimits, TreeWriter
from executor.errors import DiskFullError, GitError, HostError
from executor.spec import GitContext

if TYPE_CHECKING:
    import pygit2

# where distributions keep the bundle, for a Python whose OpenSSL was built for another one
CA_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
    Path("/etc/ssl/cert.pem"),
)
# history asked for when the ref has moved on since the push, before all of it is
_DEPTHS = (1, 64, 0)
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z: what RFC 3339 can still write
_PROGRESS_SECONDS = 0.25
_FETCHED = "refs/pushwright"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds on a fetch and on what it unpacks to; how long a server may be silent is the context's own value."""

    transfer_bytes: int = 20 * 1024**3
    total_seconds: float = 3600.0
    tree: TreeLimits = field(default_factory=TreeLimits)


@dataclass(frozen=True, slots=True)
class Checkout:
    """The files of a commit: below `path`, every time of change set to `commit_time` (seconds since the epoch).

    `commit` is the commit itself where an annotated tag was asked for.
    """

    path: Path
    commit: str
    commit_time: int


@dataclass(frozen=True, slots=True)
class _Fetch:
    """What every part of one fetch needs to know."""

    context: GitContext
    url: CloneUrl
    limits: FetchLimits
    deadline: float
    on_progress: OnProgress

    def not_found(self) -> GitError:
        asked = f"and not reachable from {self.context.ref}" if self.context.ref else "under any branch or tag"
        return GitError(
            f"commit {self.context.commit} was not found at {self.url.place}, {asked}",
            code="git-commit-not-found",
            hint="it may have been removed by a forced push; push again, or build the branch's present commit",
        )


def fetch_commit(
    context: GitContext,
    destination: Path,
    on_progress: OnProgress = lambda item, done_bytes, total_bytes: None,
    on_warning: OnWarning = lambda code, message: None,
    *,
    limits: FetchLimits = FetchLimits(),
    lookup: Lookup | None = None,
    ca_bundle: Path | None = None,
) -> Checkout:
    """Fetch the commit and write its files into `destination`, which must not exist or be empty.

    A server that gives single commits is asked for this one, whether or not the ref still leads to it; another is
    asked for the ref, and the commit must be reachable from it. `on_progress` is called with a short item name, bytes
    done and bytes in all (0: unknown), `on_warning` with a code and a message. `lookup` resolves names.
    """
    check_commit(context.commit)
    if context.ref:
        check_ref(context.ref)
    url = parse_clone_url(context.url)
    check_clone_url(url, allow_private=context.allow_private, has_credential=_has_credential(context))
    deadline = time.monotonic() + limits.total_seconds
    fetch = _Fetch(context, url, limits, deadline, _throttled(on_progress))
    prepare_library(context.timeout_seconds)
    with _work_directory(destination) as work:
        if url.scheme == "file":
            return _write(fetch, open_local_repository(url, context.local_root), destination, on_warning)
        origin = _origin(context, url, lookup, ca_bundle)
        return _write(fetch, _fetch_remote(fetch, origin, work), destination, on_warning)


def _fetch_remote(fetch: _Fetch, origin: Origin, work: Path) -> pygit2.Repository:
    """A repository in `work` that holds the commit; tried in the order of what costs least."""
    context = fetch.context
    repository = _attempt(fetch, origin, work / "commit", [f"+{context.commit}:{_FETCHED}/commit"], 1, needed=False)
    if repository is not None and _holds(repository, context.commit):
        return repository
    depths: tuple[int, ...]
    if context.ref:
        refspecs, depths = [f"+{context.ref}:{_FETCHED}/ref"], _DEPTHS
    else:
        refspecs = [f"+refs/{kind}/*:{_FETCHED}/{kind}/*" for kind in ("heads", "tags")]
        depths = _DEPTHS[-1:]
    for depth in depths:
        repository = _attempt(fetch, origin, work / f"depth-{depth}", refspecs, depth, needed=True)
        if repository is None or (repository.is_empty and not list(repository.references)):
            break
        if _is_reachable(repository, context.commit):
            return repository
        shutil.rmtree(repository.path, ignore_errors=True)
    raise fetch.not_found()


def _attempt(
    fetch: _Fetch, origin: Origin, path: Path, refspecs: list[str], depth: int, *, needed: bool
) -> pygit2.Repository | None:
    """One fetch into a new repository; None when the server does not give this, unless it is `needed`."""
    import pygit2

    bounds = Bounds(fetch.context.timeout_seconds, fetch.deadline, fetch.limits.transfer_bytes)
    with Gateway(origin, bounds) as gateway:
        try:
            repository = pygit2.init_repository(path, bare=True)
            # anonymous: nothing of it is written to the repository's configuration
            remote = repository.remotes.create_anonymous(gateway.url(fetch.url.path))
            remote.fetch(refspecs, callbacks=_callbacks(fetch), depth=depth)
        except (pygit2.GitError, ValueError, KeyError, OSError) as error:
            if gateway.failure is not None:
                raise _transfer_error(fetch, gateway.failure) from error
            if "timed out" in str(error):
                raise _transfer_error(fetch, Failure("timeout", "it was silent for too long")) from error
            if isinstance(error, OSError):
                raise _os_failure(error) from error
            # libgit2 has no code of its own for this, only strerror's words
            if any(os.strerror(number) in str(error) for number in _FULL):
                raise DiskFullError("no space left while fetching the commit") from error
            if needed:
                message = str(error).replace(gateway.url(""), origin.url)
                raise GitError(f"git server {fetch.url.place}: {printable(message, 300)}", code="git-failed") from error
            return None
    return repository


def _callbacks(fetch: _Fetch) -> pygit2.RemoteCallbacks:
    import pygit2

    class Callbacks(pygit2.RemoteCallbacks):
        def transfer_progress(self, stats: pygit2.remotes.TransferProgress) -> None:
            if time.monotonic() > fetch.deadline:
                raise _transfer_error(fetch, Failure("timeout", "the whole transfer took longer than it may"))
            fetch.on_progress("objects", stats.received_bytes, 0)

    return Callbacks()


def _write(fetch: _Fetch, repository: pygit2.Repository, destination: Path, on_warning: OnWarning) -> Checkout:
    """The commit's files in `destination`; an unfinished one is removed again."""
    commit = _find_commit(repository, fetch.context.commit)
    if commit is None:
        raise fetch.not_found()
    mtime = min(max(commit.commit_time, 0), _LAST_SECOND)
    writer = TreeWriter(
        repository,
        mtime=mtime,
        limits=fetch.limits.tree,
        deadline=fetch.deadline,
        on_progress=fetch.on_progress,
        on_warning=on_warning,
    )
    with _fresh_directory(destination) as root:
        writer.write(commit.tree_id, root)
    return Checkout(destination, str(commit.id), mtime)


def _find_commit(repository: pygit2.Repository, commit: str) -> pygit2.Commit | None:
    """The commit of this name, or the one an annotated tag of this name leads to."""
    import pygit2

    try:
        return repository[commit].peel(pygit2.Commit)
    except (pygit2.GitError, KeyError, ValueError):
        return None


def _holds(repository: pygit2.Repository, commit: str) -> bool:
    return _find_commit(repository, commit) is not None


def _is_reachable(repository: pygit2.Repository, commit: str) -> bool:
    """Whether a fetched ref leads to the commit: what else the server sent with it does not count."""
    import pygit2

    wanted = _find_commit(repository, commit)
    if wanted is None:
        return False
    for name in repository.references:
        tip = repository.references[name]
        with contextlib.suppress(pygit2.GitError, KeyError, ValueError):
            head = tip.peel(pygit2.Commit)
            if head.id == wanted.id or repository.descendant_of(head.id, wanted.id):
                return True
    return False


def _transfer_error(fetch: _Fetch, failure: Failure) -> GitError:
    where = f"git server {fetch.url.place}"
    if failure.kind == "redirect":
        hint = "register the URL the repository moved to"
        return GitError(f"{where}: {failure.message}; refused", code="git-url-refused", hint=hint)
    if failure.kind == "certificate":
        hint = "the server's certificate must be valid for its name and signed by an authority this machine trusts"
        return GitError(f"{where}: {failure.message}", code="git-certificate-refused", hint=hint)
    if failure.kind == "timeout":
        return GitError(f"{where}: {failure.message}", code="git-timeout", retryable=True)
    if failure.kind == "too-large":
        return GitError(f"{where}: {failure.message}", code="git-too-large")
    if failure.status in {401, 403}:
        given = "the credential was refused" if _has_credential(fetch.context) else "it wants a credential"
        hint = "set the project's git credential to one that may read the repository"
        return GitError(f"{where}: {given} ({failure.status})", code="git-auth-failed", hint=hint)
    if failure.status in {404, 410}:
        hint = "check the URL; a server may also answer this way to a credential that may not see the repository"
        return GitError(f"{where}: {failure.message}", code="git-repository-not-found", hint=hint)
    retryable = failure.status in {0, 408, 429} or failure.status >= 500
    return GitError(f"{where}: {failure.message}", code="git-unreachable", retryable=retryable)


def _origin(context: GitContext, url: CloneUrl, lookup: Lookup | None, ca_bundle: Path | None) -> Origin:
    addresses = resolve_host(url, allow_private=context.allow_private, lookup=lookup)
    authorization = ""
    if _has_credential(context):
        # RFC 7617: UTF-8, as every forge expects
        pair = f"{context.username}:{context.password}".encode()
        authorization = "Basic " + base64.b64encode(pair).decode("ascii")
    tls = _tls(ca_bundle) if url.scheme == "https" else None
    return Origin(url.scheme, url.host, url.port, addresses, authorization, tls)


def _tls(ca_bundle: Path | None) -> ssl.SSLContext:
    found = ca_bundle or next((path for path in CA_BUNDLES if path.exists()), None)
    try:
        return ssl.create_default_context(cafile=found)
    except (OSError, ssl.SSLError) as error:
        raise HostError(
            f"certificate authorities: {found} cannot be read: {error}", code="git-certificates-unreadable"
        ) from error


def _has_credential(context: GitContext) -> bool:
    return bool(context.username or context.password)


@contextlib.contextmanager
def _work_directory(destination: Path) -> Iterator[Path]:
    """A directory beside `destination` for the object database, removed at the end."""
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{destination.name}-git-", dir=destination.parent))
    except OSError as error:
        raise _os_failure(error) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _fresh_directory(path: Path) -> Iterator[int]:
    """A descriptor of the new directory `path`, which is removed again when the block fails."""
    try:
        path.mkdir(mode=0o755, exist_ok=True)
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _os_failure(error) from error
    try:
        if os.listdir(root):
            raise HostError(f"checkout: expected an empty directory, found files in {path}", code="git-checkout-failed")
        try:
            yield root
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
    finally:
        os.close(root)


def _os_failure(error: OSError) -> HostError:
    if error.errno in _FULL:
        return DiskFullError("no space left while fetching the commit")
    return HostError(f"checkout: {error.filename or 'a file'}: {error.strerror}", code="git-checkout-failed")


def _throttled(on_progress: OnProgress) -> OnProgress:
    """At most four calls a second for one item, the last one (`done_bytes` equal to `total_bytes`) always."""
    last: dict[str, float] = {}

    def report(item: str, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        if now - last.get(item, -1.0) >= _PROGRESS_SECONDS or (total_bytes and done_bytes == total_bytes):
            last[item] = now
            on_progress(item, done_bytes, total_bytes)

    return report
