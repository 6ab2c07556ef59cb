"""Traces with OpenTelemetry: from the span in which an e-mail is sent to its attempts.

Decides: which span an attempt belongs to. The first attempt is a child of the span in which
``send()`` was called. Each later one begins a trace of its own, with a link to that span: it may
come days later. Where that span is not sampled, none of ours is made.

Assumes: OpenTelemetry is only asked where the process has imported it already: without that it has
no tracer provider. A span processor of the application's may raise or hang (``Tracer``).

Promises: nothing here raises. No address, subject, body or text of a vendor's is in a span.
"""

from __future__ import annotations

import logging
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from mailqueue.logs import Once, event, place

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext

logger = logging.getLogger(__name__)

MAX_WAITING = 2048  # spans that wait for their end
_API = "opentelemetry.trace"
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_NOTHING = nullcontext()
_remote_parent: ContextVar[str | None] = ContextVar("mailqueue.traceparent", default=None)


# The side of ``send()`` ---------------------------------------------------------------------------


def traceparent() -> str | None:
    """The current span, as W3C's header has it; else the ``remote_parent``."""
    own = _current() if _API in sys.modules else None
    return own or _remote_parent.get()


def _current() -> str | None:
    try:
        from opentelemetry import trace

        span = trace.get_current_span().get_span_context()
    except Exception as error:  # noqa: BLE001  # of the application's own
        _log_failure(error)
        return None
    return (
        f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
        if span.is_valid
        else None
    )


def remote_parent(header: object) -> AbstractContextManager[None]:
    """While this lasts, e-mails belong to the span that a caller named, if it did.

    That needs no OpenTelemetry here. What is no valid ``traceparent`` is left out.
    """
    if header is None:
        return _NOTHING
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    valid = isinstance(text, str) and _TRACEPARENT.fullmatch(text)
    return _set_parent(valid[0]) if valid else _NOTHING


@contextmanager
def _set_parent(text: str) -> Iterator[None]:
    token = _remote_parent.set(text)
    try:
        yield
    finally:
        _remote_parent.reset(token)


# The side of the attempt --------------------------------------------------------------------------


class Tracer:
    """Makes the spans of attempts. Any thread may call.

    A span is made by the thread that sends: what a vendor's class of the application's own does
    there belongs to it. A thread beside the senders ends it, after the result is on its way: a
    processor that hangs there holds nobody, and what waits for it is bounded.
    """

    def __init__(self, destination: str) -> None:
        from opentelemetry import trace

        self._tracer = trace.get_tracer("mailqueue")
        self._name = f"process {destination}"
        self._common = {
            "messaging.system": "mailqueue",
            "messaging.destination.name": destination,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
        }
        self._ended: queue.SimpleQueue[tuple[Span, str, str, int] | threading.Event]
        self._ended = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, destination: str) -> Tracer | None:
        """One for the e-mails of this collection; None: the process has no tracer provider."""
        if _API not in sys.modules:
            return None
        try:
            from opentelemetry import trace

            if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
                return None
            return cls(destination)
        except Exception as error:  # noqa: BLE001  # the provider may be the application's own
            _log_failure(error)
            return None

    def start(
        self, email_id: str, vendor: str, number: int, sent_in: object, *, is_retry: bool
    ) -> Span | None:
        """The span of an attempt. ``sent_in``: the stored ``traceparent``, or anything."""
        try:
            attributes = self._common | {
                "messaging.message.id": email_id,
                "mailqueue.email_id": email_id,
                "mailqueue.vendor": vendor,
                "mailqueue.attempt": number,
            }
            return self._start(attributes, sent_in, is_retry=is_retry)
        except Exception as error:  # noqa: BLE001  # a sampler or a processor of the application's
            _log_failure(error)
            return None

    def _start(self, attributes: dict[str, Any], sent_in: object, *, is_retry: bool) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, NonRecordingSpan, SpanKind

        parent, origin = _parse(sent_in)
        if origin.is_valid and not origin.trace_flags.sampled:
            return NonRecordingSpan(origin)  # so that nothing under it is sampled either
        links = [Link(origin)] if is_retry and origin.is_valid else None
        context = Context() if is_retry else parent
        return self._tracer.start_span(self._name, context, SpanKind.CONSUMER, attributes, links)

    def current(self, span: Span | None) -> AbstractContextManager[object]:
        """While this lasts, it is the current span of this thread."""
        if span is None:
            return _NOTHING
        from opentelemetry.trace import use_span

        return use_span(span, record_exception=False, set_status_on_exception=False)

    def end(self, span: Span, outcome: str, code: str) -> None:
        """End it with what came of the attempt; the thread beside does it."""
        if not span.is_recording():
            return
        if self._ended.qsize() >= MAX_WAITING:
            event(logger, _once.level("dropped"), "tracing.dropped", waiting=MAX_WAITING)
            return
        self._ended.put((span, outcome, code, time.time_ns()))
        if self._thread is None:
            self._begin()

    def flush(self, seconds: float) -> None:
        """Wait until all are ended and exported, for at most so long."""
        if self._thread is not None:
            completion = threading.Event()
            self._ended.put(completion)
            completion.wait(seconds)

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                # A daemon: a processor that hangs does not keep the process from its end.
                self._thread = threading.Thread(target=self._end_all, name="tracer", daemon=True)
                self._thread.start()

    def _end_all(self) -> None:
        while True:
            item = self._ended.get()
            try:
                if isinstance(item, threading.Event):
                    _export()
                else:
                    _end(*item)
            except BaseException as error:  # noqa: BLE001  # a processor of the application's
                _log_failure(error)
            if isinstance(item, threading.Event):
                item.set()


def _parse(text: object) -> tuple[Context, SpanContext]:
    """The span that this names, alone in a context; without one, nothing is in it."""
    from opentelemetry.context import Context
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": text} if isinstance(text, str) else {}
    context = TraceContextTextMapPropagator().extract(carrier, Context())
    return context, get_current_span(context).get_span_context()


def _end(span: Span, outcome: str, code: str, at: int) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("mailqueue.outcome", outcome)
    if code:
        span.set_attribute("mailqueue.code", code)
    if outcome not in _NO_ERRORS:
        span.set_attribute("error.type", outcome)
        span.set_status(Status(StatusCode.ERROR))
    span.end(at)


def _export() -> None:
    """Have the provider hand on what it keeps: a consumer ends without what runs at an exit."""
    from opentelemetry import trace

    flush = getattr(trace.get_tracer_provider(), "force_flush", None)  # the SDK's has it
    if flush is not None:
        flush()


_NO_ERRORS = ("accepted", "not_started")
_once = Once()


def _log_failure(error: BaseException) -> None:
    name, where = type(error).__name__, place(error)
    event(logger, _once.level(name, where), "tracing.failed", error=name, at=where)
