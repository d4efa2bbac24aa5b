"""Where a source of ADD comes from: the context, a URL, a git repository (BuildKit `convert_copy.go`)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from executor.dockerfile.gitsource import GitOptions, git_options
from executor.errors import DockerfileError, Location

UNNAMED = "__unnamed__"
URL_MODE = 0o600

_SCHEME = re.compile(r"([a-zA-Z0-9]+)://")
_SCP_STYLE = re.compile(r"([a-zA-Z0-9_-]+)@([a-zA-Z0-9.-]+):([^?#]*)(?:\?([^#]*))?(?:#(.*))?")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
# a backslash ends the host for some readers of URLs and not for others
_NOT_IN_AUTHORITY = re.compile(r"[\s<>\"\\^`{|}]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha384):([0-9a-f]{96})|(sha512):([0-9a-f]{128})")
_COMMIT_PREFIX = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the bytes of a URL must hash to; `algorithm` is a name that hashlib knows."""

    algorithm: str
    hex: str


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A path of the build context; it may have wildcards."""

    path: str


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A file to be fetched; `name` is what it is called in a directory. The URL may hold a password."""

    url: str = field(repr=False)
    name: str
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository to be checked out.

    `remote` is without query and fragment, and may hold a password. `ref` is a branch, tag, full ref or commit, None
    for the default branch. `subdir` is clean and relative, empty for the whole tree. `commit` is what the name of the
    commit must begin with, if anything. `keep_git_dir` is None when neither URL nor flag sets it: then `.git` goes.
    """

    remote: str = field(repr=False)
    scheme: str
    ref: str | None = None
    subdir: str = ""
    commit: str = ""
    keep_git_dir: bool | None = None
    submodules: bool = True


Source = LocalSource | UrlSource | GitSource


def classify(text: str, location: Location) -> Source:
    """What an expanded source of ADD names; `DockerfileError` for a URL that cannot be one."""
    if text.startswith(("./", "../")):
        return LocalSource(text)
    scheme = _SCHEME.match(text)
    if scheme is not None:
        return _from_url(text, scheme[1].lower(), location)
    match = _SCP_STYLE.fullmatch(text)
    if match is None:
        return LocalSource(text)
    _require_printable(text, location)
    options = git_options(match[5] or "", match[4] or "", location)
    return _git(f"{match[1]}@{match[2]}:{match[3]}", "ssh", options)


def add_sources(
    sources: Sequence[str], location: Location, *, checksum: str = "", keep_git_dir: bool = False
) -> tuple[Source, ...]:
    """The expanded sources of an ADD, with what its flags say about them; here-documents are not among them."""
    found = [classify(text, location) for text in sources]
    if checksum:
        if len(found) != 1:
            raise DockerfileError(
                f"ADD --checksum: expected one source, found {len(found)}",
                location=location,
                hint="write an ADD for each source that has a checksum",
            )
        found = [_with_checksum(found[0], checksum, location)]
    if keep_git_dir:
        found = [_keeping_git_dir(source, location) for source in found]
    return tuple(found)


def require_local(sources: Sequence[str], location: Location) -> None:
    """`DockerfileError` when a source of a COPY is a URL or a git repository."""
    for text in sources:
        source = classify(text, location)
        if not isinstance(source, LocalSource):
            what = "a URL" if isinstance(source, UrlSource) else "a git repository"
            raise DockerfileError(
                f"COPY: expected a path, found {what}: {shown(text)!r}",
                location=location,
                hint="use ADD for what is not in the build context",
            )


def shown(text: str) -> str:
    """A source as people may see it: without a password, and without the query, which may hold a token."""
    return re.sub(r"^([a-zA-Z0-9]+://)[^/?#]*@", r"\1", text.partition("?")[0])[:120]


def _from_url(text: str, scheme: str, location: Location) -> Source:
    if scheme not in {"http", "https", "ssh", "git"}:
        return LocalSource(text)
    _require_printable(text, location)
    try:
        parts = urlsplit(text)
        # only asking for the port checks it
        usable = bool(parts.hostname) and parts.port != 0 and not _NOT_IN_AUTHORITY.search(parts.netloc)
    except ValueError as error:
        raise _bad_url(text, location) from error
    if not usable or _BAD_PERCENT.search(parts.path + parts.fragment):
        raise _bad_url(text, location)
    path = unquote_to_bytes(parts.path.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    if scheme in {"http", "https"} and not path.endswith(".git"):
        return UrlSource(text, _file_name(path, text, location))
    options = git_options(
        unquote_to_bytes(parts.fragment.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape"),
        parts.query,
        location,
    )
    return _git(_without_options(parts), scheme, options)


def _without_options(parts: SplitResult) -> str:
    return parts._replace(query="", fragment="").geturl()


def _git(remote: str, scheme: str, options: GitOptions) -> GitSource:
    return GitSource(
        remote=remote,
        scheme=scheme,
        ref=options.ref or None,
        subdir=options.subdir,
        commit=options.commit,
        keep_git_dir=options.keep_git_dir,
        submodules=options.submodules,
    )


def _file_name(path: str, text: str, location: Location) -> str:
    """The last element of a URL's path, in which a percent sign may have hidden anything."""
    if "\0" in path:
        raise _bad_url(text, location)
    name = posixpath.basename(path.rstrip("/"))
    return UNNAMED if name in {"", ".", ".."} else name


def _with_checksum(source: Source, text: str, location: Location) -> Source:
    if isinstance(source, UrlSource):
        match = _DIGEST.fullmatch(text)
        if match is None:
            raise _bad_checksum("sha256:, sha384: or sha512: and its lower-case hexadecimal digits", text, location)
        algorithm, value = (group for group in match.groups() if group is not None)
        return replace(source, checksum=Checksum(algorithm, value))
    if isinstance(source, GitSource):
        commit = parse_commit(text, location)
        if source.commit not in {"", commit}:
            raise DockerfileError(
                f"ADD --checksum={commit} contradicts the checksum {source.commit} in the URL",
                location=location,
                hint="keep one of them",
            )
        return replace(source, commit=commit)
    raise DockerfileError(
        f"ADD --checksum: expected a URL or a git repository as the source, found {source.path[:60]!r}",
        location=location,
        hint="a file of the build context needs no checksum: remove the flag",
    )


def parse_commit(text: str, location: Location) -> str:
    """The beginning of a commit's name, as a checksum has it."""
    if not _COMMIT_PREFIX.fullmatch(text):
        raise _bad_checksum("the lower-case hexadecimal digits that the commit begins with", text, location)
    return text


def _keeping_git_dir(source: Source, location: Location) -> Source:
    if not isinstance(source, GitSource):
        return source
    if source.keep_git_dir is False:
        raise DockerfileError(
            "ADD --keep-git-dir contradicts keep-git-dir=false in the URL", location=location, hint="keep one of them"
        )
    return replace(source, keep_git_dir=True)


def _require_printable(text: str, location: Location) -> None:
    if _UNPRINTABLE.search(text):
        raise _bad_url(text, location)


def _bad_url(text: str, location: Location) -> DockerfileError:
    return DockerfileError(
        f"expected a URL with a host, found {shown(text)!r}",
        location=location,
        hint="check it for a missing host, a bad port, bad percent signs and control characters",
    )


def _bad_checksum(expected: str, text: str, location: Location) -> DockerfileError:
    return DockerfileError(
        f"ADD --checksum: expected {expected}, found {text[:60]!r}",
        location=location,
        hint="a URL takes a digest such as sha256:…, a git repository a commit",
    )
