"""`/v2/`: what a pull needs, nothing that writes, and nothing of a repository that was not asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from executor.oci import (
    CONFIG_OCI,
    INDEX_OCI,
    LAYER_OCI_GZIP,
    MANIFEST_OCI,
    Descriptor,
    Digest,
    Index,
    Manifest,
)
from executor.store import Store
from tests.support.redis_server import RedisServer
from tests.support.web import Web, web_over

LAYER = bytes(range(256)) * 40


@dataclass(frozen=True)
class Image:
    manifest: Digest
    config: Digest
    layer: Digest


def publish(store: Store, repository: str, tag: str, layer: bytes = LAYER) -> Image:
    """A small image of one layer under a tag, in the store as a build leaves it."""
    config = store.put_blob(json.dumps({"rootfs": {"type": "layers"}, "layer": layer[:4].hex()}).encode())
    blob = store.put_blob(layer)
    manifest = Manifest(
        Descriptor(CONFIG_OCI, config, store.blob_size(config)), (Descriptor(LAYER_OCI_GZIP, blob, len(layer)),)
    ).encode()
    digest = store.put_blob(manifest)
    store.put_reference(repository, tag, Descriptor(MANIFEST_OCI, digest, len(manifest)))
    return Image(digest, config, blob)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def web(server: RedisServer) -> Iterator[Web]:
    with web_over(server) as made:
        yield made


@pytest.fixture
def store(web: Web) -> Store:
    return Store.create(web.settings.store)


def get(web: Web, path: str, **headers: str) -> TestResponse:
    """A whole answer, closed as a server closes it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.client.get(path, headers=named, buffered=True)


def errors(response: TestResponse, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.content_type == "application/json"
    assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    (error,) = response.get_json()["errors"]
    assert error["code"] == code
    assert error["message"] and "detail" in error


def test_the_version_is_answered(web: Web) -> None:
    for method in ("GET", "HEAD"):
        response = web.client.open("/v2/", method=method)
        assert response.status_code == 200
        assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_a_server_without_a_store_has_no_images(web: Web) -> None:
    assert web.client.get("/v2/_catalog").get_json() == {"repositories": []}
    errors(web.client.get("/v2/demo/manifests/latest"), 404, "NAME_UNKNOWN")


@pytest.mark.parametrize("name", ["demo", "team/demo", "a/b/c/d", "manifests", "team/manifests/x", "blobs/tags"])
def test_an_image_is_pulled_by_tag_and_by_digest(web: Web, store: Store, name: str) -> None:
    image = publish(store, name, "v1.0_x-y")
    expected = store.read_blob(image.manifest, 10_000)
    for reference in ("v1.0_x-y", str(image.manifest)):
        response = web.client.get(f"/v2/{name}/manifests/{reference}")
        assert (response.status_code, response.data) == (200, expected)
        assert response.content_type == MANIFEST_OCI
        assert response.headers["Docker-Content-Digest"] == image.manifest
        assert response.headers["ETag"] == f'"{image.manifest}"'
        head = web.client.head(f"/v2/{name}/manifests/{reference}")
        assert (head.status_code, head.data) == (200, b"")
        assert head.headers["Content-Length"] == str(len(expected))
        assert head.headers["Docker-Content-Digest"] == image.manifest
    for digest, size in ((image.config, store.blob_size(image.config)), (image.layer, len(LAYER))):
        response = get(web, f"/v2/{name}/blobs/{digest}")
        assert (response.status_code, Digest.of(response.data)) == (200, digest)
        assert response.headers["Content-Length"] == str(size)
        assert response.headers["Docker-Content-Digest"] == digest
        head = web.client.head(f"/v2/{name}/blobs/{digest}")
        assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", str(size))


def test_a_tag_may_move_and_a_digest_is_for_ever(web: Web, store: Store) -> None:
    image = publish(store, "demo", "latest")
    tagged = web.client.get("/v2/demo/manifests/latest")
    pinned = web.client.get(f"/v2/demo/manifests/{image.manifest}")
    assert "no-cache" in tagged.headers["Cache-Control"] and "immutable" in pinned.headers["Cache-Control"]
    moved = publish(store, "demo", "latest", b"other")
    assert web.client.get("/v2/demo/manifests/latest").headers["Docker-Content-Digest"] == moved.manifest
    unchanged = web.client.get("/v2/demo/manifests/latest", headers={"If-None-Match": f'"{moved.manifest}"'})
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert web.client.get("/v2/demo/manifests/latest", headers={"If-None-Match": '"x"'}).status_code == 200


def test_an_index_is_served_as_one(web: Web, store: Store) -> None:
    image = publish(store, "demo", "amd64")
    size = store.blob_size(image.manifest)
    index = Index((Descriptor(MANIFEST_OCI, image.manifest, size),)).encode()
    digest = store.put_blob(index)
    store.put_reference("demo", "all", Descriptor(INDEX_OCI, digest, len(index)))
    response = web.client.get("/v2/demo/manifests/all")
    assert (response.content_type, response.data) == (INDEX_OCI, index)


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=100-", 206, 100, len(LAYER)),
        ("bytes=-16", 206, len(LAYER) - 16, len(LAYER)),
        ("bytes=0-999999", 206, 0, len(LAYER)),
        ("pages=1-2", 200, 0, len(LAYER)),
        ("bytes=x-y", 200, 0, len(LAYER)),
        ("bytes", 200, 0, len(LAYER)),
    ],
)
def test_a_broken_download_is_taken_up(web: Web, store: Store, asked: str, status: int, start: int, end: int) -> None:
    image = publish(store, "demo", "v1")
    response = get(web, f"/v2/demo/blobs/{image.layer}", Range=asked)
    assert (response.status_code, response.data) == (status, LAYER[start:end])
    if status == 206:
        assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(LAYER)}"
        assert response.headers["Content-Length"] == str(end - start)


