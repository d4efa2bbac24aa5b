"""`pushwright serve`: the web server, as configured by the environment."""

from __future__ import annotations

from collections.abc import Sequence

from webhook.serve import main as serve


def main(arguments: Sequence[str]) -> int:
    return serve(arguments)
