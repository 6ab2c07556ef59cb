"""Tracing with OpenTelemetry: the spans of attempts, and what a tracer that fails does to e-mails.

The whole way in this process: a real store, a real consumer, vendors with a script, and an exporter
in memory. ``tests/process/test_tracing.py`` has it over HTTP and in processes of their own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from pymongo.collection import Collection

from mailqueue import (
    AsyncProducer,
    Config,
    Consumer,
    Email,
    EmailDict,
    EmailStatus,
    Producer,
    tracing,
)
from mailqueue.consumer import consumer as consumers
from mailqueue.logs import Once
from mailqueue.store import audit
from mailqueue.store.document import SIMULATED
from mailqueue.store.ledger import NOT_STARTED
from mailqueue.store.stats import Stats
from mailqueue.store.store import Store
from mailqueue.testing import FakeVendor, Outbox
from mailqueue.vendors import Attempt, Outcome, SendResult
from tests.logged import event

MAIL: EmailDict = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "subject": "Hi",
    "text": "Hello",
}
NAME = "process mailqueue_test_emails"
Document = dict[str, Any]


@pytest.fixture
def configured(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A database of this test's own, and a queue in memory, which is soon found empty."""
    monkeypatch.setattr("mailqueue.consumer.fetcher.RESERVE_TIMEOUT", 0.05)
    return config.replace(queue={"type": "memory", "tube": config.mongodb.database})


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    """The tracer provider that this process has during the test."""
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # it can be set only once
    yield provider
    provider.shutdown()


@pytest.fixture
def exporter(provider: TracerProvider) -> InMemorySpanExporter:
    """Has all spans that have ended."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def span_of(sent_in: SpanContext) -> trace.Span:
    return NonRecordingSpan(sent_in)


def sent_in(*, sampled: bool = True) -> SpanContext:
    """The span of a request."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(trace_id=0xA1, span_id=0xB2, is_remote=False, trace_flags=flags)


def send(config: Config, span: SpanContext | None = None) -> str:
    with Producer(config) as producer:
        if span is None:
            return producer.send(MAIL)
        with trace.use_span(span_of(span)):
            return producer.send(MAIL)


def drain(config: Config, *vendors: FakeVendor) -> None:
    """Consume until nothing is due."""
    config = config.replace(vendors=[vendor.config for vendor in vendors])
    assert Consumer(config, burst=True).run() == 0


def status(config: Config, email_id: str) -> EmailStatus:
    with Producer(config) as producer:
        found = producer.status(email_id)
    assert found is not None
    return found


def attempts(exporter: InMemorySpanExporter) -> Sequence[ReadableSpan]:
    return sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


# The spans ----------------------------------------------------------------------------------------


def test_the_first_attempt_is_a_child_of_the_span_in_which_the_email_was_sent(
    configured: Config, exporter: InMemorySpanExporter
) -> None:
    email_id = send(configured, sent_in())
    drain(configured, FakeVendor("first"))
    (span,) = attempts(exporter)
    assert span.parent is not None
    assert (context_of(span).trace_id, span.parent.span_id) == (0xA1, 0xB2)
    assert (span.name, span.kind, span.links) == (NAME, SpanKind.CONSUMER, ())
    assert span.status.status_code is StatusCode.UNSET, "an instrumentation leaves OK to others"
    assert dict(span.attributes or {}) == {
        "messaging.system": "mailqueue",
        "messaging.destination.name": "mailqueue_test_emails",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": email_id,
        "mailqueue.email_id": email_id,
        "mailqueue.vendor": "first",
        "mailqueue.attempt": 1,
        "mailqueue.outcome": "accepted",
        "mailqueue.code": "fake",
    }


