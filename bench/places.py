"""Directories of runs: emptied between them, and gone at the end, whoever owns what is inside."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.contenders import Account
from bench.errors import BenchError


def remove(directory: Path) -> None:
    """Remove a tree, what is mounted in it first; an ordinary user's may belong to subordinate ids."""
    if not directory.exists():
        return
    unmount_below(directory)
    if os.geteuid() == 0:
        shutil.rmtree(directory)
        return
    # rm inside a namespace where these ids are ours
    command = ["unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", "--", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{directory} cannot be removed: {done.stderr.strip()}")


def unmount_below(directory: Path) -> None:
    """Unmount what a builder left mounted, innermost first."""
    if os.geteuid() != 0:
        # an ordinary user's mounts are in namespaces that ended with their processes
        return
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=True, capture_output=True)


def make_state(directory: Path, account: Account | None) -> None:
    """An empty state directory with the places that every contender's environment names."""
    remove(directory)
    for path in (directory, directory / "runtime", directory / "tmp"):
        path.mkdir(mode=0o700)
        if account:
            os.chown(path, account.uid, account.gid)


def fill_registry(directory: Path, template: Path) -> None:
    """A registry's directory with the same blobs as the template's, as hard links: a registry never writes into one."""
    remove(directory)
    directory.mkdir()
    shutil.copytree(template / "data", directory / "data", copy_function=os.link)
