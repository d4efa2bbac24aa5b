"""A finished image as files: an OCI image layout, or the archive that `docker load` takes.

Written by the launcher from the store's blobs, so that the files belong to whoever asked for the build. Blobs are
checked against their digests on the way out.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from executor.errors import DiskFullError, StoreError, UsageError
from executor.oci import INDEX_OCI, Descriptor, Digest, Manifest, encode_json
from executor.os_errors import describe
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
        with _writing(Path(spec.digest_file)), _replaced(Path(spec.digest_file)) as stream:
            stream.write(result.digest.encode())


def write_oci_layout(
    store: Store, descriptor: Descriptor, manifest: Manifest, directory: Path, names: Sequence[Reference]
) -> None:
    """An OCI image layout (image-spec, image-layout); a directory that is not one already must be empty."""
    with _writing(directory):
        _write_oci_layout(store, descriptor, manifest, directory, names)


def _write_oci_layout(
    store: Store, descriptor: Descriptor, manifest: Manifest, directory: Path, names: Sequence[Reference]
) -> None:
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
    with (
        _writing(path),
        _replaced(path) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, item in dict(zip((config, *layers), (manifest.config, *manifest.layers), strict=True)).items():
            with _checked(store, item) as blob:
                _add(archive, name, item.size, blob)
        data = encode_json(described)
        _add(archive, "manifest.json", len(data), io.BytesIO(data))


def _familiar(name: Reference) -> str:
    """A name as docker shows it: without the default registry and its `library/`."""
    text = str(name)
    return text.removeprefix("docker.io/").removeprefix("library/")


def _add(archive: tarfile.TarFile, name: str, size: int, stream: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    archive.addfile(entry, stream)


class _Hashing(io.RawIOBase):
    """A blob that is hashed while it is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.hash.update(data)
        return data


@contextlib.contextmanager
def _checked(store: Store, item: Descriptor) -> Iterator[IO[bytes]]:
    """A blob to be read to its end: builders write there, so size and digest are those of the descriptor or else."""
    damaged = StoreError(f"blob {item.digest}: its bytes have changed", code="blob-damaged", hint="remove the file")
    with store.open_blob(item.digest) as stream:
        if os.fstat(stream.fileno()).st_size != item.size:
            raise damaged
        blob = _Hashing(stream)
        yield cast(IO[bytes], blob)
        if blob.hash.hexdigest() != item.digest.hex:
            raise damaged


def _copy_blob(store: Store, item: Descriptor, target: IO[bytes]) -> None:
    with _checked(store, item) as blob:
        while chunk := blob.read(_CHUNK):
            target.write(chunk)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell what is wrong with a place that somebody named for output."""
    try:
        yield
    except OSError as error:
        reason = f"{path}: cannot be written: {describe(error)}"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(reason, hint="free space where the output goes") from error
        raise UsageError(reason, code="output-unwritable") from error


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file that is in place only when whole.

    What is no regular file or a mount point (`/dev/stdout`, Kubernetes' `/dev/termination-log`) is written to as it
    is. Links are followed.
    """
    if _must_stay(path):
        with path.open("wb") as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}."[:64], dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        Path(temporary).chmod(0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _must_stay(path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(status.st_mode) or _is_mounted(path.resolve())


def _is_mounted(path: Path) -> bool:
    """Whether a file is a mount point of this process (proc(5), mountinfo: the fifth field, blanks as octal)."""
    with Path("/proc/self/mountinfo").open("rb") as mounts:
        places = {line.split()[4].decode("unicode_escape").encode("latin-1") for line in mounts}
    return os.fsencode(path) in places