def test_a_failed_over_email_has_a_child_and_a_root_with_a_link(
    configured: Config, exporter: InMemorySpanExporter
) -> None:
    """A retry may come days later, so it begins a trace of its own."""
    email_id = send(configured, sent_in())
    drain(configured, FakeVendor("first", "unavailable"), FakeVendor("second"))
    assert status(configured, email_id).vendor == "second"
    child, root = attempts(exporter)
    assert child.parent is not None
    assert child.parent.span_id == 0xB2
    assert child.status.status_code is StatusCode.ERROR
    assert child.status.description is None, "no words of a vendor's"
    assert child.attributes
    assert child.attributes["mailqueue.outcome"] == "unavailable"
    assert child.attributes["error.type"] == "unavailable"
    assert root.parent is None
    assert context_of(root).trace_id != 0xA1
    assert [(link.context.trace_id, link.context.span_id) for link in root.links] == [(0xA1, 0xB2)]
    assert root.attributes
    assert (root.attributes["mailqueue.attempt"], root.attributes["mailqueue.vendor"]) == (
        2,
        "second",
    )
    assert "error.type" not in root.attributes


def test_an_attempt_that_was_given_back_before_it_began_is_not_the_first(
    configured: Config, exporter: InMemorySpanExporter, emails: Collection[Document]
) -> None:
    """The vendor was not asked, so the next attempt is still the child."""
    email_id = send(configured, sent_in())
    now = datetime.now(UTC)
    line = {"n": 1, "token": 1, "vendor": "first", "key": None, "probe": False}
    line |= {"started_at": now, "ended_at": now, "outcome": NOT_STARTED}
    claim_given_back = {"$set": {"attempts": [line], "lease.token": 1}}
    emails.update_one({"_id": ObjectId(email_id)}, claim_given_back)
    drain(configured, FakeVendor("first"))
    (span,) = attempts(exporter)
    assert span.parent is not None
    assert span.parent.span_id == 0xB2
    assert span.attributes
    assert span.attributes["mailqueue.attempt"] == 2


def test_the_vendors_class_runs_inside_the_span_of_its_attempt(
    configured: Config, exporter: InMemorySpanExporter
) -> None:
    """So whatever instrumentation it uses finds its parent."""
    current: list[SpanContext] = []

    def answer(_: Email, __: Attempt) -> SendResult:
        current.append(trace.get_current_span().get_span_context())
        return SendResult(outcome=Outcome.ACCEPTED, code="200", message_id="1")

    send(configured, sent_in())
    drain(configured, FakeVendor("first", answer))
    (span,) = attempts(exporter)
    assert [context.span_id for context in current] == [context_of(span).span_id]


def test_an_email_that_was_sent_in_no_span_has_roots_without_links(
    configured: Config, exporter: InMemorySpanExporter, emails: Collection[Document]
) -> None:
    send(configured)
    assert "traceparent" not in emails.find_one({}, {"email": 0})  # type: ignore[operator]  # it is there
    drain(configured, FakeVendor("first", "unavailable"), FakeVendor("second"))
    assert [(span.parent, list(span.links)) for span in attempts(exporter)] == [(None, [])] * 2


def test_where_the_span_of_the_request_is_not_sampled_no_attempt_is(
    configured: Config, exporter: InMemorySpanExporter
) -> None:
    """Nor what an instrumentation makes below it, of any attempt."""
    tracer, flags = trace.get_tracer("test"), []

    def answer(_: Email, __: Attempt) -> SendResult:
        with tracer.start_as_current_span("POST") as span:
            flags.append(span.get_span_context().trace_flags.sampled)
        return SendResult(outcome=Outcome.UNAVAILABLE, answered=False)

    send(configured, sent_in(sampled=False))
    drain(configured, FakeVendor("first", answer), FakeVendor("second", answer))
    assert not attempts(exporter)
    assert flags == [False, False]


