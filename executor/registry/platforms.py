"""Which of an index's manifests is for a platform."""

from __future__ import annotations

from dataclasses import replace

from executor.oci import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Index, Platform

# what a CPU of a variant can run, best first (containerd, platforms/compare.go); "" is arm64's v8 and amd64's v1
_RUNS = {
    "arm": {"v8": ("v8", "v7", "v6", "v5"), "v7": ("v7", "v6", "v5"), "v6": ("v6", "v5"), "v5": ("v5",)},
    "amd64": {"v4": ("v4", "v3", "v2", ""), "v3": ("v3", "v2", ""), "v2": ("v2", ""), "": ("",)},
    "arm64": {"v9": ("v9", ""), "": ("",)},
}
_SYNONYMS = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm"}
_ATTESTATION = "vnd.docker.reference.type"


def candidates(index: Index, wanted: Platform) -> tuple[Descriptor, ...]:
    """The index's entries that may be for `wanted`, best first; those without a platform come last."""
    usable = [item for item in index.manifests if _is_image(item)]
    ranked = [(_rank(item.platform, wanted), item) for item in usable if item.platform]
    fitting = sorted(((rank, item) for rank, item in ranked if rank is not None), key=lambda pair: pair[0])
    return (*(item for _, item in fitting), *(item for item in usable if item.platform is None))


def fits(found: Platform, wanted: Platform) -> bool:
    """Whether an image of platform `found` runs on `wanted`; what a config leaves empty is not held against it."""
    filled = replace(found, os=found.os or wanted.os, architecture=found.architecture or wanted.architecture)
    # configs, unlike indexes, often lack the variant
    return _rank(filled if found.variant else replace(filled, variant=wanted.variant), wanted) is not None


def _is_image(item: Descriptor) -> bool:
    unknown = item.platform is not None and "unknown" in {item.platform.os, item.platform.architecture}
    return item.media_type in MANIFEST_TYPES | INDEX_TYPES and not unknown and _ATTESTATION not in item.annotations


def _rank(found: Platform, wanted: Platform) -> int | None:
    found, wanted = _normal(found), _normal(wanted)
    if (found.os, found.architecture) != (wanted.os, wanted.architecture):
        return None
    runs = _RUNS.get(wanted.architecture, {}).get(wanted.variant, (wanted.variant,))
    return runs.index(found.variant) if found.variant in runs else None


def _normal(platform: Platform) -> Platform:
    architecture = platform.architecture.lower()
    architecture = _SYNONYMS.get(architecture, architecture)
    variant = platform.variant.lower()
    if architecture == "arm":
        variant = variant or "v7"
    if (architecture, variant) in {("arm64", "v8"), ("amd64", "v1")}:
        variant = ""
    return Platform(platform.os.lower(), architecture, variant)
