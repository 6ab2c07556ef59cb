"""What an operator looks for: from a form to a filter of MongoDB, and back into addresses. Pure.

Decides: the fields of the form, and what each may hold. A field that makes no sense has a problem
and does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlencode

from mailqueue.dashboard.pages import Fields
from mailqueue.errors import InvalidEmail
from mailqueue.lifecycle.outcomes import Reason, Status
from mailqueue.message import Address
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.search import Selection

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)
YOUNGER: Mapping[str, timedelta] = {"hour": HOUR, "day": DAY, "week": WEEK}
OLDER: Mapping[str, timedelta] = {f"over-{name}": span for name, span in YOUNGER.items()}
AGES: Mapping[str, str] = {
    **{name: f"within the last {name}" for name in YOUNGER},
    "over-hour": "more than an hour ago",
    "over-day": "more than a day ago",
    "over-week": "more than a week ago",
}
"""The choices of the field ``age``, each in words."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "status": tuple(Status),
    "reason": tuple(Reason),
    "mode": (PRODUCTION, SIMULATED),
    "age": tuple(AGES),
}
NAMES = ("status", "reason", "vendor", "tag", "to", "age", "mode")
MAX_LENGTH = 320  # characters of a field; an address has no more


@dataclass(frozen=True, slots=True)
class Filters:
    """The fields that are filled in, and what is wrong with those that do not count."""

    values: Mapping[str, str] = field(repr=False)
    problems: Mapping[str, str]

    @classmethod
    def read(cls, fields: Fields, **fixed: str) -> Filters:
        """What a form holds; ``fixed``: what it does not ask for."""
        values = {name: fields.first(name)[:MAX_LENGTH] for name in NAMES} | fixed
        values = {name: value for name, value in values.items() if value}
        problems = {
            name: "There is no such choice."
            for name, choices in CHOICES.items()
            if name in values and values[name] not in choices
        }
        if "to" in values and _address(values["to"]) is None:
            problems["to"] = "This is not one valid e-mail address."
        return cls(values, problems)

    def selection(self, now: datetime) -> Selection:
        """The e-mails that are looked for, ``now``."""
        values = {n: value for n, value in self.values.items() if n not in self.problems}
        age = values.get("age", "")
        return Selection(
            status=values.get("status"),
            reason=values.get("reason"),
            vendor=values.get("vendor"),
            tag=values.get("tag"),
            env=values.get("mode"),
            to=_address(values.get("to", "")),
            since=now - YOUNGER[age] if age in YOUNGER else None,
            before=now - OLDER[age] if age in OLDER else None,
        )

    def query(self, **more: str) -> str:
        """The part of an address behind ``?``, that asks for the same."""
        return urlencode({**self.values, **more})


def _address(text: str) -> Address | None:
    try:
        return Address.parse(text)
    except InvalidEmail:
        return None
