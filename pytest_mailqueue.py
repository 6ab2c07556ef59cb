"""mailqueue's plugin for pytest: the fixture ``mailqueue_outbox``.

It stands beside the package, since pytest imports it in every run, also of projects that only have
mailqueue installed: it imports nothing of mailqueue before the fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mailqueue.testing import Outbox


@pytest.fixture
def mailqueue_outbox() -> Iterator[Outbox]:
    """The e-mails that the application sends in this test, kept in memory: see ``Outbox``."""
    from mailqueue.testing import Outbox

    with Outbox() as outbox:
        yield outbox
