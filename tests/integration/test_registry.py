"""The client against Debian's docker-registry, and what skopeo makes of what was pushed."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from executor.errors import RegistryAuthError, RegistryError, RegistryNotFoundError, RegistryUnavailableError
from executor.imageconfig import History, ImageConfig, RunConfig
from executor.oci import (
    CONFIG_OCI,
    INDEX_OCI,
    LAYER_OCI_GZIP,
    MANIFEST_OCI,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Platform,
)
from executor.reference import Reference
from executor.registry.client import RegistryClient
from executor.registry.retry import RetryPolicy
from executor.spec import Credential, RegistryOptions
from tests.support.certificates import Authority
from tests.support.docker_registry import HTPASSWD, PASSWORD, USERNAME, docker_registry, free_port
from tests.support.images import SampleImage, descriptor_of, push_image, sample_image

AMD64 = Platform()


def _real_image() -> tuple[SampleImage, dict[Digest, bytes]]:
    """An image with a gzip layer of one file, as a builder makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("etc/motd")
        entry.size = 6
        archive.addfile(entry, io.BytesIO(b"hello\n"))
    tar = buffer.getvalue()
    layer = gzip.compress(tar, mtime=0)
    config = ImageConfig(
        platform=AMD64,
        config=RunConfig(cmd=("/bin/true",), labels={"org.opencontainers.image.revision": "abc"}),
        diff_ids=(Digest.of(tar),),
        history=(History(created_by="COPY motd /etc/"),),
    ).encode()
    manifest = Manifest(descriptor_of(config, CONFIG_OCI), (descriptor_of(layer, LAYER_OCI_GZIP),)).encode()
    return SampleImage((layer,), config, manifest), {Digest.of(layer): layer}


def _skopeo(*arguments: str, environment: dict[str, str] | None = None) -> str:
    binary = shutil.which("skopeo")
    assert binary, "skopeo is needed: install Debian's skopeo"
    done = subprocess.run(
        [binary, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environment or {})},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _inspect(*arguments: str) -> dict[str, Any]:
    found = json.loads(_skopeo("inspect", *arguments))
    assert isinstance(found, dict)
    return found


def test_round_trip_and_skopeo(tmp_path: Path) -> None:
    sample, blobs = _real_image()
    with docker_registry(tmp_path / "registry") as registry, RegistryClient(RegistryOptions()) as client:
        reference = Reference.parse(f"{registry.host}/team/app:v1")
        descriptor = push_image(client, reference, sample)
        image = client.pull_image(reference, AMD64)
        assert image.descriptor == descriptor == client.resolve(reference)
        assert image.config.config.labels == {"org.opencontainers.image.revision": "abc"}
        for layer in image.manifest.layers:
            got = bytearray()
            client.fetch_blob(reference, layer, got.extend)
            assert bytes(got) == blobs[layer.digest]
        seen = _inspect("--tls-verify=false", f"docker://{reference}")
        assert seen["Digest"] == descriptor.digest
        assert seen["Labels"] == {"org.opencontainers.image.revision": "abc"}
        assert seen["Layers"] == list(blobs)
        target = tmp_path / "layout"
        _skopeo("copy", "--insecure-policy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{target}:v1")
        assert (target / "blobs" / "sha256" / image.manifest.config.digest.hex).read_bytes() == sample.config


def test_what_skopeo_pushes_is_pulled(tmp_path: Path) -> None:
    sample, blobs = _real_image()
    layout = tmp_path / "layout"
    (layout / "blobs" / "sha256").mkdir(parents=True)
    for blob in (*sample.blobs, sample.manifest):
        (layout / "blobs" / "sha256" / Digest.of(blob).hex).write_bytes(blob)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_bytes(Index((sample.descriptor,)).encode())
    with docker_registry(tmp_path / "registry") as registry, RegistryClient(RegistryOptions()) as client:
        for form in ("oci", "v2s2"):
            target = f"docker://{registry.host}/team/{form}:v1"
            _skopeo("copy", "--insecure-policy", "--dest-tls-verify=false", f"--format={form}", f"oci:{layout}", target)
            image = client.pull_image(Reference.parse(f"{registry.host}/team/{form}:v1"), AMD64)
            assert [layer.digest for layer in image.manifest.layers] == list(blobs)


