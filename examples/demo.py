#!/usr/bin/env python3
"""A push becomes a tagged image, on this machine, from nothing: run by `make demo`.

Everything happens in a temporary directory that is removed at the end. Nothing is downloaded: the base image is made
from this machine's busybox. Any step that does not do what it promises ends the demo with exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import oci_pull

HERE = Path(__file__).resolve().parent
START_SECONDS = 60.0
STOP_SECONDS = 60.0
COMMAND_SECONDS = 300.0
BASE_DOCKERFILE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin && mkdir -p -m 1777 /tmp"]
ENV PATH=/bin
CMD ["sh"]
"""


class DemoError(Exception):
    """A step did not do what it promises."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Show how a push becomes a tagged image, on this machine.")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory")
    options = parser.parse_args()
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="pushwright-demo-"))
    try:
        proven = Demo(directory).run()
    except (DemoError, oci_pull.PullError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nthe demo was interrupted", file=sys.stderr)
        return 130
    finally:
        if options.keep:
            print(f"\nkept: {directory}")
        else:
            remove_tree(directory)
    print(f"\nProven in {time.monotonic() - began:.0f} s: {proven}")
    return 0


class Demo:
    """One run; everything it makes is below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        ours = {
            "PUSHWRIGHT_HOME": str(self.data),
            # `FROM busybox:stable` means docker.io/library/busybox:stable; here our own registry answers for docker.io
            "PUSHWRIGHT_REGISTRY_MAPS": f"docker.io={self.host}",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHWRIGHT_", "REDIS_"))}
        self.environment = {**others, **ours}
        beside = Path(sys.executable).with_name("pushwright")
        self.pushwright = [str(beside)] if beside.exists() else [sys.executable, "-P", "-m", "webhook.cli"]

    def run(self) -> str:
        """The whole story; gives the sentence of what was proven."""
        nonce = secrets.token_hex(8)
        title("A base image, made from this machine's busybox")
        self.make_base()
        title("A repository with a multi-stage Dockerfile")
        commit = self.make_repository(nonce)
        title("Pushwright, all of it, on this machine")
        with self.up() as server:
            self.register()
            title("A push")
            build = self.push(commit)
            title("The build, live")
            self.show("logs", "-f", build)
            title("Which tags does this commit have?")
            self.show("tags", "demo", commit[:12])
            digest = self.ask("tags", "demo", commit, "--format", "digest").strip()
            title("The image, pulled back by another client")
            client = self.pull(commit, digest)
            said = self.run_image(nonce)
            title("Stopping")
            processes = family(server.pid)
        self.check_nothing_is_left(processes)
        return (
            f"a signed push of commit {commit[:12]} became {self.host}/demo:{commit[:12]}… ({digest[:19]}…), "
            f"{client} pulled it, and {said}; nothing is left running."
        )

    def make_base(self) -> None:
        busybox = shutil.which("busybox", path=os.environ.get("PATH", os.defpath) + ":/bin:/usr/bin")
        if busybox is None:
            raise DemoError("no busybox on this machine; install one: apt-get install busybox-static")
        if is_dynamic(Path(busybox)):
            raise DemoError(f"{busybox} needs shared libraries; install a static one: apt-get install busybox-static")
        context = self.directory / "base"
        context.mkdir()
        shutil.copy(busybox, context / "busybox")
        (context / "Dockerfile").write_text(BASE_DOCKERFILE)
        quote(BASE_DOCKERFILE)
        self.show("build", "--context", str(context), "--no-push", "--keep-as", "library/busybox:stable")

    def make_repository(self, nonce: str) -> str:
        """A commit that nobody made before: its message is in the image at the end."""
        repository = self.directory / "repositories" / "hello"
        shutil.copytree(HERE / "hello", repository)
        (repository / "message.txt").write_text(f"a push became this image, and its secret word is {nonce}\n")
        quote((repository / "Dockerfile").read_text())
        author = ["-c", "user.name=Demo", "-c", "user.email=demo@example.invalid"]
        for words in (
            ["init", "--quiet", "--initial-branch", "main"],
            ["add", "--all"],
            [*author, "commit", "--quiet", "--message", "Say something new"],
        ):
            self.command(["git", *words], cwd=repository)
        commit = self.command(["git", "rev-parse", "HEAD"], cwd=repository).strip()
        print(commit)
        return commit

    @contextlib.contextmanager
    def up(self) -> Iterator[subprocess.Popen[str]]:
        """`pushwright up` until the end of the block, then stopped by Ctrl-C's signal."""
        words = ["up", "--listen", self.host, "--git-local-root", str(self.directory / "repositories")]
        show_command(["pushwright", *words])
        with subprocess.Popen(
            [*self.pushwright, *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as server:
            pump = threading.Thread(target=print_lines, args=(server.stdout,))
            pump.start()
            try:
                self.await_server(server)
                yield server
            finally:
                server.send_signal(signal.SIGINT)
                try:
                    status = server.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    server.kill()
                    status = server.wait()
                pump.join()
        if status != 0:
            raise DemoError(f"`pushwright up` ended with exit status {status}")

    def await_server(self, server: subprocess.Popen[str]) -> None:
        end = time.monotonic() + START_SECONDS
        while not (self.data / "server.json").exists():
            if server.poll() is not None or time.monotonic() > end:
                raise DemoError("`pushwright up` did not come up")
            time.sleep(0.05)

    def register(self) -> None:
        """The project; the base image is behind our registry's token, so the project gets it as a credential."""
        token_file = self.directory / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(self.ask("token"))
        repository = self.directory / "repositories" / "hello"
        credential = f"{self.host}=pushwright:@{token_file}"
        words = [
            "project",
            "add",
            "demo",
            "--url",
            f"file://{repository}",
            "--registry-credential",
            credential,
            "--json",
        ]
        show_command(["pushwright", *words])
        self.project = json.loads(self.ask(*words))
        shown = ("name", "url", "branch", "dockerfile", "hook_url")
        quote(json.dumps({**{name: self.project[name] for name in shown}, "secret": "(shown once)"}, indent=2))

    def push(self, commit: str) -> str:
        """A delivery as GitHub makes it: first with a forged signature, then with the right one."""
        body = json.dumps(github_push(commit)).encode()
        delivery = str(uuid.uuid4())
        status, _ = self.deliver(body, delivery, "not the secret")
        if status != 401:
            raise DemoError(f"a delivery with a forged signature was answered {status}, not 401")
        print("a delivery with a forged signature: 401, nothing stored")
        status, answer = self.deliver(body, delivery, self.project["secret"])
        if status != 202:
            raise DemoError(f"the delivery was answered {status}: {answer}")
        build = answer["builds"][0]
        print(f"the same delivery, signed with the project's secret: 202, build {build['id']} is {build['state']}")
        return str(build["id"])

    def deliver(self, body: bytes, delivery: str, secret: str) -> tuple[int, dict[str, Any]]:
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "GitHub-Hookshot/demo",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": delivery,
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        path = self.project["links"]["hook"]
        print(f"POST {path}  X-Hub-Signature-256: sha256={signature[:12]}…  ({len(body)} bytes)")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def pull(self, commit: str, digest: str) -> str:
        """The image as an OCI layout in `pulled`; gives the client's name."""
        token = (self.directory / "token").read_text().strip()
        layout = self.directory / "pulled"
        if skopeo := shutil.which("skopeo"):
            login = oci_pull.basic_login("pushwright", token)
            auth_file = self.directory / "auth.json"
            auth_file.touch(mode=0o600)
            auth_file.write_text(json.dumps({"auths": {self.host: {"auth": login}}}))
            source = f"docker://{self.host}/demo:{commit}"
            words = ["copy", "--quiet", "--src-tls-verify=false", "--src-authfile", str(auth_file), source]
            words.append(f"oci:{layout}:{commit}")
            show_command(["skopeo", *words])
            self.command([skopeo, "--insecure-policy", *words], quiet=True)
            client = "skopeo"
        else:
            print("no skopeo on this machine: a pull over the distribution API, every digest checked")
            oci_pull.pull(self.host, "demo", commit, token, layout)
            client = "an independent client"
        pulled = oci_pull.manifest_digest(layout)
        if pulled != digest:
            raise DemoError(f"pulled {pulled}, but `pushwright tags` named {digest}")
        print(f"{client} has {pulled}: the digest that `pushwright tags` named")
        return client

    def run_image(self, nonce: str) -> str:
        """Unpack the image and run its entry point; gives what was seen."""
        root = self.directory / "rootfs"
        config = oci_pull.unpack(self.directory / "pulled", root)
        built = (root / "built.txt").read_text()
        quote(f"{root.name}/built.txt: {built}")
        if nonce not in built:
            raise DemoError("the file that the build made does not hold the commit's secret word")
        entry = config["Entrypoint"]
        for prefix in chroot_commands(root):
            done = subprocess.run(
                [*prefix, *entry], env={"PATH": "/bin"}, capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode == 0:
                show_command([*prefix, *entry])
                quote(done.stdout)
                if nonce not in done.stdout:
                    raise DemoError("the image's command does not say the commit's secret word")
                return "its command said the commit's secret word"
        return "the file that its RUN step made holds the commit's secret word"

    def check_nothing_is_left(self, processes: Sequence[int]) -> None:
        alive = [pid for pid in processes if is_running(pid)]
        if alive:
            raise DemoError(f"still running: {alive}")
        if str(self.directory) in Path("/proc/self/mountinfo").read_text():
            raise DemoError("something is still mounted")
        with contextlib.closing(socket.socket()) as connection:
            if connection.connect_ex(("127.0.0.1", self.port)) == 0:
                raise DemoError(f"something still listens on {self.host}")
        print(f"all {len(processes)} processes have ended, nothing is mounted, nobody listens on {self.host}")

    def show(self, *words: str) -> None:
        """Run a command of Pushwright and let it print."""
        show_command(["pushwright", *words])
        status = subprocess.run(
            [*self.pushwright, *words], env=self.environment, timeout=COMMAND_SECONDS, check=False
        ).returncode
        if status != 0:
            raise DemoError(f"`pushwright {words[0]}` ended with exit status {status}")

    def ask(self, *words: str) -> str:
        """What a command of Pushwright prints."""
        return self.command([*self.pushwright, *words], quiet=True)

    def command(self, words: Sequence[str], cwd: Path | None = None, *, quiet: bool = False) -> str:
        if not quiet:
            show_command(words)
        done = subprocess.run(
            words, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        if done.returncode != 0:
            raise DemoError(f"`{shlex.join(words[:3])} …` ended with exit status {done.returncode}: {done.stderr}")
        return done.stdout


def github_push(commit: str) -> dict[str, Any]:
    """A push as GitHub describes it; its clone URL is wrong on purpose, since nobody may use it."""
    head = {"id": commit, "message": "Say something new", "added": ["Dockerfile"], "removed": [], "modified": []}
    return {
        "ref": "refs/heads/main",
        "before": "0" * 40,
        "after": commit,
        "created": True,
        "deleted": False,
        "forced": False,
        "commits": [head],
        "head_commit": head,
        "pusher": {"name": "demo", "email": "demo@example.invalid"},
        "repository": {"full_name": "demo/hello", "clone_url": "https://elsewhere.invalid/hello.git"},
    }


def title(text: str) -> None:
    print(f"\n== {text} ==", flush=True)


def show_command(words: Sequence[str]) -> None:
    print(f"$ {shlex.join(words)}", flush=True)


def quote(text: str) -> None:
    print("".join(f"    {line}\n" for line in text.rstrip("\n").split("\n")), end="", flush=True)


def print_lines(stream: Any) -> None:
    for line in stream:
        print(f"    {line}", end="", flush=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def is_dynamic(binary: Path) -> bool:
    """Whether an ELF file names an interpreter (PT_INTERP, elf(5)): on 64 bits, little endian, as all we run on."""
    data = binary.read_bytes()[:4096]
    start, size, count = (int.from_bytes(data[at : at + width], "little") for at, width in ((32, 8), (54, 2), (56, 2)))
    return any(data[start + size * number : start + size * number + 4] == b"\x03\0\0\0" for number in range(count))


def family(pid: int) -> list[int]:
    """A process and everything that descends from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for item in found:
        found += parents.get(item, [])
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def chroot_commands(root: Path) -> list[list[str]]:
    """How the unpacked image may be entered here, as nobody; tried in order."""
    chroot = shutil.which("chroot", path="/usr/sbin:/sbin:/usr/bin:/bin")
    unshare = shutil.which("unshare")
    if chroot and os.geteuid() == 0:
        return [[chroot, "--userspec=65534:65534", str(root)]]
    return [[unshare, "--map-root-user", chroot, str(root)]] if chroot and unshare else []


def remove_tree(directory: Path) -> None:
    """Remove everything; the store's files belong to subordinate ids, which only root and their namespace may touch."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists() and (unshare := shutil.which("unshare")):
        words = [unshare, "--map-auto", "--map-root-user", "rm", "-rf", "--", str(directory)]
        subprocess.run(words, capture_output=True, check=False)
    if directory.exists():
        print(f"could not be removed whole: {directory}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
