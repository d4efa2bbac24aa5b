"""`python -m executor` is `pushwright build`."""

import sys

from executor.cli import main

sys.exit(main())
