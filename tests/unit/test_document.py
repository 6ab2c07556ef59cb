"""The document as it is written down and read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from mailqueue.lifecycle.outcomes import NORMAL, Pin, Round, Status
from mailqueue.store import document
from mailqueue.store.document import Stored
from tests.for_each import for_each

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ID = ObjectId("65f0a1b2c3d4e5f6a7b8c9d0")


def new(**more: Any) -> dict[str, Any]:
    return document.new(
        {"subject": "Hi"},
        email_id=ID,
        message_id="<m@example.com>",
        env="simulated",
        content_hash="h",
        priority=NORMAL,
        now=NOW,
        **more,
    )


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def line(token: int, outcome: str | None, **more: Any) -> dict[str, Any]:
    return {"n": token, "token": token, "vendor": f"v{token}", "outcome": outcome, **more}


def stored(**more: Any) -> Stored:
    return Stored({**new(), **more}, NOW)


def test_a_new_email_is_queued_and_due_at_once() -> None:
    fresh = Stored(new(), NOW)
    assert (fresh.id, fresh.status, fresh.token) == (ID, Status.QUEUED, 0)
    assert (fresh.due_in, fresh.expires_in, fresh.leased_for) == (0.0, None, 0.0)
    record = fresh.snapshot()
    assert (record.priority, record.age, record.counted, record.unknowns) == (NORMAL, 0, 0, 0)
    assert (record.round, record.pin, record.pending, record.refused) == (Round(), None, None, ())
    assert fresh.open_line is None


def test_what_was_not_asked_for_is_not_written_down() -> None:
    assert not {"expires_at", "idempotency_key"} & new().keys()
    asked = new(expires_at=after(9), idempotency_key="k")
    assert (asked["expires_at"], asked["idempotency_key"]) == (after(9), "k")


@for_each("send_at", [None, after(60), after(-864_000)])
def test_the_clock_of_a_new_email_does_not_run_yet(send_at: datetime | None) -> None:
    """The producer's clock may be wrong by days: a consumer starts it, by the server's."""
    made = new(send_at=send_at)
    assert (made["due_at"], made["clock_from"]) == (send_at, None)
    assert Stored(made, after(864_000)).snapshot().age == 0.0


@for_each("send_at, date", [(None, 0), (after(60), 60), (after(59.1), 60), (after(-60), 0)])
def test_the_date_of_an_email_is_never_before_it_was_to_be_sent(
    send_at: datetime | None, date: float
) -> None:
    made = new(send_at=send_at)
    again = {**made, "due_at": after(999), "clock_from": after(998), "updated_at": after(998)}
    assert Stored(made, after(1)).date == Stored(again, after(1000)).date == after(date)


def test_times_are_told_as_seconds_from_the_servers_now() -> None:
    one = stored(due_at=after(5), expires_at=after(-3), lease={"token": 4, "until": after(7)})
    assert (one.due_in, one.expires_in, one.leased_for, one.token) == (5.0, -3.0, 7.0, 4)
    assert stored(clock_from=after(-100)).snapshot().age == 100.0


def test_the_record_tells_the_round_the_pin_and_what_is_pending() -> None:
    record = stored(
        round={"n": 2, "tried": ["a"], "refused": ["b"]},
        pin={"vendor": "a", "key": "k", "until": after(30), "repeats": 1},
        pending=["x@example.org"],
        refused=["y@example.org"],
    ).snapshot()
    assert record.round == Round(n=2, tried=("a",), refused=("b",))
    assert record.pin == Pin(vendor="a", key="k", remaining=30.0, repeats=1)
    assert record.pending == ("x@example.org",)
    assert record.refused == ("y@example.org",)


def test_the_open_line_of_the_holder_is_the_attempt_to_decide() -> None:
    lines = [line(1, "unknown"), line(2, None, key="k", probe=True, started_at=NOW)]
    sending = stored(status="sending", lease={"token": 2}, attempts=lines)
    assert sending.open_line == lines[1]


@for_each(
    "status, lines",
    [
        ("queued", [line(2, None)]),
        ("sending", [line(2, "accepted")]),
        ("sending", [line(1, None)]),
        ("sending", []),
    ],
)
def test_any_other_line_is_not(status: str, lines: list[dict[str, Any]]) -> None:
    one = {**new(), "status": status, "lease": {"token": 2}, "attempts": lines}
    assert Stored(one, NOW).open_line is None


def test_only_answers_that_it_may_have_drawn_make_an_email_suspect() -> None:
    lines = [
        line(1, "unavailable", answered=True),
        line(2, "unavailable", answered=False),
        line(3, "unknown", answered=True),
        line(4, "deferred", answered=True),
        line(5, "misconfigured", answered=True),
        line(6, "misconfigured", answered=True, content_suspect=True),
    ]
    record = stored(attempts=lines).snapshot()
    assert record.hint_vendors == {"v1", "v3", "v6"}
    assert record.in_doubt
    assert not stored(attempts=lines[1:2]).snapshot().in_doubt


def test_the_newest_unknown_is_asked_about_once() -> None:
    lines = [line(1, "unknown"), line(2, "unknown"), line(3, "deferred")]
    newest = stored(attempts=lines).line_to_look_up
    assert newest is not None
    assert newest["token"] == 2
    lines[1]["looked_up"] = True
    assert stored(attempts=lines).line_to_look_up is None
    assert stored().line_to_look_up is None
