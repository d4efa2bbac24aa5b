"""The whole path through `pushwright up`: a signed push, a real build, an image tagged with the commit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples import oci_pull
from tests.support.docker_registry import HTPASSWD, PASSWORD, USERNAME, docker_registry, free_port
from tests.support.git_server import Repository, git_server
from tests.support.pushes import Hook
from tests.support.up_process import COMMAND, GUARD_SECONDS, Up, clean_environment, run_command, running_up, until

BUSYBOX = shutil.which("busybox") or "/bin/busybox"
BASE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin && mkdir -m 1777 /tmp"]
ENV PATH=/bin
"""
HELLO = """\
FROM busybox:stable AS build
COPY word /word
RUN tr a-z A-Z < /word > /loud
FROM busybox:stable
COPY --from=build /loud /loud
RUN cat /loud
CMD ["cat", "/loud"]
"""
# a lease that lets a killed worker's build be retaken within seconds
QUICK = {
    "PUSHWRIGHT_LEASE_SECONDS": "9",
    "PUSHWRIGHT_HEARTBEAT_SECONDS": "1",
    "PUSHWRIGHT_SWEEP_SECONDS": "1",
    "PUSHWRIGHT_ANNOUNCE_SECONDS": "2",
    "PUSHWRIGHT_RETRY_SECONDS": "0.5",
}


@dataclass(frozen=True)
class Service:
    """A running `up` whose registry has `busybox:stable`, and a place for repositories."""

    up: Up
    root: Path
    host: str

    def repository(self, name: str = "") -> Repository:
        return Repository(self.root / (name or uuid.uuid4().hex))

    def register(self, url: str, *words: str, name: str = "") -> tuple[str, Hook]:
        """A project of a URL that may start from our own registry."""
        name = name or f"p{uuid.uuid4().hex[:12]}"
        token = self.root / "token"
        token.write_text(self.up.server["token"])
        credential = ("--registry-credential", f"{self.host}=pushwright:@{token}")
        project = self.up.json("project", "add", name, "--url", url, *credential, *words)
        return name, Hook(project["hook_url"], project["secret"])

    def commit(self, dockerfile: str, **files: str) -> tuple[str, Hook, str]:
        """A project with one commit: its name, its hook, the commit."""
        repository = self.repository()
        content = {"Dockerfile": dockerfile, **files}
        commit = repository.commit({path: text.encode() for path, text in content.items()})
        return *self.register(f"file://{repository.path}"), commit

    def pushed(self, dockerfile: str, **files: str) -> tuple[str, str, str]:
        """A project whose one commit was pushed: its name, the commit, the build's id."""
        name, hook, commit = self.commit(dockerfile, **files)
        status, answer = hook.push(commit)
        assert status == 202, answer
        return name, commit, answer["builds"][0]["id"]

    def await_end(self, build: str) -> dict[str, Any]:
        """The build once it is over."""
        done = self.up.command("logs", "-f", build)
        value: dict[str, Any] = self.up.json("show", build)
        assert done.returncode == (0 if value["state"] == "succeeded" else 1), done.stdout + done.stderr
        return value

    def pull(self, repository: str, tag: str, directory: Path) -> dict[str, Any]:
        """Pull by a client of our own, unpack into `rootfs`, give the image's `config`."""
        oci_pull.pull(self.host, repository, tag, self.up.server["token"], directory / "layout")
        return oci_pull.unpack(directory / "layout", directory / "rootfs")


@contextmanager
def service(directory: Path, *arguments: str, **settings: str) -> Iterator[Service]:
    data, root = directory / "data", directory / "repositories"
    root.mkdir()
    (directory / "base").mkdir()
    (directory / "base" / "Dockerfile").write_text(BASE)
    shutil.copy(BUSYBOX, directory / "base" / "busybox")
    base = ("build", "--context", str(directory / "base"), "--no-push", "--keep-as", "library/busybox:stable")
    done = run_command(data, *base)
    assert done.returncode == 0, done.stderr
    host = f"127.0.0.1:{free_port()}"
    environment = clean_environment(data, PUSHWRIGHT_REGISTRY_MAPS=f"docker.io={host}", **{**QUICK, **settings})
    with running_up(data, ("--listen", host, "--git-local-root", str(root), *arguments), environment) as up:
        yield Service(up, root, host)
        assert up.stop() == 0
    logs = "".join(log.read_text() for log in (data / "logs").iterdir())
    assert "Traceback" not in logs


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("e2e")) as found:
        yield found


