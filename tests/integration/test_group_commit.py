"""What many threads ask for at once is done together; whose item failed hears of it."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from weakref import ref

import pytest

from mailqueue.errors import Unavailable
from mailqueue.producer import group_commit as module
from mailqueue.producer.group_commit import MAX_BATCH, MAX_BYTES, CommitTimeout, GroupCommit, _Entry
from tests.waiting import wait_until

LONG = 60.0
INTERRUPTS = 40


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
    group = GroupCommit(slow)
    with ThreadPoolExecutor(number + 1) as pool:
        first = pool.submit(group.submit, 0, LONG)
        assert slow.begun.wait(10)
        others = [pool.submit(group.submit, n, LONG) for n in range(1, number + 1)]
        wait_until(lambda: len(group._waiting) == number + 1)
        slow.let_go.set()
    assert not group._waiting
    return [first, *others]


def test_a_lone_caller_waits_for_nobody() -> None:
    slow = Slow()
    slow.let_go.set()
    group = GroupCommit(slow)
    assert [group.submit(1, LONG), group.submit(2, LONG)] == [2, 4]
    assert slow.batches == [[1], [2]]


def test_those_who_come_meanwhile_are_done_together() -> None:
    slow = Slow()
    assert [f.result() for f in meanwhile(slow, 5)] == [0, 2, 4, 6, 8, 10]
    assert [len(batch) for batch in slow.batches] == [1, 5]


def test_a_batch_has_its_bound() -> None:
    slow = Slow()
    futures = meanwhile(slow, MAX_BATCH + 3)
    assert [f.result() for f in futures] == [2 * n for n in range(MAX_BATCH + 4)]
    assert [len(batch) for batch in slow.batches] == [1, MAX_BATCH, 3]


def test_a_batch_has_its_weight() -> None:
    slow = Slow()
    group = GroupCommit(slow)
    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(group.submit, 0, LONG, MAX_BYTES * 2)]
        assert slow.begun.wait(10)
        for n in range(1, 5):
            futures.append(pool.submit(group.submit, n, LONG, MAX_BYTES // 2))
            wait_until(lambda: len(group._waiting) == len(futures))
        slow.let_go.set()
    assert [f.result() for f in futures] == [0, 2, 4, 6, 8]
    assert [len(batch) for batch in slow.batches] == [1, 2, 2]


def test_nobody_waits_long_for_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those whose items are done nor those who come meanwhile."""
    monkeypatch.setattr(module, "POLL", 0.01)
    afterwards: list[list[int]] = []
    begun, let_go = threading.Event(), threading.Event()

    def after(results: list[int]) -> None:
        if len(results) > 1:
            begun.set()
            assert let_go.wait(10)
        afterwards.append(results)

    slow = Slow()
    group = GroupCommit(slow, after)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(group.submit, 1, LONG)
        assert slow.begun.wait(10)
        others = [pool.submit(group.submit, n, LONG) for n in (2, 3)]
        wait_until(lambda: len(group._waiting) == 3)
        slow.let_go.set()
        assert first.result(10) == 2
        assert begun.wait(10)
        wait_until(lambda: any(each.done() for each in others))
        assert group.submit(4, LONG) == 8
        assert not all(each.done() for each in others)
        let_go.set()
    assert [sorted(results) for results in afterwards] == [[2], [8], [4, 6]]


# Trouble ----------------------------------------------------------------------------------------


class Picky(Slow):
    """Does not take the number 2."""

    def __call__(self, numbers: list[int]) -> list[int]:
        results = super().__call__(numbers)
        if 2 in numbers:
            raise OverflowError
        return results


def test_an_error_is_heard_by_whose_item_it_is_and_nobody_else() -> None:
    slow = Picky()
    first, second, third, fourth = meanwhile(slow, 3)
    assert [first.result(), second.result(), fourth.result()] == [0, 2, 6]
    assert isinstance(third.exception(), OverflowError)
    assert [sorted(batch) for batch in slow.batches[:2]] == [[0], [1, 2, 3]]
    assert all(len(batch) == 1 for batch in slow.batches[2:])


