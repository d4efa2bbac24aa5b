"""FROM: where a stage starts, and the layers it starts with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from executor.dockerfile.scope import StageScope, is_plain_text
from executor.errors import PushwrightError, RegistryContentError
from executor.image import Image
from executor.imageconfig import History, ImageConfig, RunConfig, chain_ids
from executor.isolation.idmap import ID_SHIFT
from executor.layers.apply import NeedsLowerError, apply_layer
from executor.layers.decompress import decompress
from executor.layers.limits import LayerLimits
from executor.oci import Descriptor, Digest, OciError, Platform
from executor.plan import ImageSource, PlannedStage
from executor.progress import Observer
from executor.reference import Reference
from executor.registry.client import RegistryClient
from executor.rootfs.contained import Root
from executor.rootfs.overlayform import LayerStack
from executor.steps.state import Layer, StageState
from executor.store import Store

ScopeOf = Callable[[list[str]], StageScope]


class BaseImages:
    """Images that stages start from or copy from; each is fetched and unpacked once in a build."""

    def __init__(self, client: RegistryClient, store: Store, observer: Observer) -> None:
        self._client = client
        self._store = store
        self._observer = observer
        self._loaded: dict[tuple[str, str], tuple[Image, tuple[Layer, ...]]] = {}

    def digests(self) -> dict[str, str]:
        """The manifest that each reference stood for in this build."""
        return {reference: str(image.descriptor.digest) for (reference, _), (image, _) in self._loaded.items()}

    def is_loaded(self, source: ImageSource) -> bool:
        return self._key(source) in self._loaded

    @staticmethod
    def _key(source: ImageSource) -> tuple[str, str]:
        return str(source.reference.or_latest()), str(source.platform)

    def load(self, source: ImageSource, *, step: int) -> tuple[Image, tuple[Layer, ...]]:
        """The image and its unpacked layers, bottom first."""
        key = self._key(source)
        if key not in self._loaded:
            try:
                self._loaded[key] = self._load(source.reference.or_latest(), source.platform, step)
            except PushwrightError as error:
                # the stage's own line, whichever instruction needed the image first
                error.location = error.location or source.location
                error.hint = error.hint or source.hint
                raise
        return self._loaded[key]

    def _load(self, reference: Reference, platform: Platform, step: int) -> tuple[Image, tuple[Layer, ...]]:
        image = self._client.pull_image(reference, platform)
        layers: list[Layer] = []
        chain = chain_ids(image.config.diff_ids)
        for descriptor, diff_id, chain_id in zip(image.manifest.layers, image.config.diff_ids, chain, strict=True):
            self._fetch(reference, descriptor, step)
            directory = self._unpack(descriptor, diff_id, chain_id, layers, step)
            layers.append(Layer(directory, diff_id, descriptor, reference))
        return image, tuple(layers)

    def _fetch(self, reference: Reference, descriptor: Descriptor, step: int) -> None:
        if self._store.has_blob(descriptor.digest):
            return
        item = descriptor.digest.hex[:12]

        def progress(done: int, total: int) -> None:
            self._observer("step-progress", step=step, what="pull", item=item, done_bytes=done, total_bytes=total)

        with self._store.new_blob() as blob:
            self._client.fetch_blob(reference, descriptor, blob.write, progress)
            blob.commit(descriptor.digest)

    def _unpack(self, descriptor: Descriptor, diff_id: Digest, chain_id: Digest, below: list[Layer], step: int) -> Path:
        """The layer's tree: shared by every image that has it, or by those that have it on the same layers."""
        for key in (f"diff {diff_id}", f"chain {chain_id}"):
            if (found := self._store.unpacked_path(key)) is not None:
                return found
        try:
            return self._apply(f"diff {diff_id}", descriptor, diff_id, None if below else LayerStack(()))
        except NeedsLowerError:
            with contextlib.ExitStack() as stack:
                roots = [stack.enter_context(Root.at(layer.directory)) for layer in reversed(below)]
                return self._apply(f"chain {chain_id}", descriptor, diff_id, LayerStack(roots))

    def _apply(self, key: str, descriptor: Descriptor, diff_id: Digest, lower: LayerStack | None) -> Path:
        with self._store.new_unpacked(key) as unpacked:
            os.chown(unpacked.path, ID_SHIFT, ID_SHIFT)
            with (
                Root.at(unpacked.path) as root,
                self._store.open_blob(descriptor.digest) as blob,
                decompress(blob, descriptor.media_type) as archive,
            ):
                apply_layer(
                    archive,
                    root,
                    id_shift=ID_SHIFT,
                    lower=lower,
                    expected_diff_id=diff_id,
                    limits=LayerLimits.for_blob(descriptor.size),
                    warn=self._warn,
                )
            return unpacked.commit()

    def _warn(self, code: str, message: str) -> None:
        self._observer("warning", code=code, message=message)


def state_from_image(image: Image, layers: tuple[Layer, ...], scope_of: ScopeOf) -> StageState:
    """A stage that starts from an image, with the ONBUILD triggers that the image brings along."""
    config = image.config
    scope = scope_of(list(config.config.env))
    if not is_plain_text(config.config.working_dir):
        raise OciError("config.WorkingDir: expected UTF-8 without NUL characters")
    config = replace(config, history=complete_history(config))
    return StageState(config, scope, layers).configured(env=tuple(scope.config_env()))


def state_from_scratch(planned: PlannedStage, scope_of: ScopeOf) -> StageState:
    """A stage that starts from nothing."""
    scope = scope_of([])
    config = ImageConfig(platform=planned.platform, config=RunConfig(working_dir="/", env=tuple(scope.config_env())))
    return StageState(config, scope)


def state_from_stage(state: StageState) -> StageState:
    """A stage that goes on where another ended; whether a CMD was set counts from here."""
    return replace(state, cmd_set=False)


def complete_history(config: ImageConfig) -> tuple[History, ...]:
    """History with one entry that is not empty for each layer; images in the wild have fewer."""
    described = sum(not line.empty_layer for line in config.history)
    if described > len(config.diff_ids):
        raise RegistryContentError(
            f"config.history: expected {len(config.diff_ids)} entries with a layer, found {described}",
            code="oci-invalid",
        )
    missing = len(config.diff_ids) - described
    return (*config.history, *(History(created=config.created) for _ in range(missing)))
