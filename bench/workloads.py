"""What is built: each workload writes a build context, the same bytes for the same sizes on every machine."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError

COLD = "cold"
BASE_KNOWN = "base-known"
WARM = "warm"
MODES: Mapping[str, str] = {
    COLD: "nothing is there but the context; the base is pulled",
    BASE_KNOWN: "an image of one step on the same base was built before",
    WARM: "the same was built and pushed before; where a workload says so, one file has changed since",
}
MEGABYTE = 1_000_000
_SEED = 20_260_101
_PIECE = 1 << 16
_WORDS = (  # noqa: SIM905 — a list of them is no easier to read
    "layer digest manifest image config registry blob the of and in to is for with build step stage commit push tag "
    "context mount namespace overlay unpack compress upload return class import def yield self none true false"
).split()


@dataclass(frozen=True, slots=True)
class Base:
    """An image that is in the registry before the first run: Debian, or busybox and `files` small files."""

    kind: str = "busybox"
    files: int = 0

    @property
    def repository(self) -> str:
        return f"base/{self.kind}" + (f"-{self.files}" if self.files else "")


@dataclass(frozen=True, slots=True)
class Workload:
    """One line of the table. `size` 1 is what the title says; twice the size is twice the files, steps or bytes.

    `targets` are the ratios to buildah as an ordinary user that Pushwright is to reach, by mode.
    """

    number: int
    title: str
    write: Callable[[Path, str, float], None]
    modes: tuple[str, ...] = (COLD,)
    base: Callable[[float], Base] = lambda size: Base()
    change: Callable[[Path, int], None] | None = None
    targets: Mapping[str, float] = field(default_factory=dict)


def count(number: int, size: float) -> int:
    """`number` at this size, and at least one."""
    return max(1, round(number * size))


def one_copy(directory: Path, base: str, size: float) -> None:
    """A single file, so that what remains is the cost of starting."""
    _dockerfile(directory, base, "COPY index.html /index.html")
    (directory / "index.html").write_text("<h1>hello</h1>\n")


def static_site(directory: Path, base: str, size: float) -> None:
    """Pages, scripts, styles and pictures, 12 KB each in the middle, twenty to a directory."""
    rng = random.Random(_SEED + 1)
    _dockerfile(directory, base, "COPY site /srv/www", 'CMD ["httpd", "-f", "-h", "/srv/www"]')
    text = next(_text(rng, MEGABYTE))
    for number in range(count(200, size)):
        folder = directory / "site" / f"section-{number // 20}"
        folder.mkdir(parents=True, exist_ok=True)
        length = rng.randrange(1_000, 23_000)
        if number % 4 == 3:
            (folder / f"picture-{number}.jpg").write_bytes(rng.randbytes(length))
        else:
            start = rng.randrange(len(text) - length)
            (folder / f"page-{number}.{('html', 'css', 'js')[number % 4]}").write_bytes(text[start : start + length])


def many_files(directory: Path, base: str, size: float) -> None:
    """One RUN that writes small files, then five that write one each."""
    steps = [f"RUN {small_files_command('/data', count(20_000, size))}"]
    _dockerfile(directory, base, *steps, *(f"RUN echo {number} > /data/extra-{number}" for number in range(5)))


def big_files(directory: Path, base: str, size: float) -> None:
    """Three files of one size in all: text, noise, and both with binary tables between."""
    rng = random.Random(_SEED + 7)
    _dockerfile(directory, base, "COPY files /srv/files")
    (directory / "files").mkdir()
    each = count(500 * MEGABYTE, size) // 3
    sources: dict[str, Iterator[bytes]] = {"text": _text(rng, each), "noise": _noise(rng), "mixed": _mixed(rng, each)}
    for name, pieces in sources.items():
        with (directory / "files" / name).open("wb") as file:
            left = each
            while left:
                left -= file.write(next(pieces)[:left])


def small_steps(number: int) -> Callable[[Path, str, float], None]:
    """A writer of `number` steps that each write one line."""

    def write(directory: Path, base: str, size: float) -> None:
        _dockerfile(directory, base, *(f"RUN echo {step} > /step-{step}" for step in range(count(number, size))))

    return write


def one_run(directory: Path, base: str, size: float) -> None:
    """A step that changes one file, whatever the base holds."""
    _dockerfile(directory, base, "RUN echo hello > /hello")


def many_small_inputs(directory: Path, base: str, size: float) -> None:
    """A context of small files, a hundred to a directory."""
    _dockerfile(directory, base, "COPY tree /srv/tree")
    for number in range(count(200_000, size)):
        folder = directory / "tree" / f"{number // 10_000}" / f"{number // 100 % 100}"
        if number % 100 == 0:
            folder.mkdir(parents=True)
        (folder / f"file-{number}").write_text(f"content of file {number}\n")


def change_one_input(directory: Path, number: int) -> None:
    """Another content of the first file, of the same length for a round of up to four digits."""
    (directory / "tree" / "0" / "0" / "file-0").write_text(f"changed in round {number:04}\n")


def small_files_command(directory: str, files: int) -> str:
    """Shell that writes `files` files of a few bytes, a hundred to a directory, without a process for each."""
    folders, rest = divmod(files, 100)
    lines = [
        f"write() {{ mkdir -p {directory}/$1; i=0; while [ $i -lt $2 ]; do echo $1 $i > {directory}/$1/$i; "
        "i=$((i+1)); done; }",
        f"d=0; while [ $d -lt {folders} ]; do write $d 100; d=$((d+1)); done",
        *([f"write {folders} {rest}"] if rest else []),
    ]
    return "; ".join(lines)


def _dockerfile(directory: Path, base: str, *instructions: str) -> None:
    (directory / "Dockerfile").write_text("\n".join((f"FROM {base}", *instructions, "")))


def _text(rng: random.Random, at_least: int) -> Iterator[bytes]:
    """Endless words: one stock of at most 8 MB, its pieces in a new order each time, farther apart than gzip looks."""
    stock = " ".join(rng.choices(_WORDS, k=min(at_least, 8 * MEGABYTE) // 5)).encode()
    if len(stock) < 4 * _PIECE:
        while True:
            yield stock
    pieces = [stock[start : start + _PIECE] for start in range(0, len(stock), _PIECE)]
    while True:
        yield b"".join(rng.sample(pieces, len(pieces)))


def _noise(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield rng.randbytes(_PIECE)


def _table(rng: random.Random) -> Iterator[bytes]:
    """Records as programs hold them: a growing number, an offset, and little that is new."""
    for start in itertools.count(step=_PIECE // 16):
        yield b"".join(
            struct.pack("<QII", start + row, (start + row) * 24 & 0xFFFFFFFF, rng.randrange(1000))
            for row in range(_PIECE // 16)
        )


def _mixed(rng: random.Random, at_least: int) -> Iterator[bytes]:
    text, noise, table = _text(rng, at_least), _noise(rng), _table(rng)
    # a few tables are enough: they repeat farther apart than gzip looks
    tables = itertools.cycle([next(table) for _ in range(16)])
    while True:
        words = next(text)
        for start in range(0, len(words), _PIECE):
            yield words[start : start + _PIECE]
            yield next(noise)
            yield next(tables)


WORKLOADS: tuple[Workload, ...] = (
    Workload(0, "no-op rebuild of an image of one COPY", one_copy, modes=(WARM,)),
    Workload(1, "COPY-only static site on busybox", static_site, targets={COLD: 0.47}),
    Workload(3, "RUN writing 20 000 small files, then five one-file steps", many_files, targets={COLD: 0.21}),
    Workload(7, "500 MB of three mixed files copied", big_files, targets={COLD: 0.33}),
    Workload(
        8,
        "thirty small steps on a Debian base",
        small_steps(30),
        modes=(COLD, BASE_KNOWN),
        base=lambda size: Base("debian"),
        targets={COLD: 0.21, BASE_KNOWN: 0.10},
    ),
    Workload(
        9,
        "one RUN on a base of 20 000 small files",
        one_run,
        base=lambda size: Base(files=count(20_000, size)),
        targets={COLD: 0.80},
    ),
    Workload(
        10,
        "a context of 200 000 small files, one changed",
        many_small_inputs,
        modes=(WARM,),
        change=change_one_input,
        targets={WARM: 0.50},
    ),
    Workload(11, "one hundred steps", small_steps(100), targets={COLD: 0.20}),
)


def chosen(numbers: tuple[int, ...]) -> tuple[Workload, ...]:
    """The workloads with these numbers, in the table's order; all for none."""
    known = {workload.number: workload for workload in WORKLOADS}
    if unknown := [number for number in numbers if number not in known]:
        raise BenchError(f"expected workloads of {', '.join(map(str, known))}, found {', '.join(map(str, unknown))}")
    return tuple(workload for workload in WORKLOADS if not numbers or workload.number in numbers)
