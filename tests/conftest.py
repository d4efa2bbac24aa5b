"""What holds for the whole suite.

Tests that need root are taken out, and counted aloud, when there is none; and no property has a deadline.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# a busy machine is no fault of the code under test
settings.register_profile("without-deadline", deadline=None)
settings.load_profile("without-deadline")

WITHOUT_ROOT = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked `root` for an ordinary user; the summary says how many and how to run them."""
    if os.geteuid() == 0:
        return
    left_out = [item for item in items if item.get_closest_marker("root")]
    if left_out:
        config.stash[WITHOUT_ROOT] = [item.nodeid for item in left_out]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("root")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(WITHOUT_ROOT, [])
    if left_out:
        terminalreporter.section("not run: they need root", yellow=True)
        for nodeid in left_out:
            terminalreporter.line(nodeid)
        terminalreporter.line(f"{len(left_out)} tests were not run; as root, `make test` runs them too")
