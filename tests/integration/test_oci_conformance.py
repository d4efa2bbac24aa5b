"""What is built fits the JSON schemas of the OCI image-spec (Debian's copy of them)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT4

from tests.integration.conftest import Bench
from tests.integration.test_executor import MULTI_STAGE

SCHEMAS = Path("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema")


def _without_ids(schema: Any) -> Any:
    """The schemas' ids name places on the web, their references file names: only the latter can be followed here."""
    if isinstance(schema, dict):
        return {key: _without_ids(item) for key, item in schema.items() if key not in {"id", "$schema"}}
    return [_without_ids(item) for item in schema] if isinstance(schema, list) else schema


def _validator(name: str) -> jsonschema.Draft4Validator:
    loaded = {path.name: _without_ids(json.loads(path.read_text())) for path in SCHEMAS.glob("*.json")}
    resources = [(file, DRAFT4.create_resource(content)) for file, content in loaded.items()]
    registry: Registry[Any] = Registry().with_resources(resources)
    return jsonschema.Draft4Validator({"$ref": name}, registry=registry)


@pytest.fixture(scope="module")
def layout(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("layout")
    done = bench.build(
        MULTI_STAGE,
        "--no-push",
        "-d",
        "example.com/app:1",
        "--annotation",
        "a=b",
        "--oci-layout-path",
        target,
        files={"src/a.c": "int x;"},
    )
    assert done.status == 0, done.events[-1]
    return target


def _blob(layout: Path, digest: str) -> Any:
    return json.loads((layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes())


def test_the_schemas_refuse_what_is_wrong(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_bytes())
    manifest = _blob(layout, index["manifests"][0]["digest"])
    manifest["layers"][0]["digest"] = "sha256"
    assert not _validator("image-manifest-schema.json").is_valid(manifest)


def test_layout_index_manifest_and_config_are_valid(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_bytes())
    manifest = _blob(layout, index["manifests"][0]["digest"])
    _validator("image-layout-schema.json").validate(json.loads((layout / "oci-layout").read_bytes()))
    _validator("image-index-schema.json").validate(index)
    _validator("image-manifest-schema.json").validate(manifest)
    _validator("config-schema.json").validate(_blob(layout, manifest["config"]["digest"]))
    assert manifest["annotations"] == {"a": "b"}


def test_media_types_are_those_of_the_image_spec(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_bytes())
    manifest = _blob(layout, index["manifests"][0]["digest"])
    assert index["manifests"][0]["mediaType"] == manifest["mediaType"]
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
