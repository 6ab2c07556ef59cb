"""Which span a caller names, and what tracing costs where there is none."""

from __future__ import annotations

from opentelemetry import trace

from mailqueue import tracing
from mailqueue.intake import event
from mailqueue.producer.submission import SendOptions, Submission
from tests.for_each import for_each

VALID = f"00-{0xA1:032x}-{0xB2:016x}-01"
MAIL = (
    b'{"email": {"from": "a@example.com", "to": ["b@example.org"], "text": ""}, "traceparent": %b}'
)


def test_without_a_tracer_provider_nothing_is_traced() -> None:
    """The packages may be there: other libraries import them."""
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    assert tracing.Tracer.of("emails") is None
    assert tracing.traceparent() is None


def test_a_callers_span_is_that_of_its_emails_and_of_no_others() -> None:
    with tracing.remote_parent(VALID.encode()):
        submission = Submission.of(
            {"from": "a@example.com", "to": ["b@example.org"], "text": ""}, SendOptions(), None
        )
    assert submission.traceparent == VALID
    assert tracing.traceparent() is None


@for_each(
    "header",
    [
        None,
        5,
        b"",
        "00",
        VALID.upper(),
        VALID + "\n",
        VALID + "-more",
        "ff" + VALID[2:],
        VALID.replace("a1", "00"),
        VALID.replace("b2", "00"),
        b"\xff" * 55,
    ],
)
def test_what_is_no_traceparent_is_left_out(header: object) -> None:
    """So does W3C's recommendation want it: such a trace begins anew."""
    with tracing.remote_parent(header):
        assert tracing.traceparent() is None


def test_the_span_in_which_a_process_is_itself_comes_before_the_callers() -> None:
    own = trace.SpanContext(1, 2, False, trace.TraceFlags(1))
    with tracing.remote_parent(VALID), trace.use_span(trace.NonRecordingSpan(own)):
        assert tracing.traceparent() == f"00-{1:032x}-{2:016x}-01"


def test_an_event_names_the_span_that_it_belongs_to() -> None:
    assert event.read(MAIL % b'"%b"' % VALID.encode(), "key").traceparent == VALID
    assert event.read(MAIL % b"null", "key").traceparent is None
    assert event.read(MAIL % b"[1]", "key").traceparent is None
    assert tracing.traceparent() is None
