"""Vendors that are well stay available whatever is in the e-mails; those that are down do not."""

from __future__ import annotations

import random

import pytest

from mailqueue.record import Outcome, SendResult
from tests.model.fleet import DOWN, YES, Answers, Fleet

NAMES = ("A", "B", "C")
PAGE = SendResult(outcome=Outcome.MISCONFIGURED, code="405", content_suspect=True)
NO_CONNECTION = SendResult(outcome=Outcome.UNAVAILABLE, code="dns", answered=False)


def fleet(answers: Answers, good: float, poison: float, seconds: float, seed: int = 1) -> Fleet:
    """A fleet that is sent ``good`` e-mails a second, and one that is poison each ``poison`` s."""
    made, rand = Fleet(NAMES, answers), random.Random(seed)
    at, n = 0.0, 0
    while at < seconds:
        made.send(f"good {n}", at)
        at, n = at + rand.expovariate(good), n + 1
    for n in range(int(seconds / poison) if poison else 0):
        made.send(f"poison {n}", n * poison + rand.random())
    return made


def drawing(answer: SendResult) -> Answers:
    """All vendors are well, and poison draws this answer everywhere."""
    return lambda _, email, __: answer if email.startswith("poison") else YES


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("good", [1.0, 5.0])
@pytest.mark.parametrize("answer", [DOWN, PAGE], ids=["503", "a firewall's page"])
def test_poison_every_two_seconds_among_good_mail_leaves_vendors_available(
    answer: SendResult, good: float, seed: int
) -> None:
    seconds = 600.0
    sending = fleet(drawing(answer), good, 2.0, seconds, seed)
    sending.run(seconds)
    assert max(sending.closed_for.values()) < 0.01 * seconds
    assert not any(probes for email, probes in sending.probes.items() if email[0] == "p")


def test_a_vendor_that_fails_for_all_is_closed_by_its_second_email() -> None:
    def answers(vendor: str, _: str, at: float) -> SendResult:
        return DOWN if vendor == "A" and at >= 60 else YES

    sending = fleet(answers, 5.0, 0.0, 90)
    sending.run(60)
    before = sending.calls["A"]
    assert sending.health["A"].open
    sending.run(90)
    assert sending.calls["A"] - before == 2
    assert not sending.health["A"].open
    assert sending.closed_for["B"] == sending.closed_for["C"] == 0
    assert all(end.reason is None for end in sending.ends.values())


def test_a_vendor_that_comes_back_opens_in_time_though_poison_comes_all_the_while() -> None:
    def answers(vendor: str, email: str, at: float) -> SendResult:
        if vendor == "A" and 10 <= at < 300:
            return NO_CONNECTION
        return DOWN if email.startswith("poison") else YES

    sending = fleet(answers, 2.0, 2.0, 900)
    sending.run(900)
    assert sending.health["A"].open
    assert 590 < sending.closed_for["A"] < 640
    assert sending.closed_for["B"] == sending.closed_for["C"] == 0


def test_when_all_are_down_all_are_closed_and_open_soon_after_whoever_waits() -> None:
    def answers(_: str, email: str, at: float) -> SendResult:
        return DOWN if 10 <= at < 60 or email.startswith("poison") else YES

    sending = fleet(answers, 2.0, 2.0, 200)
    sending.run(60)
    assert not any(health.open for health in sending.health.values())
    sending.run(130)
    assert any(health.open for health in sending.health.values())
    sending.run(200)
    late = [e for e in range(360) if f"good {e}" not in sending.ends]
    assert not [e for e in late if e < 250], "an early probe opens one for all that wait"


@pytest.mark.parametrize("emails", [1, 3])
def test_emails_in_doubt_go_on_when_there_are_no_others(emails: int) -> None:
    sending = Fleet(["A"], lambda _, __, at: DOWN if at < 30 else YES)
    for n in range(emails):
        sending.send(str(n), 0.0)
    sending.run(180)
    assert len(sending.ends) == emails
    assert sending.health["A"].open