def test_a_blob_that_the_asker_has_is_not_sent_again(web: Web, store: Store) -> None:
    image = publish(store, "demo", "v1")
    response = get(web, f"/v2/demo/blobs/{image.layer}", If_None_Match=f'"{image.layer}"')
    assert (response.status_code, response.data) == (304, b"")


def test_a_range_outside_is_refused(web: Web, store: Store) -> None:
    image = publish(store, "demo", "v1")
    response = get(web, f"/v2/demo/blobs/{image.layer}", Range=f"bytes={len(LAYER)}-")
    errors(response, 416, "RANGE_INVALID")


def test_a_large_blob_is_not_held_in_memory(web: Web, store: Store) -> None:
    with store.new_blob() as writer:
        for _ in range(64):
            writer.write(b"\0" * 1024 * 1024)
        digest, size = writer.commit()
    config = store.put_blob(b"{}")
    manifest = Manifest(Descriptor(CONFIG_OCI, config, 2), (Descriptor(LAYER_OCI_GZIP, digest, size),)).encode()
    store.put_reference("demo", "big", Descriptor(MANIFEST_OCI, store.put_blob(manifest), len(manifest)))
    response = web.client.get(f"/v2/demo/blobs/{digest}")
    assert max(len(chunk) for chunk in response.iter_encoded()) <= 1024 * 1024
    response.close()


# --- names and digests of others ------------------------------------------------------------------------------------


def test_another_repositorys_blob_is_not_served(web: Web, store: Store) -> None:
    publish(store, "public", "v1")
    private = publish(store, "team/private", "v1", b"the private layer")
    for digest in (private.layer, private.config, private.manifest):
        for method in ("GET", "HEAD"):
            response = web.client.open(f"/v2/public/blobs/{digest}", method=method)
            assert (response.status_code, b"private" in response.data) == (404, False)
        errors(web.client.get(f"/v2/public/blobs/{digest}"), 404, "BLOB_UNKNOWN")
        errors(web.client.get(f"/v2/public/manifests/{digest}"), 404, "MANIFEST_UNKNOWN")
        errors(web.client.get(f"/v2/team/blobs/{digest}"), 404, "NAME_UNKNOWN")


def test_a_blob_that_was_never_published_is_not_served(web: Web, store: Store) -> None:
    publish(store, "demo", "v1")
    digest = store.put_blob(b"a layer of a build that runs")
    errors(web.client.get(f"/v2/demo/blobs/{digest}"), 404, "BLOB_UNKNOWN")


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../demo",
        "demo/..",
        "demo/../../etc",
        "%2e%2e/demo",
        "..%2f..%2fetc",
        "demo/_tags",
        "_tags",
        "demo//x",
        "/demo",
        "Demo",
        "demo%00",
        "demo%0a",
        "-demo",
        "demo-",
        "d\u00e9mo",
        "a/" * 130 + "a",
        ".",
        "./demo",
        "~root",
    ],
)
def test_names_that_break_the_grammar(web: Web, store: Store, name: str) -> None:
    image = publish(store, "demo", "v1")
    (web.settings.data_dir / "store" / "refs" / "passwd").write_text("the planted file")
    for rest in ("manifests/v1", f"manifests/{image.manifest}", f"blobs/{image.layer}", "tags/list"):
        response = web.client.get(f"/v2/{name}/{rest}")
        assert response.status_code in {400, 404}, (name, rest)
        assert "planted" not in response.text and LAYER[:16] not in response.data


