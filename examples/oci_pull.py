"""A small client of the distribution API and reader of OCI layouts, for the demo: shares no code with Pushwright.

It speaks distribution-spec 1.1 and reads image-spec 1.1: manifest, config, gzip layers, whiteouts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


class PullError(Exception):
    """What came is not what was asked for."""


def basic_login(username: str, password: str) -> str:
    """What follows `Basic` in an Authorization header (RFC 7617), and what Docker keeps as `auth`."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def pull(host: str, repository: str, tag: str, token: str, layout: Path) -> None:
    """Write `repository:tag` as an OCI layout; every blob's size and digest is checked."""
    headers = {"Authorization": f"Basic {basic_login('pushwright', token)}", "Accept": MANIFEST}
    manifest_bytes = _get(host, f"/v2/{repository}/manifests/{tag}", headers)
    manifest = json.loads(manifest_bytes)
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for descriptor in (manifest["config"], *manifest["layers"]):
        data = _get(host, f"/v2/{repository}/blobs/{descriptor['digest']}", headers)
        if len(data) != descriptor["size"] or _digest(data) != descriptor["digest"]:
            raise PullError(f"{descriptor['digest']}: the bytes are others")
        _blob(layout, descriptor["digest"]).write_bytes(data)
    digest = _digest(manifest_bytes)
    _blob(layout, digest).write_bytes(manifest_bytes)
    entry = {"mediaType": MANIFEST, "digest": digest, "size": len(manifest_bytes)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def manifest_digest(layout: Path) -> str:
    """The digest of the one image in a layout."""
    manifests = json.loads((layout / "index.json").read_text())["manifests"]
    if len(manifests) != 1:
        raise PullError(f"expected one image in {layout}, found {len(manifests)}")
    return str(manifests[0]["digest"])


def unpack(layout: Path, root: Path) -> dict[str, Any]:
    """Apply the layers of a layout's image in order below `root`; gives the `config` of its configuration."""
    manifest = json.loads(_read_blob(layout, manifest_digest(layout)))
    config: dict[str, Any] = json.loads(_read_blob(layout, manifest["config"]["digest"]))
    root.mkdir()
    for descriptor, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        _read_blob(layout, descriptor["digest"])
        with tarfile.open(_blob(layout, descriptor["digest"])) as archive:
            _apply(archive, root)
        _check_diff_id(_blob(layout, descriptor["digest"]), diff_id)
    return dict(config["config"])


# Debian 12's Python 3.11.2 is older than extraction filters (3.11.4), which newer ones want to be told
_FILTER: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}


def _apply(archive: tarfile.TarFile, root: Path) -> None:
    for member in archive:
        path = root / member.name
        if ".." in path.parts or not path.parent.resolve().is_relative_to(root.resolve()):
            raise PullError(f"{member.name!r}: leads out of the image")
        if path.name == _OPAQUE:
            for item in path.parent.iterdir():
                _remove(item)
        elif path.name.startswith(_WHITEOUT):
            _remove(path.with_name(path.name.removeprefix(_WHITEOUT)))
        else:
            if not (member.isdir() and path.is_dir() and not path.is_symlink()):
                _remove(path)
            # the filter keeps links inside `root` too; absolute ones, which images have, it would refuse
            is_link = member.issym() and member.linkname.startswith("/")
            if is_link:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(member.linkname)
            else:
                archive.extract(member, root, set_attrs=True, numeric_owner=True, **_FILTER)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _check_diff_id(blob: Path, diff_id: str) -> None:
    import gzip

    hasher = hashlib.sha256()
    with gzip.open(blob) as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
    if f"sha256:{hasher.hexdigest()}" != diff_id:
        raise PullError(f"{blob.name}: the layer is not the one that the configuration names")


def _read_blob(layout: Path, digest: str) -> bytes:
    data = _blob(layout, digest).read_bytes()
    if _digest(data) != digest:
        raise PullError(f"{digest}: the bytes are others")
    return data


def _blob(layout: Path, digest: str) -> Path:
    algorithm, _, name = digest.partition(":")
    if algorithm != "sha256" or len(name) != 64 or not name.isalnum():
        raise PullError(f"expected a SHA-256 digest, found {digest!r}")
    return layout / "blobs" / "sha256" / name


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _get(host: str, path: str, headers: dict[str, str]) -> bytes:
    connection = http.client.HTTPConnection(host, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise PullError(f"GET {path}: {response.status} {body[:200]!r}")
        return body
