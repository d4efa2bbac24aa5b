"""A real Docker engine of one's own: private socket, private data, no bridge, no firewall rules, nothing left behind.

Containers that must talk to each other join the network of one holder container that has none but loopback, as the
containers of a pod do; so no port of the host is taken and the names of services are all 127.0.0.1.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


class EngineError(Exception):
    """A command of the engine failed; its output is in the message."""


@dataclass(frozen=True, slots=True)
class DockerEngine:
    """A running engine; every command goes to its private socket."""

    directory: Path

    @property
    def host(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    def start_command(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["docker", "--host", self.host, *arguments], env=self._environment(), **options)

    def run_command(
        self, *arguments: str, check: bool = True, input_bytes: bytes | None = None, seconds: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """`docker ARGUMENTS`; both streams are kept as text, and in the error when the command fails."""
        done = subprocess.run(
            ["docker", "--host", self.host, *arguments],
            input=input_bytes or b"",
            capture_output=True,
            env=self._environment(),
            timeout=seconds,
            check=False,
        )
        stdout, stderr = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        if check and done.returncode:
            shown = " ".join(arguments)[:400]
            raise EngineError(f"docker {shown}: exit status {done.returncode}\n{stdout[-6000:]}\n{stderr[-6000:]}")
        return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)

    def _environment(self) -> Mapping[str, str]:
        # a configuration of its own, so that neither contexts nor credentials of the host's user count;
        # the classic builder, since Debian has no buildx for the newer one
        return {"PATH": SERVER_PATH, "DOCKER_CONFIG": str(self.directory / "config"), "DOCKER_BUILDKIT": "0"}

    def import_image(self, tarball: Path, name: str) -> None:
        self.run_command("import", str(tarball), name)

    def build_image(self, context: Path, name: str, *, dockerfile: str = "", build_args: Mapping[str, str]) -> None:
        """`docker build` with the host's network, from which RUN steps reach the package mirrors."""
        arguments = [f"--build-arg={key}={value}" for key, value in build_args.items()]
        if dockerfile:
            arguments.append(f"--file={context / dockerfile}")
        self.run_command("build", "--network=host", f"--tag={name}", *arguments, str(context))

    def run_detached(self, name: str, image: str, options: Sequence[str], command: Sequence[str] = ()) -> None:
        self.run_command("run", "--detach", f"--name={name}", *options, image, *command)

    def exec(self, container: str, *command: str, check: bool = True, user: str = "") -> str:
        done = self.run_command("exec", *([f"--user={user}"] if user else []), container, *command, check=check)
        return done.stdout + done.stderr

    def inspect(self, container: str) -> dict[str, Any]:
        value: list[dict[str, Any]] = json.loads(self.run_command("inspect", container).stdout)
        return value[0]

    def logs(self, container: str) -> str:
        done = self.run_command("logs", container, check=False)
        return done.stdout + done.stderr

    def wait_healthy(self, container: str, seconds: float = 120) -> None:
        """Until the container's own health check says healthy; the log is in the error when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.inspect(container)["State"]
            if state["Health"]["Status"] == "healthy":
                return
            if not state["Running"]:
                break
            time.sleep(0.3)
        state = json.dumps(self.inspect(container)["State"], indent=1)
        raise EngineError(f"{container} did not become healthy: {state[-3000:]}\n{self.logs(container)[-6000:]}")

    def remove_containers(self) -> None:
        names = self.run_command("ps", "--all", "--quiet", check=False).stdout.split()
        if names:
            self.run_command("rm", "--force", "--volumes", *names, check=False)


@contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """Starts an engine in a temporary directory and takes away all it made."""
    # a short path: a Unix socket's has 108 bytes; and never overlayfs or tmpfs by accident of TMPDIR
    directory = Path(tempfile.mkdtemp(prefix="pwd-", dir="/var/tmp"))
    engine = DockerEngine(directory)
    (directory / "config").mkdir()
    (directory / "daemon.json").write_text("{}")
    log = directory / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "dockerd",
                f"--host={engine.host}",
                f"--data-root={directory}/data",
                f"--exec-root={directory}/run",
                f"--pidfile={directory}/docker.pid",
                f"--config-file={directory}/daemon.json",
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--userland-proxy=false",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": SERVER_PATH},
            start_new_session=True,
        )
    try:
        _wait_until_answering(engine, process, log)
        yield engine
        engine.remove_containers()
    finally:
        _stop(process)
        _remove(directory)


def _wait_until_answering(engine: DockerEngine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if engine.run_command("version", check=False).returncode == 0:
            return
        time.sleep(0.2)
    raise EngineError(f"dockerd does not answer:\n{log.read_text(errors='replace')[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        # its session holds containerd too; the shims of containers end with their containers
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _remove(directory: Path) -> None:
    """Unmounts what the engine left mounted, innermost first, and removes the directory."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)
    shutil.rmtree(directory)


def cache_directory() -> Path:
    """Where slow and harmless downloads are kept from one run to the next."""
    base = os.environ.get("XDG_CACHE_HOME") or f"{os.environ.get('HOME') or '/root'}/.cache"
    directory = Path(base) / "pushwright-tests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def debian_tarball(packages: Sequence[str]) -> Path:
    """A root file system of the host's own release with these packages, made by mmdebstrap and kept."""
    release = platform.freedesktop_os_release()
    codename = release["VERSION_CODENAME"]
    tarball = cache_directory() / f"{release['ID']}-{codename}-{platform.machine()}-{'-'.join(sorted(packages))}.tar"
    if not tarball.exists():
        unfinished = tarball.with_suffix(f".{os.getpid()}.tar")
        try:
            subprocess.run(
                [
                    "mmdebstrap",
                    "--variant=minbase",
                    "--mode=root",
                    f"--include={','.join(['ca-certificates', *packages])}",
                    codename,
                    str(unfinished),
                    *_mirrors(codename),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                env={"PATH": SERVER_PATH},
            )
            unfinished.rename(tarball)
        except subprocess.CalledProcessError as error:
            raise EngineError(f"mmdebstrap: {error.stderr.decode(errors='replace')[-4000:]}") from error
        finally:
            unfinished.unlink(missing_ok=True)
    return tarball


def _mirrors(codename: str) -> list[str]:
    """The host's own mirror of its release, so that a machine behind a mirror of its own is served too."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sites = [line.split()[0] for line in listing.splitlines() if line.split()[1:] == [codename, "main"]]
    return sites[:1]
