"""The line that a consumer prints each second on request."""

from __future__ import annotations

import io
import threading

from mailqueue.consumer.meter import Meter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_the_line_tells_the_rate_and_how_long_the_calls_took() -> None:
    clock = Clock()
    meter = Meter(clock)
    for milliseconds in (*range(1, 20), 900):
        meter.measure(lambda ms=milliseconds: clock.passes(ms / 1000))  # type: ignore[misc]  # bound
    clock.now = 102.0
    assert meter.line().split() == [
        "10",
        "e-mails/s",
        "0",
        "in",
        "flight",
        "p50",
        "11.0",
        "ms",
        "p95",
        "900.0",
        "ms",
    ]


def test_each_line_begins_anew_and_says_when_there_was_nothing() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.measure(lambda: clock.passes(0.5))
    meter.line()
    clock.passes(1.0)
    assert meter.line().split() == ["0", "e-mails/s", "0", "in", "flight", "p50", "-", "p95", "-"]


def test_a_line_is_printed_each_second_until_the_consumer_stops() -> None:
    clock = Clock()

    class TwoSeconds(threading.Event):
        left = 2

        def wait(self, timeout: float | None = None) -> bool:
            clock.passes(timeout or 0.0)
            self.left -= 1
            return self.left < 0

    out = io.StringIO()
    meter = Meter(clock)
    meter.measure(lambda: None)
    meter.run(TwoSeconds(), out)
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["1", "0"]


def test_a_call_under_way_is_in_flight() -> None:
    meter = Meter(Clock())
    assert "1 in flight" in meter.measure(meter.line)
    assert "0 in flight" in meter.line()
