"""docs/lifecycle.md against the code: a vendor's health changes as the second drawing shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from mailqueue.lifecycle.outcomes import Suspension
from mailqueue.routing import rotation
from mailqueue.routing.rotation import HINTS, Health, Permit, Sign

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
    call, probe = Permit("a", health.generation), Permit("a", health.generation, "mine")
    yield rotation.win_probe(health, NOW, 60, "mine")
    yield rotation.win_probe(health, NOW, 60, "mine", in_doubt=True)
    yield rotation.restore(health)  # an operator
    for permit, sign in product((call, probe), Sign):
        yield rotation.apply_verdict(health, permit, sign, NOW, yes_at=NOW)
    for email_id, is_hint, in_doubt in product(("1", "new"), (False, True), (False, True)):
        held = Suspension(seconds=600, reason="x", is_hint=is_hint, in_doubt=in_doubt)
        yield rotation.apply_verdict(health, call, held, NOW, email_id=email_id)
        yield rotation.apply_verdict(health, probe, held, NOW, email_id=email_id)
        yield rotation.confirm_hint(health, NOW, email_id)


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
