"""The vendors, and what an operator holds: to look at, and to change.

Decides: what is asked before a change, and what is said after it. The changes are those of
``mailqueue vendors``, ``hold`` and ``release``, by the same functions.

Promises: nothing is changed by GET. Who asked, and why, is stored with a hold or a drain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from urllib.parse import urlencode

from mailqueue.dashboard.actions import UNNAMED
from mailqueue.dashboard.backend import Backend
from mailqueue.dashboard.pages import Page, PageRequest, Redirect, Refusal, not_found
from mailqueue.dashboard.plot import SERIES, series_of
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.logs import event
from mailqueue.monitoring.overview import COUNTED, VendorState, vendor_states
from mailqueue.monitoring.words import count
from mailqueue.operations import announce
from mailqueue.routing.health import VendorHealth
from mailqueue.store.control import DRAIN, Control, Controls, ControlStore
from mailqueue.store.stats import Minute, Stats
from mailqueue.store.store import Store

HOUR = timedelta(hours=1)
MAX_REASON = 500  # characters
MAX_NAME = 256  # of a tag
BACK = ("/vendors", "Back to the vendors")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be changed: an ``action`` on a vendor, a tag, a class or all."""

    action: str
    kind: str
    name: str

    @property
    def of(self) -> str:
        """As an address has it."""
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @property
    def begins(self) -> bool:
        """Whether something begins by it; else a hold or a drain ends."""
        return self.action not in ("undrain", "release")

    def control(self, by: str = "", reason: str = "") -> Control:
        """The hold or the drain that begins or ends."""
        kind = DRAIN if self.action.endswith(DRAIN) else self.kind
        return Control(kind, self.name, by=by, reason=reason)


@dataclass(frozen=True, slots=True)
class Active:
    """A hold or a drain, and how many e-mails ``waiting`` for its end; None: too many to count."""

    control: Control
    waiting: int | None

    @property
    def end(self) -> Change:
        """What ends it."""
        if self.control.kind == DRAIN:
            return Change("undrain", "vendor", self.control.name)
        return Change("release", self.control.kind, self.control.name)


_WIDE = (Change("hold", "all", ""), *(Change("hold", "priority", name) for name in PRIORITIES))

# Looking ------------------------------------------------------------------------------------------


def page(request: PageRequest) -> Page:
    """``GET /vendors``."""
    backend, store = request.backend, request.backend.store
    states, controls = vendor_states(backend.config, store)
    now = store.now()
    values = {
        "vendors": states,
        "last_hour": attempts(Stats(store, store.env).minutes(now - HOUR)),
        "controls": active(store, controls),
        "now": now,
        "notice": _notice(request),
        "actions": _actions,
        "holdable": [each for each in _WIDE if each.control().id not in controls.active],
        "most": COUNTED,
    }
    return Page("vendors.html", "Vendors", values, "vendors")


def active(store: Store, controls: Controls) -> list[Active]:
    """All that is held or drained, in order."""
    counted = ControlStore(store)
    each = sorted(controls.active.values(), key=lambda control: control.id)
    return [Active(control, counted.count_waiting(control, COUNTED)) for control in each]


def attempts(minutes: Sequence[Minute]) -> Mapping[str, Mapping[str, int]]:
    """The attempts at each vendor, as the plot's series have them."""
    numbers: dict[str, dict[str, int]] = {}
    for minute in minutes:
        for (vendor, outcome), tally in minute.totals.items():
            by_series = numbers.setdefault(vendor, dict.fromkeys(SERIES, 0))
            by_series[series_of(outcome)] += tally.number
    return numbers


def _actions(vendor: VendorState) -> list[str]:
    """What can be done about it now."""
    actions = [] if vendor.available else ["enable"]
    actions.append("undrain" if vendor.drained else "drain")
    return [*actions, "release" if vendor.held else "hold"]


def _notice(request: PageRequest) -> str:
    """What was changed a moment ago; nobody else's link says so."""
    change = _change(request.query.first("done"), request.query.first("of"))
    if change is None or not request.is_own:
        return ""
    control, number = change.control(), request.query.number("emails")
    if change.action == "enable":
        return f"{change.name} is available now."
    if change.begins:
        return f"{control.subject} is {control.state} from now on."
    went = "What waited goes on." if number is None else f"{count(number, 'e-mail')} went on."
    return f"{control.subject} is not {control.state} any more. {went}"


