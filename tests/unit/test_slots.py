"""How many e-mails a process claims, and how many jobs it reserves."""

from __future__ import annotations

import pytest

from mailqueue.consumer.slots import Slots
from mailqueue.routing.bulkheads import Bulkheads


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class OneVendor(Slots):
    """The slots of a process with one vendor."""

    def __init__(self, number: int, clock: Clock) -> None:
        self.bulkheads: Bulkheads[str] = Bulkheads(number, {"a": 1})
        super().__init__(number, self.bulkheads, clock)

    def claim_up_to(self, most: int) -> int:
        """How many of ``most`` e-mails were claimed."""
        number = min(most, self.free)
        for _ in range(number):
            self.bulkheads.claim("a")
        self.claim(number)
        return number

    def give_up(self, emails: int) -> None:
        for _ in range(emails):
            self.bulkheads.release("a")


@pytest.fixture
def slots(clock: Clock) -> OneVendor:
    made = OneVendor(4, clock)
    made.write_took(0.01)
    return made


def test_no_more_is_claimed_than_there_are_senders_while_none_comes_free(
    slots: OneVendor, clock: Clock
) -> None:
    slots.reserve(10)
    assert slots.claim_up_to(10) == 4
    assert not slots.free
    clock.now += 60
    assert (slots.claim_up_to(10), slots.room(0)) == (0, 0)


def test_where_senders_come_free_quickly_as_many_are_claimed_ahead_as_just_came_free(
    slots: OneVendor, clock: Clock
) -> None:
    slots.claim_up_to(4)
    slots.done("a")
    slots.done("a")
    assert slots.claim_up_to(10) == 4  # the two that are free, and two that soon will be
    clock.now += 1
    slots.give_up(2)
    assert slots.claim_up_to(10) == 0


def test_the_longer_a_write_takes_the_further_ahead_is_claimed_up_to_a_fifth_of_a_second(
    slots: OneVendor, clock: Clock
) -> None:
    def ahead(after: float) -> int:
        slots.done("a")
        clock.now += after
        taken = slots.claim_up_to(2) - 1  # one is free
        slots.give_up(taken)
        clock.now += 1
        return taken

    slots.claim_up_to(4)
    assert (ahead(0.019), ahead(0.021)) == (1, 0)  # half of four writes: the first counts half
    for _ in range(20):
        slots.write_took(0.01)
    assert (ahead(0.039), ahead(0.041)) == (1, 0)
    slots.write_took(60)
    assert (ahead(0.199), ahead(0.201)) == (1, 0)


def test_nothing_is_claimed_ahead_before_a_write_was_timed(clock: Clock) -> None:
    slots = OneVendor(4, clock)
    slots.claim_up_to(4)
    slots.done("a")
    assert slots.claim_up_to(10) == 1


def test_twice_as_many_jobs_are_reserved_ahead_as_are_claimed(slots: OneVendor) -> None:
    slots.reserve(4)
    slots.claim_up_to(4)
    slots.done("a")
    assert slots.room(0) == 3
    slots.reserve(3)
    assert slots.room(0) == 0
    slots.reserve(-3)
    assert slots.room(0) == 3


def test_while_claims_are_written_as_many_jobs_may_wait_as_before(slots: OneVendor) -> None:
    slots.reserve(4)
    slots.claim_up_to(4)
    for _ in range(4):
        slots.done("a")
    slots.reserve(8)
    assert slots.claim_up_to(8) == 8  # four are free, and four soon will be
    assert slots.room(0) == 4


def test_more_are_expected_where_they_came_quickly_few_have_come_and_nobody_is_idle(
    clock: Clock,
) -> None:
    slots = OneVendor(8, clock)
    slots.write_took(0.01)
    slots.claim_up_to(8)
    assert not slots.expects(1)
    slots.done("a")
    slots.done("a")
    assert not slots.expects(1)
    slots.claim_up_to(2)
    assert slots.expects(1)
    assert not slots.expects(2)
    clock.now += 1
    assert not slots.expects(1)


def test_a_lone_sender_takes_one_email_after_the_other(clock: Clock) -> None:
    lone = OneVendor(1, clock)
    lone.write_took(0.01)
    lone.reserve(1)
    assert lone.claim_up_to(5) == 1
    lone.done("a")
    assert lone.room(0) == 1
    lone.reserve(1)
    assert (lone.claim_up_to(5), lone.room(0)) == (1, 0)
