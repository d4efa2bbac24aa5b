"""`pushwright worker`: turns this process into a worker.

A worker is another program, not an import: nothing that serves or asks questions can reach the code that runs builds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from webhook.embedded.children import module_arguments


def main(arguments: Sequence[str]) -> NoReturn:
    sys.stdout.flush()
    os.execv(sys.executable, (*module_arguments("tasks.worker"), *arguments))  # noqa: S606
