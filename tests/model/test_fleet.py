"""Vendors that are well stay available whatever is in the e-mails; those that are down do not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.routing.rotation import FEW, HINTS
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


def mixed(names: Sequence[str], answers: Answers, poison: float, seconds: float) -> Fleet:
    """A fleet that is sent two e-mails a second, of which this part is poison."""
    made, rand = Fleet(names, answers), random.Random(3)
    at, n = 0.0, 0
    while at < seconds:
        kind = "poison" if rand.random() < poison else "good"
        made.send(f"{kind} {n}", at)
        at, n = at + rand.expovariate(2.0), n + 1
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
    assert max(sending.unavailable_for.values()) < 0.01 * seconds
    assert not any(probes for email, probes in sending.probes.items() if email[0] == "p")


def test_a_vendor_that_fails_for_all_is_suspended_by_its_second_email() -> None:
    def answers(vendor: str, _: str, at: float) -> SendResult:
        return DOWN if vendor == "A" and at >= 60 else YES

    sending = fleet(answers, 5.0, 0.0, 90)
    sending.run(60)
    before = sending.calls["A"]
    assert sending.health["A"].available
    sending.run(90)
    assert sending.calls["A"] - before == 2
    assert not sending.health["A"].available
    assert sending.unavailable_for["B"] == sending.unavailable_for["C"] == 0
    assert all(end.reason is None for end in sending.ends.values())


def test_a_vendor_that_comes_back_is_restored_in_time_though_poison_comes_all_the_while() -> None:
    def answers(vendor: str, email: str, at: float) -> SendResult:
        if vendor == "A" and 10 <= at < 300:
            return NO_CONNECTION
        return DOWN if email.startswith("poison") else YES

    sending = fleet(answers, 2.0, 2.0, 900)
    sending.run(900)
    assert sending.health["A"].available
    assert 590 < sending.unavailable_for["A"] < 640
    assert sending.unavailable_for["B"] == sending.unavailable_for["C"] == 0


def test_when_all_are_down_all_are_suspended_and_restored_soon_after_whoever_waits() -> None:
    def answers(_: str, email: str, at: float) -> SendResult:
        return DOWN if 10 <= at < 60 or email.startswith("poison") else YES

    sending = fleet(answers, 2.0, 2.0, 200)
    sending.run(60)
    assert not any(health.available for health in sending.health.values())
    sending.run(130)
    assert any(health.available for health in sending.health.values())
    sending.run(200)
    late = [e for e in range(360) if f"good {e}" not in sending.ends]
    assert not [e for e in late if e < 250], "an early probe restores one for all that wait"


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("names", [NAMES[:1], NAMES], ids=["one vendor", "three"])
def test_poison_from_the_very_first_email_on_leaves_vendors_available(
    names: Sequence[str], part: float
) -> None:
    """Nobody has said yes yet, and with one vendor nobody else can prove anything."""
    sending = mixed(names, drawing(DOWN), part, 300)
    sending.run(300)
    assert max(sending.unavailable_for.values()) < 0.03 * 300


def unavailable_after(names: Sequence[str], failure: SendResult, poison: float) -> float:
    """The seconds that vendors are unavailable in the 300 after all of them failed for a minute."""

    def answers(_: str, email: str, at: float) -> SendResult:
        if 10 <= at < 70:
            return failure
        return DOWN if email.startswith("poison") else YES

    sending = mixed(names, answers, poison, 370)
    sending.run(70)
    assert not any(health.available for health in sending.health.values())
    before = sum(sending.unavailable_for.values())
    sending.run(370)
    return sum(sending.unavailable_for.values()) - before


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("failure", [DOWN, NO_CONNECTION], ids=["503", "no connection"])
@pytest.mark.parametrize("names", [NAMES[:1], NAMES], ids=["one vendor", "three"])
def test_poison_after_an_outage_keeps_no_vendor_unavailable_for_longer(
    names: Sequence[str], failure: SendResult, part: float
) -> None:
    among_good = unavailable_after(names, failure, 0.0)
    assert unavailable_after(names, failure, part) < among_good + 0.03 * 300 * len(names)


def test_after_an_outage_that_nobody_could_prove_all_vendors_are_soon_available() -> None:
    assert unavailable_after(NAMES, DOWN, 0.3) < 60 * len(NAMES)


def test_many_poisonous_emails_at_once_hold_up_a_good_one_for_about_a_minute() -> None:
    sending = Fleet(["A"], drawing(DOWN))
    for n in range(40):
        sending.send(f"poison {n}", n / 100)
    sending.send("good", 1.0)
    sending.run(80)
    assert "good" in sending.ends
    assert sending.health["A"].available


@pytest.mark.parametrize("dead", ["A", "AB"])
def test_a_vendor_that_is_dead_at_the_start_is_suspended_by_its_second_email(dead: str) -> None:
    sending = mixed(NAMES, lambda vendor, _, __: DOWN if vendor in dead else YES, 0.0, 60)
    sending.run(60)
    assert {name: sending.calls[name] for name in dead} == dict.fromkeys(dead, 2)
    assert not any(sending.health[name].available for name in dead)
    assert len([end for end in sending.ends.values() if not end.reason]) > 100


@pytest.mark.parametrize("names", [NAMES[:1], NAMES], ids=["one vendor", "three"])
def test_when_all_are_dead_at_the_start_each_is_suspended_by_a_few_emails_and_called_seldom(
    names: Sequence[str],
) -> None:
    sending = mixed(names, lambda *_: DOWN, 0.0, 660)
    sending.run(5)
    assert not any(health.available for health in sending.health.values())
    assert sum(sending.calls.values()) <= 4 * FEW * len(names)
    sending.run(60)
    before = sum(sending.calls.values())
    sending.run(660)
    a_minute = (sum(sending.calls.values()) - before) / len(names) / 10
    assert a_minute < 2 * HINTS


def test_where_mail_is_rare_an_outage_of_all_vendors_wears_out_few_emails() -> None:
    """Whoever probes pays with a back-off of its own, and may wait long after the outage."""
    sent_at: dict[str, float] = {}

    def answers(_: str, email: str, at: float) -> SendResult:
        if at < 1800:
            return DOWN
        sent_at[email] = at
        return YES

    sending = fleet(answers, 0.05, 0.0, 1800)
    sending.run(1800)
    assert sum(sending.calls.values()) < 400
    sending.run(5400)
    assert sorted(sent_at.values())[len(sent_at) // 2] < 1830


@pytest.mark.parametrize("emails", [1, 3])
def test_emails_in_doubt_go_on_when_there_are_no_others(emails: int) -> None:
    sending = Fleet(["A"], lambda _, __, at: DOWN if at < 30 else YES)
    for n in range(emails):
        sending.send(str(n), 0.0)
    sending.run(180)
    assert len(sending.ends) == emails
    assert sending.health["A"].available
