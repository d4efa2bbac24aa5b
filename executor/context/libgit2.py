"""Loading libgit2, and the settings it has once for the whole process."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator

from executor.errors import HostError


def prepare_library(idle_seconds: float) -> None:
    """Settings of libgit2, which are the process's: no configuration but the repository's own, and time limits.

    The gateway is the first to time out; libgit2's limits stand behind it.
    """
    with _loadable_library():
        import pygit2
        from pygit2.enums import ConfigLevel

    try:
        for level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
            pygit2.settings.search_path[level] = ""
        # a repository below a local root belongs to another user, and in a user namespace to nobody
        pygit2.settings.owner_validation = False
        pygit2.settings.server_connect_timeout = 10_000
        pygit2.settings.server_timeout = int((idle_seconds + 5) * 1000)
    except (pygit2.GitError, ValueError) as error:
        raise HostError(f"libgit2 does not take its settings: {error}", code="git-library-unusable") from error


@contextlib.contextmanager
def _loadable_library() -> Iterator[None]:
    """Where there is no certificate at all, importing pygit2 fails: it gives OpenSSL two empty locations.

    libgit2 never speaks TLS here (the gateway does), so any existing directory will do for the moment of the import.
    """
    paths = ssl.get_default_verify_paths()
    missing = not paths.cafile and not paths.capath
    before = os.environ.get(paths.openssl_capath_env)
    if missing:
        os.environ[paths.openssl_capath_env] = "/"
    try:
        yield
    except Exception as error:
        raise HostError(f"pygit2 cannot be loaded: {error}", code="git-library-unusable") from error
    finally:
        if missing and before is None:
            del os.environ[paths.openssl_capath_env]
        elif missing and before is not None:
            os.environ[paths.openssl_capath_env] = before
