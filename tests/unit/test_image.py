"""An image is consistent, or it is none."""

from __future__ import annotations

import pytest

from executor.image import Image
from executor.imageconfig import ImageConfig
from executor.oci import CONFIG_OCI, LAYER_OCI, MANIFEST_OCI, Descriptor, Digest, Manifest, OciError, decode_json
from tests.support.images import descriptor_of, sample_image


def test_an_image_from_its_bytes() -> None:
    sample = sample_image(b"one", b"two")
    image = Image.parse(sample.descriptor, sample.manifest, sample.config)
    assert image.config.diff_ids == (Digest.of(b"one"), Digest.of(b"two"))
    assert [layer.size for layer in image.manifest.layers] == [3, 3]
    assert image.manifest_bytes == sample.manifest


def _refused(descriptor: Descriptor, manifest: bytes, config: bytes) -> str:
    with pytest.raises(OciError) as caught:
        Image.parse(descriptor, manifest, config)
    return caught.value.code


def test_other_bytes_are_refused() -> None:
    sample = sample_image()
    swapped = sample.config.replace(b"amd64", b"arm64")
    assert _refused(sample.descriptor, sample.manifest, swapped) == "digest-mismatch"
    assert _refused(sample.descriptor, sample.manifest, sample.config + b" ") == "size-mismatch"
    assert _refused(sample.descriptor, sample.manifest + b" ", sample.config) == "size-mismatch"
    assert _refused(sample.descriptor, sample.manifest[:-1] + b" ", sample.config) == "digest-mismatch"


def _with(layers: tuple[Descriptor, ...], config_type: str = CONFIG_OCI, diff_ids: int = 1) -> str:
    config = ImageConfig(diff_ids=(Digest.of(b""),) * diff_ids).encode()
    manifest = Manifest(descriptor_of(config, config_type), layers).encode()
    return _refused(descriptor_of(manifest, MANIFEST_OCI), manifest, config)


def test_layers_and_diff_ids_must_be_as_many() -> None:
    layer = descriptor_of(b"x", LAYER_OCI)
    assert _with((layer, layer), diff_ids=1) == "oci-invalid"
    assert _with((layer,), diff_ids=2) == "oci-invalid"


def test_other_artifacts_are_no_images() -> None:
    assert _with((descriptor_of(b"x"),), config_type="application/vnd.cncf.helm.config.v1+json") == "not-an-image"


@pytest.mark.parametrize(
    "media_type",
    ["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+encrypted"],
)
def test_layers_that_cannot_be_unpacked(media_type: str) -> None:
    assert _with((descriptor_of(b"x", media_type),)) == "layer-unsupported"


@pytest.mark.parametrize("text", [r'{"a": "\ud800"}', r'{"\uDFFF": 1}', r'["\udc00\ud800"]', r'"\ud83dx"'])
def test_half_a_character_is_refused(text: str) -> None:
    # it could not be written again, neither as UTF-8 nor as a path
    with pytest.raises(OciError) as caught:
        decode_json(text.encode(), "config")
    assert caught.value.code == "oci-invalid"


def test_characters_may_be_escaped() -> None:
    assert decode_json(rb'["\ud83d\ude00", "\\ud800", "\u00fc"]', "config") == ["\U0001f600", "\\ud800", "\u00fc"]
