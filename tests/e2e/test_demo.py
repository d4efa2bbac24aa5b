"""`make demo`, as it is, and on a machine without skopeo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"
GUARD_SECONDS = 300.0


def run_demo(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    home = tmp_path / "home"
    home.mkdir()
    return subprocess.run(
        [sys.executable, str(DEMO)],
        env={**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path), **environment},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )


def path_without(tmp_path: Path, *hidden: str) -> str:
    """A PATH with links to every program but some."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for part in os.environ["PATH"].split(os.pathsep):
        for program in Path(part).iterdir() if Path(part).is_dir() else ():
            if program.name not in hidden and not (directory / program.name).is_symlink():
                (directory / program.name).symlink_to(program)
    return str(directory)


@pytest.mark.parametrize(("hidden", "client"), [((), "skopeo"), (("skopeo",), "an independent client")])
def test_the_demo_proves_what_it_says(tmp_path: Path, hidden: tuple[str, ...], client: str) -> None:
    environment = {"PATH": path_without(tmp_path, *hidden)} if hidden else {}
    done = run_demo(tmp_path, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.rstrip().splitlines()[-1]
    assert last.startswith("Proven in ")
    assert f"{client} pulled it, and " in last
    assert not list(tmp_path.glob("pushwright-demo-*"))


def test_the_demo_fails_when_something_is_missing(tmp_path: Path) -> None:
    done = run_demo(tmp_path, PATH=path_without(tmp_path, "git"))
    assert done.returncode == 1
    assert "the demo failed: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("pushwright-demo-*"))
