"""RUN: a command in a root made of the stage's layers, and what it changed there."""

from __future__ import annotations

import codecs
import collections
import contextlib
import os
import select
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from executor.dockerfile import history
from executor.dockerfile.heredoctext import SCRIPT_MODE, ShellText, run_heredoc
from executor.dockerfile.instructions import Run
from executor.errors import DiskFullError, IsolationError, PushwrightError, StepFailedError
from executor.isolation.idmap import ID_SHIFT, require_image_ids
from executor.isolation.mounts import StepMount
from executor.isolation.runner import HOSTNAME, Command, Ended, Runner
from executor.progress import Observer
from executor.rootfs.contained import Root
from executor.rootfs.users import User, resolve_user
from executor.steps.mounts import Prepared
from executor.steps.snapshot import Snapshots
from executor.steps.state import StageState

SPACE_FLOOR_BYTES = 1024 * 1024
TAIL_LINES = 20
TAIL_LINE_CHARACTERS = 500
_CHUNK = 1 << 16


class CommandSteps:
    """Runs the commands of a build; `name_files` are what steps see as /etc/hosts and /etc/resolv.conf."""

    def __init__(
        self,
        runner: Runner,
        snapshots: Snapshots,
        *,
        id_map: str,
        network: Literal["host", "none"],
        proxies: Mapping[str, str],
        output_limit_bytes: int,
        open_files: int,
        processes: int,
        name_files: Mapping[str, str],
    ) -> None:
        self._runner = runner
        self._snapshots = snapshots
        self._id_map = id_map
        self._network = network
        self._proxies = proxies
        self._output_limit_bytes = output_limit_bytes
        self._open_files = open_files
        self._processes = processes
        self._name_files = name_files

    def run(
        self,
        state: StageState,
        instruction: Run,
        prepared: Prepared,
        *,
        step: int,
        observer: Observer,
        created: str,
    ) -> StageState:
        """Run the command; `StepFailedError` with its status and last lines when it does not end with 0.

        `prepared` are the mounts that the instruction asks for.
        """
        argv, script = self._argv(state, instruction)
        overlays = self._snapshots.overlays
        with overlays.view(state.directories) as below, Root.at(below) as root:
            user = resolve_user(state.config.config.user, root)
            has_working_dir = root.lstat(root.resolve(os.fsencode(state.working_dir))) is not None
        require_image_ids(user.uid, user.gid, *user.groups)
        upper = self._snapshots.new_upper(state.directories)
        if not has_working_dir:
            self._make_working_dir(state, user, upper)
        command = self._command(state, argv, user, upper)
        command = replace(
            command,
            env={**command.env, **prepared.env},
            mounts=(*prepared.mounts, *script),
            network=_network(instruction, self._network),
        )
        output = StepOutput(step, observer, self._output_limit_bytes)
        ended = self._execute(command, output)
        if ended.complaint or ended.status != 0:
            require_space(upper)
            raise self._failure(instruction, argv, ended, output)
        remove_stubs(upper, ended.created)
        layer = self._snapshots.commit(state.directories, upper)
        created_by = history.run(argv, state.scope.arg_values())
        return state.recorded(created, created_by, layer)

    def _argv(self, state: StageState, instruction: Run) -> tuple[tuple[str, ...], tuple[StepMount, ...]]:
        """The argument vector, and the script of a here-document that it runs, if it is one."""
        if not instruction.command.in_shell:
            return instruction.command.arguments, ()
        given = run_heredoc(instruction)
        if isinstance(given, ShellText):
            return state.command((given.text,), in_shell=True), ()
        path = self._snapshots.overlays.new_directory("script") / "script"
        path.write_bytes(given.content)
        path.chmod(SCRIPT_MODE)
        os.chown(path, ID_SHIFT, ID_SHIFT)
        return (given.path,), (StepMount(given.path, str(path), is_directory=False),)

    def _make_working_dir(self, state: StageState, user: User, upper: Path) -> None:
        """An image may name a directory that it does not have; BuildKit makes it for the step's user, and it stays."""
        with self._snapshots.overlays.writable(state.directories, upper) as merged, Root.at(merged) as root:
            owner = (user.uid + ID_SHIFT, user.gid + ID_SHIFT)
            root.make_directories(os.fsencode(state.working_dir), 0o755, owner)

    def _command(self, state: StageState, argv: tuple[str, ...], user: User, upper: Path) -> Command:
        overlays = self._snapshots.overlays
        env = state.scope.run_environment(self._proxies)
        env.setdefault("HOME", user.home)
        return Command(
            argv=argv,
            env=env,
            cwd=state.working_dir,
            uid=user.uid,
            gid=user.gid,
            groups=tuple(user.groups),
            lowers=overlays.lowers(state.directories),
            upper=str(upper),
            work=str(overlays.new_directory("work", mode=0o700)),
            root=str(overlays.new_directory("root")),
            id_map=self._id_map,
            network=self._network,
            hostname=HOSTNAME,
            open_files=self._open_files,
            processes=self._processes,
            name_files=self._name_files,
        )

    def _execute(self, command: Command, output: StepOutput) -> Ended:
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            status = self._runner.start(command, out_write, err_write)
        finally:
            os.close(out_write)
            os.close(err_write)
        try:
            output.read({out_read: "stdout", err_read: "stderr"})
        finally:
            os.close(out_read)
            os.close(err_read)
        return self._runner.wait(status)

    @staticmethod
    def _failure(instruction: Run, argv: tuple[str, ...], ended: Ended, output: StepOutput) -> PushwrightError:
        shown = " ".join(argv)
        shown = shown if len(shown) <= 200 else shown[:200] + "…"
        if ended.complaint and ended.by_host:
            return IsolationError(
                f"this machine could not set up RUN {shown!r}: {ended.complaint}",
                code="run-not-set-up",
                location=instruction.location,
                hint="`pushwright doctor` shows what this host offers",
            )
        if ended.complaint:
            return StepFailedError(
                f"RUN could not start {shown!r}: {ended.complaint}",
                code="run-not-started",
                location=instruction.location,
                status=ended.status,
            )
        return StepFailedError(
            f"RUN {shown!r} ended with status {ended.status}",
            code="run-failed",
            location=instruction.location,
            status=ended.status,
            tail=output.tail(),
        )


