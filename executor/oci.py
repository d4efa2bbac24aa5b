"""The values of the OCI image-spec 1.1: digests, descriptors, platforms, manifests, indexes, configs.

Parsing is the only way in, so that holding a value means it is valid. Each `parse` takes decoded JSON and raises
`OciError` naming the path of the bad field; each `to_json` gives plain JSON values.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OciError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def _array(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise OciError(f"{where}: expected an array, found {type(value).__name__}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise OciError(f"{where}: expected a string, found {type(value).__name__}")
    return value


def _string_map(value: object, where: str) -> dict[str, str]:
    if value is None:
        return {}
    return {key: _text(item, f"{where}.{key}") for key, item in _object(value, where).items()}


def _strings(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(_text(item, f"{where}[{number}]") for number, item in enumerate(_array(value, where)))


def decode_json(data: bytes, where: str) -> Any:
    """JSON from a hostile source; deep nesting and bad UTF-8 are `OciError`s like any other."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OciError(f"{where}: not JSON: {error}") from error


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
        fields = _object(value, where)
        return cls(
            _text(fields.get("os", ""), f"{where}.os"),
            _text(fields.get("architecture", ""), f"{where}.architecture"),
            _text(fields.get("variant", ""), f"{where}.variant"),
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
        fields = _object(value, where)
        size = fields.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 62:
            raise OciError(f"{where}.size: expected a whole number of bytes, found {str(size)[:40]!r}")
        platform = fields.get("platform")
        return cls(
            media_type=_text(fields.get("mediaType"), f"{where}.mediaType"),
            digest=Digest.parse(fields.get("digest"), f"{where}.digest"),
            size=size,
            annotations=_string_map(fields.get("annotations"), f"{where}.annotations"),
            platform=None if platform is None else Platform.parse(platform, f"{where}.platform"),
            urls=_strings(fields.get("urls"), f"{where}.urls"),
            artifact_type=_text(fields.get("artifactType", ""), f"{where}.artifactType"),
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
        fields = _object(decode_json(data, "manifest"), "manifest")
        if fields.get("schemaVersion") != 2:
            raise OciError(f"manifest.schemaVersion: expected 2, found {str(fields.get('schemaVersion'))[:40]!r}")
        declared = fields.get("mediaType", media_type)
        if declared != media_type or media_type not in MANIFEST_TYPES:
            raise OciError(
                f"manifest.mediaType: expected an image manifest served as itself, found {declared!r} as {media_type!r}"
            )
        layers = _array(fields.get("layers"), "manifest.layers")
        if len(layers) > MAX_LAYERS or "manifests" in fields:
            raise OciError(
                f"manifest: expected at most {MAX_LAYERS} layers and no list of manifests, found {len(layers)} layers"
            )
        return cls(
            config=Descriptor.parse(fields.get("config"), "manifest.config"),
            layers=tuple(Descriptor.parse(item, f"manifest.layers[{number}]") for number, item in enumerate(layers)),
            media_type=media_type,
            annotations=_string_map(fields.get("annotations"), "manifest.annotations"),
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
        fields = _object(decode_json(data, "index"), "index")
        declared = fields.get("mediaType", media_type)
        if fields.get("schemaVersion") != 2 or declared != media_type or media_type not in INDEX_TYPES:
            raise OciError(
                f"index.mediaType: expected an image index served as itself, found {declared!r} as {media_type!r}"
            )
        manifests = _array(fields.get("manifests"), "index.manifests")
        if len(manifests) > MAX_LAYERS:
            raise OciError(f"index.manifests: expected at most {MAX_LAYERS}, found {len(manifests)}")
        return cls(
            manifests=tuple(Descriptor.parse(item, f"index.manifests[{n}]") for n, item in enumerate(manifests)),
            media_type=media_type,
            annotations=_string_map(fields.get("annotations"), "index.annotations"),
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


@dataclass(frozen=True, slots=True)
class History:
    """One line of an image's history (image-spec, config, `history`)."""

    created: str = ""
    created_by: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False

    @classmethod
    def parse(cls, value: object, where: str) -> Self:
        fields = _object(value, where)
        texts = {
            name: _text(fields.get(name, ""), f"{where}.{name}")
            for name in ("created", "created_by", "comment", "author")
        }
        return cls(**texts, empty_layer=fields.get("empty_layer") is True)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for name in ("created", "created_by", "author", "comment"):
            if text := getattr(self, name):
                value[name] = text
        if self.empty_layer:
            value["empty_layer"] = True
        return value


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a container of the image starts with (image-spec, config, `config`); `extra` keeps fields we do not know.

    `cmd` and `entrypoint` are None when absent, which is not the same as empty. `shell`, `on_build` and `healthcheck`
    are Docker's additions, kept in OCI configs as BuildKit does.
    """

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] = ()
    healthcheck: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: object, where: str = "config.config") -> Self:
        fields = dict(_object({} if value is None else value, where))

        def optional(name: str) -> tuple[str, ...] | None:
            item = fields.pop(name, None)
            return None if item is None else _strings(item, f"{where}.{name}")

        def keys(name: str) -> tuple[str, ...]:
            item = fields.pop(name, None)
            return () if item is None else tuple(_object(item, f"{where}.{name}"))

        healthcheck = fields.pop("Healthcheck", None)
        return cls(
            user=_text(fields.pop("User", None) or "", f"{where}.User"),
            exposed_ports=keys("ExposedPorts"),
            env=optional("Env") or (),
            entrypoint=optional("Entrypoint"),
            cmd=optional("Cmd"),
            volumes=keys("Volumes"),
            working_dir=_text(fields.pop("WorkingDir", None) or "", f"{where}.WorkingDir"),
            labels=_string_map(fields.pop("Labels", None), f"{where}.Labels"),
            stop_signal=_text(fields.pop("StopSignal", None) or "", f"{where}.StopSignal"),
            shell=optional("Shell"),
            on_build=optional("OnBuild") or (),
            healthcheck=None if healthcheck is None else dict(_object(healthcheck, f"{where}.Healthcheck")),
            extra=fields,
        )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = dict(self.extra)
        listed = {"Entrypoint": self.entrypoint, "Cmd": self.cmd, "Shell": self.shell}
        value.update({name: list(item) for name, item in listed.items() if item is not None})
        texts = {"User": self.user, "WorkingDir": self.working_dir, "StopSignal": self.stop_signal}
        value.update({name: text for name, text in texts.items() if text})
        value.update({"Env": list(self.env)} if self.env else {})
        value.update({"OnBuild": list(self.on_build)} if self.on_build else {})
        sets = {"ExposedPorts": self.exposed_ports, "Volumes": self.volumes}
        value.update({name: {key: {} for key in sorted(items)} for name, items in sets.items() if items})
        value.update({"Labels": dict(sorted(self.labels.items()))} if self.labels else {})
        value.update({"Healthcheck": dict(self.healthcheck)} if self.healthcheck is not None else {})
        return dict(sorted(value.items()))


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image configuration (image-spec, config); its digest is the image ID."""

    platform: Platform = field(default_factory=Platform)
    config: RunConfig = field(default_factory=RunConfig)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    created: str = ""
    author: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        fields = dict(_object(decode_json(data, "config"), "config"))
        rootfs = _object(fields.pop("rootfs", None), "config.rootfs")
        if rootfs.get("type") != "layers":
            raise OciError(f"config.rootfs.type: expected 'layers', found {str(rootfs.get('type'))[:40]!r}")
        diff_ids = _array(rootfs.get("diff_ids") or [], "config.rootfs.diff_ids")
        history = _array(fields.pop("history", None) or [], "config.history")
        if len(diff_ids) > MAX_LAYERS or len(history) > 4 * MAX_LAYERS:
            raise OciError(f"config: expected at most {MAX_LAYERS} layers, found {len(diff_ids)}")
        return cls(
            platform=Platform.parse(
                {name: fields.pop(name, "") for name in ("os", "architecture", "variant")}, "config"
            ),
            config=RunConfig.parse(fields.pop("config", None)),
            diff_ids=tuple(Digest.parse(item, f"config.rootfs.diff_ids[{n}]") for n, item in enumerate(diff_ids)),
            history=tuple(History.parse(item, f"config.history[{n}]") for n, item in enumerate(history)),
            created=_text(fields.pop("created", None) or "", "config.created"),
            author=_text(fields.pop("author", None) or "", "config.author"),
            extra=fields,
        )

    def to_json(self) -> dict[str, Any]:
        # the legacy container fields of docker's own configs describe a container that never was; they are dropped
        legacy = {"container", "container_config", "docker_version", "id", "parent"}
        value: dict[str, Any] = {key: item for key, item in self.extra.items() if key not in legacy}
        value.update(self.platform.to_json())
        value.update({"created": self.created} if self.created else {})
        value.update({"author": self.author} if self.author else {})
        value["config"] = self.config.to_json()
        value["rootfs"] = {"type": "layers", "diff_ids": [str(item) for item in self.diff_ids]}
        value["history"] = [item.to_json() for item in self.history]
        return dict(sorted(value.items()))

    def encode(self) -> bytes:
        return encode_json(self.to_json())

    def with_layer(self, diff_id: Digest, history: History) -> ImageConfig:
        return replace(self, diff_ids=(*self.diff_ids, diff_id), history=(*self.history, history))


def chain_ids(diff_ids: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """The chain ID of each layer, bottom first (image-spec, config, "Layer ChainID")."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
