"""Running a test as user 0: directly when we are, else in a user namespace of its own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import ParamSpec

import pytest

P = ParamSpec("P")
_UNSHARE = ("unshare", "--user", "--map-root-user", "--map-auto")


def as_root(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test with the capabilities over files that the builder has.

    A test process of another user starts itself again inside a user namespace with the subordinate ids of that user;
    where the host has none of either the test says what is missing.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if os.geteuid() == 0:
            test(*args, **kwargs)
            return
        probe = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
        if probe.returncode != 0:
            pytest.skip(f"needs root, or a user namespace with subordinate ids: {probe.stderr.strip()}")
        node = os.environ["PYTEST_CURRENT_TEST"].rsplit(" ", 1)[0]
        command = [*_UNSHARE, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", node]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run
