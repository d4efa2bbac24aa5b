"""Results as text for a terminal, and as Markdown for the README."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from bench.results import Results, Series, growth, ratio_to_peer, spread

# twice the files, steps or bytes may cost this much
MOST_GROWTH = 2.2
TARGETS_ARE_BESIDE = "buildah-rootless"
MEGABYTE = 1_000_000
_LEFT = frozenset({"workload", "mode", "contender"})


def as_text(results: Results, peer: str) -> str:
    """The whole report for a terminal."""
    rows = table(results, peer)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [_aligned(rows[0], rows[0], widths), "  ".join("-" * width for width in widths)]
    lines += [_aligned(row, rows[0], widths) for row in rows[1:]]
    return "\n".join((*header(results, peer), "", *lines, *_failures(results.series, "")))


def as_markdown(results: Results, peer: str) -> str:
    """The same for the README."""
    rows = table(results, peer)
    marks = ["---" if name in _LEFT else "---:" for name in rows[0]]
    lines = ["| " + " | ".join(row) + " |" for row in (rows[0], marks, *rows[1:])]
    heading = [f"- {line}" for line in header(results, peer)]
    return "\n".join((*heading, "", *lines, *_failures(results.series, "    ")))


def header(results: Results, peer: str) -> Iterator[str]:
    """Where and how it was measured, one fact a line."""
    yield f"{results.started}, {', '.join(f'{key} {value}' for key, value in results.machine.items())}"
    yield f"medians of {results.runs} interleaved runs after one warm-up; ratios beside {peer}, pair by pair"
    if results.noise_seconds:
        middle = statistics.median(results.noise_seconds)
        yield (
            f"noise: a fixed piece of work before each run took {middle * 1000:.1f} ms in the middle, "
            f"{spread(results.noise_seconds):.0%} of that from least to greatest"
        )
    for name, words in results.contenders.items():
        yield f"{name}: {words}"


def table(results: Results, peer: str) -> list[tuple[str, ...]]:
    """The rows as texts, the names of the columns first."""
    sizes = {series.size for series in results.series}
    names = ("workload", "mode", *(["size"] if sizes != {1.0} else []), "contender", "wall s", "spread", "ratio")
    names += ("target", "cpu s", "own cpu s", "own MB", "layers", "pushed MB")
    names += ("growth",) if len(sizes) > 1 else ()
    rows = [names]
    ordered = sorted(results.series, key=lambda series: (series.workload, series.mode, series.size))
    for series in ordered:
        cells = _cells(series, results.series, peer)
        rows.append(tuple(cells[name] for name in names))
    return rows


def _cells(series: Series, all_series: Sequence[Series], peer: str) -> dict[str, str]:
    cells = {
        "workload": f"{series.workload} {series.title}",
        "mode": series.mode,
        "size": f"{series.size:g}",
        "contender": series.contender,
        "wall s": "failed",
        **dict.fromkeys(("spread", "ratio", "cpu s", "own cpu s", "own MB", "layers", "pushed MB", "growth"), "–"),
        "target": f"≤ {series.target:.2f}" if series.target is not None and peer == TARGETS_ARE_BESIDE else "–",
    }
    if series.error:
        return cells
    ratio = ratio_to_peer(series, all_series, peer)
    grown = growth(series, all_series)
    return cells | {
        "wall s": f"{statistics.median(series.walls):.3f}",
        "spread": f"{spread(series.walls):.0%}" if len(series.runs) > 1 else "–",
        "ratio": f"{ratio:.2f}" if ratio is not None else "–",
        "cpu s": f"{statistics.median(run.cpu_seconds for run in series.runs):.2f}",
        "own cpu s": f"{series.own_cpu_seconds:.2f}" if series.run_cpu_seconds is not None else "–",
        "own MB": f"{series.peak_bytes / MEGABYTE:.0f}" if series.peak_bytes is not None else "–",
        "layers": str(series.layers),
        "pushed MB": f"{series.image_bytes / MEGABYTE:.1f}",
        "growth": "–" if grown is None else f"{grown:.2f}" + (" (!)" if grown > MOST_GROWTH else ""),
    }


def _aligned(row: Sequence[str], names: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        cell.ljust(width) if name in _LEFT else cell.rjust(width)
        for cell, name, width in zip(row, names, widths, strict=True)
    )
    return "  ".join(cells).rstrip()


def _failures(all_series: Sequence[Series], indent: str) -> Iterator[str]:
    # what fails for one reason everywhere is told once
    places: dict[tuple[str, str], list[str]] = {}
    for series in all_series:
        if series.error:
            place = f"workload {series.workload} {series.mode} at size {series.size:g}"
            places.setdefault((series.contender, series.error), []).append(place)
    for (contender, error), where in places.items():
        yield ""
        yield f"{contender} failed in {', '.join(where)}:"
        yield ""
        yield from (f"{indent or '  '}{line}" for line in error.splitlines())