def test_an_index_of_platforms(tmp_path: Path) -> None:
    with docker_registry(tmp_path) as registry, RegistryClient(RegistryOptions()) as client:
        reference = Reference.parse(f"{registry.host}/team/app:v1")
        entries = []
        for platform in (AMD64, Platform("linux", "arm64")):
            sample = sample_image(str(platform).encode(), platform=platform)
            found = push_image(client, Reference.parse(f"{registry.host}/team/app"), sample)
            entries.append(Descriptor(found.media_type, found.digest, found.size, platform=platform))
        index = Index(tuple(entries)).encode()
        assert client.put_manifest(reference, INDEX_OCI, index).digest == client.resolve(reference).digest
        for entry in entries:
            assert entry.platform
            assert client.pull_image(reference, entry.platform).descriptor.digest == entry.digest
        assert client.list_tags(reference) == ["v1"]


def test_a_large_blob_is_streamed(tmp_path: Path) -> None:
    piece, count = os.urandom(1 << 20), 64
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)
    descriptor = Descriptor(LAYER_OCI_GZIP, Digest(f"sha256:{digest.hexdigest()}"), count << 20)

    class Pieces(io.RawIOBase):
        """64 MiB that are nowhere in one piece."""

        def __init__(self) -> None:
            self.at, self.largest = 0, 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.largest = max(self.largest, len(buffer))
            begin = self.at % len(piece)
            part = piece[begin : begin + min(len(buffer), descriptor.size - self.at)]
            buffer[: len(part)] = part
            self.at += len(part)
            return len(part)

    with docker_registry(tmp_path) as registry, RegistryClient(RegistryOptions()) as client:
        reference = Reference.parse(f"{registry.host}/team/app")
        source = Pieces()
        assert client.push_blob(reference, descriptor, lambda: source)  # type: ignore[arg-type, return-value]
        assert source.largest <= 1 << 20
        sizes: list[int] = []
        client.fetch_blob(reference, descriptor, lambda data: sizes.append(len(data)))
        assert sum(sizes) == descriptor.size
        assert max(sizes) <= 1 << 20


def test_mounting_and_deleting(tmp_path: Path) -> None:
    with docker_registry(tmp_path) as registry, RegistryClient(RegistryOptions()) as client:
        reference = Reference.parse(f"{registry.host}/team/app:v1")
        sample = sample_image()
        descriptor = push_image(client, reference, sample)
        other = Reference.parse(f"{registry.host}/other/app")
        for blob in sample.blobs:
            assert client.mount_blob(other, Digest.of(blob), "team/app")
            assert client.has_blob(other, Digest.of(blob))
        assert not client.mount_blob(other, Digest.of(b"unknown"), "team/app")
        client.delete_manifest(reference.with_digest(descriptor.digest))
        with pytest.raises(RegistryNotFoundError):
            client.resolve(reference)
        with pytest.raises(RegistryNotFoundError):
            client.list_tags(Reference.parse(f"{registry.host}/never/pushed"))


def test_a_manifest_without_its_blobs_is_refused(tmp_path: Path) -> None:
    with docker_registry(tmp_path) as registry, RegistryClient(RegistryOptions()) as client:
        reference = Reference.parse(f"{registry.host}/team/app:v1")
        with pytest.raises(RegistryError, match="BLOB_UNKNOWN"):
            client.put_manifest(reference, MANIFEST_OCI, sample_image().manifest)


