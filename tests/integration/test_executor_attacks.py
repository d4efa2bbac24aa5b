"""Hostile names, images, contexts and surroundings of a build: a clear error or a right image, nothing beside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Bench
from tests.support.executor_run import BUSYBOX, Ended, executor_command, run_executor, write_context

LONG = "b" * 300
ODD_NAMES = (b"new\nline", b"\xff\xfe", b"\x1b[2J", "é".encode())
IDS_OF_A_BUILD = 65_535


def _build_from(
    bench: Bench, context: Path, *arguments: str | Path, umask: int = 0o022, **options: object
) -> subprocess.CompletedProcess[bytes]:
    command = options.pop("command", executor_command("--progress", "json"))
    assert isinstance(command, list)
    given = ["-c", context, "--no-push", "--registry-map", f"docker.io={bench.host}", *arguments]
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        [*command, *map(str, given)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
        umask=umask,
        **options,  # type: ignore[call-overload]
    )
    return done


def _last(done: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    last: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return last


@pytest.mark.parametrize(
    ("instructions", "code", "line"),
    [
        ("USER 70000\nRUN true\n", "id-out-of-range", 3),
        ("USER 4294967294\nRUN true\n", "id-out-of-range", 3),
        ("USER 0:70000\nRUN true\n", "id-out-of-range", 3),
        ("USER 70000\nWORKDIR /x\n", "id-out-of-range", 3),
        ("COPY --chown=70000 Dockerfile /x\n", "id-out-of-range", 2),
        (f"WORKDIR /{LONG}\n", "path-unusable", 2),
        (f"WORKDIR /{'a/' * 3000}\n", "path-unusable", 2),
        ("WORKDIR /etc/passwd/x\n", "path-unusable", 2),
        ("RUN ln -s /loop /loop\nWORKDIR /loop/x\n", "path-unusable", 3),
        ("RUN ln -s /loop /loop\nCOPY Dockerfile /loop\n", "path-unusable", 3),
        (f"COPY Dockerfile /{LONG}\n", "path-unusable", 2),
        (f"COPY {LONG} /x\n", "path-unusable", 2),
        ('SHELL [""]\nRUN true\n', "run-not-started", 3),
        ("RUN ln -s /loop /loop\nCOPY Dockerfile /loop/x/\n", "path-unusable", 3),
    ],
)
def test_paths_and_ids_that_cannot_be_are_told_with_their_line(
    bench: Bench, instructions: str, code: str, line: int
) -> None:
    done = bench.build(f"FROM busybox:stable\n{instructions}", "--no-push")
    assert (done.error["code"], done.error["line"]) == (code, line)
    failed = [event["error"] for event in done.events if event["type"] == "step-finished" and "error" in event]
    assert failed == [code]


def test_the_largest_id_of_a_build_can_be_used(bench: Bench) -> None:
    done = bench.build(f"FROM busybox:stable\nUSER {IDS_OF_A_BUILD - 1}\nWORKDIR /w\nRUN id -u\n", "--no-push")
    assert done.output("stdout") == f"{IDS_OF_A_BUILD - 1}\n"


@pytest.mark.parametrize("epoch", ["99999999999999999", "253402300800"])
def test_a_time_that_cannot_be_written_is_told(bench: Bench, epoch: str) -> None:
    done = bench.build("FROM scratch\nCOPY . /\n", "--no-push", "--build-arg", f"SOURCE_DATE_EPOCH={epoch}")
    assert done.error["code"] == "usage"
    assert "SOURCE_DATE_EPOCH" in done.error["message"]


@pytest.mark.parametrize(
    ("name", "target"), [("proc", "/"), ("proc", "."), ("sys", "/"), ("dev", "/"), ("dev", ".."), ("proc", "x/../..")]
)
def test_links_do_not_make_a_mount_the_root_of_a_step(bench: Bench, tmp_path: Path, name: str, target: str) -> None:
    context = write_context(
        tmp_path / "context", 'FROM scratch\nCOPY busybox /busybox\nCOPY links /\nRUN ["/busybox", "ls", "/"]\n'
    )
    shutil.copy(BUSYBOX, context / "busybox")
    (context / "links" / "x").mkdir(parents=True)
    (context / "links" / name).symlink_to(target)
    done = bench.build_in(context, "--no-push")
    assert done.error["code"] == "run-not-started"
    assert "leads to its root directory" in done.error["message"]
    assert done.output() == ""


def test_a_step_starts_with_every_signal_as_it_is_by_default(bench: Bench) -> None:
    context = write_context(
        bench.contexts / "signals", 'FROM busybox:stable\nRUN ["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"]\n'
    )
    ignoring = (
        "import os, signal, sys\n"
        "for number in (1, 2, 3, 15, 17): signal.signal(number, signal.SIG_IGN)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", ignoring, *executor_command("--progress", "json")]
    done = _build_from(bench, context, "--data-dir", bench.data, command=command)
    output = "".join(json.loads(line).get("data", "") for line in done.stdout.splitlines())
    assert output.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


@pytest.mark.root
def test_nothing_inside_holds_what_the_launcher_was_handed(bench: Bench) -> None:
    """Event and control pipe, the lock of the lease, the terminal: the builder and its helpers have none of them."""
    marker = f"4{os.getpid()}{time.monotonic_ns() % 10**6}"
    context = write_context(bench.contexts / "descriptors", f"FROM busybox:stable\nRUN sleep {marker}\n")
    read, write = os.pipe()
    held, other = os.pipe()
    process = subprocess.Popen(
        executor_command(
            "-c", str(context), "--no-push", "--data-dir", str(bench.data), "--registry-map", f"docker.io={bench.host}"
        ),
        stdin=held,
        stdout=write,
        stderr=subprocess.DEVNULL,
        pass_fds=(other,),
    )
    forbidden = {os.readlink(f"/proc/self/fd/{item}") for item in (write, other)}
    try:
        tree = _wait_for_tree(process.pid, marker)
        forbidden |= {os.fspath(path) for path in (bench.data / "store" / "leases").iterdir()}
        assert len(forbidden) == 3
        assert len(tree) >= 4  # builder, runner, monitor, command
        for pid in tree:
            found = {os.readlink(item) for item in Path(f"/proc/{pid}/fd").iterdir()}
            assert not {item for item in found if item in forbidden or "/leases/" in item}, pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        for item in (read, write, held, other):
            os.close(item)


def _wait_for_tree(pid: int, marker: str) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found, pending = [], [pid]
        while pending:
            parent = pending.pop()
            try:
                children = [int(item) for item in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
            except OSError:
                children = []
            found += children
            pending += children
        lines = [_bytes(Path(f"/proc/{item}/cmdline")) for item in found]
        if any(line.startswith(b"sleep\0" + marker.encode()) for line in lines):
            return found
        time.sleep(0.05)
    raise AssertionError("the step never ran")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- contexts ---


def test_a_deep_context_is_told(bench: Bench, tmp_path: Path) -> None:
    context = write_context(tmp_path / "deep", "FROM scratch\nCOPY . /\n")
    descriptor = os.open(context, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, 0o755, dir_fd=descriptor)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    done = bench.build_in(context, "--no-push")
    assert done.error["code"] == "path-unusable"


def test_names_that_are_no_text_survive_from_context_to_layer(bench: Bench, tmp_path: Path) -> None:
    context = write_context(tmp_path / "names", "FROM busybox:stable\nCOPY odd /odd/\nRUN cat /odd/* | sort\n")
    (context / "odd").mkdir()
    for name in ODD_NAMES:
        Path(os.fsdecode(os.fsencode(context / "odd") + b"/" + name)).write_bytes(name + b"\n")
    layout = tmp_path / "layout"
    done = bench.build_in(context, "--no-push", "--oci-layout-path", layout)
    assert done.status == 0, done.events[-1]
    layer = json.loads(done.result["manifest"])["layers"][-2]["digest"]
    with tarfile.open(layout / "blobs" / "sha256" / layer[7:], errors="surrogateescape") as archive:
        found = {os.fsencode(item.name) for item in archive if item.isfile()}
    assert found == {b"odd/" + name for name in ODD_NAMES}


def test_a_closed_context_is_copied_out_of_every_builder_s_reach(bench: Bench, tmp_path: Path) -> None:
    context = write_context(tmp_path / "closed", "FROM busybox:stable\nCOPY key /key\nRUN cat /key\n", {"key": "mine"})
    (context / "key").chmod(0o600)
    (context / "sub").mkdir()
    (context / "sub" / "leak").symlink_to("/etc/shadow")
    os.mkfifo(context / "sub" / "fifo")
    done = bench.build_in(context, "--no-push")
    assert done.status == 0, done.error
    assert done.output() == "mine"
    store = bench.data / "store"
    assert list((store / "staging").iterdir()) == list((store / "work").iterdir()) == []
    assert stat.S_IMODE((store / "staging").stat().st_mode) == 0o700
    assert (store / "staging").stat().st_uid == os.getuid()


@pytest.mark.parametrize("name", ["../outside/Dockerfile", "/etc/passwd", "link", "."])
def test_a_dockerfile_outside_the_context_is_not_read(bench: Bench, tmp_path: Path, name: str) -> None:
    write_context(tmp_path / "outside", "FROM scratch\nLABEL leaked=planted-word\n")
    context = write_context(tmp_path / "context", "FROM scratch\n")
    (context / "link").symlink_to("../outside/Dockerfile")
    done = bench.build_in(context, "--no-push", "-f", name)
    assert done.status == 1
    assert "planted-word" not in str(done.events)
    assert "root:" not in str(done.events)


# --- surroundings ---


@pytest.mark.parametrize("name", ["a b", "a:b", "a,b", "a\\b", "aé'\"", "a=b\nc"])
def test_a_data_directory_of_any_name(bench: Bench, tmp_path: Path, name: str) -> None:
    context = write_context(tmp_path / "context", "FROM busybox:stable\nCOPY f /f\nRUN cat /f\n", {"f": "whole"})
    done = _build_from(bench, context, "--data-dir", tmp_path / name)
    assert done.returncode == 0, _last(done)


@pytest.mark.parametrize("umask", [0o077, 0o777])
def test_a_closed_umask(bench: Bench, tmp_path: Path, umask: int) -> None:
    context = write_context(tmp_path / "context", "FROM busybox:stable\nCOPY f /f\nRUN umask; cat /f\n", {"f": "whole"})
    (tmp_path / "data").mkdir()
    done = _build_from(bench, context, "--data-dir", tmp_path / "data", umask=umask)
    assert done.returncode == 0, _last(done)
    assert "0022" in done.stdout.decode()


@pytest.mark.root
@pytest.mark.parametrize("directory", ["/", "context"])
def test_where_python_is_started_does_not_show_the_machine_to_the_builder(
    bench: Bench, tmp_path: Path, directory: str
) -> None:
    context = write_context(tmp_path / "context", "FROM busybox:stable\nRUN echo fine\n")
    here = Path(__file__).resolve().parents[2]
    done = _build_from(
        bench,
        context,
        "--data-dir",
        bench.data,
        command=[sys.executable, "-m", "executor", "--progress", "json"],
        cwd=tmp_path / directory,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{here}:/"},
    )
    assert done.returncode == 0, _last(done)


def test_no_home_is_told(bench: Bench, tmp_path: Path) -> None:
    from executor.cli import data_directory

    if os.geteuid() == 0:
        assert data_directory({}) == Path("/var/lib/pushwright")
    done = run_executor("-c", tmp_path, "--no-push", "--data-dir", "/proc/none", env={"HOME": "/nonexistent"})
    assert done.status == 3
    assert done.error["code"] in {"operation-refused", "store-error"}


def test_whoever_reads_the_events_may_leave(bench: Bench, tmp_path: Path) -> None:
    context = write_context(tmp_path / "context", "FROM busybox:stable\nRUN echo one; sleep 1; echo two\n")
    command = ["/bin/sh", "-c", '"$@" | head -n 1', "sh", *executor_command("--progress", "json")]
    done = _build_from(bench, context, "--data-dir", bench.data, command=command)
    assert done.stderr == b""
    assert list((bench.data / "store" / "work").iterdir()) == []


def test_names_to_keep_an_image_under_are_checked_first(bench: Bench) -> None:
    done: Ended = bench.build("FROM nothing-there:1\n", "--no-push", "--keep-as", "without-a-tag")
    assert (done.status, done.events) == (2, [])
    assert "--keep-as" in done.stderr
