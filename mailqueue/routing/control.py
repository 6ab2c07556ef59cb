"""What holds and drains of an operator mean for one e-mail. Pure.

Decides: which vendors may be asked, and when the e-mail waits for an operator. What there is to
hold and to drain: ``store.control``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailqueue.lifecycle.outcomes import Snapshot
from mailqueue.routing.rotation import Health, Permit
from mailqueue.store.control import DRAIN, Controls


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator lets the e-mail wait, under this name."""

    name: str


def open_to(
    carriers: Sequence[str], email: Snapshot, health: Mapping[str, Health], controls: Controls
) -> Sequence[str]:
    """The carriers that may be asked.

    A pinned e-mail still goes to a vendor that is drained: no other can tell whether it has the
    e-mail. Of a vendor that is held and unavailable no e-mail waits for the probe.
    """
    if email.pin is not None:
        return carriers
    return [
        name
        for name in carriers
        if name not in controls.drained
        and (health[name].available or name not in controls.held_vendors)
    ]


def hold_of(
    carriers: Sequence[str],
    askable: Sequence[str],
    email: Snapshot,
    permit: Permit | None,
    controls: Controls,
) -> Hold | None:
    """Whether the vendor whose turn it is is held, or every vendor of the e-mail is drained."""
    if permit is not None:
        is_held = permit.vendor in controls.held_vendors
        return Hold(f"vendor:{permit.vendor}") if is_held else None
    usable = [name for name in carriers if name not in email.round.refused]
    if not usable or email.pin is not None or any(name in askable for name in usable):
        return None
    held = next((name for name in usable if name in controls.held_vendors), None)
    return Hold(DRAIN if held is None else f"vendor:{held}")