@pytest.mark.parametrize("reference", ["..", "%2e%2e", "-v", ".hidden", "a" * 129, "v1%00", "v 1", "v1;x", "\u00fc"])
def test_tags_that_break_the_grammar(web: Web, store: Store, reference: str) -> None:
    publish(store, "demo", "v1")
    errors(web.client.get(f"/v2/demo/manifests/{reference}"), 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("reference", ["..%2fpasswd", "v1%0a", "%0av1", ""])
def test_references_that_are_no_segment_of_a_path(web: Web, store: Store, reference: str) -> None:
    publish(store, "demo", "v1")
    errors(web.client.get(f"/v2/demo/manifests/{reference}"), 404, "UNSUPPORTED")


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "A" * 64,
        "sha512:" + "0" * 128,
        "sha256:../../etc",
        "md5:x",
        "x:" + "0" * 64,
    ],
)
def test_digests_that_are_none(web: Web, store: Store, digest: str) -> None:
    publish(store, "demo", "v1")
    path = digest.replace("/", "%2f")
    for kind in ("blobs", "manifests"):
        assert web.client.get(f"/v2/demo/{kind}/{path}").status_code in {400, 404}
    errors(web.client.get("/v2/demo/blobs/sha256:1"), 400, "DIGEST_INVALID")


def test_a_link_planted_in_the_store_is_not_followed(web: Web, store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the planted secret")
    image = publish(store, "demo", "v1")
    path = store.blob_path(image.layer)
    path.unlink()
    path.symlink_to(secret)
    for method in ("GET", "HEAD"):
        response = web.client.open(f"/v2/demo/blobs/{image.layer}", method=method)
        assert (response.status_code, b"planted" in response.data) == (404, False)


def test_a_layer_is_not_served_as_a_manifest(web: Web, store: Store) -> None:
    image = publish(store, "demo", "v1")
    for digest in (image.layer, image.config):
        errors(web.client.get(f"/v2/demo/manifests/{digest}"), 404, "MANIFEST_UNKNOWN")


def test_a_damaged_manifest_is_not_served(web: Web, store: Store) -> None:
    image = publish(store, "demo", "v1")
    path = store.blob_path(image.manifest)
    path.write_bytes(path.read_bytes().replace(b"schemaVersion", b"schemaversion"))
    response = web.client.get("/v2/demo/manifests/v1")
    assert (response.status_code, b"schema" in response.data) == (500, False)


# --- lists ----------------------------------------------------------------------------------------------------------


def test_tags_are_listed_in_pages(web: Web, store: Store) -> None:
    for tag in ("b", "a", "c", "d", "e"):
        publish(store, "demo", tag)
    assert web.client.get("/v2/demo/tags/list").get_json() == {"name": "demo", "tags": ["a", "b", "c", "d", "e"]}
    seen: list[str] = []
    path = "/v2/demo/tags/list?n=2"
    for _ in range(5):
        response = web.client.get(path)
        seen += response.get_json()["tags"]
        link = response.headers.get("Link")
        if link is None:
            break
        path, _, relation = link.partition(";")
        assert relation == ' rel="next"'
        path = path.strip("<>")
    assert seen == ["a", "b", "c", "d", "e"]
    assert web.client.get("/v2/demo/tags/list?last=c").get_json()["tags"] == ["d", "e"]
    assert web.client.get("/v2/demo/tags/list?n=0").get_json()["tags"] == []
    assert web.client.get("/v2/demo/tags/list?last=zzz").get_json()["tags"] == []


def test_the_catalog_is_listed_in_pages(web: Web, store: Store) -> None:
    for name in ("b", "a/x", "c"):
        publish(store, name, "v1")
    assert web.client.get("/v2/_catalog").get_json() == {"repositories": ["a/x", "b", "c"]}
    response = web.client.get("/v2/_catalog?n=2")
    assert response.get_json() == {"repositories": ["a/x", "b"]}
    assert response.headers["Link"] == '</v2/_catalog?n=2&last=b>; rel="next"'


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "", "9" * 20])
def test_page_sizes_that_are_none(web: Web, store: Store, number: str) -> None:
    publish(store, "demo", "v1")
    errors(web.client.get(f"/v2/demo/tags/list?n={number}"), 400, "PAGINATION_NUMBER_INVALID")


# --- read-only ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "",
        "_catalog",
        "demo/manifests/v1",
        "demo/blobs/uploads/",
        "demo/blobs/uploads/1",
        "demo/blobs/sha256:" + "0" * 64,
        "x",
    ],
)
def test_nothing_can_be_changed(web: Web, store: Store, method: str, path: str) -> None:
    publish(store, "demo", "v1")
    before = sorted(str(item) for item in web.settings.store.rglob("*"))
    errors(web.client.open(f"/v2/{path}", method=method, data=b"x"), 405, "UNSUPPORTED")
    assert sorted(str(item) for item in web.settings.store.rglob("*")) == before


def test_other_paths(web: Web, store: Store) -> None:
    image = publish(store, "demo", "v1")
    errors(web.client.get("/v2/demo"), 404, "UNSUPPORTED")
    errors(web.client.get("/v2/demo/tags/other"), 404, "UNSUPPORTED")
    # a client then looks for the tag sha256-<hex> (distribution-spec, "Unavailable Referrers API")
    errors(web.client.get(f"/v2/demo/referrers/{image.manifest}"), 404, "UNSUPPORTED")
