"""The benchmark: its arithmetic, its workloads, its settings and its report."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report, workloads
from bench.contenders import SETTINGS, Contender, inodes, named, put_in, read_settings
from bench.errors import BenchError
from bench.measure import Surroundings, descendants, run_chain
from bench.results import Results, Run, Series, growth, paired_ratio, ratio_to_peer, spread

BASE = "localhost:1/base/busybox:1"


def series(contender: str, *walls: float, size: float = 1.0, error: str = "", mode: str = workloads.COLD) -> Series:
    return Series(
        1,
        "a title",
        mode,
        size,
        contender,
        runs=tuple(Run(wall, wall / 2) for wall in walls),
        peak_bytes=40_000_000,
        run_cpu_seconds=0.25,
        layers=3,
        image_bytes=1_500_000,
        target=0.5 if contender == "ours" else None,
        error=error,
    )


def results(*all_series: Series) -> Results:
    return Results({"cores": "2"}, "2026-01-01", 3, {"ours": "it, 1.0", "peer": "theirs"}, all_series, (0.02, 0.03))


def tree_digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(directory)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


# arithmetic


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that became twice as slow in the second round changes no ratio."""
    assert paired_ratio((1, 2, 1), (2, 4, 2)) == 0.5
    # the ratio of medians would be 2 / 4
    assert paired_ratio((1, 2, 9), (4, 8, 3)) == 0.25


def test_ratios_need_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_ratio((1, 2), (1,))


def test_spread_is_a_part_of_the_median() -> None:
    assert spread((1.0, 2.0, 4.0)) == 1.5


def test_the_peer_is_the_one_of_the_same_workload_mode_and_size() -> None:
    mine = series("ours", 1, 1, 1)
    others = (
        series("peer", 2, 2, 2, size=2.0),
        series("peer", 4, 4, 4, mode=workloads.WARM),
        replace(series("peer", 8, 8, 8), workload=3),
    )
    assert ratio_to_peer(mine, (mine, *others), "peer") is None
    assert ratio_to_peer(mine, (mine, *others, series("peer", 5, 5, 5)), "peer") == 0.2


def test_a_failed_peer_gives_no_ratio() -> None:
    mine = series("ours", 1)
    assert ratio_to_peer(mine, (mine, series("peer", 5, error="it broke")), "peer") is None


def test_growth_is_beside_the_smallest_size() -> None:
    small, large = series("ours", 1, 1, 1), series("ours", 2, 3, 4, size=2.0)
    assert growth(large, (small, large)) == 3
    assert growth(small, (small, large)) is None
    assert growth(large, (replace(small, error="it broke"), large)) is None


def test_the_cpu_time_of_run_is_taken_off() -> None:
    assert series("ours", 1, 2, 3).own_cpu_seconds == 0.75
    assert series("ours", 0.1).own_cpu_seconds == 0


def test_results_survive_json() -> None:
    before = results(series("ours", 1, 2, 3), series("peer", error="it broke"))
    assert Results.from_json(before.to_json()) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "series": [{}]}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="expected results"):
        Results.from_json(text)


# the report


def test_the_table_has_what_was_measured() -> None:
    ours, peer = series("ours", 1.0, 1.1, 1.2), series(report.TARGETS_ARE_BESIDE, 2.0, 2.2, 2.4)
    names, first, second = report.table(results(ours, peer), report.TARGETS_ARE_BESIDE)
    assert "size" not in names and "growth" not in names
    cells = dict(zip(names, first, strict=True))
    assert cells == {
        "workload": "1 a title",
        "mode": "cold",
        "contender": "ours",
        "wall s": "1.100",
        "spread": "18%",
        "ratio": "0.50",
        "target": "≤ 0.50",
        "cpu s": "0.55",
        "own cpu s": "0.30",
        "own MB": "40",
        "layers": "3",
        "pushed MB": "1.5",
    }
    assert dict(zip(names, second, strict=True))["ratio"] == "1.00"


def test_a_target_counts_beside_its_own_peer_only() -> None:
    names, row = report.table(results(series("ours", 1.0)), "another")
    assert row[names.index("target")] == "–"


def test_growth_is_marked_when_it_is_too_much() -> None:
    all_series = (series("ours", 1.0), series("ours", 2.0, size=2.0), series("peer", 1.0), series("peer", 3.0, size=2))
    names, *rows = report.table(results(*all_series), "peer")
    grown = {(row[names.index("contender")], row[names.index("size")]): row[-1] for row in rows}
    assert grown == {("ours", "1"): "–", ("ours", "2"): "2.00", ("peer", "1"): "–", ("peer", "2"): "3.00 (!)"}


