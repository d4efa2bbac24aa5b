"""Bounds on what one layer may hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """`size_bytes` bounds the uncompressed archive, `header_bytes` one extended header."""

    size_bytes: int = 64 << 30
    entries: int = 2_000_000
    path_bytes: int = 4095
    depth: int = 512
    header_bytes: int = 1 << 20

    @classmethod
    def for_blob(cls, size_bytes: int) -> LayerLimits:
        """Bounds for a compressed layer: real ones shrink to a fifth, a gzip bomb to a thousandth."""
        return cls(size_bytes=max(1 << 30, 200 * size_bytes))
