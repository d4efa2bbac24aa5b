"""The real Docker engine loads, pulls and runs what was built."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_push_to_tag import HELLO, service
from tests.support.docker_engine import DockerEngine, docker_engine
from tests.support.docker_registry import docker_registry
from tests.support.executor_run import BASE_DOCKERFILE, BUSYBOX, run_executor, write_context

pytestmark = [pytest.mark.docker, pytest.mark.root]

# an engine without a bridge has no network to give
RUN_OPTIONS = ("run", "--rm", "--network", "none")


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as running:
        yield running


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dockerfile = BASE_DOCKERFILE + (
        "RUN mkdir /d && echo 1 > /d/gone && echo setuid > /d/file && chown 3:4 /d/file && chmod 4750 /d/file\n"
        "RUN rm /d/gone && ln /d/file /d/linked\n"
        "ENV GREETING=hello\nUSER app\nWORKDIR /home/app\n"
        'ENTRYPOINT ["/bin/sh", "-c"]\nCMD ["echo $GREETING from $(id -un) in $(pwd)"]\n'
    )
    directory = write_context(tmp_path_factory.mktemp("context"), dockerfile)
    shutil.copy(BUSYBOX, directory / "busybox")
    return directory


@pytest.mark.parametrize("image_format", ["oci", "docker"])
def test_docker_loads_and_runs_the_archive(
    engine: DockerEngine, context: Path, tmp_path: Path, image_format: str
) -> None:
    name = f"built:{image_format}"
    archive = tmp_path / "image.tar"
    arguments = ("--no-push", "-d", name, "--tar-path", archive, "--image-format", image_format)
    done = run_executor("-c", context, "--data-dir", tmp_path / "data", *arguments)
    assert done.status == 0, done.events[-1]
    assert f"Loaded image: {name}" in engine.run_command("load", "--input", str(archive)).stdout
    assert engine.run_command(*RUN_OPTIONS, name).stdout == "hello from app in /home/app\n"
    listing = engine.run_command(*RUN_OPTIONS, name, "ls -lan /d; stat -c '%a %h %u:%g' /d/file /d/linked").stdout
    assert "4750 2 3:4\n4750 2 3:4\n" in listing
    assert "gone" not in listing


def test_docker_pulls_and_runs_what_was_pushed(engine: DockerEngine, context: Path, tmp_path: Path) -> None:
    # Docker trusts plain HTTP on loopback, as we do
    with docker_registry(tmp_path / "registry", hostname="127.0.0.1") as registry:
        name = f"{registry.host}/team/app:1"
        done = run_executor("-c", context, "--data-dir", tmp_path / "data", "-d", name)
        assert done.status == 0, done.events[-1]
        engine.run_command("pull", name)
        assert engine.run_command(*RUN_OPTIONS, name).stdout == "hello from app in /home/app\n"
        assert (
            engine.run_command("image", "inspect", "--format", "{{.Id}}", name).stdout.strip()
            == (done.result["config_digest"])
        )


def test_docker_logs_in_to_the_embedded_registry_and_pulls(engine: DockerEngine, tmp_path: Path) -> None:
    with service(tmp_path) as running:
        name, commit, build = running.pushed(HELLO, word="pulled by docker")
        assert running.await_end(build)["state"] == "succeeded"
        reference = f"{running.host}/{name}:{commit}"
        refused = engine.run_command("pull", reference, check=False)
        assert refused.returncode != 0
        login = ("login", "--username", "pushwright", "--password-stdin", running.host)
        engine.run_command(*login, input_bytes=running.up.server["token"].encode())
        engine.run_command("pull", reference)
        assert engine.run_command(*RUN_OPTIONS, reference).stdout == "PULLED BY DOCKER"
        engine.run_command("logout", running.host)
