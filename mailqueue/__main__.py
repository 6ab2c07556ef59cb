"""``python -m mailqueue``: the command line (``cli``)."""

from __future__ import annotations

import sys

from mailqueue.cli import main

if __name__ == "__main__":
    sys.exit(main())
