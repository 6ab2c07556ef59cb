"""A trace over all processes: a request to ``mailqueue http``, a consumer, the vendor's call.

The consumer runs as docs/tracing.md says, under ``opentelemetry-instrument``, which brings the
tracer provider. Its exporter writes JSON to the consumer's output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.http_service import HttpService
from tests.process.consumer_process import REPO, ConsumerProcess
from tests.stage import DOWN, Stage

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))
MAIL = {"from": "ann@example.com", "to": "bob@example.org", "subject": "Secret", "text": "Hello"}


class TracedConsumer(ConsumerProcess):
    """As docs/tracing.md starts it."""

    LAUNCHER = (INSTRUMENT, "--")


def spans(output: str) -> list[dict[str, Any]]:
    """What the exporter wrote between the lines of the log."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := output.find("{\n", at)) >= 0:
        span, at = decoder.raw_decode(output, at)
        found.append(span)
    return sorted(found, key=lambda span: str(span["start_time"]))


def test_a_trace_leads_from_a_request_over_send_and_a_consumer_to_the_vendors_call(
    stage: Stage, tmp_path: Path
) -> None:
    command = "\nopentelemetry-instrument -- python -m mailqueue.consumer --config config.json\n"
    assert command in (REPO / "docs/tracing.md").read_text("utf-8")
    first, second = stage.vendor("first"), stage.vendor("second")
    first.replies = second.replies = [DOWN]  # the job's id decides which one is asked first
    with HttpService(stage.settings, tmp_path / "http") as service:
        header = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert service.ask("POST", "/emails", MAIL, headers=header).status == 201
    options = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none"}
    options |= {"OTEL_LOGS_EXPORTER": "none", "OTEL_SERVICE_NAME": "mailqueue"}
    consumer = TracedConsumer(stage.settings, tmp_path / "consumer", "--burst", **options)
    with consumer:
        assert consumer.exit_code() == 0
    output = consumer.output
    attempt, retry = spans(output)
    assert attempt["name"] == retry["name"] == "process mailqueue_test_emails"
    assert (attempt["context"]["trace_id"], attempt["parent_id"]) == (f"0x{TRACE}", f"0x{PARENT}")
    assert attempt["status"] == {"status_code": "ERROR"}
    assert (retry["parent_id"], retry["status"]) == (None, {"status_code": "UNSET"})
    (link,) = retry["links"]
    assert (link["context"]["trace_id"], link["context"]["span_id"]) == (
        f"0x{TRACE}",
        f"0x{PARENT}",
    )
    (email_id,) = stage.copies
    attributes = [span["attributes"] for span in (attempt, retry)]
    assert [each["mailqueue.email_id"] for each in attributes] == [email_id, email_id]
    calls = [(each["mailqueue.vendor"], each["mailqueue.outcome"]) for each in attributes]
    assert calls == stage.outcomes(email_id)
    assert [each["mailqueue.code"] for each in attributes] == ["503", "202"]
    for private in ("bob", "ann@", "Secret", "Hello"):
        assert private not in output


def test_a_process_that_has_not_imported_opentelemetry_does_not_do_so_for_us() -> None:
    """It has no tracer provider then; to import it takes 50 ms."""
    code = """
import sys
from mailqueue import tracing
from mailqueue.testing import Outbox
from mailqueue import Consumer, Producer
with Outbox() as outbox:
    Producer().send({"from": "a@example.com", "to": ["b@example.org"], "text": ""})
assert len(outbox) == 1
assert tracing.Tracer.of("emails") is None
sys.exit(any(name.partition(".")[0] == "opentelemetry" for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
