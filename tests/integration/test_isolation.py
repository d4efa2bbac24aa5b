"""Attacks by RUN steps on the machine that builds; every planted thing must be as it was."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import Bench
from tests.support.executor_run import Ended, executor_command, write_context

SECRET = "planted-secret-5b1f"


def _run(bench: Bench, script: str, *arguments: str | Path, files: dict[str, str | bytes] | None = None) -> Ended:
    quoted = script.replace("\n", "; ")
    return bench.build(f"FROM busybox:stable\nRUN {quoted}\n", "--no-push", *arguments, files=files)


def test_root_of_a_step_is_nobody_on_the_host(bench: Bench) -> None:
    marker = f"sleep 3.{os.getpid()}"
    thread_result: list[Ended] = []
    thread = threading.Thread(target=lambda: thread_result.append(_run(bench, marker)))
    thread.start()
    try:
        uids = _wait_for_uids(marker)
    finally:
        thread.join()
    assert thread_result[0].status == 0
    # real, effective, saved and file system uid; and its own user namespace is not ours
    assert all(uid >= 1000 and uid not in {os.getuid(), 65534} for uid in uids)


def _wait_for_uids(command: str) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for directory in Path("/proc").iterdir():
            try:
                found = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if directory.name.isdigit() and (found == command or found.endswith(f"sh -c {command}")):
                    lines = (directory / "status").read_text().splitlines()
                    return [int(item) for line in lines if line.startswith("Uid:") for item in line.split()[1:]]
            except (OSError, UnicodeDecodeError):
                continue
        time.sleep(0.02)
    raise AssertionError(f"{command} was never seen")


def test_a_step_sees_no_process_but_its_own(bench: Bench) -> None:
    done = _run(bench, "ls -d /proc/[0-9]* | wc -l; tr '\\0' ' ' < /proc/1/cmdline")
    assert done.status == 0
    assert int(done.output().split()[0]) <= 4
    assert "executor" not in done.output()


def test_a_step_cannot_read_the_host_s_files(bench: Bench, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.write_text(SECRET)
    planted.chmod(0o644)
    tmp_path.chmod(0o755)
    script = (
        f"cat {planted} 2>&1\nls / /store /context 2>&1\ncat /proc/1/root{planted} 2>&1\n"
        f"cat /proc/1/cwd/../../..{planted} 2>&1\nmkdir /j && chroot /j /x 2>&1; true"
    )
    done = _run(bench, script)
    assert done.status == 0
    assert SECRET not in done.output()
    assert "/store: No such file" in done.output()
    assert planted.read_text() == SECRET


def test_a_step_has_no_descriptor_of_the_builder(bench: Bench) -> None:
    done = _run(bench, "ls /proc/self/fd")
    assert done.status == 0
    # 3 is the directory that ls itself reads
    assert done.output("stdout").split() == ["0", "1", "2", "3"]


def test_a_working_dir_of_a_descriptor_leads_nowhere(bench: Bench) -> None:
    dockerfile = "FROM busybox:stable\nWORKDIR /proc/self/fd/7\nRUN ls ../../../..; cat ../../../../etc/shadow\n"
    done = bench.build(dockerfile, "--no-push")
    assert done.status == 1
    assert "root:" not in done.output()


def test_the_environment_of_the_builder_does_not_reach_a_step(bench: Bench) -> None:
    context = write_context(bench.contexts / "environment", "FROM busybox:stable\nRUN env; cat /proc/*/environ\n")
    from tests.support.executor_run import run_executor

    done = run_executor(
        "-c",
        context,
        "--data-dir",
        bench.data,
        "--registry-map",
        f"docker.io={bench.host}",
        "--no-push",
        env={"PLANTED": SECRET},
    )
    assert done.status == 0
    assert SECRET not in done.output()


def test_an_image_s_environment_does_not_reach_the_builder(bench: Bench) -> None:
    dockerfile = (
        "FROM busybox:stable\nENV PATH=/evil LD_PRELOAD=/evil.so PYTHONPATH=/evil PYTHONSTARTUP=/evil/x.py\n"
        'COPY requests.py sitecustomize.py /evil/\nRUN ["/bin/true"]\n'
    )
    hostile = "open('/tmp/pwned', 'w')\nraise SystemExit('hostile module imported')\n"
    files: dict[str, str | bytes] = {"requests.py": hostile, "sitecustomize.py": hostile}
    done = bench.build(dockerfile, "--no-push", files=files)
    assert done.status == 0, done.error
    assert "hostile" not in done.stderr


def test_hostile_modules_in_the_working_directory_are_not_imported(bench: Bench) -> None:
    context = write_context(
        bench.contexts / "modules",
        "FROM busybox:stable\nRUN true\n",
        {"requests.py": "raise SystemExit(99)", "json.py": "raise SystemExit(99)"},
    )
    done = subprocess.run(
        executor_command(
            "-c", ".", "--no-push", "--data-dir", str(bench.data), "--registry-map", f"docker.io={bench.host}"
        ),
        cwd=context,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_capabilities_are_docker_s_and_namespaces_cannot_be_made(bench: Bench) -> None:
    done = _run(
        bench,
        "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status\n"
        "unshare -U true 2>&1\nunshare -m true 2>&1\nmount -t tmpfs none /tmp 2>&1\nmknod /x b 8 0 2>&1\n"
        "umount /proc/sys 2>&1\necho 1 2>&1 > /proc/sys/kernel/sysrq; true",
    )
    assert done.status == 0
    lines = dict(line.split(":\t") for line in done.output().splitlines() if line.startswith("Cap"))
    assert lines["CapEff"] == lines["CapPrm"] == lines["CapBnd"] == "00000000a80425fb"
    assert lines["CapInh"] == lines["CapAmb"] == "0" * 16
    said = done.output()
    assert said.count("unshare:") == 2
    assert "mount: permission denied" in said or "Operation not permitted" in said


def test_a_step_cannot_write_into_layers_or_the_store(bench: Bench) -> None:
    store = bench.data / "store"
    before = {path: path.stat().st_size for path in (store / "blobs" / "sha256").iterdir()}
    done = _run(
        bench, "ls -la /l /store /proc/1/root/store 2>&1\nrm -rf /bin/vi /etc /store /l /proc/1/root/store 2>&1; true"
    )
    assert done.status == 0
    after = {path: path.stat().st_size for path in (store / "blobs" / "sha256").iterdir()}
    assert before.items() <= after.items()
    again = _run(bench, "cat /etc/passwd")
    assert "root:x:0:0" in again.output()


def test_processes_left_behind_are_dead_before_the_snapshot(bench: Bench) -> None:
    marker = f"5{os.getpid()}"
    done = _run(
        bench,
        f"(trap '' TERM HUP INT; while true; do echo x >> /log; sleep 0.01; done) & (setsid sleep {marker} &) ; "
        "sleep 0.1; true",
    )
    assert done.status == 0
    assert not _alive(f"sleep\0{marker}")


def _alive(command: str) -> bool:
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and command.encode() in (directory / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


@contextmanager
def _planted_server() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_network_none_has_only_loopback(bench: Bench) -> None:
    with _planted_server() as port:
        done = _run(
            bench,
            f"ip -o link | wc -l\nnc -w 1 127.0.0.1 {port} < /dev/null && echo REACHED\nip -o link; true",
            "--network",
            "none",
        )
    assert done.status == 0
    assert "REACHED" not in done.output()
    links = [line for line in done.output().splitlines() if ": " in line and "LOOPBACK" in line]
    assert len(links) == 1
    assert done.output().split()[0] == "1"


def test_replacing_the_shell_hurts_only_the_image(bench: Bench) -> None:
    before = Path("/bin/sh").resolve().stat()
    done = bench.build(
        "FROM busybox:stable\n"
        "RUN rm /bin/sh && printf '#!/bin/busybox sh\\necho mine\\n' > /bin/sh && chmod 755 /bin/sh\n"
        "RUN anything\n",
        "--no-push",
    )
    assert done.status == 0
    assert done.output() == "mine\n"
    assert Path("/bin/sh").resolve().stat() == before


@pytest.mark.parametrize(
    "passwd",
    ["ln -s /proc/self/environ /etc/passwd", "mkfifo /etc/passwd", "ln -s ../../../../etc/shadow /etc/passwd"],
)
def test_a_hostile_passwd_leads_nowhere(bench: Bench, passwd: str) -> None:
    done = bench.build(f"FROM busybox:stable\nRUN rm /etc/passwd; {passwd}\nUSER daemon\nRUN id\n", "--no-push")
    assert done.status == 1
    assert done.error["code"] in {"user-unknown", "user-database-invalid"}
    assert "root:" not in str(done.events)


@pytest.mark.parametrize("link", ["/", "../../../..", "/proc/self/root", "/context"])
def test_a_link_as_destination_stays_inside(bench: Bench, link: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.write_text(SECRET)
    done = bench.build(
        f"FROM busybox:stable\nRUN ln -s {link} /out\nCOPY mine /out{planted}\n",
        "--no-push",
        files={"mine": "overwritten"},
    )
    assert done.status in {0, 1}
    assert planted.read_text() == SECRET


def test_a_link_in_the_context_does_not_show_the_host(bench: Bench, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.write_text(SECRET)
    context = write_context(bench.contexts / "links", "FROM busybox:stable\nCOPY leak /leak\nRUN cat /leak\n")
    (context / "leak").symlink_to(planted)
    done = bench.build_in(context, "--no-push")
    assert done.status == 1
    assert done.error["code"] == "copy-source-missing"
    assert SECRET not in str(done.events)


# --- the end of a builder ---


@contextmanager
def _started(bench: Bench, script: str) -> Iterator[subprocess.Popen[bytes]]:
    context = write_context(bench.contexts / f"started{time.monotonic_ns()}", f"FROM busybox:stable\nRUN {script}\n")
    process = subprocess.Popen(
        executor_command(
            "-c", str(context), "--no-push", "--data-dir", str(bench.data), "--registry-map", f"docker.io={bench.host}"
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


def _wait(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_survives_the_end_of_the_supervisor(bench: Bench, number: signal.Signals) -> None:
    marker = f"6{number.value}{os.getpid()}"
    with _started(bench, f"(setsid sleep {marker} &) ; trap '' TERM INT; sleep {marker}") as process:
        _wait(lambda: _alive(f"sleep\0{marker}"))
        process.send_signal(number)
        process.wait(30)
        _wait(lambda: not _alive(f"sleep\0{marker}"))
    # whoever builds next removes what a killed one left
    assert bench.build("FROM busybox:stable\nRUN true\n", "--no-push").status == 0
    assert list((bench.data / "store" / "work").iterdir()) == []
    assert list((bench.data / "store" / "leases").iterdir()) == []


def test_two_builds_at_once_do_not_disturb_each_other(bench: Bench) -> None:
    results: list[Ended] = []
    threads = [
        threading.Thread(target=lambda n=number: results.append(_run(bench, f"echo {n} > /n\nsleep 0.5\ncat /n")))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done.output().strip() for done in results) == ["0", "1", "2", "3"]
