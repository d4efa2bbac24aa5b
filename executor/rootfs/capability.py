"""File capabilities across user namespaces (capabilities(7), "File capability extended attribute versioning").

Version 2 belongs to the first user namespace; version 3 adds the id of the root user of the namespace in which the
capability counts, as the reader's own namespace numbers it. In layers version 2 is usual.
"""

from __future__ import annotations

import struct

_MASK_REVISION = 0xFF000000
_REVISION_2, _REVISION_3 = 0x02000000, 0x03000000
_SIZE_2, _SIZE_3 = 20, 24


def to_disk(value: bytes, id_shift: int) -> bytes | None:
    """What to set on a file so that the capability counts where the image's ids are shifted; None when damaged."""
    revision = _revision(value)
    if revision is None:
        return None
    root = struct.unpack_from("<I", value, _SIZE_2)[0] if revision == _REVISION_3 else 0
    return _encode(value, root + id_shift)


def to_layer(value: bytes, id_shift: int) -> bytes | None:
    """The inverse of `to_disk`; None when damaged, or of a root user that the image cannot name."""
    revision = _revision(value)
    if revision is None:
        return None
    if revision == _REVISION_2:
        return value
    root = struct.unpack_from("<I", value, _SIZE_2)[0] - id_shift
    return None if root < 0 else _encode(value, root)


def _revision(value: bytes) -> int | None:
    if len(value) < 4:
        return None
    revision = int(struct.unpack_from("<I", value)[0]) & _MASK_REVISION
    expected = {_REVISION_2: _SIZE_2, _REVISION_3: _SIZE_3}.get(revision)
    return revision if expected == len(value) else None


def _encode(value: bytes, root: int) -> bytes:
    flags = struct.unpack_from("<I", value)[0] & ~_MASK_REVISION & 0xFFFFFFFF
    sets = value[4:_SIZE_2]
    if root == 0:
        return struct.pack("<I", _REVISION_2 | flags) + sets
    return struct.pack("<I", _REVISION_3 | flags) + sets + struct.pack("<I", root)
