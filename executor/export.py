"""A finished image as files: an OCI image layout, or the archive that `docker load` takes.

Written by the launcher from the store's blobs, so that the files belong to whoever asked for the build. Blobs are
checked against their digests on the way out.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from executor.errors import StoreError, UsageError
from executor.oci import INDEX_OCI, Descriptor, Digest, Manifest, encode_json
from executor.reference import Reference
from executor.spec import BuildResult, BuildSpec
from executor.store import Store

REF_NAME = "org.opencontainers.image.ref.name"
_CHUNK = 1 << 20


def export(spec: BuildSpec, result: BuildResult, store: Store) -> None:
    """Write every file that `spec` asks for, and keep the image under the names it gives for the local store."""
    descriptor = Descriptor(result.media_type, Digest.parse(result.digest), result.size)
    manifest = Manifest.parse(result.manifest.encode(), result.media_type)
    for name in spec.keep_as:
        repository, found, tag = name.rpartition(":")
        if found:
            store.put_reference(repository, tag, descriptor)
    names = [Reference.parse(text) for text in spec.destinations]
    if spec.oci_layout_path:
        write_oci_layout(store, descriptor, manifest, Path(spec.oci_layout_path), names)
    if spec.tar_path:
        write_docker_archive(store, manifest, Path(spec.tar_path), names)
    if spec.digest_file:
        with _replaced(Path(spec.digest_file)) as stream:
            stream.write(result.digest.encode())


def write_oci_layout(
    store: Store, descriptor: Descriptor, manifest: Manifest, directory: Path, names: Sequence[Reference]
) -> None:
    """An OCI image layout (image-spec, image-layout); a directory that is not one already must be empty."""
    if directory.exists() and any(directory.iterdir()) and not (directory / "oci-layout").exists():
        raise UsageError(
            f"--oci-layout-path: expected an empty directory or an OCI layout, found other files in {directory}"
        )
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for item in (*manifest.layers, manifest.config, descriptor):
        if not (blobs / item.digest.hex).exists():
            with _replaced(blobs / item.digest.hex) as stream:
                _copy_blob(store, item, stream)
    entry = descriptor.to_json()
    tags = [name.tag for name in names if name.tag]
    entries = [{**entry, "annotations": {REF_NAME: tag}} for tag in dict.fromkeys(tags)] or [entry]
    index = {"schemaVersion": 2, "mediaType": INDEX_OCI, "manifests": entries}
    with _replaced(directory / "oci-layout") as stream:
        stream.write(encode_json({"imageLayoutVersion": "1.0.0"}))
    with _replaced(directory / "index.json") as stream:
        stream.write(encode_json(index))


def write_docker_archive(store: Store, manifest: Manifest, path: Path, names: Sequence[Reference]) -> None:
    """The archive of `docker save` (moby image-spec v1.2, "Combined Image JSON + Filesystem Changeset Format")."""
    layers = [f"{layer.digest.hex}.tar.gz" for layer in manifest.layers]
    config = f"{manifest.config.digest.hex}.json"
    described = [{"Config": config, "RepoTags": [_familiar(name) for name in names if name.tag], "Layers": layers}]
    with _replaced(path) as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, item in dict(zip((config, *layers), (manifest.config, *manifest.layers), strict=True)).items():
            _add(archive, name, item.size, store.open_blob(item.digest))
        data = encode_json(described)
        _add(archive, "manifest.json", len(data), io.BytesIO(data))


def _familiar(name: Reference) -> str:
    """A name as docker shows it: without the default registry and its `library/`."""
    text = str(name)
    return text.removeprefix("docker.io/").removeprefix("library/")


def _add(archive: tarfile.TarFile, name: str, size: int, stream: IO[bytes]) -> None:
    with stream:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o644
        archive.addfile(entry, stream)


def _copy_blob(store: Store, item: Descriptor, target: IO[bytes]) -> None:
    hashed = hashlib.sha256()
    with store.open_blob(item.digest) as stream:
        while chunk := stream.read(_CHUNK):
            hashed.update(chunk)
            target.write(chunk)
    if hashed.hexdigest() != item.digest.hex:
        raise StoreError(f"blob {item.digest}: its bytes have changed", code="blob-damaged", hint="remove the file")


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that is in place only when whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}", code="output-unwritable") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        Path(temporary).chmod(0o644)
        shutil.move(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
