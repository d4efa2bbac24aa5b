"""The containers of docker-compose.yml in the real engine: a signed push ends as an image tagged with its commit.

Debian's older Compose cannot hand `systempaths=unconfined` to the engine, so the services are started by `docker run`
with the options that the file gives (tests/support/compose). In the places of the two images from Docker Hub are ones
made of Debian's packages of the same servers; ours is built from deploy/Dockerfile.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import Service, read_services, service
from tests.support.docker_engine import DockerEngine, cache_directory, debian_tarball, docker_engine
from tests.support.git_server import Repository

pytestmark = [pytest.mark.docker, pytest.mark.root]

ROOT = Path(__file__).resolve().parents[2]
BASE = "pushwright-test-base"
PACKAGES = (
    "busybox-static",
    "docker-registry",
    "git",
    "libcap2-bin",
    "python3",
    "python3-venv",
    "redis-server",
    "uidmap",
)
# what the official images have: the names of the servers' users and directories, and busybox's wget
SERVERS_DOCKERFILE = f"""\
FROM {BASE}
RUN ln -s /bin/busybox /usr/local/bin/wget \\
    && install --directory --owner=redis --group=redis /data \\
    && install --directory /var/lib/registry \\
    && printf 'version: 0.1\\nstorage:\\n  filesystem:\\n    rootdirectory: /var/lib/registry\\n' > /etc/registry.yml
VOLUME /data /var/lib/registry
"""
REGISTRY_DOCKERFILE = """\
FROM pushwright-test-servers
ENTRYPOINT ["docker-registry", "serve", "/etc/registry.yml"]
"""
BASE_IMAGE_DOCKERFILE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin && mkdir -m 1777 /tmp"]
ENV PATH=/bin
"""
PROJECT_DOCKERFILE = b"""\
FROM registry:5000/base/busybox:1 AS build
RUN mkdir /out && echo "made in a container" > /out/made
COPY given /out/given
# the services on the same network are there, and refuse whoever has no password
RUN { printf 'INFO\\r\\n'; sleep 1; } | nc 127.0.0.1 6379 | tee /out/redis
RUN wget -O - --post-data= http://127.0.0.1:5000/v2/base/busybox/blobs/uploads/ 2>&1 | tee /out/registry
RUN grep -E '^(CapBnd|Seccomp):' /proc/self/status; echo "uid_map: $(cat /proc/self/uid_map)"
RUN if head -c 1 /proc/kcore 2>/dev/null | grep -q .; then echo "kcore: readable"; else echo "kcore: masked"; fi
RUN if echo 1 > /proc/sys/vm/drop_caches; then echo "sysctl: writable"; else echo "sysctl: refused"; fi

FROM registry:5000/base/busybox:1
COPY --from=build /out /out
USER 1234
CMD ["cat", "/out/made"]
"""
# a delivery as a forge makes it; argument: secret, URL, commit
PUSH_SCRIPT = """\
import hashlib, hmac, json, sys, urllib.request
secret, url, commit = sys.argv[1:]
body = json.dumps({"ref": "refs/heads/main", "after": commit}).encode()
signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}"}
with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as response:
    print(response.status, response.read().decode())
"""
# the registry's own answer for a tag; argument: URL, password
MANIFEST_SCRIPT = """\
import base64, json, sys, urllib.request
url, password = sys.argv[1:]
login = base64.b64encode(f"pushwright:{password}".encode()).decode()
accept = "application/vnd.oci.image.manifest.v1+json"
request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}", "Accept": accept})
with urllib.request.urlopen(request, timeout=20) as response:
    manifest = json.load(response)
    print(json.dumps({"digest": response.headers["Docker-Content-Digest"], "manifest": manifest}))
"""
GIT_SCRIPT = """\
import pathlib, sys, threading
sys.path.insert(0, "/support")
from git_server import git_server
with git_server(pathlib.Path("/repositories")) as server:
    print(server.port, flush=True)
    threading.Event().wait()
"""