# Changing -----------------------------------------------------------------------------------------


def confirm(request: PageRequest) -> Page:
    """``GET /vendors/{action}``: what would happen, and to how many e-mails."""
    if not request.user.may_act:
        raise Refusal(403, "Read-only", "You may look at everything here, and change nothing.")
    change = _find_change(request, request.query.first("of"))
    store, config = request.backend.store, request.backend.config
    states, controls = vendor_states(config, store)
    _check(change, states, controls)
    counted, control = ControlStore(store), change.control()
    count_emails = counted.count_concerned if change.begins else counted.count_waiting
    values = {
        "change": change,
        "control": control,
        "active": controls.active.get(control.id),
        "vendor": next((each for each in states if each.name == change.name), None),
        "others": [each.name for each in states if _takes_over(each, change.name)],
        "emails": count_emails(control, COUNTED),
        "max_reason": MAX_REASON,
        "most": COUNTED,
        "now": store.now(),
    }
    return Page("control.html", title(change), values, "vendors")


def act(request: PageRequest) -> Redirect:
    """``POST /vendors/{action}``: change it."""
    change = _find_change(request, request.form.first("of"))
    store, config = request.backend.store, request.backend.config
    _check(change, *vendor_states(config, store))
    by = request.user.name or UNNAMED
    control = change.control(by, request.form.first("reason")[:MAX_REASON])
    number = _ACTIONS[change.action](request.backend, store, control)
    event(_log, logging.INFO, "control.requested", action=change.action, of=change.of, by=by)
    result = {"done": change.action, "of": change.of, "emails": "" if number is None else number}
    return Redirect(f"/vendors?{urlencode(result)}")


def title(change: Change) -> str:
    """``Drain vendor ses``."""
    return f"{change.action.capitalize()} {change.control().subject}"


def _enable(backend: Backend, store: Store, control: Control) -> None:
    names = [vendor.name for vendor in backend.config.vendors]
    VendorHealth(store, names, env=store.env).enable(control.name)


def _begin(_: Backend, store: Store, control: Control) -> int | None:
    if not ControlStore(store).begin(control):
        raise _nothing_to_do(f"{control.subject} is {control.state} already.")
    return None  # the page before said how many they are


def _end(backend: Backend, store: Store, control: Control) -> int | None:
    number = ControlStore(store).count_waiting(control, COUNTED)
    ControlStore(store).release(control, partial(announce, backend.broker))
    return number


_ACTIONS: Mapping[str, Callable[[Backend, Store, Control], int | None]] = {
    "enable": _enable,
    "drain": _begin,
    "undrain": _end,
    "hold": _begin,
    "release": _end,
}


def _find_change(request: PageRequest, of: str) -> Change:
    change = _change(request.path["action"], of)
    if change is None:
        raise not_found()
    return change


def _change(action: str, of: str) -> Change | None:
    """None: there is no such change."""
    kind, _, name = of.partition(":")
    kinds = ("vendor", "tag", "priority", "all") if action in ("hold", "release") else ("vendor",)
    if action not in _ACTIONS or kind not in kinds or bool(name) is (kind == "all"):
        return None
    return Change(action, kind, name) if len(name) <= MAX_NAME else None


def _check(change: Change, states: Sequence[VendorState], controls: Controls) -> None:
    """Raises ``Refusal`` where nothing is to be changed: somebody was quicker, say."""
    control, vendor = change.control(), next((s for s in states if s.name == change.name), None)
    is_active = control.id in controls.active
    if change.kind == "priority" and change.name not in PRIORITIES:
        raise not_found("There is no such class.")
    if not change.begins:
        # What was held under an end that was interrupted is the sweeper's.
        text = "" if is_active else f"{control.subject} is not {control.state} any more."
    elif change.kind == "vendor" and vendor is None:
        raise not_found("No such vendor is configured.")
    elif change.action == "enable":
        text = "" if vendor and not vendor.available else f"{control.subject} is available already."
    else:
        text = f"{control.subject} is {control.state} already." if is_active else ""
    if text:
        raise _nothing_to_do(text)


def _nothing_to_do(text: str) -> Refusal:
    return Refusal(409, "Nothing to do", text[0].upper() + text[1:], back=BACK)


def _takes_over(vendor: VendorState, drained: str) -> bool:
    """Whether it gets a drained vendor's e-mails."""
    return vendor.name != drained and vendor.available and not (vendor.drained or vendor.held)
