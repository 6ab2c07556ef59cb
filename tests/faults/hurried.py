"""The consumer, for small storms: what has lost its job is announced again soon, not in a minute.

::

    python -m tests.faults.hurried --config CONFIG
"""

from __future__ import annotations

import os
from datetime import timedelta

from mailqueue.consumer import sweeper
from mailqueue.consumer.__main__ import main

if __name__ == "__main__":
    sweeper.ANNOUNCED_LATELY = timedelta(seconds=3)
    os._exit(main())
