"""`pushwright serve`: the web server, as configured by the environment."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    from webhook import serve

    return serve.main(list(arguments))
