"""How many e-mails a process claims, and how many jobs it reserves."""

from __future__ import annotations

import pytest

from mailqueue.consumer.slots import Slots


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def claimed(slots: Slots, most: int) -> int:
    """How many of ``most`` e-mails were claimed."""
    number = min(most, slots.free)
    slots.claim(number)
    return number


@pytest.fixture
def slots(clock: Clock) -> Slots:
    made = Slots(4, clock)
    made.write_took(0.01)
    return made


def test_no_more_is_claimed_than_there_are_senders_while_none_comes_free(
    slots: Slots, clock: Clock
) -> None:
    slots.reserve(10)
    assert claimed(slots, 10) == 4
    assert not slots.free
    clock.now += 60
    assert (claimed(slots, 10), slots.room(0)) == (0, 0)


def test_where_senders_come_free_quickly_as_many_are_claimed_ahead_as_just_came_free(
    slots: Slots, clock: Clock
) -> None:
    claimed(slots, 4)
    slots.done()
    slots.done()
    assert claimed(slots, 10) == 4  # the two that are free, and two that soon will be
    clock.now += 1
    slots.park(2)
    assert claimed(slots, 10) == 0


def test_the_longer_a_write_takes_the_further_ahead_is_claimed_up_to_a_fifth_of_a_second(
    slots: Slots, clock: Clock
) -> None:
    def ahead(after: float) -> int:
        slots.done()
        clock.now += after
        taken = claimed(slots, 2) - 1  # one is free
        slots.park(taken)
        clock.now += 1
        return taken

    claimed(slots, 4)
    assert (ahead(0.019), ahead(0.021)) == (1, 0)  # half of four writes: the first counts half
    for _ in range(20):
        slots.write_took(0.01)
    assert (ahead(0.039), ahead(0.041)) == (1, 0)
    slots.write_took(60)
    assert (ahead(0.199), ahead(0.201)) == (1, 0)


def test_nothing_is_claimed_ahead_before_a_write_was_timed(clock: Clock) -> None:
    slots = Slots(4, clock)
    claimed(slots, 4)
    slots.done()
    assert claimed(slots, 10) == 1


def test_twice_as_many_jobs_are_reserved_ahead_as_are_claimed(slots: Slots) -> None:
    slots.reserve(4)
    claimed(slots, 4)
    slots.done()
    assert slots.room(0) == 3
    slots.reserve(3)
    assert slots.room(0) == 0
    slots.reserve(-3)
    assert slots.room(0) == 3


def test_while_claims_are_written_as_many_jobs_may_wait_as_before(slots: Slots) -> None:
    slots.reserve(4)
    claimed(slots, 4)
    for _ in range(4):
        slots.done()
    slots.reserve(8)
    assert claimed(slots, 8) == 8  # four are free, and four soon will be
    assert slots.room(0) == 4


def test_more_are_expected_where_they_came_quickly_few_have_come_and_nobody_is_idle(
    clock: Clock,
) -> None:
    slots = Slots(8, clock)
    slots.write_took(0.01)
    claimed(slots, 8)
    assert not slots.expects(1)
    slots.done()
    slots.done()
    assert not slots.expects(1)
    claimed(slots, 2)
    assert slots.expects(1)
    assert not slots.expects(2)
    clock.now += 1
    assert not slots.expects(1)


def test_a_lone_sender_takes_one_email_after_the_other(clock: Clock) -> None:
    lone = Slots(1, clock)
    lone.write_took(0.01)
    lone.reserve(1)
    assert claimed(lone, 5) == 1
    lone.done()
    assert lone.room(0) == 1
    lone.reserve(1)
    assert (claimed(lone, 5), lone.room(0)) == (1, 0)
