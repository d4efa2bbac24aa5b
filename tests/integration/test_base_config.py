"""What a base image says in its config is believed only as far as it can be."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from executor.imageconfig import ImageConfig, RunConfig
from executor.oci import CONFIG_OCI, Digest, Manifest, Platform
from tests.support.executor_run import BUSYBOX, Ended, run_executor, write_context
from tests.support.images import SampleImage, descriptor_of, put_image
from tests.support.registry import fake_registry


def _build_from(config: RunConfig, directory: Path) -> Ended:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(BUSYBOX, "bin/busybox")
    layer = stream.getvalue()
    encoded = ImageConfig(platform=Platform(), diff_ids=(Digest.of(layer),), config=config).encode()
    manifest = Manifest(descriptor_of(encoded, CONFIG_OCI), (descriptor_of(layer),)).encode()
    dockerfile = (
        'FROM {}/base:1\nRUN ["/bin/busybox", "pwd"]\nCOPY f .\nRUN ["/bin/busybox", "ls", "-n", "f"]\n'
        'WORKDIR y\nRUN ["/bin/busybox", "pwd"]\n'
    )
    with fake_registry() as registry:
        put_image(registry, "base", SampleImage((layer,), encoded, manifest), "1")
        context = write_context(directory / "c", dockerfile.format(registry.origin.partition("//")[2]), {"f": "f"})
        return run_executor("-c", context, "--data-dir", directory / "data", "--no-push", "--network", "none")


@pytest.mark.parametrize(
    ("given", "path"),
    [("", "/"), ("rel/x", "/rel/x"), ("../../etc", "/etc"), ("/a/../../b//", "/b"), ("//c/.", "/c")],
)  # fmt: skip
def test_a_working_directory_is_cleaned_and_made(given: str, path: str, tmp_path: Path) -> None:
    done = _build_from(RunConfig(working_dir=given), tmp_path)
    assert done.status == 0, done.error
    first, listed, last = done.output().splitlines()
    assert (first, last) == (path, f"{path.rstrip('/')}/y")
    assert listed.endswith(" f")


def test_a_working_directory_that_is_no_path_is_refused(tmp_path: Path) -> None:
    done = _build_from(RunConfig(working_dir="/a\0b"), tmp_path)
    assert done.status == 4
    assert done.error["code"] == "oci-invalid"


def test_a_working_directory_inside_another_mount_is_not_made_up(tmp_path: Path) -> None:
    done = _build_from(RunConfig(working_dir="/proc/self/fd/3"), tmp_path)
    assert done.error["code"] == "run-not-started"
    assert "/proc/self/fd/3 cannot be entered" in done.error["message"]


def test_a_user_that_is_none_is_refused(tmp_path: Path) -> None:
    assert _build_from(RunConfig(user=":"), tmp_path).error["code"] == "user-invalid"
