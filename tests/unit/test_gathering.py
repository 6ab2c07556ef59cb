"""What many threads ask for at once is done together; whose item failed hears of it."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mailqueue.gathering import MOST, Gathering, Interrupted, _Entry
from tests.waiting import wait_until


class Slow:
    """Doubles numbers; the first call waits until it is let go."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.batches: list[list[int]] = []
        self.error = error
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        if len(self.batches) == 1:
            self.begun.set()
            assert self.let_go.wait(10)
        elif self.error is not None:
            raise self.error
        return [2 * number for number in numbers]


def meanwhile(slow: Slow, number: int) -> list[Future[int]]:
    """One call, and ``number`` more that come while it is under way."""
    gathering = Gathering(slow)
    with ThreadPoolExecutor(number + 1) as pool:
        first = pool.submit(gathering, 0)
        assert slow.begun.wait(10)
        others = [pool.submit(gathering, n) for n in range(1, number + 1)]
        wait_until(lambda: len(gathering._waiting) == number)
        slow.let_go.set()
    return [first, *others]


def test_a_lone_caller_waits_for_nobody() -> None:
    slow = Slow()
    slow.let_go.set()
    gathering = Gathering(slow)
    assert [gathering(1), gathering(2)] == [2, 4]
    assert slow.batches == [[1], [2]]


def test_those_who_come_meanwhile_are_done_together() -> None:
    slow = Slow()
    assert [f.result() for f in meanwhile(slow, 5)] == [0, 2, 4, 6, 8, 10]
    assert [len(batch) for batch in slow.batches] == [1, 5]


def test_a_batch_has_its_bound() -> None:
    slow = Slow()
    futures = meanwhile(slow, MOST + 3)
    assert [f.result() for f in futures] == [2 * n for n in range(MOST + 4)]
    assert [len(batch) for batch in slow.batches] == [1, MOST, 3]


def test_an_error_is_everybodys_in_the_batch_and_nobody_elses() -> None:
    first, *others = meanwhile(Slow(ValueError("no")), 3)
    assert first.result() == 0
    assert [type(f.exception()) for f in others] == [ValueError] * 3


def test_an_interrupted_thread_leaves_the_others_with_an_error_of_their_own() -> None:
    _, *others = meanwhile(Slow(KeyboardInterrupt()), 3)
    kinds = sorted(type(f.exception()).__name__ for f in others)
    assert kinds == ["Interrupted", "Interrupted", "KeyboardInterrupt"]


def test_after_an_error_the_next_call_is_done() -> None:
    slow = Slow(ValueError("no"))
    slow.let_go.set()
    gathering = Gathering(slow)
    gathering(1)
    with pytest.raises(ValueError):
        gathering(2)
    slow.error = None
    assert gathering(3) == 6
    assert issubclass(Interrupted, Exception)


class Timed:
    """Doubles numbers; every call takes so long on its own clock."""

    def __init__(self, seconds: float) -> None:
        self.batches: list[list[int]] = []
        self.now, self.seconds = 0.0, seconds
        self.gathering = Gathering(self, lambda: self.now)

    def __call__(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        self.now += self.seconds
        return [2 * number for number in numbers]

    def serve_two_together(self, pool: ThreadPoolExecutor) -> None:
        """As if both had come while another was served."""
        self.gathering._enough, self.gathering._until = 2, self.now + 60
        first = pool.submit(self.gathering, 1)
        wait_until(lambda: self.gathering._hesitates)
        assert [pool.submit(self.gathering, 2).result(), first.result()] == [4, 2]
        assert self.batches.pop() == [1, 2]


def test_callers_that_were_served_together_are_waited_for() -> None:
    timed = Timed(60.0)
    with ThreadPoolExecutor(2) as pool:
        timed.serve_two_together(pool)
        first = pool.submit(timed.gathering, 3)
        wait_until(lambda: timed.gathering._hesitates)
        assert [timed.gathering(4), first.result()] == [8, 6]
    assert timed.batches == [[3, 4]]


def test_they_are_waited_for_no_longer_than_the_last_time_took() -> None:
    timed = Timed(0.01)
    with ThreadPoolExecutor(2) as pool:
        timed.serve_two_together(pool)
    assert [timed.gathering(3), timed.gathering(4)] == [6, 8]
    assert timed.batches == [[3], [4]]


def test_nobody_is_waited_for_who_would_come_late() -> None:
    timed = Timed(60.0)
    with ThreadPoolExecutor(2) as pool:
        timed.serve_two_together(pool)
    timed.now += 60.0
    assert timed.gathering(3) == 6


def test_one_who_waits_may_be_interrupted_without_harm_to_the_others() -> None:
    gathering = Gathering(Slow())
    gone: _Entry[int, int] = _Entry(1)
    assert gathering._leads(gone)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(gathering, 2)
        wait_until(lambda: len(gathering._waiting) == 2)
        gathering._do.let_go.set()  # type: ignore[attr-defined]  # it is the slow one
        gathering._leave(gone)
        assert other.result() == 4
    assert gathering._leader is None
