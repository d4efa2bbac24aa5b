"""Small images made of bytes, and a way to put them into a fake registry or push them through a client."""

from __future__ import annotations

import io
from dataclasses import dataclass

from executor.imageconfig import ImageConfig
from executor.oci import CONFIG_OCI, LAYER_OCI, MANIFEST_OCI, Descriptor, Digest, Manifest, Platform
from executor.reference import Reference
from executor.registry.client import RegistryClient
from tests.support.registry import FakeRegistry


def descriptor_of(data: bytes, media_type: str = LAYER_OCI) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


@dataclass(frozen=True, slots=True)
class SampleImage:
    """An image of uncompressed layers, whose diff IDs are therefore their digests."""

    layers: tuple[bytes, ...]
    config: bytes
    manifest: bytes

    @property
    def descriptor(self) -> Descriptor:
        return descriptor_of(self.manifest, MANIFEST_OCI)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        return (*self.layers, self.config)


def sample_image(*layers: bytes, platform: Platform | None = None) -> SampleImage:
    """An image with these layers, one of a few bytes when none is given."""
    layers = layers or (b"a layer",)
    config = ImageConfig(platform=platform or Platform(), diff_ids=tuple(map(Digest.of, layers))).encode()
    manifest = Manifest(descriptor_of(config, CONFIG_OCI), tuple(map(descriptor_of, layers))).encode()
    return SampleImage(layers, config, manifest)


def put_image(registry: FakeRegistry, repository: str, image: SampleImage, *tags: str) -> Digest:
    """Lay an image into a fake registry, as if it had been pushed."""
    for blob in image.blobs:
        registry.add_blob(repository, blob)
    return registry.add_manifest(repository, image.manifest, MANIFEST_OCI, *tags)


def push_image(client: RegistryClient, reference: Reference, image: SampleImage) -> Descriptor:
    """Push an image as the executor does: blobs, then the manifest."""
    for blob in image.blobs:
        client.push_blob(reference, descriptor_of(blob), lambda blob=blob: io.BytesIO(blob))  # type: ignore[misc]
    return client.put_manifest(reference, MANIFEST_OCI, image.manifest)