class Once(Slow):
    """Raises once, when several are done together."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__()
        self.raises = [kind()]

    def __call__(self, numbers: list[int]) -> list[int]:
        results = super().__call__(numbers)
        if len(numbers) > 1 and self.raises:
            raise self.raises.pop()
        return results


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_what_was_raised_for_one_thread_is_no_others(kind: type[BaseException]) -> None:
    """An interrupt, or a time-out of the application's: it comes from nobody's item."""
    futures = meanwhile(Once(kind), 3)
    raised = [f for f in futures if f.exception() is not None]
    assert [type(f.exception()) for f in raised] == [kind]
    assert [f.result() for f in futures if f not in raised] == [
        2 * n for n, f in enumerate(futures) if f not in raised
    ]


def test_a_thread_that_is_struck_twice_hands_neither_error_to_another() -> None:
    """The second time while it does another's item by itself."""
    strikes = iter([KeyError("first"), None, KeyError("second")])
    slow = Slow()

    def write(numbers: list[int]) -> list[int]:
        if slow.batches and (error := next(strikes, None)) is not None:
            raise error
        return slow(numbers)

    group = GroupCommit(write)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(group.submit, 0, LONG)]
        assert slow.begun.wait(10)
        futures += [pool.submit(group.submit, n, LONG) for n in (1, 2)]
        wait_until(lambda: len(group._waiting) == 3)
        slow.let_go.set()
        assert [each.result(10) for each in futures] == [0, 2, 4]


def test_who_has_time_left_is_not_told_of_an_outage_that_another_did_not_outlast() -> None:
    slow = Slow(Unavailable())
    group = GroupCommit(slow)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(group.submit, 0, LONG)
        assert slow.begun.wait(10)
        others = [pool.submit(group.submit, n, LONG) for n in (1, 2)]
        wait_until(lambda: len(group._waiting) == 3)
        slow.let_go.set()
    assert first.result() == 0
    assert [type(f.exception()) for f in others] == [Unavailable] * 2
    assert [len(batch) for batch in slow.batches] == [1, 2, 1]


def test_after_an_error_the_next_call_is_done() -> None:
    slow = Slow(ValueError("no"))
    slow.let_go.set()
    group = GroupCommit(slow)
    group.submit(1, LONG)
    with pytest.raises(ValueError):
        group.submit(2, LONG)
    slow.error = None
    assert group.submit(3, LONG) == 6


