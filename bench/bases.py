"""Base images, made by Pushwright itself and pushed once, before the first run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.errors import BenchError
from bench.workloads import Base, small_files_command
from tests.support.docker_engine import EngineError, debian_tarball
from tests.support.executor_run import BASE_DOCKERFILE, BUSYBOX, executor_command, write_context

TAG = "1"
_SECONDS = 900


def reference(base: Base, host: str) -> str:
    """What FROM says."""
    return f"{host}/{base.repository}:{TAG}"


def push(base: Base, host: str, directory: Path) -> None:
    """Make the image in `directory` and push it."""
    data = directory / "data"
    try:
        if base.kind == "debian":
            tree = directory / "debian" / "root"
            tree.mkdir(parents=True)
            # devices cannot be made by everybody, and no image needs them
            command = ["tar", "-xf", str(debian_tarball(["tar"])), "-C", str(tree), "--exclude=./dev/*"]
            subprocess.run(command, check=True, capture_output=True)
            _build(write_context(directory / "debian", "FROM scratch\nCOPY root /\n"), base, host, data)
            return
        context = write_context(directory / "busybox", BASE_DOCKERFILE)
        shutil.copy(BUSYBOX, context / "busybox")
        _build(context, Base(), host, data)
        if base.files:
            dockerfile = f"FROM {reference(Base(), host)}\nRUN {small_files_command('/base', base.files)}\n"
            _build(write_context(directory / base.repository, dockerfile), base, host, data)
    except (EngineError, OSError) as error:
        raise BenchError(f"the base {base.repository} cannot be made: {error}") from error
    except subprocess.SubprocessError as error:
        # CalledProcessError and TimeoutExpired both keep what was printed
        raise BenchError(
            f"the base {base.repository} cannot be made: {error}: {getattr(error, 'stderr', '')!r}"
        ) from error


def _build(context: Path, base: Base, host: str, data: Path) -> None:
    arguments = ["--context", str(context), "--destination", reference(base, host), "--data-dir", str(data)]
    command = executor_command(*arguments)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-3000:]
        raise BenchError(f"the base {base.repository} cannot be made by {sys.executable}: {said}")