def test_a_stored_traceparent_that_is_none_harms_nothing(
    configured: Config, exporter: InMemorySpanExporter, emails: Collection[Document]
) -> None:
    trace_id, span_id = f"{0xA1:032x}", f"{0xB2:016x}"
    damage: list[object] = [
        *(5, "", "what", {"$set": 1}, [f"00-{trace_id}-{span_id}-01"], "0" * 10_000),
        *(f"00-{0:032x}-{span_id}-01", f"00-{trace_id}-{0:016x}-01"),
        *(f"ff-{trace_id}-{span_id}-01", f"00-{trace_id}-{span_id}-01-more"),
    ]
    ids = [send(configured) for _ in damage]
    for email_id, value in zip(ids, damage, strict=True):
        emails.update_one({"_id": ObjectId(email_id)}, {"$set": {"traceparent": value}})
    drain(configured, FakeVendor("first"))
    assert [status(configured, each).status for each in ids] == ["sent"] * len(damage)
    assert [(span.parent, list(span.links)) for span in attempts(exporter)] == [(None, [])] * 10


# Where it is stored -------------------------------------------------------------------------------


def test_every_way_to_send_stores_the_span_of_its_caller(
    config: Config, provider: TracerProvider, emails: Collection[Document]
) -> None:
    async def send_from_a_task(producer: AsyncProducer, number: int) -> None:
        with trace.use_span(span_of(SpanContext(number, number, False, TraceFlags(1)))):
            await producer.send(MAIL, request_id=f"send-{number}")
            await producer.send_many([MAIL], request_id=f"many-{number}")

    async def tasks() -> None:
        async with AsyncProducer(config) as producer:
            await asyncio.gather(*(send_from_a_task(producer, n) for n in (1, 2)))

    with Producer(config) as producer, trace.use_span(span_of(sent_in())):
        producer.send(MAIL, request_id="send")
        producer.send_many([MAIL], request_id="many")
        producer.send_all([{"email": MAIL, "request_id": "all"}])
        with producer.client.start_session() as session, session.start_transaction():
            producer.send(MAIL, request_id="transaction", session=session)
    asyncio.run(tasks())
    own = f"00-{0xA1:032x}-{0xB2:016x}-01"
    expected = dict.fromkeys(("send", "many", "all", "transaction"), own)
    for n in (1, 2):
        expected |= dict.fromkeys((f"send-{n}", f"many-{n}"), f"00-{n:032x}-{n:016x}-01")
    assert {each["request_id"]: each["traceparent"] for each in emails.find()} == expected


def test_a_document_with_a_traceparent_is_legal(config: Config, store: Store) -> None:
    send(config, sent_in())
    assert audit.walk(store).illegal.total() == 0


def test_an_outbox_stores_it_as_mongodb_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with Outbox() as outbox, trace.use_span(span_of(sent_in(sampled=False))):
        Producer().send(MAIL)
        (document,) = outbox._store.queued()
    assert document["traceparent"] == f"00-{0xA1:032x}-{0xB2:016x}-00"


# A tracer that fails ------------------------------------------------------------------------------


class Broken(SpanProcessor):
    """Raises at every span."""

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        raise RuntimeError("Hello bob@example.org")

    def on_end(self, span: ReadableSpan) -> None:
        raise SystemExit("Hello bob@example.org")


class Hanging(SpanProcessor):
    """Hangs at the first start, or at every end, until it is let go."""

    def __init__(self, *, at_start: bool) -> None:
        self._at_start = at_start
        self.free = threading.Event()
        self.hangs = threading.Event()

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        if self._at_start and not self.hangs.is_set():
            self._hang()

    def on_end(self, span: ReadableSpan) -> None:
        if not self._at_start:
            self._hang()

    def _hang(self) -> None:
        self.hangs.set()
        self.free.wait()


class BrokenAtTheEnd(Broken):
    def on_start(self, span: Span, parent_context: Any = None) -> None:
        """Well-behaved."""


@pytest.mark.parametrize("processor", [Broken, BrokenAtTheEnd])
def test_a_processor_that_raises_is_logged_once_and_changes_nothing(
    configured: Config,
    provider: TracerProvider,
    processor: type[SpanProcessor],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "_once", Once())
    provider.add_span_processor(processor())
    ids = [send(configured, sent_in()) for _ in range(3)]
    vendor = FakeVendor("first")
    drain(configured, vendor)
    assert [status(configured, each).status for each in ids] == ["sent"] * 3
    assert len(vendor.calls) == 3
    lines = [record.getMessage() for record in caplog.records if event(record) == "tracing.failed"]
    assert len(lines) == 1
    assert "bob" not in lines[0]


