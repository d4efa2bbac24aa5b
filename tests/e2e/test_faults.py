"""What a machine can do to a build: a worker that stands still, a registry that is away, a disk that is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.test_push_to_tag import HELLO, Service, processes_with, service
from tests.support.docker_registry import docker_registry
from tests.support.up_process import until


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        pid = _parent(pid)


@contextmanager
def _second_worker(running: Service, directory: Path) -> Iterator[int]:
    """Another worker of the same installation, as `pushwright worker` on the same machine is."""
    first = running.up.child("tasks.worker")
    pairs = Path(f"/proc/{first}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    environment = dict(pair.decode().split("=", 1) for pair in pairs)
    log = directory / "second.log"
    command = [sys.executable, "-P", "-m", "tasks.worker"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, cwd=directory, stdout=stream, stderr=stream)
    try:
        until(lambda: b"ready" in log.read_bytes(), "the second worker")
        yield process.pid
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)


def test_a_stopped_worker_s_build_is_taken_up_and_succeeds_once(tmp_path: Path) -> None:
    with service(tmp_path) as running, _second_worker(running, tmp_path) as second:
        workers = {running.up.child("tasks.worker"), second}
        marker = f"marker{uuid.uuid4().hex}"
        command = f"for i in $(seq 6); do sleep 1; done; echo {marker}-over"
        name, commit, build = running.pushed(f"FROM busybox:stable\nRUN {command}\n")
        until(lambda: bool(processes_with(marker)), "the RUN step")
        first = set(processes_with(marker))
        (stopped,) = {pid for item in first for pid in _ancestors(item)} & workers
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: not first & set(processes_with(marker)), "the end of the first run, its worker still stopped")
        ended = running.await_end(build)
        assert (ended["state"], ended["attempt"]) == ("succeeded", 2)
        os.kill(stopped, signal.SIGCONT)
        # the worker that slept takes part again, and what it had begun stays as the other left it
        again = running.await_end(running.pushed(HELLO, word="after")[2])
        assert again["state"] == "succeeded"
        later = running.up.json("show", build)
        assert (later["state"], later["attempt"], later["results"]) == ("succeeded", 2, ended["results"])
        assert [result["tags"] for result in later["results"]] == [[commit]]
        assert running.up.json("tags", name, commit)["tags"] == [commit]
        assert not processes_with(marker)
        assert list((running.up.data / "store" / "work").iterdir()) == []


def test_a_registry_that_is_away_fails_the_build_with_that_reason_and_no_tag(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry") as registry:
        port = int(registry.host.rpartition(":")[2])
    with service(tmp_path, "--registry", f"{registry.host}/team", PUSHWRIGHT_RETRY_SECONDS="0.2,0.2") as running:
        name, commit, build = running.pushed(HELLO, word="x")
        ended = running.await_end(build)
        assert (ended["state"], ended["attempt"]) == ("failed", 3)
        assert ended["error"]["code"] == "registry-unavailable"
        assert registry.host in ended["error"]["message"]
        answer = running.up.command("tags", name, commit)
        assert (answer.returncode, registry.host in answer.stdout) == (1, True)
        with docker_registry(tmp_path / "registry", port=port) as back:
            assert not list(back.root.rglob("_manifests/tags/*"))
            again = running.up.command("rebuild", build)
            rebuilt = running.await_end(again.stdout.strip())
            assert (rebuilt["state"], rebuilt["results"][0]["tags"]) == ("succeeded", [commit])


def test_a_registry_that_comes_back_is_pushed_to(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry") as registry:
        port = int(registry.host.rpartition(":")[2])
    with service(tmp_path, "--registry", f"{registry.host}/team", PUSHWRIGHT_RETRY_SECONDS="0.5,20") as running:
        _, commit, build = running.pushed(HELLO, word="x")
        until(lambda: running.up.json("show", build)["attempt"] == 2, "the second attempt")
        with docker_registry(tmp_path / "registry", port=port) as back:
            ended = running.await_end(build)
            assert ended["state"] == "succeeded", ended["error"]
            assert [path.name for path in back.root.rglob("_manifests/tags/*")] == [commit]


@contextmanager
def _small_disk(size_mib: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", directory]
        subprocess.run(command, check=True)
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", directory], check=True)


@pytest.mark.root
@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM busybox:stable\nRUN dd if=/dev/zero of=/big bs=1M count=200\n",
        "FROM busybox:stable\nCOPY big /big\nRUN cat /big /big /big /big > /bigger\n",
    ],
)
def test_a_full_disk_is_told_and_everything_works_again(tmp_path: Path, dockerfile: str) -> None:
    with _small_disk(48) as disk, service(disk, PUSHWRIGHT_RETRY_SECONDS="0.2,0.2") as running:
        *_, build = running.pushed(dockerfile, big="x" * 12_000_000)
        ended = running.await_end(build)
        assert ended["state"] == "failed"
        assert ended["error"]["code"] == "disk-full", ended["error"]
        assert ended["error"]["fixable_by"] == "host"
        assert "space" in ended["error"]["message"] + ended["error"]["hint"]
        assert running.await_end(running.pushed(HELLO, word="x")[2])["state"] == "succeeded"
