"""An image as it was found: its manifest and config, parsed and as the very bytes their digests are of."""

from __future__ import annotations

from dataclasses import dataclass

from executor.imageconfig import ImageConfig
from executor.oci import CONFIG_DOCKER, CONFIG_OCI, LAYER_COMPRESSIONS, Descriptor, Digest, Manifest, OciError

CONFIG_TYPES = frozenset({CONFIG_OCI, CONFIG_DOCKER})


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest, its config, and the descriptor under which the manifest is known; consistent by construction."""

    descriptor: Descriptor
    manifest: Manifest
    manifest_bytes: bytes
    config: ImageConfig
    config_bytes: bytes

    @classmethod
    def parse(cls, descriptor: Descriptor, manifest_bytes: bytes, config_bytes: bytes) -> Image:
        """An image from its bytes, each checked against what points at it; `OciError` when they do not fit."""
        check_bytes(descriptor, manifest_bytes, "manifest")
        manifest = parse_image_manifest(manifest_bytes, descriptor.media_type)
        check_bytes(manifest.config, config_bytes, "config")
        config = ImageConfig.parse(config_bytes)
        if len(config.diff_ids) != len(manifest.layers):
            raise OciError(
                f"config.rootfs.diff_ids: expected one for each of the manifest's {len(manifest.layers)} layers, "
                f"found {len(config.diff_ids)}"
            )
        return cls(descriptor, manifest, manifest_bytes, config, config_bytes)


def parse_image_manifest(data: bytes, media_type: str) -> Manifest:
    """A manifest that is of a container image: an image's config, and layers of kinds that can be unpacked."""
    manifest = Manifest.parse(data, media_type)
    if manifest.config.media_type not in CONFIG_TYPES:
        raise OciError(
            f"manifest.config.mediaType: expected an image's config, found {manifest.config.media_type[:100]!r}",
            code="not-an-image",
            hint="this name holds another kind of artifact, not a container image",
        )
    for number, layer in enumerate(manifest.layers):
        if layer.media_type not in LAYER_COMPRESSIONS:
            raise OciError(
                f"manifest.layers[{number}].mediaType: expected a tar, gzip or zstd layer, "
                f"found {layer.media_type[:100]!r}",
                code="layer-unsupported",
                hint="encrypted and non-distributable (foreign) layers cannot be used",
            )
    return manifest


def check_bytes(descriptor: Descriptor, data: bytes, where: str) -> None:
    """Refuse `data` unless it is exactly what `descriptor` points at."""
    if len(data) != descriptor.size:
        raise OciError(f"{where}: expected {descriptor.size} bytes, found {len(data)}", code="size-mismatch")
    found = Digest.of(data)
    if found != descriptor.digest:
        raise OciError(f"{where}: expected digest {descriptor.digest}, found {found}", code="digest-mismatch")
