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


@pytest.fixture
def senders(clock: Clock) -> Slots:
    made = Slots(4, clock)
    made.wrote(0.01)
    return made


def test_no_more_is_claimed_than_there_are_senders_while_none_comes_free(
    senders: Slots, clock: Clock
) -> None:
    senders.reserved(10)
    assert senders.take(10) == 4
    assert not senders.free
    clock.now += 60
    assert (senders.take(10), senders.room(0)) == (0, 0)


def test_where_senders_come_free_quickly_as_many_are_claimed_ahead_as_just_came_free(
    senders: Slots, clock: Clock
) -> None:
    senders.take(4)
    senders.done()
    senders.done()
    assert senders.take(10) == 4  # the two that are free, and two that soon will be
    clock.now += 1
    senders.give_back(2)
    assert senders.take(10) == 0


def test_the_longer_a_write_takes_the_further_ahead_is_claimed_up_to_a_fifth_of_a_second(
    senders: Slots, clock: Clock
) -> None:
    def ahead(after: float) -> int:
        senders.done()
        clock.now += after
        taken = senders.take(2) - 1  # one is free
        senders.give_back(taken)
        clock.now += 1
        return taken

    senders.take(4)
    assert (ahead(0.019), ahead(0.021)) == (1, 0)  # half of four writes: the first counts half
    for _ in range(20):
        senders.wrote(0.01)
    assert (ahead(0.039), ahead(0.041)) == (1, 0)
    senders.wrote(60)
    assert (ahead(0.199), ahead(0.201)) == (1, 0)


def test_nothing_is_claimed_ahead_before_a_write_was_timed(clock: Clock) -> None:
    senders = Slots(4, clock)
    senders.take(4)
    senders.done()
    assert senders.take(10) == 1


def test_twice_as_many_jobs_are_reserved_ahead_as_are_claimed(senders: Slots) -> None:
    senders.reserved(4)
    senders.take(4)
    senders.done()
    assert senders.room(0) == 3
    senders.reserved(3)
    assert senders.room(0) == 0
    senders.reserved(-3)
    assert senders.room(0) == 3


def test_while_claims_are_written_as_many_jobs_may_wait_as_before(senders: Slots) -> None:
    senders.reserved(4)
    senders.take(4)
    for _ in range(4):
        senders.done()
    senders.reserved(8)
    assert senders.take(8) == 8  # four are free, and four soon will be
    assert senders.room(0) == 4


def test_more_are_expected_where_they_came_quickly_few_have_come_and_nobody_is_idle(
    clock: Clock,
) -> None:
    senders = Slots(8, clock)
    senders.wrote(0.01)
    senders.take(8)
    assert not senders.expects(1)
    senders.done()
    senders.done()
    assert not senders.expects(1)
    senders.take(2)
    assert senders.expects(1)
    assert not senders.expects(2)
    clock.now += 1
    assert not senders.expects(1)


def test_a_lone_sender_takes_one_email_after_the_other(clock: Clock) -> None:
    lone = Slots(1, clock)
    lone.wrote(0.01)
    lone.reserved(1)
    assert lone.take(5) == 1
    lone.done()
    assert lone.room(0) == 1
    lone.reserved(1)
    assert (lone.take(5), lone.room(0)) == (1, 0)
