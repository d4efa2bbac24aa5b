"""The command: `python -m bench`."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import contenders, places, report, workloads
from bench.errors import BenchError
from bench.results import Results


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything that was asked for was measured, 1 when a contender failed, 2 when nothing could begin."""
    options = _parser().parse_args(arguments)
    try:
        results = _stored(options.from_file) if options.from_file else _measured(options)
        # first, since what reads the output may have gone away
        if options.json:
            options.json.write_text(results.to_json())
        write = report.as_markdown if options.markdown else report.as_text
        print(write(results, options.peer))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 1 if any(series.error for series in results.series) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure builders side by side, from a context on disk to a manifest in a local registry.",
    )
    add = parser.add_argument
    add("--only", type=_numbers, default=(), metavar="N[,N…]", help="workloads by number (default: all)")
    add("--mode", action="append", choices=[*workloads.MODES], default=[], help="only this mode; repeats")
    add("--contender", action="append", default=[], metavar="NAME", help="only this one; repeats (default: all)")
    add("--contenders", type=Path, metavar="FILE", help="more contenders, as in bench/contenders.toml")
    add(
        "--peer",
        default=report.TARGETS_ARE_BESIDE,
        metavar="NAME",
        help="whom the ratios are beside (default: %(default)s)",
    )
    add("--runs", type=_positive, default=5, metavar="N", help="counted runs, after one warm-up (default: 5)")
    add("--size", type=_factor, default=1.0, metavar="FACTOR", help="of files, steps and bytes (default: 1)")
    add("--scale", type=_factor, metavar="FACTOR", help="measure at this many times the size too, and print the growth")
    add("--user", metavar="NAME", help="the ordinary user (default: the first with subordinate ids)")
    add("--timeout", type=_factor, default=1800, metavar="SECONDS", help="for one command (default: 1800)")
    add("--directory", type=Path, default=Path("/var/tmp"), help="where the work is done (default: /var/tmp)")
    add("--json", type=Path, metavar="FILE", help="write everything measured")
    add("--from", dest="from_file", type=Path, metavar="FILE", help="report what --json wrote; measure nothing")
    add("--markdown", action="store_true", help="the report as Markdown")
    add("--list", action=_List, nargs=0, help="print workloads and contenders, and end")
    return parser


class _List(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for workload in workloads.WORKLOADS:
            print(f"{workload.number:4}  {workload.title} ({', '.join(workload.modes)})")
        for contender in contenders.read_settings(contenders.SETTINGS.read_text(), contenders.SETTINGS.name):
            print(f"{contender.name}: {contender.about}")
        parser.exit()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return number


def _factor(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return number


def _stored(path: Path) -> Results:
    return Results.from_json(_text_of(path))


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read: {error}") from error


def _measured(options: argparse.Namespace) -> Results:
    # the servers behind it are those of the tests
    from bench.session import Plan, Session

    known = contenders.read_settings(contenders.SETTINGS.read_text(), contenders.SETTINGS.name)
    if options.contenders:
        known += contenders.read_settings(_text_of(options.contenders), str(options.contenders))
    plan = Plan(
        workloads=workloads.chosen(options.only),
        contenders=contenders.named(known, options.contender),
        sizes=(options.size, options.size * options.scale) if options.scale else (options.size,),
        runs=options.runs,
        timeout_seconds=options.timeout,
        ordinary_user=options.user,
        modes=tuple(options.mode),
    )
    machine = _machine()
    started = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes")
    # contenders that are other users read the contexts
    os.umask(0o022)
    directory = Path(tempfile.mkdtemp(prefix="pwb-", dir=options.directory))
    try:
        with Session.opened(directory, plan, _say) as session:
            series = session.measure()
    finally:
        places.remove(directory)
    return Results(machine, started, plan.runs, session.described, series, tuple(session.noise))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _machine() -> dict[str, str]:
    load = os.getloadavg()[0]
    return {
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "kernel": platform.release(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB",
        "Python": platform.python_version(),
        "load before": f"{load:.2f}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
