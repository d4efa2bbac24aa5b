"""References of the store: which manifest a repository's tag names, and what was published in which repository."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Protocol

from executor.errors import RegistryContentError, StoreError, UsageError
from executor.oci import INDEX_TYPES, MANIFEST_LIMIT_BYTES, MANIFEST_TYPES, Descriptor, Digest, Index, Manifest
from executor.store_files import names, storing, write_whole

# distribution-spec 1.1, "Pulling manifests"
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


class Blobs(Protocol):
    """Where manifests are read from."""

    def has_blob(self, digest: Digest, /) -> bool: ...

    def read_blob(self, digest: Digest, /, limit: int) -> bytes: ...


def _is_repository(name: str) -> bool:
    return len(name) <= 255 and _REPOSITORY.fullmatch(name) is not None


class References:
    """The files `<repository>/_tags/<tag>` and `<repository>/_links/<hex>` below one directory.

    No part of a repository's name begins with an underscore, so the two never meet a repository's own directory.
    """

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self._root = root
        self._blobs = blobs

    def put(self, repository: str, tag: str, descriptor: Descriptor) -> None:
        """Let `repository:tag` name a manifest of the store, and the repository have what the manifest names."""
        if not _is_repository(repository) or not _TAG.fullmatch(tag):
            raise UsageError(
                f"reference: expected repository:tag, found {repository[:80]!r}:{tag[:80]!r}",
                code="reference-invalid",
                hint="lower-case words joined by . _ - /, and a tag of at most 128 word characters, dots and dashes",
            )
        home = self._root / repository
        with storing(f"reference {repository}:{tag}"):
            for name in ("_links", "_tags"):
                (home / name).mkdir(mode=0o755, parents=True, exist_ok=True)
            for digest in sorted(self._linked(descriptor)):
                (home / "_links" / digest.hex).touch(mode=0o644)
            write_whole(home / "_tags" / tag, json.dumps(descriptor.to_json()).encode())

    def _linked(self, descriptor: Descriptor) -> set[Digest]:
        """The digests of a manifest or index and of all below it that the store has."""
        data = self._blobs.read_blob(descriptor.digest, MANIFEST_LIMIT_BYTES)
        if descriptor.media_type in INDEX_TYPES:
            children = Index.parse(data, descriptor.media_type).manifests
            known = [
                item for item in children if item.media_type in MANIFEST_TYPES and self._blobs.has_blob(item.digest)
            ]
            return {descriptor.digest}.union(*(self._linked(item) for item in known))
        manifest = Manifest.parse(data, descriptor.media_type)
        return {descriptor.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}

    def get(self, repository: str, tag: str) -> Descriptor | None:
        if not _is_repository(repository) or not _TAG.fullmatch(tag):
            return None
        path = self._root / repository / "_tags" / tag
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"reference {repository}:{tag}: {error.strerror}") from error
        try:
            return Descriptor.parse(json.loads(data), f"reference {repository}:{tag}")
        except (ValueError, RegistryContentError) as error:
            raise StoreError(f"reference {repository}:{tag}: damaged: {error}", code="store-damaged") from error

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository, sorted; none of one that is not known."""
        if not _is_repository(repository):
            return []
        return [name for name in names(self._root / repository / "_tags") if _TAG.fullmatch(name)]

    def repositories(self) -> list[str]:
        found: list[str] = []
        pending = [""]
        while pending:
            parent = pending.pop()
            children = names(self._root / parent)
            if "_tags" in children:
                found.append(parent)
            pending.extend(f"{parent}/{name}".lstrip("/") for name in children if name[0] != "_" and name[0] != ".")
        return sorted(found)

    def has_repository(self, repository: str) -> bool:
        return _is_repository(repository) and (self._root / repository / "_tags").is_dir()

    def links(self, repository: str, digest: Digest) -> bool:
        """Whether a blob or manifest was published in this repository: that, not having the bytes, gives the right."""
        return _is_repository(repository) and (self._root / repository / "_links" / digest.hex).is_file()
