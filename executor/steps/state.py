"""What a stage is between two instructions: a value that each step replaces."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from executor.dockerfile.history import COMMENT
from executor.dockerfile.scope import StageScope
from executor.imageconfig import History, ImageConfig
from executor.oci import Descriptor, Digest
from executor.reference import Reference

DEFAULT_SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its tree in overlay form, its identity, and the image it came with, if any."""

    directory: Path
    diff_id: Digest
    descriptor: Descriptor
    origin: Reference | None = None


@dataclass(frozen=True, slots=True)
class StageState:
    """The image so far, and the variables in scope. `cmd_set` tells whether this very stage has a CMD."""

    config: ImageConfig
    scope: StageScope
    layers: tuple[Layer, ...] = ()
    cmd_set: bool = False

    @property
    def directories(self) -> tuple[Path, ...]:
        """The layers' trees, bottom first."""
        return tuple(layer.directory for layer in self.layers)

    @property
    def working_dir(self) -> str:
        """Absolute and cleaned, though an image may have come with one that is not."""
        path = posixpath.normpath(posixpath.join("/", self.config.config.working_dir))
        # POSIX gives a leading // a meaning of its own, and normpath keeps it
        return "/" + path.lstrip("/")

    @property
    def shell(self) -> tuple[str, ...]:
        return self.config.config.shell or DEFAULT_SHELL

    def command(self, arguments: Sequence[str], *, in_shell: bool) -> tuple[str, ...]:
        """The argument vector of a CMD, ENTRYPOINT or RUN: as it is, or handed to the stage's shell."""
        return (*self.shell, " ".join(arguments)) if in_shell else tuple(arguments)

    def configured(self, **changes: Any) -> StageState:
        """With these fields of the run configuration."""
        return replace(self, config=replace(self.config, config=replace(self.config.config, **changes)))

    def recorded(self, created: str, created_by: str, layer: Layer | None = None) -> StageState:
        """With a line of history, and the layer it made, if it made one."""
        line = History(created=created, created_by=created_by, comment=COMMENT, empty_layer=layer is None)
        if layer is None:
            return replace(self, config=replace(self.config, history=(*self.config.history, line)))
        return replace(self, config=self.config.with_layer(layer.diff_id, line), layers=(*self.layers, layer))
