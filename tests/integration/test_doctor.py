"""`pushwright doctor` on this machine, which builds."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.up_process import run_command


def test_it_tries_what_builds_need_and_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = run_command(data, "doctor", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    answer = json.loads(done.stdout)
    checks = {check["name"]: check for check in answer["checks"]}
    assert answer["can_build"] is True
    assert checks["level userns"]["available"] is True
    assert checks["redis server"]["available"] is True
    assert checks["server"]["available"] is False
    assert all(check["hint"] for check in checks.values() if not check["available"])
    assert not list(data.iterdir())
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_people_get_a_line_for_each_and_a_hint_for_what_is_missing(tmp_path: Path) -> None:
    done = run_command(tmp_path / "data", "doctor")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[-1] == "this machine can build"
    (server,) = (number for number, line in enumerate(lines) if line.startswith("no   server "))
    assert "hint: start one with `pushwright up`" in lines[server + 1]


def test_a_data_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    done = run_command(tmp_path / "data", "doctor")
    assert done.returncode == 3
    assert "no   data directory" in done.stdout
    assert done.stdout.endswith("this machine cannot build\n")
