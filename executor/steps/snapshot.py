"""From a directory that a step has written to, to a layer in the store."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from executor.isolation.idmap import ID_SHIFT
from executor.layers.write import write_layer
from executor.oci import LAYER_DOCKER_GZIP, LAYER_OCI_GZIP
from executor.rootfs.changes import find_changes
from executor.rootfs.contained import Root
from executor.rootfs.overlay import Overlays
from executor.steps.state import Layer
from executor.store import Store


class Snapshots:
    """Makes the upper directories of steps and turns what is in them into layers."""

    def __init__(
        self, store: Store, overlays: Overlays, *, docker_format: bool, level: int, clamp_mtime: int | None
    ) -> None:
        self._store = store
        self.overlays = overlays
        self._media_type = LAYER_DOCKER_GZIP if docker_format else LAYER_OCI_GZIP
        self._level = level
        self._clamp_mtime = clamp_mtime

    def new_upper(self, layers: Sequence[Path]) -> Path:
        """An empty directory to be the topmost layer: its own mode and owner are those the root shows so far."""
        upper = self.overlays.new_directory("upper")
        if layers:
            status = layers[-1].lstat()
            mode, uid, gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        else:
            mode, uid, gid = 0o755, ID_SHIFT, ID_SHIFT
        os.chown(upper, uid, gid)
        upper.chmod(mode)
        return upper

    def commit(self, below: Sequence[Path], upper: Path) -> Layer:
        """The layer of everything in `upper` that differs from the layers below it."""
        with self.overlays.view(below) as view, Root.at(view) as lower, Root.at(upper) as changed:
            changes = find_changes(changed, lower if below else None)
            with self._store.new_blob() as blob:
                written = write_layer(
                    changes,
                    changed,
                    blob,
                    id_shift=ID_SHIFT,
                    media_type=self._media_type,
                    compression_level=self._level,
                    clamp_mtime=self._clamp_mtime,
                )
        return Layer(upper, written.diff_id, written.descriptor)
