"""Text from a repository or a server, made fit for an error message."""

from __future__ import annotations


def printable(text: str, limit: int = 200) -> str:
    """`text` with what a terminal would act on written as escapes; of a long one the end is kept.

    The end, because that is where a path is most telling.
    """
    shown = "".join(character if character.isprintable() else _escaped(character) for character in text[-limit:])
    return shown if len(text) <= limit and len(shown) <= limit else f"…{shown[-limit:]}"


def _escaped(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode("ascii")
        if ord(character) > 0x7F
        else repr(character)[1:-1]
    )
