"""``python -m revstore``: the command line."""

from __future__ import annotations

import sys

from revstore.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
