"""What can go wrong in the harness itself, as one type."""

from __future__ import annotations


class BenchError(Exception):
    """The benchmark, or one contender of it, cannot go on; the message says why."""