def test_basic_authentication(tmp_path: Path) -> None:
    sample, _ = _real_image()
    with docker_registry(tmp_path, htpasswd=HTPASSWD) as registry:
        reference = Reference.parse(f"{registry.host}/team/app:v1")
        with RegistryClient(RegistryOptions()) as client, pytest.raises(RegistryAuthError, match="no credentials"):
            push_image(client, reference, sample)
        wrong = RegistryOptions(credentials={registry.host: Credential(USERNAME, "wrong")})
        with RegistryClient(wrong) as client, pytest.raises(RegistryAuthError, match="not accepted"):
            push_image(client, reference, sample)
        right = RegistryOptions(credentials={registry.host: Credential(USERNAME, PASSWORD)})
        with RegistryClient(right) as client:
            descriptor = push_image(client, reference, sample)
            assert client.pull_image(reference, AMD64).descriptor == descriptor
        seen = _inspect("--tls-verify=false", f"--creds={USERNAME}:{PASSWORD}", f"docker://{reference}")
        assert seen["Digest"] == descriptor.digest


def test_tls(tmp_path: Path) -> None:
    sample, _ = _real_image()
    authority = Authority(tmp_path)
    with docker_registry(tmp_path / "registry", tls=authority.issue("localhost"), htpasswd=HTPASSWD) as registry:
        reference = Reference.parse(f"{registry.host}/team/app:v1")
        credentials = {registry.host: Credential(USERNAME, PASSWORD)}
        trusting = RegistryOptions(credentials=credentials, certificates={registry.host: authority.pem})
        with RegistryClient(trusting) as client:
            descriptor = push_image(client, reference, sample)
            assert client.pull_image(reference, AMD64).descriptor == descriptor
        (tmp_path / "certs").mkdir()
        (tmp_path / "certs" / "ca.crt").write_text(authority.pem)
        seen = _inspect(f"--cert-dir={tmp_path / 'certs'}", f"--creds={USERNAME}:{PASSWORD}", f"docker://{reference}")
        assert seen["Digest"] == descriptor.digest
        (tmp_path / "other").mkdir()
        stranger = RegistryOptions(
            credentials=credentials, certificates={registry.host: Authority(tmp_path / "other").pem}
        )
        with RegistryClient(stranger) as client, pytest.raises(RegistryError) as caught:
            client.resolve(reference)
        assert caught.value.code == "registry-tls"
        blind = RegistryOptions(credentials=credentials, skip_tls_verify=(registry.host,))
        with RegistryClient(blind) as client:
            assert client.resolve(reference) == descriptor


def test_tls_asked_of_in_plain_http(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = authority.issue("localhost")
    with docker_registry(tmp_path / "registry", tls=tls) as registry, RegistryClient(RegistryOptions()) as client:
        with pytest.raises(RegistryError, match="it speaks TLS") as caught:
            client.resolve(Reference.parse(f"{registry.host}/team/app:v1"))
        assert not caught.value.retryable


def test_a_registry_that_comes_back(tmp_path: Path) -> None:
    port = free_port()
    sample = sample_image()
    reference = Reference.parse(f"localhost:{port}/team/app:v1")
    with RegistryClient(RegistryOptions(), retry=RetryPolicy(sleep=lambda _: None)) as client:
        with docker_registry(tmp_path, port=port):
            descriptor = push_image(client, reference, sample)
        with pytest.raises(RegistryUnavailableError):
            client.resolve(reference)
        # the pool's connections are of the registry that is gone
        with docker_registry(tmp_path, port=port):
            assert client.resolve(reference) == descriptor
            assert client.pull_image(reference, AMD64).descriptor == descriptor


def test_a_registry_that_comes_back_while_it_is_waited_for(tmp_path: Path) -> None:
    port = free_port()
    reference = Reference.parse(f"localhost:{port}/team/app:v1")
    with contextlib.ExitStack() as started:

        def start(_: float) -> None:
            started.enter_context(docker_registry(tmp_path, port=port))

        with RegistryClient(RegistryOptions(), retry=RetryPolicy(sleep=start)) as client:
            descriptor = push_image(client, reference, sample_image())
            assert client.resolve(reference) == descriptor
