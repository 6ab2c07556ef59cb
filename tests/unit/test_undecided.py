"""Which attempt an event of a vendor proves a yes of: one of which nobody knows what became."""

from __future__ import annotations

from bson import ObjectId

from mailqueue.events.event_store import _Email
from tests.for_each import for_each


@for_each(
    "outcomes, token",
    [
        ([], None),
        (["unavailable"], None),
        (["unknown"], 1),
        ([None], 1),
        (["unknown", None], 1),
        (["unknown", "accepted"], None),
        (["accepted", "unknown"], 2),
        (["unknown", "accepted", "unknown", None], 3),
    ],
)
def test_it_is_the_oldest_one_that_no_yes_has_followed(
    outcomes: list[str | None], token: int | None
) -> None:
    """A later one that is under way may yet turn out refused."""
    lines = [
        {"token": n, "vendor": "first", "outcome": outcome} for n, outcome in enumerate(outcomes, 1)
    ]
    email = _Email(ObjectId(), lines, None, None, ())
    assert email.undecided_token("first") == token
    assert email.undecided_token("second") is None
