"""docs/lifecycle.md against the code: a vendor's health changes as the second drawing shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from mailqueue.lifecycle.outcomes import Suspension
from mailqueue.routing import rotation
from mailqueue.routing.rotation import HINTS, Health

PAGE = (Path(__file__).parents[2] / "docs/lifecycle.md").read_text("utf-8")
NOW = 1_000_000.0
AVAILABLE = Health(name="a", generation=1)
UNAVAILABLE = replace(AVAILABLE, unavailable_until=NOW - 1, probe_at=NOW - 1)
PROBING = replace(UNAVAILABLE, probe_token="mine", probe_until=NOW + 60)


def state(health: Health) -> str:
    if health.unavailable_until is None:
        return "available"
    return "unavailable" if health.probe_token is None else "probing"


def situations() -> Iterator[Health]:
    """With and without hints; a probe may be another's, or lost."""
    rows = (), ("1",), tuple(str(n) for n in range(HINTS - 1))
    lost = replace(PROBING, probe_until=NOW - 1)
    for health, hints, proven in product(
        (AVAILABLE, UNAVAILABLE, PROBING, lost), rows, (False, True)
    ):
        yield replace(health, hints=hints, hint_at=NOW - 1 if hints else None, proven=proven)


def changes(health: Health) -> Iterator[Health | None]:
    """Everything that can happen to a vendor's health."""
    yield rotation.probe_won(health, NOW, 60, "mine")
    yield rotation.probe_won(health, NOW, 60, "mine", in_doubt=True)
    yield rotation.probe_succeeded(health, "mine")
    yield rotation.probe_given_back(health, "mine")
    yield rotation.vouched(health, health.hints)
    yield Health(name="a", generation=health.generation + 1)  # an operator
    for email_id, of_content, in_doubt in product(("1", "new"), (False, True), (False, True)):
        closing = Suspension(seconds=600, reason="x", of_content=of_content, in_doubt=in_doubt)
        yield rotation.closed(health, closing, NOW, health.generation, email_id)
        yield rotation.probe_failed(health, closing, NOW, "mine", email_id)
        yield rotation.convicted(health, NOW, email_id)


def test_the_drawing_shows_the_changes_of_a_vendors_health() -> None:
    made = {
        (state(before), state(after))
        for before in situations()
        for after in changes(before)
        if after is not None and after != before
    }
    drawing = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)[1]
    drawn = re.findall(r"^ +(\S+) --> (\w+): .+$", drawing, re.MULTILINE)
    assert sorted(drawn) == sorted({*made, ("[*]", state(Health(name="a")))})