@pytest.mark.parametrize("write", [report.as_text, report.as_markdown])
def test_a_failure_is_in_the_report_with_its_error(write: object) -> None:
    assert callable(write)
    text = write(results(series("ours", 1.0, 2.0), series("peer", error="exit status 125\nno space")), "peer")
    assert "failed" in text
    assert "exit status 125" in text and "no space" in text
    assert "ours: it, 1.0" in text


def test_what_fails_everywhere_for_one_reason_is_told_once() -> None:
    failed = (series("peer", error="not installed"), series("peer", error="not installed", size=2.0))
    text = report.as_text(results(series("ours", 1.0), *failed), "peer")
    assert text.count("not installed") == 1
    assert "workload 1 cold at size 1, workload 1 cold at size 2" in text


def test_markdown_is_a_table() -> None:
    lines = report.as_markdown(results(series("ours", 1.0, 2.0)), "peer").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 3
    assert len({row.count("|") for row in rows}) == 1


# the workloads


@pytest.mark.parametrize("workload", workloads.WORKLOADS, ids=lambda workload: str(workload.number))
def test_a_context_is_the_same_each_time(workload: workloads.Workload, tmp_path: Path) -> None:
    digests = set()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        workload.write(tmp_path / name, BASE, 0.002)
        digests.add(tree_digest(tmp_path / name))
        assert (tmp_path / name / "Dockerfile").read_text().startswith(f"FROM {BASE}\n")
    assert len(digests) == 1
    assert set(workload.modes) <= set(workloads.MODES)
    assert set(workload.targets) <= set(workload.modes)


def test_twice_the_size_is_twice_the_work(tmp_path: Path) -> None:
    def amount(number: int, size: float) -> tuple[int, int, int]:
        (workload,) = workloads.chosen((number,))
        directory = tmp_path / f"{number}-{size}"
        directory.mkdir()
        workload.write(directory, BASE, size)
        files = [path for path in directory.rglob("*") if path.is_file() and path.name != "Dockerfile"]
        steps = (directory / "Dockerfile").read_text().count("\nRUN ")
        return steps, len(files), sum(path.stat().st_size for path in files)

    assert amount(8, 1)[0] == 30 and amount(8, 2)[0] == 60
    assert amount(11, 1)[0] == 100 and amount(11, 2)[0] == 200
    assert amount(1, 0.1)[1] == 20 and amount(1, 0.2)[1] == 40
    assert amount(10, 0.001)[1] == 200 and amount(10, 0.002)[1] == 400
    assert amount(7, 0.01) == (0, 3, 4_999_998) and amount(7, 0.02) == (0, 3, 9_999_999)
    (on_many_files,) = workloads.chosen((9,))
    assert on_many_files.base(2) == workloads.Base(files=40_000)


def test_the_three_files_compress_differently(tmp_path: Path) -> None:
    (workload,) = workloads.chosen((7,))
    workload.write(tmp_path, BASE, 0.01)
    ratios = {
        path.name: len(zlib.compress(path.read_bytes(), 1)) / path.stat().st_size
        for path in (tmp_path / "files").iterdir()
    }
    assert ratios["text"] < 0.5 < ratios["mixed"] < 0.9 < ratios["noise"]


@pytest.mark.parametrize("files", [1, 99, 100, 250])
def test_the_shell_writes_as_many_files_as_asked(files: int, tmp_path: Path) -> None:
    subprocess.run(["sh", "-euc", workloads.small_files_command(str(tmp_path / "data"), files)], check=True)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == files


def test_the_changed_file_is_another_each_round(tmp_path: Path) -> None:
    (workload,) = workloads.chosen((10,))
    workload.write(tmp_path, BASE, 0.001)
    digests = {tree_digest(tmp_path)}
    assert workload.change is not None
    for number in (0, 1, 10):
        workload.change(tmp_path, number)
        digests.add(tree_digest(tmp_path))
    assert len(digests) == 4


def test_workloads_are_chosen_by_number() -> None:
    assert [workload.number for workload in workloads.chosen((9, 1))] == [1, 9]
    assert workloads.chosen(()) == workloads.WORKLOADS
    with pytest.raises(BenchError, match="found 99"):
        workloads.chosen((1, 99))


