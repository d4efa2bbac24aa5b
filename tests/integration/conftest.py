"""Fixtures of the integration tests: one registry with a base image for a whole module."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.docker_registry import docker_registry
from tests.support.executor_run import Ended, push_base_image, run_executor, write_context


@dataclass(frozen=True, slots=True)
class Bench:
    """A data directory, a registry that has `busybox:stable`, and a place for contexts."""

    data: Path
    host: str
    contexts: Path

    def build(self, dockerfile: str, *arguments: str | Path, files: dict[str, str | bytes] | None = None) -> Ended:
        """Build a context made of this Dockerfile; `FROM busybox:stable` comes from the registry."""
        # a name of its own: tests build side by side
        context = write_context(self.contexts / f"context-{uuid.uuid4().hex[:8]}", dockerfile, files)
        return self.build_in(context, *arguments)

    def build_in(self, context: Path, *arguments: str | Path) -> Ended:
        return run_executor(
            "-c", context, "--data-dir", self.data, "--registry-map", f"docker.io={self.host}", *arguments
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("bench")
    with docker_registry(root / "registry") as registry:
        (root / "contexts").mkdir()
        push_base_image(root / "base", registry.host, root / "data")
        yield Bench(root / "data", registry.host, root / "contexts")