def test_nobody_waits_beyond_its_own_time() -> None:
    slow = Slow()
    group = GroupCommit(slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(group.submit, 1, LONG)
        assert slow.begun.wait(10)
        with pytest.raises(CommitTimeout):
            group.submit(2, 0.01)
        slow.let_go.set()
        assert first.result() == 2
    assert slow.batches == [[1]]
    assert not group._waiting


def test_the_item_of_a_caller_that_is_gone_is_not_done_later() -> None:
    slow = Slow()
    slow.let_go.set()
    group = GroupCommit(slow)
    group._waiting.append(_Entry(1, 0, 0.0))
    assert group.submit(2, LONG) == 4
    assert slow.batches == [[2]]


def test_who_is_held_up_beyond_its_time_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that runs for long in the thread that does it, say."""
    monkeypatch.setattr(module, "GRACE", 0.0)
    monkeypatch.setattr(module, "POLL", 0.01)
    slow = Slow()
    group = GroupCommit(slow)
    with ThreadPoolExecutor(1) as pool:
        held_up = pool.submit(group.submit, 1, 0.01)
        assert slow.begun.wait(10)
        assert group.submit(2, LONG) == 4
        slow.let_go.set()
        assert held_up.result() == 2
    assert slow.batches == [[1], [2]]


def test_who_left_without_a_word_is_waited_for_no_longer_than_a_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was interrupted in the middle of leaving, and lives on with time to spare."""
    monkeypatch.setattr(module, "POLL", 0.01)
    slow = Slow()
    slow.let_go.set()
    group = GroupCommit(slow)
    left: _Entry[int, int] = _Entry(0, 0, LONG)
    left.lead_until = math.inf
    group._leader = ref(left)
    assert group.submit(1, LONG) == 2


def test_the_item_of_a_thread_that_was_lost_with_it_is_done_by_its_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It took a batch, and was interrupted twice: it could not even put it back."""
    monkeypatch.setattr(module, "POLL", 0.01)
    slow = Slow()
    slow.let_go.set()
    group = GroupCommit(slow)
    real = group._leadership

    class Lost:
        """The first who asks finds somebody at it; then that one is gone, and so is the item."""

        def acquire(self, blocking: bool) -> bool:
            group._leadership = real
            group._waiting.clear()
            return False

        def release(self) -> None:
            raise RuntimeError

    group._leadership = Lost()  # type: ignore[assignment]  # it plays one
    assert group.submit(1, LONG) == 2


# Company ----------------------------------------------------------------------------------------


class Timed:
    """Doubles numbers; every call takes so long on its own clock."""

    def __init__(self, seconds: float) -> None:
        self.batches: list[list[int]] = []
        self.now, self.seconds = 0.0, seconds
        self.group = GroupCommit(self, clock=lambda: self.now)

    def __call__(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        self.now += self.seconds
        return [2 * number for number in numbers]

    def call(self, number: int) -> int:
        return self.group.submit(number, 10 * LONG)

    def serve_two_together(self, pool: ThreadPoolExecutor) -> None:
        """As if both had come while another was served."""
        self.group._expected, self.group._linger_until = 2, self.now + 60
        first = pool.submit(self.call, 1)
        wait_until(lambda: self.group._lingering)
        assert [pool.submit(self.call, 2).result(), first.result()] == [4, 2]
        assert self.batches.pop() == [1, 2]


def test_callers_that_were_served_together_are_waited_for() -> None:
    timed = Timed(60.0)
    with ThreadPoolExecutor(2) as pool:
        timed.serve_two_together(pool)
        first = pool.submit(timed.call, 3)
        wait_until(lambda: timed.group._lingering)
        assert [timed.call(4), first.result()] == [8, 6]
    assert timed.batches == [[3, 4]]


def test_they_are_waited_for_no_longer_than_the_last_time_took() -> None:
    timed = Timed(0.01)
    with ThreadPoolExecutor(2) as pool:
        timed.serve_two_together(pool)
    assert [timed.call(3), timed.call(4)] == [6, 8]
    assert timed.batches == [[3], [4]]


def test_what_comes_after_a_write_makes_nobody_wait_for_longer() -> None:
    timed = Timed(0.01)

    def hang(_: object) -> None:
        timed.now += 60.0

    timed.group._after = hang
    assert timed.call(3) == 6
    assert timed.group._linger_until == pytest.approx(timed.now + 0.01)


def test_nobody_is_waited_for_after_a_failure() -> None:
    timed = Timed(60.0)

    def fail(_: list[int]) -> list[int]:
        timed.now += 60.0
        raise Unavailable

    timed.group._write = fail
    with pytest.raises(Unavailable):
        timed.call(3)
    assert timed.group._linger_until == 0.0


def test_nobody_is_waited_for_who_would_come_late() -> None:
    timed = Timed(60.0)
    with ThreadPoolExecutor(2) as pool:
        timed.serve_two_together(pool)
    timed.now += 60.0
    assert timed.call(3) == 6


# Interrupted anywhere ---------------------------------------------------------------------------


class Interrupt(BaseException):
    """As ``gevent.Timeout`` is."""


@contextmanager
def interrupted(victims: list[threading.Thread]) -> Iterator[list[int]]:
    """Exceptions are raised in these threads, again and again, wherever they are."""
    enough = threading.Event()
    times = [0]

    def interrupt() -> None:
        while not enough.wait(0.0005):
            victim = victims[times[0] % len(victims)].ident
            times[0] += 1
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(victim or 0), ctypes.py_object(Interrupt)
            )

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield times
    finally:
        enough.set()
        thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_that_are_interrupted_anywhere_leave_the_others_served() -> None:
    done: set[int] = set()

    def write(numbers: list[int]) -> list[int]:
        done.update(numbers)
        return [2 * number for number in numbers]

    group = GroupCommit(write)
    enough = threading.Event()
    wrong: list[object] = []

    def victim(first: int) -> None:
        numbers = count(first, 4)
        while not enough.is_set():
            with suppress(Interrupt):
                for number in numbers:
                    if group.submit(number, LONG) != 2 * number or number not in done:
                        wrong.append(number)
                    if enough.is_set():
                        break

    victims = [threading.Thread(target=victim, args=[-(10**9) + n]) for n in range(2)]
    for thread in victims:
        thread.start()

    def bystander(first: int) -> None:
        numbers = takewhile(lambda _: times[0] < INTERRUPTS, count(first, 2))
        wrong.extend(number for number in numbers if group.submit(number, LONG) != 2 * number)

    with interrupted(victims) as times, ThreadPoolExecutor(2) as pool:
        others = [pool.submit(bystander, n) for n in range(2)]
        for other in others:
            other.result(30)
        enough.set()
        for thread in victims:
            thread.join(10)
    assert not wrong
    assert group.submit(1, LONG) == 2
