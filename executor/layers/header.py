"""Writing the headers of a layer's archive: ustar, with pax records only for what does not fit.

Equal entries give equal bytes: numeric owners only, whole seconds, records in a fixed order.
"""

from __future__ import annotations

from executor.layers.tar import BLOCK, CAPABILITY_RECORD, Entry

_OCTAL_7 = 0o7777777  # the largest number in a field of eight bytes
_OCTAL_11 = 0o77777777777  # and of twelve
_NAME, _PREFIX, _LINK = 100, 155, 100
END_OF_ARCHIVE = bytes(2 * BLOCK)


def encode_entry(entry: Entry) -> bytes:
    """The header block of an entry, and before it the pax header it may need; without its content."""
    records: dict[bytes, bytes] = {}
    split = _split_name(entry.name)
    if split is None:
        records[b"path"] = entry.name
        split = b"", _plain(entry.name)[:_NAME]
    link = entry.link
    if len(link) > _LINK or not _is_plain(link):
        records[b"linkpath"] = link
        link = _plain(link)[:_LINK]
    for key, value, limit in (
        (b"uid", entry.uid, _OCTAL_7),
        (b"gid", entry.gid, _OCTAL_7),
        (b"size", entry.size, _OCTAL_11),
        (b"mtime", entry.mtime, _OCTAL_11),
    ):
        if not 0 <= value <= limit:
            records[key] = b"%d" % value
    if entry.capability is not None:
        records[CAPABILITY_RECORD] = entry.capability
    block = _block(entry, split, link, entry.kind)
    if not records:
        return block
    return _extended_header(records) + block


def _block(entry: Entry, name: tuple[bytes, bytes], link: bytes, kind: bytes) -> bytes:
    prefix, base = name
    fields = [
        base.ljust(_NAME, b"\0"),
        _octal(entry.mode, 8, _OCTAL_7),
        _octal(entry.uid, 8, _OCTAL_7),
        _octal(entry.gid, 8, _OCTAL_7),
        _octal(entry.size, 12, _OCTAL_11),
        _octal(entry.mtime, 12, _OCTAL_11),
        b" " * 8,  # the checksum counts as blanks
        kind,
        link.ljust(_LINK, b"\0"),
        b"ustar\x0000",
        bytes(64),  # no names of user and group: they are this machine's
        _octal(0, 8, _OCTAL_7) + _octal(0, 8, _OCTAL_7),
        prefix.ljust(_PREFIX, b"\0"),
    ]
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _octal(value: int, width: int, limit: int) -> bytes:
    """Digits and a zero byte; 0 for what a pax record says better."""
    return b"%0*o\0" % (width - 1, value if 0 <= value <= limit else 0)


def _extended_header(records: dict[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, value) for key, value in records.items())
    header = Entry(b"././@PaxHeader", b"x", 0o644, 0, 0, len(data), 0, b"", None)
    return _block(header, (b"", header.name), b"", b"x") + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """A record begins with its own length, whose digits count."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name of a ustar header, or None when only a pax record can hold it."""
    if not _is_plain(name):
        return None
    if len(name) <= _NAME:
        return b"", name
    # the slash between them is not written; the one that ends a directory's name is
    cut = name.find(b"/", max(0, len(name) - _NAME - 1), len(name) - 1)
    if cut <= 0 or cut > _PREFIX:
        return None
    return name[:cut], name[cut + 1 :]


def _is_plain(name: bytes) -> bool:
    """Whether every reader takes the bytes of a ustar field for the same name: printable ASCII."""
    return name.isascii() and all(32 <= byte < 127 for byte in name)


def _plain(name: bytes) -> bytes:
    return bytes(byte if 32 <= byte < 127 else 0x5F for byte in name)