@dataclass(frozen=True, slots=True)
class Deployment:
    """The running services, and what the operator's `.env` says."""

    engine: DockerEngine
    directory: Path
    values: dict[str, str]
    git_url: str

    def pushwright(self, *arguments: str, container: str = "web") -> str:
        """The command in a container, with the token of that container's own environment."""
        script = 'PUSHWRIGHT_TOKEN="$PUSHWRIGHT_API_TOKEN" exec pushwright "$@"'
        return self.engine.exec(container, "sh", "-c", script, "pushwright", *arguments)

    def ask(self, *arguments: str) -> Any:
        return json.loads(self.pushwright(*arguments, "--server", "http://127.0.0.1:8080", "--json"))


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as running:
        running.import_image(debian_tarball(PACKAGES), BASE)
        yield running


@pytest.fixture(scope="module")
def deployment(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Everything that `make compose-env` and `docker compose up --build` do, up to healthy services."""
    directory = tmp_path_factory.mktemp("deployment")
    copy_tree(directory)
    subprocess.run([sys.executable, "deploy/make_env.py"], cwd=directory, check=True, capture_output=True)
    with (directory / ".env").open("a") as env:
        # the git server of this test is on loopback
        env.write("PUSHWRIGHT_ALLOW_PRIVATE_GIT_HOSTS=yes\n")
    values = dict(line.split("=", 1) for line in (directory / ".env").read_text().splitlines())
    services = {
        name: service(value, project="pw", directory=directory) for name, value in read_services(directory).items()
    }
    build_images(engine, directory, services)
    names = [f"--add-host={name}:127.0.0.1" for name in services]
    engine.run_detached("network", BASE, ["--network=none", *names], ["sleep", "infinity"])
    port = start_git_server(engine, directory)
    for name in ("redis", "registry", "web", "worker"):
        start(engine, name, services[name])
    return Deployment(engine, directory, values, f"http://127.0.0.1:{port}/demo.git")


def copy_tree(directory: Path) -> None:
    """The files of the tree that the build and Compose see, and the wheels that the image is made of."""
    for name in ("executor", "tasks", "webhook", "deploy"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", "secrets"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore", "docker-compose.yml"):
        shutil.copy(ROOT / name, directory / name)


def build_images(engine: DockerEngine, directory: Path, services: dict[str, Service]) -> None:
    for name, dockerfile in (
        ("pushwright-test-servers", SERVERS_DOCKERFILE),
        (services["registry"].image, REGISTRY_DOCKERFILE),
    ):
        context = directory / "servers"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(dockerfile)
        engine.build_image(context, name, build_args={})
    engine.run_command("tag", "pushwright-test-servers", services["redis"].image)
    version = engine.run_command(
        "run", "--rm", "--network=none", BASE, "python3", "-c", "import platform; print(platform.python_version())"
    ).stdout.strip()
    fetch_wheels(directory / "wheels", version)
    engine.build_image(
        directory,
        services["web"].image,
        dockerfile="deploy/Dockerfile",
        build_args={"BASE": BASE, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/src/wheels"},
    )
    assert services["worker"].image == services["web"].image


def fetch_wheels(directory: Path, version: str) -> None:
    """What our image's Python installs, from the index that this machine is configured for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    cache = cache_directory() / f"wheels-{version}-{platform.machine()}"
    # the base is of this machine's release, so its Python is this machine's; markers of requirements depend on it
    python = sys.executable if platform.python_version() == version else "/usr/bin/python3"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", python, "download", "--quiet"),
            *("--dest", str(cache), "--only-binary=:all:", *wanted),
        ],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    shutil.copytree(cache, directory)


def start(engine: DockerEngine, name: str, found: Service) -> None:
    engine.run_detached(name, found.image, ["--network=container:network", *found.options], found.command)
    engine.wait_healthy(name)


