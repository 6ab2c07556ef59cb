"""The explanation of an e-mail: a text for each status, reason and outcome, and none that is wrong.

That of every decision, and of vendors in any state: tests/model/test_explanations.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from bson import ObjectId

from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import (
    NORMAL,
    Outcome,
    Reason,
    Status,
)
from mailqueue.monitoring import wording
from mailqueue.monitoring.conditions import Conditions
from mailqueue.monitoring.explanation import Explanation, explain
from mailqueue.monitoring.sentence import Sentence
from mailqueue.monitoring.words import span
from mailqueue.routing.rotation import Health
from mailqueue.routing.router import ABSENT_LOOK
from mailqueue.store import callbacks, document
from mailqueue.store.control import Control, Controls
from mailqueue.store.document import HELD, Stored
from mailqueue.store.ledger import NOT_STARTED
from mailqueue.vendors.events.source import EventType
from tests.for_each import for_each

Document = dict[str, Any]
NOW = datetime(2026, 11, 27, 14, 3, tzinfo=UTC)
ID = ObjectId("65f1c0ffee65f1c0ffee65f1")
NAMES = ("ses", "mailgun", "postmark")
ALIVE = {"web-1:4:a": "production"}
OPERATORS_NAME, SECRET = "ann@ops", "reader@example.org"


@cache
def config(*names: str, **more: str) -> Config:
    vendors = [{"name": n, "type": "sendgrid", "api_key": "x"} for n in names or ("ses", "mailgun")]
    return Config.from_mapping({"vendors": vendors, "delivery": more})


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def email(status: str = "queued", **fields: Any) -> Document:
    content = {"from": "a@example.com", "to": [SECRET], "subject": "Secret", "text": "Secret"}
    made = document.new(
        content,
        email_id=ID,
        message_id="<m@example.com>",
        env="production",
        content_hash="",
        priority=NORMAL,
        now=ago(600),
    )
    return made | {"status": status, "updated_at": ago(10)} | fields


def line(n: int, vendor: str, outcome: str | None, start: float, **more: Any) -> Document:
    return {
        "n": n,
        "token": n,
        "vendor": vendor,
        "key": None,
        "probe": False,
        "started_at": ago(start),
        "ended_at": None if outcome is None else ago(start - 2),
        "outcome": None if outcome is None else str(outcome),
        "code": "",
        "detail": f"said {SECRET}",
        **more,
    }


def told(
    stored: Document,
    conditions: Conditions | None = None,
    *,
    configured: Config | None = None,
    **more: Any,
) -> Explanation:
    conditions = conditions or Conditions(consumers=ALIVE)
    return explain(Stored(stored, NOW), configured or config(), conditions, **more)


def text(sentences: Sequence[Sentence]) -> str:
    return " ".join(sentence.text for sentence in sentences)


def whole(explanation: Explanation) -> list[str]:
    sentences = [each.text for each in (*explanation.history, *explanation.next)]
    return [explanation.summary, *sentences, *(each.text for each in explanation.actions)]


def assert_reads_well(explanation: Explanation) -> None:
    for each in whole(explanation):
        assert each[-1] in ".:" or "mailqueue" in each, each
        assert not re.search(r"[{}]|None(?! of)|  |\.\.|<|Status\.|Outcome\.|Reason\.", each), each
        assert SECRET not in each
        assert "Secret" not in each
        for sentence in re.split(r"(?<=[.:]) ", each):
            assert len(sentence.split()) <= 30, sentence


# --- a text for each word


def test_every_status_reason_and_outcome_has_a_text() -> None:
    assert set(wording.STATUSES) == set(Status)
    assert set(wording.REASONS) == set(Reason)
    assert set(wording.OUTCOMES) == {*Outcome, NOT_STARTED, None}


def test_every_type_of_event_and_state_of_a_callback_has_a_text() -> None:
    assert set(wording.EVENTS) == set(EventType)
    assert set(wording.CALLBACKS) == set(callbacks.STATES)


# --- outcomes


@for_each("outcome", [*Outcome, NOT_STARTED])
def test_every_outcome_names_its_vendor(outcome: str) -> None:
    _, _, answer = told(email(attempts=[line(1, "mailgun", outcome, 30, code="x-7")])).history
    assert "mailgun" in answer.text
    assert outcome == NOT_STARTED or "(x-7)" in answer.text
    assert answer.at == ago(28)
    assert ("may have reached its readers" in answer.text) == (outcome == Outcome.UNKNOWN)
    unsent = (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.MISCONFIGURED, NOT_STARTED)
    assert ("Nothing was sent" in answer.text) == (outcome in unsent)


def test_an_outcome_of_another_version_is_told_of() -> None:
    assert "does not know" in text(told(email(attempts=[line(1, "ses", "odd", 9)])).history)


# --- why this vendor


@for_each(
    "lines, words",
    [
        ([line(1, "ses", None, 9)], "Attempt 1 at ses, whose turn it was."),
        ([line(1, "ses", None, 9, probe=True)], "Attempt 1 at ses, as its probe: "),
        (
            [line(1, "ses", "unavailable", 9), line(2, "mailgun", None, 6)],
            "Attempt 2 at mailgun, whose turn it was. ses had just been asked.",
        ),
        (
            [line(1, "ses", "unavailable", 900), line(2, "mailgun", None, 6)],
            "Attempt 2 at mailgun, whose turn it was. Exactly.",
        ),
        (
            [line(1, "ses", "unsuitable", 900), line(2, "mailgun", None, 6)],
            "Attempt 2 at mailgun, whose turn it was. ses had found it unsuitable.",
        ),
        (
            [line(1, "ses", "unknown", 9, key="k"), line(2, "ses", None, 6, key="k")],
            "Attempt 2 at ses, again under the same key: ",
        ),
        (
            [line(1, "ses", "unavailable", 9, key="k"), line(2, "ses", None, 6, key="k")],
            "Attempt 2 at ses, whose turn it was.",
        ),
    ],
)
def test_an_attempt_says_why_this_vendor(lines: list[Document], words: str) -> None:
    attempts = [s.text for s in told(email("sending", attempts=lines)).history]
    wanted, exactly = words.removesuffix(" Exactly."), words.endswith(" Exactly.")
    assert any(each == wanted if exactly else each.startswith(wanted) for each in attempts)


def test_a_vendor_that_is_unavailable_since_before_the_attempt_was_so_then() -> None:
    lines = [line(1, "ses", "accepted", 100), line(2, "ses", "accepted", 20)]
    away = Health(name="mailgun", since=ago(60).timestamp(), unavailable_until=NOW.timestamp())
    health = {"ses": Health(name="ses"), "mailgun": away}
    first, _, second, _ = told(email("sent", attempts=lines), Conditions(health)).history[1:]
    assert "mailgun" not in first.text
    assert second.text.endswith("mailgun was unavailable since 14:02:00 UTC.")


def test_vendors_that_were_unavailable_then_are_told_by_the_ledger_alone() -> None:
    lines = [
        line(1, "ses", "accepted", 100, unavailable=["mailgun"]),
        line(2, "ses", "accepted", 20, probe=True, unavailable=["mailgun"]),
    ]
    history = [s.text for s in told(email("sent", attempts=lines)).history]
    assert "Attempt 1 at ses, whose turn it was. mailgun was unavailable." in history
    assert any(each.endswith("vendor works again. mailgun was unavailable.") for each in history)


def test_a_vendor_that_is_drained_since_before_the_attempt_was_so_then() -> None:
    lines = [line(1, "ses", "accepted", 100), line(2, "ses", "accepted", 20)]
    drain = Control("drain", "mailgun", ago(60), OPERATORS_NAME)
    conditions = Conditions(controls=Controls({drain.id: drain}))
    first, _, second, _ = told(email("sent", attempts=lines), conditions).history[1:]
    assert "mailgun" not in first.text
    assert second.text.endswith("mailgun was drained since 14:02:00 UTC.")


def test_a_retry_by_hand_asks_again_who_found_it_unsuitable() -> None:
    lines = [line(1, "ses", "unsuitable", 100), line(2, "mailgun", None, 20)]
    retry = {"n": 1, "verb": "retry", "was": "failed", "reason": "refused_by_all", "at": ago(50)}
    history = text(told(email("sending", attempts=lines, interventions=[retry])).history)
    assert "unsuitable" not in history.partition("Attempt 2")[2]
    assert "Before, it was failed (refused_by_all)." in history


@for_each("route, names", [(["ses"], ("ses", "mailgun")), (None, ("ses",))])
def test_an_attempt_at_the_only_vendor_says_so(
    route: list[str] | None, names: tuple[str, ...]
) -> None:
    stored = email("sent", attempts=[line(1, "ses", "accepted", 9)])
    stored |= {} if route is None else {"route": route}
    words = "its route has no other" if route else "no other vendor is configured now"
    assert words in text(told(stored, configured=config(*names)).history)


def test_vendors_that_are_not_on_its_route_are_no_reason() -> None:
    away = ["mailgun", "postmark"]
    stored = email("sent", attempts=[line(1, "ses", "accepted", 9, unavailable=away)])
    words = text(told(stored | {"route": ["ses", "mailgun"]}, configured=config(*NAMES)).history)
    assert "mailgun was unavailable." in words
    assert "postmark" not in words


@for_each(
    "more, is_told",
    [({}, True), ({"ended_at": ago(29.1)}, False), ({"late": True}, False)],
)
def test_only_an_answer_that_was_slow_says_how_long_it_took(more: Document, is_told: bool) -> None:
    history = told(email("sent", attempts=[line(1, "ses", "accepted", 30, **more)])).history
    assert ("That took 2 s." in text(history)) == is_told


# --- whose turn it is next: what the rotation itself says


def suspended(name: str, **more: Any) -> Health:
    now = NOW.timestamp()
    times = {"since": now - 60, "unavailable_until": now + 540, "probe_at": now - 1}
    return Health(name=name, generation=1, reason="unavailable 503", **{**times, **more})


def test_who_is_not_asked_is_told_with_the_reason_the_time_and_the_remedy() -> None:
    health = {"ses": Health(name="ses"), "mailgun": suspended("mailgun")}
    explanation = told(email(), Conditions(health, consumers=ALIVE))
    assert "As things are, it goes to ses." in text(explanation.next)
    words = "Not mailgun: unavailable since 14:02:00 UTC (unavailable 503); "
    assert f"{words}it is probed from 14:12:00 UTC on." in text(explanation.next)
    commands = [action.command for action in explanation.actions]
    assert commands == [f"mailqueue cancel {ID}", "mailqueue vendors enable mailgun"]


def test_a_probe_is_told_as_one() -> None:
    health = {n: suspended(n) for n in ("ses", "mailgun")}
    words = text(told(email(), Conditions(health, consumers=ALIVE)).next)
    assert "As things are, it goes to ses or mailgun: they take turns" in words
    assert "That is a probe" in words


def test_who_was_asked_in_this_round_waits_for_the_next() -> None:
    current = {"n": 3, "tried": ["ses"], "refused": []}
    words = text(told(email(round=current)).next)
    assert "it goes to mailgun." in words
    assert "Not ses: it was asked in this round." in words
    words = text(told(email(round=current | {"tried": ["ses", "mailgun"]})).next)
    backoff = timedelta(seconds=config().retry.base * 2**3)
    assert f"No vendor may be asked then: it looks again by {NOW + backoff:%H:%M:%S} UTC." in words


def test_weights_are_told_where_they_differ() -> None:
    vendors = [
        {"name": n, "type": "sendgrid", "api_key": "x", "weight": w}
        for n, w in (("ses", 3), ("mailgun", 1))
    ]
    configured = Config.from_mapping({"vendors": vendors})
    assert "Their weights are 3 and 1." in text(told(email(), configured=configured).next)


def test_a_rate_and_a_budget_are_told_with_their_time() -> None:
    soon, late = NOW + timedelta(seconds=40), NOW + timedelta(hours=2)
    conditions = Conditions(times={"ses": soon}, spent={"mailgun": late}, consumers=ALIVE)
    words = text(told(email(), conditions).next)
    assert "Each vendor that may be asked has used up its rate or its budget" in words
    assert "the next consumer that is free takes it" not in words
    assert "Not ses: its rate or its budget is used up, until 14:03:40 UTC." in words
    assert "Not mailgun: its rate or its budget is used up, until 16:03:00 UTC." in words
    one = text(told(email(), Conditions(times={"ses": soon}, consumers=ALIVE)).next)
    assert "it goes to mailgun." in one


def test_an_email_that_no_vendor_takes_is_said_to_end() -> None:
    refused = {"n": 0, "tried": [], "refused": ["ses", "mailgun"]}
    words = text(told(email(round=refused)).next)
    assert "No vendor is left that takes it: it ends as failed." in words
    assert "Not ses: it found this e-mail unsuitable." in words
    maybe = text(told(email(round=refused, unknowns=1)).next)
    assert "it ends as uncertain, since a copy may have left." in maybe


def test_a_vendor_that_cannot_carry_it_is_told_with_the_reason() -> None:
    stored = email(pending=[SECRET], attempts=[line(1, "ses", "accepted", 30)])
    words = text(told(stored).next)
    assert "It goes to 1 recipient only: the others have it, or were refused." in words
    assert "Not ses: it cannot send to some recipients only." in words
    assert "it ends as sent, and the recipients that are left count as refused." in words


def test_a_budget_of_recipients_that_is_too_small_is_told() -> None:
    rate = {"per_day": 1, "count": "recipients"}
    vendor = {"name": "ses", "type": "sendgrid", "api_key": "x", "rate": rate}
    configured = Config.from_mapping({"vendors": [vendor]})
    people = ["a@example.org", "b@example.org"]
    stored = email(email={**email()["email"], "to": people})
    words = text(told(stored, configured=configured).next)
    assert "Not ses: it has no budget for so many recipients." in words


@for_each("redirect_to", [None, "inbox@example.com"])
def test_a_staging_installation_says_so_and_names_no_address(redirect_to: str | None) -> None:
    staging = {"redirect_to": redirect_to, "allow": ["@example.com"]}
    vendor = {"name": "ses", "type": "sendgrid", "api_key": "x"}
    configured = Config.from_mapping({"vendors": [vendor], "staging": staging})
    words = text(told(email(), configured=configured).next)
    assert "This is a staging installation: only recipients on its list get it" in words
    assert ("staging.redirect_to for all others." in words) == (redirect_to is not None)
    assert "@" not in words


def test_a_route_that_nobody_can_serve_is_told() -> None:
    explanation = told(email(route=["gone"]))
    assert "Its route is gone." in explanation.history[0].text
    words = "Its route still has gone, not configured now: it looks again every "
    assert f"{words}{span(ABSENT_LOOK)}." in text(explanation.next)


# --- holds


TAG = Control("tag", "news", ago(500), OPERATORS_NAME, "wrong price")
EVERYTHING = Control("all", "", ago(500), OPERATORS_NAME, "stop")
DRAINS = [Control("drain", name, ago(500), OPERATORS_NAME, "moving") for name in ("ses", "mailgun")]


@for_each(
    "fields, controls, words, command",
    [
        (
            {"due_at": HELD, "hold": "tag:news"},
            [TAG],
            "Every e-mail of the tag news is held by ann@ops since 13:54:40 UTC: wrong price.",
            "mailqueue release --tag news",
        ),
        ({}, [EVERYTHING], "Everything is held by ann@ops since", "mailqueue release --all"),
        (
            {"due_at": HELD, "hold": "drain"},
            DRAINS,
            "Vendor ses is drained by ann@ops since 13:54:40 UTC: moving.",
            "mailqueue vendors undrain ses",
        ),
        ({}, DRAINS, "Vendor mailgun is drained by ann@ops", "mailqueue vendors undrain mailgun"),
        (
            {},
            [Control("vendor", "ses", ago(500), OPERATORS_NAME)],
            "If it is the turn of ses, it waits. Vendor ses is held by ann@ops",
            "mailqueue release --vendor ses",
        ),
    ],
)
def test_a_hold_is_told_with_who_since_when_why_and_what_ends_it(
    fields: Document, controls: list[Control], words: str, command: str
) -> None:
    active = Controls({each.id: each for each in controls})
    explanation = told(email(**fields), Conditions(controls=active, consumers=ALIVE))
    assert words in text(explanation.next)
    assert [action.command for action in explanation.actions].count(command) == 1
    assert_reads_well(explanation)


@for_each("fields", [{}, {"due_at": HELD, "hold": "all"}])
def test_the_headline_says_that_it_is_held_also_before_a_consumer_has_seen_it(
    fields: Document,
) -> None:
    active = Controls({EVERYTHING.id: EVERYTHING})
    summary = told(email(**fields), Conditions(controls=active, consumers=ALIVE)).summary
    assert summary == "It is queued, and waits: an operator held it."


def test_only_the_drains_of_its_own_vendors_keep_it() -> None:
    stored = email(due_at=HELD, hold="drain", route=["ses"])
    active = Controls({each.id: each for each in DRAINS})
    words = text(told(stored, Conditions(controls=active, consumers=ALIVE)).next)
    assert "Vendor ses is drained" in words
    assert "mailgun" not in words


def test_a_held_email_has_no_next_time_and_still_expires() -> None:
    expires_at = NOW + timedelta(hours=5)
    stored = email(due_at=HELD, hold="tag:news", expires_at=expires_at)
    explanation = told(stored, Conditions(controls=Controls({TAG.id: TAG}), consumers=ALIVE))
    assert explanation.next_at is None
    assert [s.at for s in explanation.next] == [None, expires_at]


def test_a_hold_that_is_over_is_told_as_such() -> None:
    assert "The hold is over" in text(told(email(due_at=HELD, hold="tag:news")).next)


# --- when


def test_a_scheduled_email_says_when() -> None:
    at = NOW + timedelta(hours=3)
    explanation = told(email(send_at=at, due_at=at, route=["ses"]))
    assert explanation.summary == "It is queued, and due in 3 h."
    assert "to be sent at 17:03:00 UTC" in explanation.history[0].text
    assert explanation.next_at == at


def test_the_end_by_time_is_told_with_its_time() -> None:
    stored = email(attempts=[line(1, "ses", "unavailable", 30)], clock_from=ago(30), counted=7)
    last = told(stored).next[-1]
    assert last.at == ago(30) + timedelta(days=3)
    assert "after 25 attempts that count (7 so far), it ends as failed." in last.text


def test_an_email_whose_time_is_over_is_said_to_end() -> None:
    words = text(told(email(expires_at=ago(5))).next)
    assert words == "Its expires_at has passed: it ends as failed."


@for_each("minutes, is_asked", [(19, False), (20, False), (21, True)])
def test_an_email_that_expires_before_it_is_due_again_goes_to_nobody(
    minutes: int, is_asked: bool
) -> None:
    lines = [line(1, "ses", "deferred", 30)]
    due_at, expires_at = NOW + timedelta(minutes=20), NOW + timedelta(minutes=minutes)
    explanation = told(email(attempts=lines, due_at=due_at, expires_at=expires_at))
    words = text(explanation.next)
    assert ("it goes to" in words) == is_asked
    assert ("Its expires_at comes first: no vendor is asked any more." in words) != is_asked
    assert "Without a yes by then (expires_at), it ends as failed." in words
    assert_reads_well(explanation)


@for_each("status, days", [("sent", 30), ("failed", 90), ("cancelled", 90), ("uncertain", None)])
def test_an_email_that_ended_says_when_it_is_deleted(status: str, days: int | None) -> None:
    explanation = told(email(status, reason=None))
    assert explanation.next_at == (None if days is None else ago(10) + timedelta(days=days))
    assert ("never deleted" in text(explanation.next)) == (days is None)


# --- consumers


def test_nothing_comes_next_without_a_consumer_of_its_kind() -> None:
    words = "No production consumer gave a sign of life for 60 s: nothing comes next"
    nobody = told(email(), Conditions(consumers={}))
    assert nobody.next[0].text.startswith(words)
    assert nobody.next_at is None
    other = told(email(), Conditions(consumers={"web-1:4:a": "simulated"}))
    assert "Those that run are simulated." in other.next[0].text
    assert "sign of life" not in text(told(email(), Conditions(consumers=ALIVE)).next)
    assert "sign of life" not in text(told(email(), Conditions()).next)


def test_on_aws_lambda_something_may_come_next_without_a_consumer() -> None:
    url = "https://sqs.eu-west-1.amazonaws.com/1/"
    on_sqs = config().replace(
        queue={"type": "sqs", "region": "eu-west-1", "urgent": f"{url}u", "normal": f"{url}n"}
    )
    nobody = told(email(), Conditions(consumers={}), configured=on_sqs)
    assert "nothing comes next until one runs, or AWS Lambda is called." in nobody.next[0].text


@for_each("fields", [{}, {"due_at": ago(3600)}, {"due_at": ago(-3600)}])
def test_while_the_queue_is_away_nobody_is_said_to_take_it(fields: Document) -> None:
    away = Conditions(consumers=ALIVE, queue_error="beanstalkd: ConnectionRefusedError")
    explanation = told(email(**fields), away)
    words = text(explanation.next)
    assert "is not reached from here" in words
    assert "beanstalkd: ConnectionRefusedError" in words
    assert "the next consumer" not in words
    assert [a.command for a in explanation.actions if "doctor" in a.command] == ["mailqueue doctor"]
    assert_reads_well(explanation)


def sending(owner: str, seconds: float, **fields: Any) -> Document:
    lease = {"token": 1, "owner": owner, "until": NOW + timedelta(seconds=seconds)}
    return email("sending", **{"attempts": [line(1, "ses", None, 30)], "lease": lease, **fields})


def test_an_attempt_under_way_says_who_makes_it_and_until_when() -> None:
    explanation = told(sending("web-1:4:a", 80))
    assert "The consumer web-1:4:a records what ses answers" in text(explanation.next)
    assert explanation.next_at == NOW + timedelta(seconds=80)
    gone = text(told(sending("web-2:4:a", 80)).next)
    assert "The consumer web-2:4:a has it, and gave no sign of life" in gone
    over = text(told(sending("web-2:4:a", -5)).next)
    assert "The lease of the consumer web-2:4:a is over" in over


@for_each(
    "fields, on_unknown, words",
    [
        (
            {},
            "resend",
            "it is sent once more, if there is still time and a vendor for it. A copy may",
        ),
        ({"unknowns": 1}, "resend", "it ends as uncertain. A copy may have left."),
        ({}, "park", "it ends as uncertain. A copy may have left."),
        (
            {"attempts": [line(1, "ses", None, 30, key="k")]},
            "resend",
            "ses is asked again under the same key, while that is safe.",
        ),
        (
            {"late_accept": {"vendor": "mailgun", "at": ago(3), "token": 0}},
            "resend",
            "the yes that was heard makes it sent.",
        ),
        (
            {"attempts": [line(1, "ses", None, 30, event={"at": ago(3), "message_id": "x"})]},
            "resend",
            "the yes that was heard makes it sent.",
        ),
    ],
)
def test_an_attempt_under_way_says_what_follows_without_an_answer(
    fields: Document, on_unknown: str, words: str
) -> None:
    configured = config(on_unknown=on_unknown)
    explanation = told(sending("web-1:4:a", 80, **fields), configured=configured)
    assert words in text(explanation.next)
    assert_reads_well(explanation)


# --- unknown outcomes


def test_a_pinned_email_goes_to_its_vendor_only() -> None:
    pin = {"vendor": "ses", "key": "k", "until": NOW + timedelta(seconds=500), "repeats": 1}
    lines = [line(1, "ses", "unknown", 30, key="k")]
    words = text(told(email(pin=pin, attempts=lines)).next)
    assert "It goes to ses again, under the same key, until 14:11:20 UTC: only ses can" in words
    over = text(told(email(pin={**pin, "until": ago(1)}, attempts=lines)).next)
    assert "its outcome stays unknown, and it is sent once more, if there is" in over
    second = told(email(pin={**pin, "until": ago(1)}, attempts=lines, unknowns=1))
    parked = told(email(pin={**pin, "until": ago(1)}), configured=config(on_unknown="park"))
    for each in (second, parked):
        assert "its outcome stays unknown, and it ends as uncertain." in text(each.next)


def test_a_look_up_is_told_before_it_is_made_and_after() -> None:
    unknown = line(1, "mailgun", "unknown", 30)
    before = told(email(unknowns=1, attempts=[unknown]))
    assert "can be asked whether it has the e-mail is asked first" in text(before.next)
    after = told(email(unknowns=1, attempts=[{**unknown, "looked_up": True}]))
    assert "is asked first" not in text(after.next)
    assert "mailgun did not know the e-mail. That proves nothing." in text(after.history)


@for_each(
    "more, words",
    [
        ({"late": True}, "ses accepted it. That was heard late."),
        ({"late": True, "code": "event"}, "ses took it: an event that it reported later proves"),
        ({"late": True, "event": {"at": NOW}}, "ses took it: an event that it reported later"),
        ({"late": True, "extra_copy": True}, "so its readers may have it twice."),
        ({"late": True, "code": "lease_expired"}, "ses accepted it. That was heard late."),
    ],
)
def test_a_late_yes_is_told_as_one(more: Document, words: str) -> None:
    stored = email("sent", vendor="ses", attempts=[line(1, "ses", "accepted", 30, **more)])
    assert words in text(told(stored).history)


def test_a_killed_consumer_is_no_fault_of_the_vendor() -> None:
    stored = email("uncertain", attempts=[line(1, "ses", "unknown", 30, code="lease_expired")])
    assert "The consumer died, hung or lost MongoDB before it recorded" in text(
        told(stored).history
    )


# --- what else happened


@for_each("outcome", [None, "accepted", "unavailable"])
def test_a_redirect_of_staging_is_told_where_it_happened(outcome: str | None) -> None:
    status = "sent" if outcome == "accepted" else "queued"
    explanation = told(email(status, attempts=[line(1, "ses", outcome, 30, redirected=True)]))
    assert wording.REDIRECTED in text(explanation.history)
    assert (wording.REDIRECTED in explanation.summary) == (outcome == "accepted")
    assert_reads_well(explanation)


def test_recipients_are_counted_and_not_named() -> None:
    people = ["a@example.org", "b@example.org"]
    parts = {"refused": people[:1], "pending": people, "suppressed": people, "suppressed_count": 9}
    explanation = told(email("sent", attempts=[line(1, "ses", "accepted", 30, **parts)]))
    words = text(explanation.history)
    assert "1 recipient was refused for good." in words
    assert "2 recipients were put off." in words
    assert "9 recipients were left out (suppressed, or not allowed by staging)." in words
    assert "@" not in words


def test_a_vendors_words_are_told_only_where_they_are_asked_for() -> None:
    stored = email("failed", reason="rejected", attempts=[line(1, "ses", "rejected", 30)])
    assert SECRET not in " ".join(whole(told(stored)))
    assert f"Its words: said {SECRET}" in " ".join(whole(told(stored, content=True)))


def test_a_simulated_email_says_that_nobody_got_it() -> None:
    lines = [line(1, "ses", "accepted", 30, code="simulated")]
    stored = email("sent", simulated=True, vendor="ses", attempts=lines) | {"env": "simulated"}
    explanation = told(stored)
    assert explanation.summary == wording.SIMULATED
    assert "accepted it in the place of ses" in text(explanation.history)


def test_what_a_person_did_is_told_with_its_time() -> None:
    cancel = {"n": 1, "verb": "cancel", "was": "queued", "reason": None, "at": ago(10)}
    stored = email("cancelled", reason="cancelled", interventions=[cancel])
    explanation = told(stored)
    assert wording.CANCELLED_BY_HAND in explanation.summary
    assert Sentence("A person cancelled it. Before, it was queued.", ago(10)) in explanation.history
    for interventions in ([], [cancel, {**cancel, "n": 2, "verb": "retry", "was": "failed"}]):
        by_application = email("cancelled", reason="cancelled", interventions=interventions)
        assert "The application cancelled it." in told(by_application).summary


@for_each("reason", ["expired", "cancelled", "unknown"])
def test_an_uncertain_email_says_why_it_is_not_what_its_reason_says(reason: str) -> None:
    words = text(told(email("uncertain", reason=reason, unknowns=1)).history)
    assert f"It ended as uncertain (reason: {reason})." in words
    assert ("nobody calls it failed or cancelled." in words) == (reason != "unknown")


def test_content_that_was_removed_is_told() -> None:
    stored = email("sent", content_dropped_at=ago(9), forgotten_at=ago(5))
    explanation = told(stored)
    assert [s.at for s in explanation.history[1:]] == [ago(9), ago(5)]


@for_each("state", callbacks.STATES)
def test_every_state_of_a_callback_is_told(state: str) -> None:
    entry = {"type": "email.sent", "state": state, "code": "500", "tries": 3, "ended_at": ago(3)}
    entry |= {"due_at": NOW + timedelta(seconds=60)} if state == callbacks.DUE else {}
    explanation = told(email("sent", vendor="ses", callbacks=[entry]))
    told_in = explanation.next if state == callbacks.DUE else explanation.history
    assert "email.sent" in text(told_in)
    commands = [action.command for action in explanation.actions]
    assert (f"mailqueue callbacks retry {ID}" in commands) == (state in ("failed", "gone"))
    assert_reads_well(explanation)


def test_the_code_of_an_event_that_is_a_vendors_sentence_is_one_of_its_words() -> None:
    """Some vendors have no code, and their reason stands in its place."""
    codes = ["5.1.1", f"{SECRET} is unknown here", SECRET]
    events = [
        {"vendor": "ses", "type": "bounced_hard", "at": ago(9), "code": code} for code in codes
    ]
    stored = email("sent", vendor="ses")
    words = text(told(stored, events=events).history)
    assert "it bounced for good (5.1.1)." in words
    assert SECRET not in words
    assert f"({SECRET} is unknown here)" in text(told(stored, events=events, content=True).history)


@for_each("type_", EventType)
def test_every_type_of_event_is_told_once_with_its_number(type_: str) -> None:
    events = [{"vendor": "ses", "type": type_, "at": ago(n), "recipient": SECRET} for n in (9, 5)]
    stored = email("sent", vendor="ses", delivery_summary="delivered")
    explanation = told(stored, events=events)
    (event,) = [s for s in explanation.history if s.text.startswith("ses reports: ")]
    assert event.at == ago(9)
    assert event.text.endswith(", 2 times.")
    assert explanation.summary == "It was sent. ses accepted it. Its events say since: delivered."
    assert_reads_well(explanation)


def test_what_happened_is_in_the_order_of_time() -> None:
    retry = {"n": 1, "verb": "retry", "was": "failed", "reason": "rejected", "at": ago(50)}
    lines = [line(1, "ses", "rejected", 100), line(2, "mailgun", "accepted", 20)]
    stored = email("sent", vendor="mailgun", attempts=lines, interventions=[retry])
    times = [sentence.at for sentence in told(stored).history]
    assert times == [ago(600), ago(100), ago(98), ago(50), ago(20), ago(18)]


def test_lines_that_had_no_room_are_told_of() -> None:
    words = text(told(email(attempts=[line(31, "ses", "unavailable", 9)])).history)
    assert "The ledger keeps no line of 30 earlier attempts." in words


# --- what can be done


@for_each(
    "stored, verbs",
    [
        (email(), ["cancel"]),
        (email(pending=[SECRET]), []),
        (email("sending"), []),
        (email("sent"), []),
        (email("failed", reason="rejected"), ["retry", "mark-sent"]),
        (email("failed", reason="expired", expires_at=ago(5)), ["mark-sent"]),
        (email("failed", reason="gave_up", content_dropped_at=ago(5)), ["mark-sent"]),
        (email("uncertain", reason="unknown"), ["retry", "mark-sent"]),
        (email("cancelled", reason="cancelled"), []),
    ],
)
def test_only_commands_that_change_something_are_named(stored: Document, verbs: list[str]) -> None:
    commands = [action.command for action in told(stored).actions]
    assert commands == [f"mailqueue {verb} {ID}" for verb in verbs]


def test_a_command_that_may_make_a_second_copy_or_leave_one_says_so() -> None:
    pin = {"vendor": "ses", "key": "k", "until": NOW + timedelta(seconds=500), "repeats": 0}
    for stored, words in (
        (email("failed", reason="rejected"), "Send it again, from the start."),
        (email("uncertain", reason="unknown"), "Send it again: its readers may get it twice."),
        (email(), "Do not send it."),
        (email(unknowns=1), "It becomes uncertain: a copy may have left."),
        (email(pin=pin, attempts=[line(1, "ses", "unknown", 30, key="k")]), "It becomes uncertain"),
    ):
        assert words in told(stored).actions[0].text


# --- damage


DAMAGE: Mapping[str, Any] = {
    "status": 7,
    "reason": 7,
    "attempts": "oops",
    "lease": None,
    "round": {"n": "x"},
    "pin": "x",
    "due_at": "soon",
    "updated_at": "then",
    "created_at": None,
    "interventions": [7, {"verb": []}],
    "callbacks": {"state": "due"},
    "expires_at": "never",
    "priority": "x",
    "env": "x",
    "email": None,
    "route": "ses",
    "delivery_summary": 7,
    "hold": 7,
    "late_accept": "x",
}


@for_each("name", DAMAGE)
@for_each("status", ["queued", "sending", "failed"])
def test_a_damaged_document_is_explained_as_far_as_it_can_be_read(name: str, status: str) -> None:
    stored = sending("web-1:4:a", 80) | {"status": status, name: DAMAGE[name]}
    explanation = told(stored)
    assert explanation.history
    assert explanation.next


@for_each("name", sorted(sending("web-1:4:a", 80).keys() - {"_id"}))
@for_each("status", Status)
def test_a_field_that_is_missing_is_no_obstacle(name: str, status: str) -> None:
    stored = sending("web-1:4:a", 80) | {"status": str(status)}
    explanation = told({n: value for n, value in stored.items() if n != name})
    assert explanation.history
    assert explanation.next


def test_an_unreadable_email_names_the_command_that_finds_the_damage() -> None:
    explanation = told(email("failed", reason="unreadable", attempts="oops"))
    assert "mailqueue audit" in [action.command for action in explanation.actions]


def test_a_suppressed_email_names_the_command_that_shows_why() -> None:
    actions = told(email("failed", reason="suppressed")).actions
    assert actions[0].command == "mailqueue suppress list ADDRESS"
    assert "fails again" in actions[1].text
