"""Sending a finished image to registries: blobs first, the manifest last."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from executor.oci import Descriptor
from executor.progress import Observer
from executor.reference import Reference
from executor.registry.client import RegistryClient
from executor.steps.state import Layer
from executor.store import Store

PARALLEL_UPLOADS = 4


@dataclass(frozen=True, slots=True)
class FinishedImage:
    """An image whose every blob is in the store; `manifest` is the descriptor of `manifest_bytes`."""

    manifest: Descriptor
    manifest_bytes: bytes
    config: Descriptor
    layers: Sequence[Layer]


class Pusher:
    """Pushes images from the store."""

    def __init__(self, client: RegistryClient, store: Store, observer: Observer) -> None:
        self._client = client
        self._store = store
        self._observer = observer

    def push(self, image: FinishedImage, destination: Reference, *, step: int) -> None:
        """Push to `destination`: under its tag, or by digest alone when it has none."""
        with ThreadPoolExecutor(PARALLEL_UPLOADS, thread_name_prefix="push") as pool:
            # an image may hold one layer several times
            layers = list({layer.descriptor.digest: layer for layer in image.layers}.values())
            uploads = [pool.submit(self._push_layer, layer, destination, step) for layer in layers]
            uploads.append(pool.submit(self._push_blob, image.config, destination, step))
            for upload in uploads:
                upload.result()
        self._client.put_manifest(destination, image.manifest.media_type, image.manifest_bytes)

    def _push_layer(self, layer: Layer, destination: Reference, step: int) -> None:
        if not self._mount(layer, destination):
            self._push_blob(layer.descriptor, destination, step)

    def _mount(self, layer: Layer, destination: Reference) -> bool:
        """Whether the registry took the layer over from its repository it was pulled from (distribution-spec,
        "Mounting a blob from another repository")."""
        origin = layer.origin
        if origin is None or origin.registry != destination.registry or origin.name == destination.name:
            return False
        return self._client.mount_blob(destination, layer.descriptor.digest, origin.repository)

    def _push_blob(self, descriptor: Descriptor, destination: Reference, step: int) -> None:
        item = descriptor.digest.hex[:12]

        def progress(done: int, total: int) -> None:
            self._observer("step-progress", step=step, what="push", item=item, done_bytes=done, total_bytes=total)

        self._client.push_blob(destination, descriptor, lambda: self._store.open_blob(descriptor.digest), progress)
