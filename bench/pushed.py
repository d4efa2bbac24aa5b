"""What a run left in the registry, asked of the registry itself."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError

_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


@dataclass(frozen=True, slots=True)
class PushedImage:
    """How many layers an image has, and how many bytes they are as pushed."""

    layers: int
    size_bytes: int


def look_up(host: str, repository: str, tag: str) -> PushedImage:
    """The image under this tag; that there is none is an error, whatever the builder's exit status was."""
    document = _manifest(host, repository, tag)
    if "manifests" in document:
        document = _manifest(host, repository, document["manifests"][0]["digest"])
    sizes = [int(layer["size"]) for layer in document["layers"]]
    return PushedImage(len(sizes), sum(sizes))


def _manifest(host: str, repository: str, name: str) -> Any:
    request = urllib.request.Request(
        f"http://{host}/v2/{repository}/manifests/{name}", headers={"Accept": ", ".join(_TYPES)}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)
    except (urllib.error.URLError, ValueError) as error:
        raise BenchError(f"expected an image at {host}/{repository}:{name} after the run, found: {error}") from error
