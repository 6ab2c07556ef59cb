"""What many threads ask for at once is done together; whose item failed hears of it."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mailqueue.gathering import MOST, Gathering, Interrupted
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