# the contenders


def test_the_settings_are_read() -> None:
    contenders = read_settings(SETTINGS.read_text(), SETTINGS.name)
    assert {"pushwright", "pushwright-rootless", "buildah", "buildah-rootless", "buildkit"} == {
        contender.name for contender in contenders
    }
    known = {"bin", "state", "context", "destination", "docker_host"}
    for contender in contenders:
        for settled, _ in contender.settled():
            commands = (settled.version, *settled.build, *settled.reset)
            filled = [put_in(command, dict.fromkeys(known, "x")) for command in commands]
            assert not [word for command in filled for word in command if "{" in word]


def test_each_combination_of_choices_is_settled_in_order() -> None:
    contender = Contender(
        "a",
        "",
        ("{one}",),
        (("{one}", "{two}", "{state}"),),
        ("{two}",),
        choices={"one": ("p", "q"), "two": ("r", "s")},
    )
    settled = list(contender.settled())
    assert [words for _, words in settled] == ["one p, two r", "one p, two s", "one q, two r", "one q, two s"]
    assert settled[1][0].build == (("p", "s", "{state}"),)
    assert settled[1][0].own == ("s",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a", "expected TOML"),
        ("a = 1", "expected a table"),
        ('[a]\nabout = "x"\nversion = ["v"]\nbuild = [["b"]]\nown = ["o"]\ncolour = 1', "unknown settings: colour"),
        ('[a]\nabout = "x"\nversion = ["v"]\nbuild = ["b"]\nown = ["o"]', "expected a list of strings"),
        ('[a]\nabout = "x"\nversion = ["v"]\nbuild = [["b"]]\nown = ["o"]\nuser = "me"', "expected one of"),
        ('[a]\nversion = ["v"]\nbuild = [["b"]]\nown = ["o"]', "about: expected a string"),
    ],
)
def test_wrong_settings_are_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(BenchError, match=said) as caught:
        read_settings(text, "mine.toml")
    assert "mine.toml" in str(caught.value)


def test_unknown_contenders_are_refused() -> None:
    contenders = read_settings(SETTINGS.read_text(), SETTINGS.name)
    assert [contender.name for contender in named(contenders, ["buildkit", "buildah"])] == ["buildah", "buildkit"]
    with pytest.raises(BenchError, match="found kaniko"):
        named(contenders, ["kaniko"])


# measuring, with real processes


def surroundings(tmp_path: Path, timeout_seconds: float = 60) -> Surroundings:
    return Surroundings(None, {"PATH": os.environ["PATH"]}, tmp_path / "log", timeout_seconds)


def test_all_commands_of_a_chain_count(tmp_path: Path) -> None:
    """CPU time of children that were waited for is in it; and what is no program of the builder is RUN's."""
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    commands = [["sh", "-c", f"{sys.executable} -c '{busy}'; true"]] * 2
    cost = run_chain(commands, surroundings(tmp_path), inodes(["sh"]))
    assert cost.cpu_seconds > 0.6
    assert cost.run_cpu_seconds is not None and 0.2 < cost.run_cpu_seconds <= cost.cpu_seconds
    assert cost.peak_bytes is not None and 0 < cost.peak_bytes < 50_000_000


def test_a_failing_command_ends_the_chain_with_what_it_said(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(BenchError, match="exit status 7\ncannot do that"):
        run_chain([["sh", "-c", "echo cannot do that; exit 7"], ["touch", str(marker)]], surroundings(tmp_path))
    assert not marker.exists()


def test_a_missing_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be started"):
        run_chain([["/nonexistent/builder"]], surroundings(tmp_path))


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="took longer"):
        run_chain([["sh", "-c", "sleep 300 & echo $! > $0; wait", str(tmp_path / "pid")]], surroundings(tmp_path, 0.5))
    with pytest.raises(ProcessLookupError):
        while True:
            os.kill(int((tmp_path / "pid").read_text()), 0)
            # killed, and there until its new parent has seen it
            if Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat").read_text().rpartition(")")[2][1] == "Z":
                raise ProcessLookupError


def test_descendants_are_found_below_children() -> None:
    process = subprocess.Popen(["sh", "-c", "sleep 300 & echo ready; wait"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        found = descendants([process.pid])
        assert process.pid in found and len(found) == 2
        for pid in found:
            os.kill(pid, signal.SIGKILL)
    finally:
        process.communicate()
    assert descendants([process.pid]) == []
