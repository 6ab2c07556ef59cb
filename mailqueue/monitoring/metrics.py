"""The metrics of an installation for Prometheus, made of one ``Overview`` and the counters.

Decides: their names, labels and words; docs/monitoring.md lists them.

Assumes: the extra ``metrics``.

Promises: pure. What was not found out (the queue was not reached, a class lies behind too long a
backlog) has no sample, rather than an old one. No label has an address, a subject or an error text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from mailqueue import __version__
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.monitoring.overview import Overview, VendorState
from mailqueue.store.stats import BOUNDS, Tally, Totals

Values = Mapping[Any, float]  # by the labels' values, each a tuple
Vendors = tuple[VendorState, ...]
_LES = [*map(str, BOUNDS), "+Inf"]


def up(value: bool) -> Metric:
    """Whether MongoDB could be read. If it could not, there is nothing else."""
    return _gauge("up", "1: MongoDB was read; 0: it was not, and nothing else is known", value)


def of(overview: Overview, totals: Totals) -> Iterator[Metric]:
    """All metrics."""
    yield up(True)
    info = {(overview.env, __version__): 1.0}
    yield _gauges("info", "the kind of e-mails that is looked at", ("env", "version"), info)
    yield from _emails(overview)
    yield from _attempts(overview, totals)
    for vendor_metric in _VENDORS:
        yield vendor_metric(overview.vendors)
    yield from _processes(overview)


def _emails(overview: Overview) -> Iterator[Metric]:
    waits = {(name,): o.seconds if o else 0.0 for name, o in overview.oldest_due.items()}
    text = "for how long the longest due e-mail of a class has waited; 0: none is due"
    yield _gauges("oldest_due_seconds", text, ("priority",), waits)
    numbers = {(status.value,): float(number) for status, number in overview.emails.items()}
    yield _gauges("emails", "e-mails by status", ("status",), numbers)
    lately = {("failed",): overview.failed, ("sent",): overview.ended - overview.failed}
    text = "e-mails that failed, or were sent, within the last day"
    yield _gauges("emails_last_day", text, ("status",), lately)
    yield _gauge(
        "emails_other_env",
        "queued e-mails of the other kind (simulated in production, and vice versa)",
        overview.other_env,
    )
    oldest = overview.uncertain_oldest
    text = "for how long the oldest uncertain e-mail has waited for a person; 0: there is none"
    yield _gauge("uncertain_oldest_seconds", text, oldest.seconds if oldest else 0.0)
    states = {(state,): float(number) for state, number in overview.callbacks.items()}
    yield _gauges("callbacks", "e-mails with a callback in a state", ("state",), states)


def _attempts(overview: Overview, totals: Totals) -> Iterator[Metric]:
    # From the beginning, since a rate misses the step from nothing to the first one.
    kinds = [(vendor.name, outcome.value) for vendor in overview.vendors for outcome in Outcome]
    numbers = dict.fromkeys(kinds, 0.0) | {kind: t.number for kind, t in totals.items()}
    text = "attempts to send an e-mail, by vendor and what came of it"
    attempts = CounterMetricFamily("mailqueue_attempts", text, labels=("vendor", "outcome"))
    for kind, number in sorted(numbers.items()):
        attempts.add_metric(kind, number)
    yield attempts
    yield _histogram("send_seconds", "how long the calls of vendors took", {(): totals.values()})
    each = {
        (name,): [tally for (vendor, _), tally in totals.items() if vendor == name]
        for name in sorted({vendor for vendor, _ in numbers})
    }
    yield _histogram("vendor_send_seconds", "the same, by vendor", each, ("vendor",))


def _histogram(
    name: str,
    text: str,
    tallies: Mapping[Any, Iterable[Tally]],
    labels: tuple[str, ...] = (),
) -> Metric:
    family = HistogramMetricFamily(f"mailqueue_{name}", text, labels=labels)
    for values, each in tallies.items():
        tally = sum(each, Tally())
        buckets = list(zip(_LES, map(float, accumulate(tally.counts)), strict=True))
        family.add_metric(values, buckets, tally.seconds)
    return family


def _available(vendors: Vendors) -> Metric:
    values = {(vendor.name,): float(vendor.available) for vendor in vendors}
    text = "1: the vendor may be sent to; 0: it is unavailable"
    return _gauges("vendor_available", text, ("vendor",), values)


def _closed(vendors: Vendors) -> Metric:
    values = {(vendor.name,): float(bool(vendor.drained or vendor.held)) for vendor in vendors}
    text = "1: an operator has drained or held the vendor"
    return _gauges("vendor_closed", text, ("vendor",), values)


def _rate_wait(vendors: Vendors) -> Metric:
    values = {(vendor.name,): vendor.rate_wait or 0.0 for vendor in vendors}
    text = "until the vendor's limits let the next e-mail go; 0: at once, or it has none"
    return _gauges("rate_wait_seconds", text, ("vendor",), values)


def _budget_used(vendors: Vendors) -> Metric:
    values = {(v.name, n): float(b.used) for v in vendors for n, b in v.budgets.items()}
    text = "what is used of a vendor's budget for the day or the month"
    return _gauges("budget_used", text, ("vendor", "window"), values)


def _budget_limit(vendors: Vendors) -> Metric:
    values = {(v.name, n): float(b.limit) for v in vendors for n, b in v.budgets.items()}
    return _gauges("budget_limit", "that budget", ("vendor", "window"), values)


_VENDORS = (_available, _closed, _rate_wait, _budget_used, _budget_limit)


def _processes(overview: Overview) -> Iterator[Metric]:
    text = "consumers whose heartbeat is not older than a minute"
    yield _gauge("consumers", text, len(overview.consumers))
    in_flight = sum(beat.in_flight for beat in overview.consumers)
    yield _gauge("in_flight", "e-mails that were with a vendor at the last heartbeats", in_flight)
    text = "1: an operator holds all e-mails"
    yield _gauge("everything_held", text, overview.controls.everything)
    text = "1: the queue was reached, or MongoDB alone is the queue"
    yield _gauge("queue_up", text, overview.queue is not None)
    jobs = {(state,): float(number) for state, number in (overview.queue or {}).items()}
    yield _gauges("queue_jobs", "jobs on the queue by state", ("state",), jobs)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"mailqueue_{name}", text, value=float(value))


def _gauges(name: str, text: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = GaugeMetricFamily(f"mailqueue_{name}", text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