def _network(instruction: Run, build: Literal["host", "none"]) -> Literal["host", "none"]:
    """The step's network: its own wish may take the network of the build away, but not give it one."""
    wanted = instruction.network.lower()
    if wanted == "none":
        return "none"
    if wanted == "host" and build == "none":
        raise StepFailedError(
            "RUN --network=host: this build has no network",
            code="network-refused",
            location=instruction.location,
            hint="build with --network=host, or remove the flag",
        )
    return build


def require_space(directory: Path) -> None:
    """`DiskFullError` when nothing more can be written: a command that failed then did not fail by its own fault."""
    status = os.statvfs(directory)
    # file systems without a table of inodes say 0 of 0
    if status.f_bavail * status.f_frsize < SPACE_FLOOR_BYTES or (status.f_files and not status.f_favail):
        raise DiskFullError(
            "a command failed, and no space is left where the data directory is",
            hint="free space there, or move the data directory to a larger file system",
        )


class StepOutput:
    """What a command prints: to the observer as it comes, up to a limit, and its last lines kept."""

    def __init__(self, step: int, observer: Observer, limit_bytes: int) -> None:
        self._step = step
        self._observer = observer
        self._left = limit_bytes
        self._lines: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._rest = ""

    def read(self, streams: Mapping[int, str]) -> None:
        """Read until every process that has the other ends is gone; what is over the limit is read and dropped."""
        decoders = {item: codecs.getincrementaldecoder("utf-8")("replace") for item in streams}
        poller = select.poll()
        for descriptor in streams:
            poller.register(descriptor, select.POLLIN | select.POLLHUP)
        open_streams = set(streams)
        while open_streams:
            for descriptor, _ in poller.poll():
                data = os.read(descriptor, _CHUNK)
                self._show(streams[descriptor], decoders[descriptor].decode(data, final=not data), len(data))
                if not data:
                    poller.unregister(descriptor)
                    open_streams.discard(descriptor)

    def _show(self, stream: str, text: str, size: int) -> None:
        if not text:
            return
        *lines, self._rest = (self._rest + text).split("\n")
        self._lines.extend(line[:TAIL_LINE_CHARACTERS] for line in lines)
        self._rest = self._rest[-TAIL_LINE_CHARACTERS:]
        if self._left <= 0:
            return
        self._left -= size
        self._observer("step-log", step=self._step, stream=stream, data=text)
        if self._left <= 0:
            notice = "\n[the rest of this step's output is over the limit and not kept]\n"
            self._observer("step-log", step=self._step, stream=stream, data=notice)

    def tail(self) -> tuple[str, ...]:
        """The last lines, of standard output and standard error as they came."""
        return tuple(self._lines) + ((self._rest,) if self._rest else ())


def remove_stubs(upper: Path, created: tuple[str, ...]) -> None:
    """Remove mount points that were made for the command, where they are still as empty as they were made."""
    with Root.at(upper) as root:
        for path in reversed(created):
            name = os.fsencode(path)
            status = root.lstat(name)
            if status is None:
                continue
            # a directory that the command put something into stays, as in BuildKit
            with contextlib.suppress(OSError), root.parent(name) as (directory, last):
                if stat.S_ISDIR(status.st_mode):
                    os.rmdir(last, dir_fd=directory)
                elif status.st_size == 0:
                    os.unlink(last, dir_fd=directory)