def start_git_server(engine: DockerEngine, directory: Path) -> int:
    repositories = directory / "repositories"
    options = [
        "--network=container:network",
        f"--volume={repositories}:/repositories",
        f"--volume={ROOT}/tests/support:/support:ro",
    ]
    repositories.mkdir()
    engine.run_detached("git", BASE, options, ["python3", "-B", "-u", "-c", GIT_SCRIPT])
    with engine.start_command("logs", "--follow", "git", stdout=subprocess.PIPE) as logs:
        assert logs.stdout is not None
        port = int(logs.stdout.readline())
        logs.terminate()
    return port


def build_base_image(deployment: Deployment) -> None:
    """The image that the project starts from, built and pushed by the worker's own builder."""
    script = 'mkdir /tmp/base && cp /bin/busybox /tmp/base/ && printf %s "$1" > /tmp/base/Dockerfile'
    deployment.engine.exec("worker", "sh", "-c", script, "sh", BASE_IMAGE_DOCKERFILE)
    deployment.pushwright(
        *("build", "--context", "/tmp/base", "--destination", "registry:5000/base/busybox:1"),
        *("--insecure-registry", "registry:5000"),
        container="worker",
    )


def test_a_push_becomes_an_image(deployment: Deployment) -> None:
    engine = deployment.engine
    build_base_image(deployment)
    repository = Repository(deployment.directory / "repositories" / "demo.git")
    commit = repository.commit({"Dockerfile": PROJECT_DOCKERFILE, "given": b"given by the repository\n"})

    project = deployment.ask("project", "add", "demo", "--url", deployment.git_url)
    answer = engine.exec(
        "web", "python", "-c", PUSH_SCRIPT, project["secret"], "http://127.0.0.1:8080/hooks/demo", commit
    )
    assert answer.startswith("202 ")
    build = json.loads(answer[4:])["builds"][0]["id"]
    log = deployment.pushwright("logs", "--follow", build, "--server", "http://127.0.0.1:8080")
    found = deployment.ask("tags", "demo", commit[:12])

    assert found["state"] == "succeeded", log
    assert found["tags"] == [commit]
    assert found["repository"] == "registry:5000/demo"
    shown = json.loads(
        engine.exec(
            *("web", "python", "-c", MANIFEST_SCRIPT, f"http://127.0.0.1:5000/v2/demo/manifests/{commit}"),
            deployment.values["PUSHWRIGHT_REGISTRY_PASSWORD"],
        )
    )
    assert shown["digest"] == found["digest"]
    assert shown["manifest"]["annotations"]["org.opencontainers.image.revision"] == commit
    # what the RUN steps saw of their surroundings
    assert "NOAUTH" in log
    assert "401 Unauthorized" in log
    assert "Seccomp:\t2" in log
    assert "uid_map:          0          1      65535" in log
    assert "kcore: masked" in log
    assert "sysctl: refused" in log


def test_no_container_has_rights_on_the_host(deployment: Deployment) -> None:
    for name in ("redis", "registry", "web", "worker"):
        found = deployment.engine.inspect(name)
        assert found["HostConfig"]["Privileged"] is False, name
        assert not found["HostConfig"]["CapAdd"], name
        assert not any("docker.sock" in mount["Source"] for mount in found["Mounts"]), name
        assert found["HostConfig"]["PidMode"] == "", name
    for name in ("web", "worker"):
        status = deployment.engine.exec(name, "cat", "/proc/1/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == ["10001"] * 4, name
        assert int(fields["CapEff"], 16) == 0, name
        assert fields["Seccomp"] == "2", name


def test_redis_has_a_password_and_shows_it_to_nobody(deployment: Deployment) -> None:
    password = deployment.values["PUSHWRIGHT_REDIS_PASSWORD"]
    engine = deployment.engine
    assert "NOAUTH" in engine.exec("redis", "redis-cli", "ping", check=False)
    for name in ("redis", "web", "worker"):
        arguments = engine.exec(name, "sh", "-c", "cat /proc/[0-9]*/cmdline")
        assert password not in arguments, name
        assert password not in engine.logs(name), name
