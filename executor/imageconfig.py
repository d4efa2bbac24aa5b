"""Image configurations of the OCI image-spec 1.1 (config.md), with the fields that Docker adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from executor.oci import (
    MAX_LAYERS,
    Digest,
    OciError,
    Platform,
    decode_json,
    encode_json,
    read_array,
    read_object,
    read_string_map,
    read_strings,
    read_text,
)


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
        fields = read_object(value, where)
        texts = {
            name: read_text(fields.get(name, ""), f"{where}.{name}")
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
        fields = dict(read_object({} if value is None else value, where))

        def optional(name: str) -> tuple[str, ...] | None:
            item = fields.pop(name, None)
            return None if item is None else read_strings(item, f"{where}.{name}")

        def keys(name: str) -> tuple[str, ...]:
            item = fields.pop(name, None)
            return () if item is None else tuple(read_object(item, f"{where}.{name}"))

        healthcheck = fields.pop("Healthcheck", None)
        return cls(
            user=read_text(fields.pop("User", None) or "", f"{where}.User"),
            exposed_ports=keys("ExposedPorts"),
            env=optional("Env") or (),
            entrypoint=optional("Entrypoint"),
            cmd=optional("Cmd"),
            volumes=keys("Volumes"),
            working_dir=read_text(fields.pop("WorkingDir", None) or "", f"{where}.WorkingDir"),
            labels=read_string_map(fields.pop("Labels", None), f"{where}.Labels"),
            stop_signal=read_text(fields.pop("StopSignal", None) or "", f"{where}.StopSignal"),
            shell=optional("Shell"),
            on_build=optional("OnBuild") or (),
            healthcheck=None if healthcheck is None else dict(read_object(healthcheck, f"{where}.Healthcheck")),
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
        fields = dict(read_object(decode_json(data, "config"), "config"))
        rootfs = read_object(fields.pop("rootfs", None), "config.rootfs")
        if rootfs.get("type") != "layers":
            raise OciError(f"config.rootfs.type: expected 'layers', found {str(rootfs.get('type'))[:40]!r}")
        diff_ids = read_array(rootfs.get("diff_ids") or [], "config.rootfs.diff_ids")
        history = read_array(fields.pop("history", None) or [], "config.history")
        if len(diff_ids) > MAX_LAYERS or len(history) > 4 * MAX_LAYERS:
            raise OciError(f"config: expected at most {MAX_LAYERS} layers, found {len(diff_ids)}")
        return cls(
            platform=Platform.parse(
                {name: fields.pop(name, "") for name in ("os", "architecture", "variant")}, "config"
            ),
            config=RunConfig.parse(fields.pop("config", None)),
            diff_ids=tuple(Digest.parse(item, f"config.rootfs.diff_ids[{n}]") for n, item in enumerate(diff_ids)),
            history=tuple(History.parse(item, f"config.history[{n}]") for n, item in enumerate(history)),
            created=read_text(fields.pop("created", None) or "", "config.created"),
            author=read_text(fields.pop("author", None) or "", "config.author"),
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
