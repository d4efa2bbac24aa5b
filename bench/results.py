"""What was measured, as values: medians, ratios pair by pair, and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.errors import BenchError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Run:
    """One counted run."""

    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Series:
    """All counted runs of one contender with one workload, mode and size.

    `peak_bytes` and `run_cpu_seconds` come from the warm-up, which is sampled. With an `error` nothing else counts.
    """

    workload: int
    title: str
    mode: str
    size: float
    contender: str
    runs: tuple[Run, ...] = ()
    peak_bytes: int | None = None
    run_cpu_seconds: float | None = None
    layers: int = 0
    image_bytes: int = 0
    target: float | None = None
    error: str = ""

    @property
    def walls(self) -> tuple[float, ...]:
        return tuple(run.wall_seconds for run in self.runs)

    @property
    def own_cpu_seconds(self) -> float:
        """CPU time without that of RUN's processes, as far as the samples of the warm-up saw them."""
        total = statistics.median(run.cpu_seconds for run in self.runs)
        return max(0.0, total - (self.run_cpu_seconds or 0.0))

    @property
    def place(self) -> tuple[int, str, float]:
        """What is built, and how; series that share it were measured side by side."""
        return self.workload, self.mode, self.size


@dataclass(frozen=True, slots=True)
class Results:
    """One whole benchmark: where, when, with what, and every series."""

    machine: Mapping[str, str]
    started: str
    runs: int
    contenders: Mapping[str, str]
    series: tuple[Series, ...]
    noise_seconds: tuple[float, ...] = ()
    format: int = field(default=FORMAT)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """What `to_json` wrote."""
        try:
            document: dict[str, Any] = json.loads(text)
            if document["format"] != FORMAT:
                raise BenchError(f"expected results of format {FORMAT}, found {document['format']!r}")
            series = [
                Series(**{**item, "runs": tuple(Run(**run) for run in item["runs"])}) for item in document["series"]
            ]
            noise = tuple(document["noise_seconds"])
            return cls(**{**document, "series": tuple(series), "noise_seconds": noise})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BenchError(f"expected results as --json writes them: {error}") from error


def paired_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of each round: both were measured within minutes of each other.

    A ratio of medians would set a run from a quiet minute beside one from a busy minute.
    """
    return statistics.median(one / other for one, other in zip(mine, theirs, strict=True))


def spread(values: Sequence[float]) -> float:
    """From the least to the greatest, as a part of the median."""
    return (max(values) - min(values)) / statistics.median(values)


def ratio_to_peer(one: Series, all_series: Sequence[Series], peer: str) -> float | None:
    """How long `one` took beside the peer in the same rounds; None where the peer has no such runs."""
    for other in all_series:
        if other.contender == peer and other.place == one.place and comparable(one, other):
            return paired_ratio(one.walls, other.walls)
    return None


def growth(one: Series, all_series: Sequence[Series]) -> float | None:
    """How many times longer `one` took than the same at the smallest size; None for the smallest itself."""
    same = [
        other
        for other in all_series
        if (other.workload, other.mode, other.contender) == (one.workload, one.mode, one.contender)
    ]
    smallest = min(same, key=lambda other: other.size)
    if smallest.size == one.size or not comparable(one, smallest):
        return None
    return paired_ratio(one.walls, smallest.walls)


def comparable(one: Series, other: Series) -> bool:
    return not one.error and not other.error and len(one.runs) == len(other.runs) > 0
