"""`/v2/`: the part of distribution-spec 1.1 that a pull needs, read-only, over the local store."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import wrap_file

from executor.errors import RegistryContentError, StoreError
from executor.oci import INDEX_OCI, INDEX_TYPES, MANIFEST_LIMIT_BYTES, MANIFEST_OCI, MANIFEST_TYPES, Digest, decode_json
from executor.reference import NAME_LIMIT, REPOSITORY_PATTERN, TAG_PATTERN
from executor.store import Store
from webhook.problems import REGISTRY_HEADERS, RegistryProblem
from webhook.services import services

blueprint = Blueprint("registry", __name__)

PAGE_LIMIT = 1000
_PATH = re.compile(r"(?P<name>.+)/(?P<kind>manifests|blobs|tags)/(?P<reference>[^/]+)")
_BLOB_TYPE = "application/octet-stream"
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@blueprint.route("/v2/", methods=_METHODS, defaults={"path": ""})
@blueprint.route("/v2/<path:path>", methods=_METHODS)
def serve(path: str) -> ResponseReturnValue:
    """One request of a registry client; the repository's name may have slashes, so the path is taken apart here."""
    if request.method not in {"GET", "HEAD"}:
        raise RegistryProblem(405, "UNSUPPORTED", "this registry is read-only: images come from builds")
    response = _dispatch(path)
    response.headers.update(REGISTRY_HEADERS)
    return response


def _dispatch(path: str) -> Response:
    if not path:
        return _json({})
    store = services().store
    if path == "_catalog":
        return _catalog(store)
    match = _PATH.fullmatch(path)
    if not match or (match["kind"] == "tags" and match["reference"] != "list"):
        raise RegistryProblem(404, "UNSUPPORTED", "nothing is served under this path")
    name = match["name"]
    if len(name) > NAME_LIMIT or not REPOSITORY_PATTERN.fullmatch(name):
        raise RegistryProblem(400, "NAME_INVALID", "the repository's name breaks the specification's grammar")
    if not store.has_repository(name):
        raise RegistryProblem(404, "NAME_UNKNOWN", "no image was published under this name")
    serves: dict[str, Callable[[Store, str, str], Response]] = {
        "manifests": _manifest,
        "blobs": _blob,
        "tags": _tags,
    }
    return serves[match["kind"]](store, name, match["reference"])


def _manifest(store: Store, name: str, reference: str) -> Response:
    digest = _tagged(store, name, reference) if ":" not in reference else _linked(store, name, reference, "MANIFEST")
    try:
        data = store.read_blob(digest, MANIFEST_LIMIT_BYTES)
        media_type = _media_type(data)
    except RegistryContentError as error:
        # a layer or a config, asked for as a manifest
        raise _unknown("MANIFEST") from error
    except StoreError as error:
        raise _missing(error, "MANIFEST") from error
    response = Response(data, content_type=media_type)
    _describe(response, digest, is_pinned=":" in reference)
    response.make_conditional(request)
    return response


def _blob(store: Store, name: str, reference: str) -> Response:
    digest = _linked(store, name, reference, "BLOB")
    try:
        if request.method == "HEAD":
            return _blob_head(store, digest)
        return _blob_body(store, digest)
    except StoreError as error:
        raise _missing(error, "BLOB") from error


def _blob_head(store: Store, digest: Digest) -> Response:
    response = Response(content_type=_BLOB_TYPE)
    response.content_length = store.blob_size(digest)
    response.accept_ranges = "bytes"
    _describe(response, digest, is_pinned=True)
    return response


def _blob_body(store: Store, digest: Digest) -> Response:
    """The blob from its file, never whole in memory; a range of it, when asked for, to take up a broken download."""
    size = store.blob_size(digest)
    stream = store.open_blob(digest)
    response = Response(wrap_file(request.environ, stream), content_type=_BLOB_TYPE, direct_passthrough=True)
    response.content_length = size
    _describe(response, digest, is_pinned=True)
    # a range that is not understood is as if it were not there (RFC 9110 section 14.2)
    understood = "Range" not in request.headers or (request.range is not None and request.range.units == "bytes")
    try:
        response.make_conditional(request, accept_ranges=understood, complete_length=size)
    except HTTPException:
        stream.close()
        raise
    if response.status_code == 304:
        # an answer without a body is never iterated, and so never closed
        stream.close()
    return response


def _tags(store: Store, name: str, _: str) -> Response:
    tags, following = _page(store.tags(name))
    response = _json({"name": name, "tags": tags})
    if following:
        response.headers["Link"] = f'</v2/{name}/tags/list?{following}>; rel="next"'
    return response


def _catalog(store: Store) -> Response:
    names, following = _page(store.repositories())
    response = _json({"repositories": names})
    if following:
        response.headers["Link"] = f'</v2/_catalog?{following}>; rel="next"'
    return response


def _page(items: list[str]) -> tuple[list[str], str]:
    """The part that `n` and `last` ask for, and the query of the next one ("": none) (distribution-spec, "tags")."""
    text = request.args.get("n", str(PAGE_LIMIT))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise RegistryProblem(400, "PAGINATION_NUMBER_INVALID", "n: expected a whole number")
    number = min(int(text), PAGE_LIMIT)
    last = request.args.get("last", "")
    after = [item for item in items if item > last] if last else items
    shown = after[:number]
    more = bool(shown) and len(after) > number
    return shown, urlencode({"n": number, "last": shown[-1]}) if more else ""


def _tagged(store: Store, name: str, tag: str) -> Digest:
    descriptor = store.reference(name, tag) if TAG_PATTERN.fullmatch(tag) else None
    if descriptor is None:
        raise _unknown("MANIFEST")
    return descriptor.digest


def _linked(store: Store, name: str, reference: str, kind: str) -> Digest:
    """A digest that was published in this repository: one may be allowed to pull this one and not another."""
    try:
        digest = Digest.parse(reference)
    except RegistryContentError as error:
        raise RegistryProblem(400, "DIGEST_INVALID", "expected sha256: and 64 lower-case hex digits") from error
    if not store.links(name, digest):
        raise _unknown(kind)
    return digest


def _media_type(data: bytes) -> str:
    """What kind of manifest the bytes are; an OCI manifest need not say so itself (image-spec, manifest)."""
    fields = decode_json(data, "manifest")
    if not isinstance(fields, dict) or fields.get("schemaVersion") != 2:
        raise RegistryContentError("expected a manifest, found another blob")
    found = fields.get("mediaType", INDEX_OCI if "manifests" in fields else MANIFEST_OCI)
    if found not in MANIFEST_TYPES | INDEX_TYPES:
        raise RegistryContentError("expected a manifest, found another blob")
    return str(found)


def _describe(response: Response, digest: Digest, *, is_pinned: bool) -> None:
    response.headers["Docker-Content-Digest"] = str(digest)
    response.set_etag(str(digest))
    # what a digest names never changes; it is not for caches that others read
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable" if is_pinned else "private, no-cache"


def _json(value: dict[str, Any]) -> Response:
    return Response(json.dumps(value) + "\n", mimetype="application/json")


def _unknown(kind: str) -> RegistryProblem:
    return RegistryProblem(404, f"{kind}_UNKNOWN", f"no such {kind.lower()} in this repository")


def _missing(error: StoreError, kind: str) -> StoreError | RegistryProblem:
    return _unknown(kind) if error.code == "blob-missing" else error