def processes_with(text: str) -> list[int]:
    """Processes that have a text among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


class TestPush:
    def test_it_becomes_an_image_tagged_with_the_commit(self, running: Service, tmp_path: Path) -> None:
        word = uuid.uuid4().hex
        name, commit, build = running.pushed(HELLO, word=word)
        log = running.up.command("logs", "-f", build)
        assert log.returncode == 0
        assert f"| {word.upper()}" in log.stdout
        answer = running.up.json("tags", name, commit[:10])
        assert (answer["commit"], answer["state"], answer["tags"]) == (commit, "succeeded", [commit])
        config = running.pull(name, commit, tmp_path)
        assert oci_pull.manifest_digest(tmp_path / "layout") == answer["digest"]
        assert (tmp_path / "rootfs" / "loud").read_text() == word.upper()
        assert not (tmp_path / "rootfs" / "word").exists()
        assert config["Cmd"] == ["cat", "/loud"]
        assert config["Labels"]["org.opencontainers.image.revision"] == commit
        printed = running.up.command("tags", name, commit, "--format", "tags")
        assert (printed.returncode, printed.stdout) == (0, f"{running.host}/{name}:{commit}\n")

    def test_a_forged_signature_stores_nothing(self, running: Service) -> None:
        name, hook, commit = running.commit(HELLO, word="x")
        status, answer = hook.push(commit, secret="not the secret")
        assert (status, answer["code"]) == (401, "signature-invalid")
        assert running.up.json("builds", "--project", name)["builds"] == []
        assert running.up.command("tags", name, commit).returncode == 6

    def test_the_same_push_again_is_no_second_build(self, running: Service) -> None:
        name, hook, commit = running.commit(HELLO, word="x")
        first = hook.push(commit, delivery="d-1")[1]
        again, other = hook.push(commit, delivery="d-1")[1], hook.push(commit, delivery="d-2")[1]
        assert again["duplicate"] is True
        assert other["builds"][0]["created"] is False
        running.await_end(first["builds"][0]["id"])
        assert len(running.up.json("builds", "--project", name)["builds"]) == 1

    def test_another_branch_is_not_built(self, running: Service) -> None:
        name, hook, commit = running.commit(HELLO, word="x")
        status, answer = hook.push(commit, ref="refs/heads/other")
        assert (status, answer["ignored"]) == (200, "branch-not-built")
        assert running.up.json("builds", "--project", name)["builds"] == []

    def test_a_rebuild_has_a_tag_of_its_own(self, running: Service) -> None:
        name, commit, build = running.pushed(HELLO, word="x")
        running.await_end(build)
        again = running.up.command("rebuild", build)
        assert again.returncode == 0, again.stderr
        second = running.await_end(again.stdout.strip())
        (tag,) = second["results"][0]["tags"]
        assert tag.startswith(f"{commit}-r")
        lines = running.up.command("tags", name, commit, "--format", "tags").stdout.splitlines()
        assert sorted(lines) == [f"{running.host}/{name}:{commit}", f"{running.host}/{name}:{tag}"]

    def test_waiting_for_a_push_that_has_not_come_yet(self, running: Service) -> None:
        name, hook, commit = running.commit(HELLO, word="x")
        command = [*COMMAND, "tags", name, commit, "--wait", "--format", "digest"]
        environment = clean_environment(running.up.data)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as waiting:
            assert hook.push(commit)[0] == 202
            output, _ = waiting.communicate(timeout=GUARD_SECONDS)
        assert waiting.returncode == 0
        assert output.strip() == running.up.json("tags", name, commit)["digest"]

    def test_the_registry_cannot_be_written_to(self, running: Service) -> None:
        login = oci_pull.basic_login("anybody", running.up.server["token"])
        request = urllib.request.Request(
            f"{running.up.url}/v2/library/busybox/manifests/stable",
            data=b"{}",
            method="PUT",
            headers={"Authorization": f"Basic {login}"},
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)
        with caught.value as answer:
            assert (answer.code, json.loads(answer.read())["errors"][0]["code"]) == (405, "UNSUPPORTED")


class TestBadInput:
    def test_a_broken_dockerfile_names_file_and_line(self, running: Service) -> None:
        name, commit, build = running.pushed("FROM busybox:stable\n\nCOPPY a b\n")
        ended = running.await_end(build)
        assert ended["state"] == "failed"
        assert (ended["error"]["file"], ended["error"]["line"]) == ("Dockerfile", 3)
        assert "COPPY" in ended["error"]["message"]
        tags = running.up.command("tags", name, commit)
        assert (tags.returncode, "Dockerfile:3" in tags.stdout) == (1, True)

    def test_a_failing_run_gives_its_status_and_last_lines(self, running: Service) -> None:
        *_, build = running.pushed("FROM busybox:stable\nRUN echo the reason >&2; exit 7\n")
        error = running.await_end(build)["error"]
        assert (error["code"], error["status"], error["file"], error["line"]) == ("run-failed", 7, "Dockerfile", 2)
        assert error["tail"][-1] == "the reason"

    def test_a_commit_that_does_not_exist(self, running: Service) -> None:
        name, hook, _ = running.commit(HELLO, word="x")
        build = hook.push("1" * 40)[1]["builds"][0]["id"]
        ended = running.await_end(build)
        assert (ended["state"], ended["error"]["code"].startswith("git-")) == ("failed", True)
        assert running.up.command("tags", name, "1" * 40).returncode == 1

    def test_an_image_that_does_not_exist(self, running: Service) -> None:
        # named with its host: through docker.io's map, a registry of the open network would be asked next
        *_, build = running.pushed(f"FROM {running.host}/nothing-of-that-name:1\nRUN true\n")
        ended = running.await_end(build)
        assert ended["state"] == "failed"
        assert "nothing-of-that-name" in ended["error"]["message"]


class TestLife:
    def start_long_build(self, running: Service, marker: str, seconds: int) -> tuple[str, str, str]:
        """A pushed commit whose RUN step runs now."""
        command = f"for i in $(seq {seconds}); do sleep 1; done; echo {marker}-over"
        found = running.pushed(f"FROM busybox:stable\nRUN {command}\n")
        until(lambda: bool(processes_with(marker)), "the RUN step")
        return found

    def test_a_cancelled_build_stops_and_leaves_nothing(self, running: Service) -> None:
        marker = f"marker{uuid.uuid4().hex}"
        name, commit, build = self.start_long_build(running, marker, 600)
        assert running.up.command("tags", name, commit).returncode == 5
        assert running.up.command("cancel", build).returncode == 0
        assert running.await_end(build)["state"] == "cancelled"
        until(lambda: not processes_with(marker), "the end of the RUN step")
        assert running.up.command("tags", name, commit).returncode == 1
        assert running.up.command("cancel", build).returncode == 2

    def test_a_build_of_a_worker_that_is_killed_is_taken_up_and_succeeds_once(
        self, running: Service, tmp_path: Path
    ) -> None:
        marker = f"marker{uuid.uuid4().hex}"
        name, commit, build = self.start_long_build(running, marker, 4)
        first = processes_with(marker)
        os.kill(running.up.child("tasks.worker"), signal.SIGKILL)
        until(lambda: not set(first) & set(processes_with(marker)), "the end of the first run")
        ended = running.await_end(build)
        assert (ended["state"], ended["attempt"]) == ("succeeded", 2)
        assert [result["tags"] for result in ended["results"]] == [[commit]]
        assert not processes_with(marker)
        running.pull(name, commit, tmp_path)

    def test_a_build_goes_on_while_redis_is_away(self, running: Service) -> None:
        marker = f"marker{uuid.uuid4().hex}"
        *_, build = self.start_long_build(running, marker, 6)
        os.kill(running.up.child("redis-server"), signal.SIGKILL)
        ended = running.await_end(build)
        assert (ended["state"], ended["attempt"]) == ("succeeded", 1)


def test_private_repositories_over_http_and_a_registry_of_yours(tmp_path: Path) -> None:
    with (
        docker_registry(tmp_path / "registry", htpasswd=HTPASSWD) as registry,
        git_server(tmp_path / "served") as git,
        service(
            tmp_path,
            "--registry",
            f"{registry.host}/team",
            PUSHWRIGHT_ALLOW_PRIVATE_GIT_HOSTS="yes",
            PUSHWRIGHT_INSECURE_REGISTRIES=registry.host,
        ) as running,
    ):
        git.basic_auth = "bot:git password"
        commit = Repository(git.root / "demo.git").commit({"Dockerfile": HELLO.encode(), "word": b"pushed"})
        (tmp_path / "git").write_text(git.basic_auth + "\n")
        (tmp_path / "login").write_text(f"{USERNAME}:{PASSWORD}\n")
        name, hook = running.register(
            git.url("demo.git"),
            *("--git-credential", f"@{tmp_path}/git"),
            *("--registry-credential", f"{registry.host}=@{tmp_path}/login"),
        )
        build = hook.push(commit)[1]["builds"][0]["id"]
        ended = running.await_end(build)
        assert ended["state"] == "succeeded", ended["error"]
        reference = running.up.command("tags", name, commit, "--format", "tags").stdout.strip()
        assert reference == f"{registry.host}/team/{name}:{commit}"
        login = oci_pull.basic_login(USERNAME, PASSWORD)
        request = urllib.request.Request(
            f"http://{registry.host}/v2/team/{name}/manifests/{commit}",
            headers={"Authorization": f"Basic {login}", "Accept": oci_pull.MANIFEST},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["Docker-Content-Digest"] == ended["results"][0]["digest"]
        log = running.up.command("logs", build).stdout
        stored = b"".join(file.read_bytes() for file in (running.up.data / "redis").rglob("*") if file.is_file())
        for secret in ("git password", PASSWORD):
            assert secret not in log
            assert secret.encode() not in stored
