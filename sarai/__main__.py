"""`python -m sarai`, the same as the command `sarai`."""

from __future__ import annotations

import sys

from core.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