def test_a_processor_that_hangs_at_the_end_of_a_span_holds_no_sender(
    configured: Config, provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each e-mail's result is stored, one sender sends them all, and the process ends."""
    monkeypatch.setattr(consumers, "FLUSH_SECONDS", 0.01)
    hanging = Hanging(at_start=False)
    provider.add_span_processor(hanging)
    ids = [send(configured, sent_in()) for _ in range(3)]
    vendor = FakeVendor("first")
    try:
        drain(configured.replace(consumer={"concurrency": 1}), vendor)
        assert hanging.hangs.is_set()
        assert [status(configured, each).status for each in ids] == ["sent"] * 3
        assert len(vendor.calls) == 3
    finally:
        hanging.free.set()


def test_after_a_processor_hangs_at_the_start_of_a_span_nothing_is_traced_and_all_is_sent(
    configured: Config, provider: TracerProvider, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """At the deadline. The vendor was not asked, so it is not blamed, and nothing is unknown."""
    hanging = Hanging(at_start=True)
    provider.add_span_processor(hanging)
    email_id = send(configured, sent_in())
    vendor = FakeVendor("first")
    try:
        drain(configured.replace(delivery={"deadline": 1}), vendor)
    finally:
        hanging.free.set()
    join_senders()
    outcomes = [each.outcome for each in status(configured, email_id).attempts]
    assert outcomes == ["not_started", "accepted"]
    events = [event(record) for record in caplog.records]
    assert events.count("tracing.stopped") == 1
    assert "vendor.suspended" not in events
    assert len(vendor.calls) == 1, "the one that hung sends nothing when it is let go"
    assert audit.walk(store).illegal.total() == 0


def join_senders() -> None:
    """Wait for those that hung, which go on now; the others have ended."""
    for thread in threading.enumerate():
        if thread.name.startswith("sender-"):
            thread.join(10)


def test_a_vendor_that_hangs_is_unknown_and_counts_and_its_span_ends_at_the_deadline(
    configured: Config, exporter: InMemorySpanExporter
) -> None:
    """As without tracing: whether it has the e-mail, nobody knows."""
    free = threading.Event()

    def answer(_: Email, __: Attempt) -> SendResult:
        free.wait()
        return SendResult(outcome=Outcome.UNAVAILABLE)

    email_id = send(configured, sent_in())
    try:
        drain(configured.replace(delivery={"deadline": 1}), FakeVendor("first", answer))
        (span,) = attempts(exporter)
        assert span.attributes
        assert span.attributes["mailqueue.outcome"] == "unknown"
        assert span.attributes["mailqueue.code"] == "deadline"
        assert [each.outcome for each in status(configured, email_id).attempts] == ["unknown"]
    finally:
        free.set()
        join_senders()
    # What came after the deadline is no second attempt.
    with closing(Store(configured.mongodb, env=SIMULATED, callbacks=None)) as store:
        totals = Stats(store, SIMULATED).totals()
    assert {kind: tally.number for kind, tally in totals.items()} == {("first", "unknown"): 1}


def test_spans_that_wait_for_a_processor_are_bounded(
    provider: TracerProvider,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "MAX_WAITING", 2)
    monkeypatch.setattr(tracing, "_once", Once())
    hanging = Hanging(at_start=False)
    provider.add_span_processor(hanging)
    tracer = tracing.Tracer.of("emails")
    assert tracer is not None
    try:
        for number in range(10):
            span = tracer.start("1", "first", number, None, is_retry=False)
            assert span is not None
            tracer.end(span, "accepted", "")
            if number == 0:
                assert hanging.hangs.wait(10)
        assert tracer._ended.qsize() == 2
    finally:
        hanging.free.set()
    tracer.flush(10)
    assert [event(record) for record in caplog.records] == ["tracing.dropped"]
