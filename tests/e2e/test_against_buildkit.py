"""The same contexts built by BuildKit and by the executor give the same image.

A case is a directory of tests/golden/buildkit:

- `Dockerfile`;
- `context.sh`, if the context has anything else: run in the empty context with `sh -eu`, and PATH to find programs;
- `case.json`, if needed: `build_args`, `target`, and `error`, the code of the error that our build must end with when
  BuildKit's fails, too;
- `expected-differences.json`, where the engine's old BuildKit (20.10) is known to differ from the current one, or the
  kernel does not let us do the same: a list of reasons, each with the differences that it explains, `{place:
  [BuildKit's, ours]}`.

`busybox` is the base image that both know.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import buildkit
from tests.support.buildkit import BuildKitError, ContextCatcher
from tests.support.docker_engine import SERVER_PATH, DockerEngine, docker_engine
from tests.support.docker_registry import DockerRegistry, docker_registry
from tests.support.executor_run import push_base_image, run_executor
from tests.support.image_contents import ImageContents, LayerEntry, read_archive
from tests.support.image_differences import differences

pytestmark = [pytest.mark.docker, pytest.mark.root]

CASES = Path(__file__).parent.parent / "golden" / "buildkit"
NAMES = sorted(path.name for path in CASES.iterdir() if path.is_dir())
# what the expected differences were measured on; a newer engine has fewer
MEASURED_ENGINE = "20.10."


@dataclass(frozen=True, slots=True)
class Bench:
    """The two builders."""

    engine: DockerEngine
    engine_version: str
    catcher: ContextCatcher
    registry: DockerRegistry
    data: Path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("against-buildkit")
    with (
        docker_engine() as engine,
        docker_registry(directory / "registry", hostname="127.0.0.1") as registry,
        buildkit.context_catcher() as catcher,
    ):
        push_base_image(directory / "base", registry.host, directory / "data", "library/busybox:latest")
        engine.run_command("pull", f"{registry.host}/library/busybox:latest")
        engine.run_command("tag", f"{registry.host}/library/busybox:latest", "busybox:latest")
        version = engine.run_command("version", "--format", "{{.Server.Version}}").stdout.strip()
        yield Bench(engine, version, catcher, registry, directory / "data")


@dataclass(frozen=True, slots=True)
class Case:
    """One case as its files say it."""

    directory: Path
    build_args: Mapping[str, str]
    target: str
    error: str

    @classmethod
    def read(cls, directory: Path) -> Case:
        path = directory / "case.json"
        fields: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        case = cls(directory, fields.pop("build_args", {}), fields.pop("target", ""), fields.pop("error", ""))
        assert not fields, f"unknown fields in {path}: {fields}"
        return case

    def make_context(self, context: Path) -> None:
        context.mkdir()
        shutil.copy(self.directory / "Dockerfile", context)
        if (script := self.directory / "context.sh").exists():
            subprocess.run(
                ["sh", "-eu", str(script)], cwd=context, check=True, env={"PATH": SERVER_PATH, "LC_ALL": "C"}
            )

    def expected(self) -> dict[str, list[Any]]:
        path = self.directory / "expected-differences.json"
        reasons = json.loads(path.read_text()) if path.exists() else []
        assert all(item["reason"] for item in reasons)
        return dict(itertools.chain.from_iterable(item["differences"].items() for item in reasons))


def build_theirs(bench: Bench, case: Case, context: Path, archive: Path) -> ImageContents | BuildKitError:
    name = f"case:{case.directory.name}"
    try:
        packed = bench.catcher.pack(context)
        buildkit.build(bench.engine, packed, name, target=case.target, build_args=case.build_args)
    except BuildKitError as error:
        return error
    bench.engine.run_command("save", "--output", str(archive), name)
    return read_archive(archive)


def build_ours(bench: Bench, case: Case, context: Path, archive: Path) -> ImageContents | dict[str, Any]:
    done = run_executor(
        *("-c", context, "--data-dir", bench.data, "--network", "none", "--no-push"),
        *("--registry-map", f"docker.io={bench.registry.host}", "-d", "case:1", "--tar-path", archive),
        *(f"--build-arg={name}={value}" for name, value in case.build_args.items()),
        *(["--target", case.target] if case.target else []),
    )
    if done.status:
        return done.error
    return read_archive(archive)


@pytest.mark.parametrize("name", NAMES)
def test_same_image(bench: Bench, tmp_path: Path, name: str) -> None:
    case = Case.read(CASES / name)
    context = tmp_path / "context"
    case.make_context(context)
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(build_theirs, bench, case, context, tmp_path / "theirs.tar")
        ours = build_ours(bench, case, context, tmp_path / "ours.tar")
        theirs = building.result()
    found: dict[str, list[Any]] = {}
    if isinstance(theirs, BuildKitError) or isinstance(ours, dict):
        outcomes = [
            str(theirs) if isinstance(theirs, BuildKitError) else None,
            ours if isinstance(ours, dict) else None,
        ]
        assert isinstance(ours, dict) == bool(case.error), outcomes
        assert not isinstance(ours, dict) or ours["code"] == case.error, outcomes
        if isinstance(theirs, BuildKitError) != isinstance(ours, dict):
            found = {"outcome": ["failed" if item else "built" for item in outcomes]}
    else:
        assert not case.error, f"expected {case.error}, and both have built"
        found = {place: list(pair) for place, pair in differences(theirs, ours).items()}
        for layer in ours.layers:
            check_layer(layer)
    expected = case.expected()
    if not bench.engine_version.startswith(MEASURED_ENGINE):
        expected = {place: pair for place, pair in expected.items() if place in found}
    assert json.loads(json.dumps(found)) == expected


def check_layer(layer: tuple[LayerEntry, ...]) -> None:
    """What engines take for granted: parents come first, links last and with the attributes of what they link to."""
    written: dict[str, LayerEntry] = {}
    for entry in layer:
        directory, _, name = entry.path.rpartition("/")
        assert not directory or directory in written, f"{entry.path}: its directory is not written before it"
        assert entry.path not in written, f"{entry.path}: written twice"
        assert not name.startswith(".wh..wh."), f"{entry.path}: a name of the old aufs"
        written[entry.path] = entry
        if entry.linked_to:
            target = written[entry.linked_to].inode
            assert target is not None and entry.inode is not None
            assert (entry.inode.mode, entry.inode.uid, entry.inode.gid) == (
                target.mode & 0o7777,
                target.uid,
                target.gid,
            ), f"{entry.path}: not the attributes of {entry.linked_to}"


def test_there_are_cases() -> None:
    assert len(NAMES) >= 40
