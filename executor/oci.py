"""The values of the OCI image-spec 1.1: digests, descriptors, platforms, manifests, indexes, configs.

Parsing is the only way in, so that holding a value means it is valid. Each `parse` takes decoded JSON and raises
`OciError` naming the path of the bad field; each `to_json` gives plain JSON values.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from executor.errors import RegistryContentError

DIGEST_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")

MANIFEST_OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX_OCI = "application/vnd.oci.image.index.v1+json"
CONFIG_OCI = "application/vnd.oci.image.config.v1+json"
LAYER_OCI = "application/vnd.oci.image.layer.v1.tar"
LAYER_OCI_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_OCI_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
MANIFEST_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
INDEX_DOCKER = "application/vnd.docker.distribution.manifest.list.v2+json"
CONFIG_DOCKER = "application/vnd.docker.container.image.v1+json"
LAYER_DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
LAYER_DOCKER = "application/vnd.docker.image.rootfs.diff.tar"

MANIFEST_TYPES = frozenset({MANIFEST_OCI, MANIFEST_DOCKER})
INDEX_TYPES = frozenset({INDEX_OCI, INDEX_DOCKER})
LAYER_COMPRESSIONS: Mapping[str, str] = {
    LAYER_OCI: "none",
    LAYER_OCI_GZIP: "gzip",
    LAYER_OCI_ZSTD: "zstd",
    LAYER_DOCKER: "none",
    LAYER_DOCKER_GZIP: "gzip",
}

# image-spec 1.1 and the registries in use cap manifests at 4 MiB
MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024
CONFIG_LIMIT_BYTES = 8 * 1024 * 1024
MAX_LAYERS = 4096
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class OciError(RegistryContentError):
    """A manifest, index, config or descriptor that breaks the image-spec."""

    code = "oci-invalid"


class Digest(str):
    """`sha256:` and 64 lower-case hex digits."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object, where: str = "digest") -> Digest:
        if not isinstance(text, str) or not DIGEST_PATTERN.fullmatch(text):
            raise OciError(f"{where}: expected sha256:<64 hex digits>, found {str(text)[:90]!r}")
        return cls(text)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def hex(self) -> str:
        return self[7:]


def read_object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OciError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def read_array(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise OciError(f"{where}: expected an array, found {type(value).__name__}")
    return value


def read_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise OciError(f"{where}: expected a string, found {type(value).__name__}")
    return value


def read_string_map(value: object, where: str) -> dict[str, str]:
    if value is None:
        return {}
    return {key: read_text(item, f"{where}.{key}") for key, item in read_object(value, where).items()}


def read_strings(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(read_text(item, f"{where}[{number}]") for number, item in enumerate(read_array(value, where)))


def decode_json(data: bytes, where: str) -> Any:
    """JSON from a hostile source; deep nesting and bad UTF-8 are `OciError`s like any other."""
    try:
        value = json.loads(data)
        if _SURROGATE.search(data):
            # half of a character can be written as JSON, but neither be a path nor be encoded again
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise OciError(f"{where}: not JSON: {error}") from error
    return value


def encode_json(value: Any) -> bytes:
    """Compact JSON with keys in the order given, as Go's encoder writes it but without HTML escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on (image-spec, image-index, `platform`)."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    @classmethod
    def parse(cls, value: object, where: str) -> Self:
        fields = read_object(value, where)
        return cls(
            read_text(fields.get("os", ""), f"{where}.os"),
            read_text(fields.get("architecture", ""), f"{where}.architecture"),
            read_text(fields.get("variant", ""), f"{where}.variant"),
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From `os/arch[/variant]`, with the synonyms that Docker accepts."""
        parts = text.lower().split("/")
        if len(parts) not in {2, 3} or not all(re.fullmatch(r"[a-z0-9._-]+", part) for part in parts):
            raise OciError(
                f"platform: expected os/architecture[/variant], found {text[:80]!r}", code="platform-invalid"
            )
        os_name, architecture, variant = parts[0], parts[1], parts[2] if len(parts) == 3 else ""
        synonyms = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm"}
        variant = variant or {"armel": "v6"}.get(architecture, "")
        architecture = synonyms.get(architecture, architecture)
        if architecture == "arm":
            variant = variant or "v7"
        if (architecture, variant) in {("arm64", "v8"), ("amd64", "v1")}:
            variant = ""
        return cls(os_name, architecture, variant)

    def to_json(self) -> dict[str, str]:
        value = {"architecture": self.architecture, "os": self.os}
        return {**value, "variant": self.variant} if self.variant else value

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A typed, sized and digested pointer to content (image-spec, descriptor)."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""

    @classmethod
    def parse(cls, value: object, where: str) -> Self:
        fields = read_object(value, where)
        size = fields.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 62:
            raise OciError(f"{where}.size: expected a whole number of bytes, found {str(size)[:40]!r}")
        platform = fields.get("platform")
        return cls(
            media_type=read_text(fields.get("mediaType"), f"{where}.mediaType"),
            digest=Digest.parse(fields.get("digest"), f"{where}.digest"),
            size=size,
            annotations=read_string_map(fields.get("annotations"), f"{where}.annotations"),
            platform=None if platform is None else Platform.parse(platform, f"{where}.platform"),
            urls=read_strings(fields.get("urls"), f"{where}.urls"),
            artifact_type=read_text(fields.get("artifactType", ""), f"{where}.artifactType"),
        )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.platform:
            value["platform"] = self.platform.to_json()
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        return value


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest, OCI or Docker v2 schema 2."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MANIFEST_OCI
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes, media_type: str) -> Self:
        fields = read_object(decode_json(data, "manifest"), "manifest")
        if fields.get("schemaVersion") != 2:
            raise OciError(f"manifest.schemaVersion: expected 2, found {str(fields.get('schemaVersion'))[:40]!r}")
        declared = fields.get("mediaType", media_type)
        if declared != media_type or media_type not in MANIFEST_TYPES:
            raise OciError(
                f"manifest.mediaType: expected an image manifest served as itself, found {declared!r} as {media_type!r}"
            )
        layers = read_array(fields.get("layers"), "manifest.layers")
        if len(layers) > MAX_LAYERS or "manifests" in fields:
            raise OciError(
                f"manifest: expected at most {MAX_LAYERS} layers and no list of manifests, found {len(layers)} layers"
            )
        return cls(
            config=Descriptor.parse(fields.get("config"), "manifest.config"),
            layers=tuple(Descriptor.parse(item, f"manifest.layers[{number}]") for number, item in enumerate(layers)),
            media_type=media_type,
            annotations=read_string_map(fields.get("annotations"), "manifest.annotations"),
        )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value

    def encode(self) -> bytes:
        return encode_json(self.to_json())


@dataclass(frozen=True, slots=True)
class Index:
    """An image index, or Docker's manifest list."""

    manifests: tuple[Descriptor, ...]
    media_type: str = INDEX_OCI
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes, media_type: str) -> Self:
        fields = read_object(decode_json(data, "index"), "index")
        declared = fields.get("mediaType", media_type)
        if fields.get("schemaVersion") != 2 or declared != media_type or media_type not in INDEX_TYPES:
            raise OciError(
                f"index.mediaType: expected an image index served as itself, found {declared!r} as {media_type!r}"
            )
        manifests = read_array(fields.get("manifests"), "index.manifests")
        if len(manifests) > MAX_LAYERS:
            raise OciError(f"index.manifests: expected at most {MAX_LAYERS}, found {len(manifests)}")
        return cls(
            manifests=tuple(Descriptor.parse(item, f"index.manifests[{n}]") for n, item in enumerate(manifests)),
            media_type=media_type,
            annotations=read_string_map(fields.get("annotations"), "index.annotations"),
        )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [item.to_json() for item in self.manifests],
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value

    def encode(self) -> bytes:
        return encode_json(self.to_json())
