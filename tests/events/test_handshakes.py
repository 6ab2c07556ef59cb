"""What vendors ask before they send events, and what is fetched for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import pytest

from mailqueue.vendors.events import sns
from mailqueue.vendors.events.source import Away, EventType, Malformed, NotAuthentic
from tests.events import mandrill, ses
from tests.events.case import EMAIL_ID, basic, changed, request
from tests.events.cases import CASES
from tests.events.sns_topic import CERTIFICATE, envelope

AZURE, MANDRILL, SES = CASES["azure"], CASES["mandrill"], CASES["ses"]
CREDENTIALS = {"Authorization": basic("user:invented-word")}


# Azure -------------------------------------------------------------------------------------------

VALIDATION = [
    {
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "id": "v1",
        "data": {"validationCode": "code-1", "validationUrl": "https://example.org/never-asked"},
    }
]


def test_azures_validation_is_answered_with_its_code_once_the_secret_is_right() -> None:
    headers = {"aeg-event-type": "SubscriptionValidation"}
    body = json.dumps(VALIDATION).encode()
    answer = AZURE.source().greet(request(body, headers | CREDENTIALS))
    assert answer is not None
    assert (answer.status, json.loads(answer.body)) == (200, {"validationResponse": "code-1"})
    assert AZURE.source().greet(request(body, headers)) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"[{}]", b'[{"data":{"validationCode":[]}}]'])
def test_a_validation_without_a_code_is_no_handshake(body: bytes) -> None:
    headers = {"aeg-event-type": "SubscriptionValidation"}
    assert AZURE.source().greet(request(body, headers | CREDENTIALS)) is None


def test_the_handshake_of_cloud_events_is_answered_once_the_secret_is_right() -> None:
    headers = {"WebHook-Request-Origin": "eventgrid.azure.net"}
    asked = changed(request(b"", headers | CREDENTIALS), method="OPTIONS")
    answer = AZURE.source().greet(asked)
    assert answer is not None
    assert answer.headers == {"WebHook-Allowed-Origin": "eventgrid.azure.net"}
    assert AZURE.source().greet(changed(request(b"", headers), method="OPTIONS")) is None


# Mandrill ----------------------------------------------------------------------------------------


def test_mandrills_test_of_an_empty_list_is_answered_with_the_key_that_everybody_knows() -> None:
    answer = MANDRILL.source().greet(mandrill.signed(b"[]", "test-webhook"))
    assert answer is not None
    assert answer.status == 200
    assert MANDRILL.source().greet(mandrill.signed(b"[]", "another")) is None


def test_a_form_without_the_field_or_with_two_of_them_has_no_effect() -> None:
    for form in (b"", b"a=1", urlencode([("mandrill_events", "[]")] * 2).encode()):
        assert MANDRILL.source().greet(request(form)) is None
        with pytest.raises(NotAuthentic):
            MANDRILL.source().verify(request(form))


# SNS ---------------------------------------------------------------------------------------------

CONFIRM = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=x&Token=y"


def confirmation(url: str = CONFIRM, kind: str = "SubscriptionConfirmation") -> Any:
    fields = {"Type": kind, "SubscribeURL": url, "Token": "y"}
    return envelope("You have chosen to subscribe", ses.ARN, ses.CERTIFICATE_URL, **fields)


def ses_source(pages: dict[str, bytes]) -> Any:
    source: Any = SES.source()
    asked: list[str] = []

    def download(url: str) -> bytes:
        asked.append(url)
        return {ses.CERTIFICATE_URL: CERTIFICATE, **pages}[url]

    source.download, source.asked = download, asked
    return source


def test_a_subscription_of_our_topic_is_confirmed_at_its_own_address() -> None:
    source = ses_source({CONFIRM: b""})
    source.verify(confirmation())
    answer = source.confirm(confirmation())
    assert answer is not None
    assert answer.status == 200
    assert source.asked == [ses.CERTIFICATE_URL, CONFIRM]


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=y",
        "https://sns.eu-west-1.amazonaws.com.example.org/?Action=ConfirmSubscription&Token=y",
        "https://sns.eu-west-1.amazonaws.com/?Action=DeleteTopic&TopicArn=x",
        "https://169.254.169.254/?Action=ConfirmSubscription&Token=y",
        "",
    ],
)
def test_no_other_address_is_asked_to_confirm(url: str) -> None:
    source = ses_source({})
    source.verify(confirmation(url))
    with pytest.raises(Malformed):
        source.confirm(confirmation(url))
    assert source.asked == [ses.CERTIFICATE_URL]


def test_the_end_of_a_subscription_is_answered_and_nothing_is_asked() -> None:
    source = ses_source({})
    asked = confirmation(kind="UnsubscribeConfirmation")
    source.verify(asked)
    assert source.confirm(asked) is not None
    assert source.asked == [ses.CERTIFICATE_URL]


def test_a_certificate_is_fetched_once_and_an_absent_one_makes_sns_repeat() -> None:
    source = ses_source({})
    for _ in range(3):
        source.verify(SES.authentic(SES.samples[0].event))
    assert source.asked == [ses.CERTIFICATE_URL]

    def unreachable(_: str) -> bytes:
        raise ConnectionError

    lonely: Any = SES.source()
    lonely.download = unreachable
    with pytest.raises(Away):
        lonely.verify(SES.authentic(SES.samples[0].event))


def test_the_sentence_that_a_topic_was_set_up_is_no_event() -> None:
    words = "Successfully validated SNS topic for Amazon SES event publishing."
    asked = envelope(words, ses.ARN, ses.CERTIFICATE_URL, SignatureVersion="2", Subject="Hi")
    source = SES.source()
    source.verify(asked)
    assert source.confirm(asked) is None
    assert source.read(asked) == []


# EventBridge -------------------------------------------------------------------------------------


def test_an_event_over_eventbridge_has_a_secret_and_the_same_key_as_over_sns() -> None:
    settings = {"topic_arn": ses.ARN, "secret": "of-eventbridge"}
    source, sample = SES.source(settings), SES.samples[3]
    body = json.dumps({"id": "5f", "source": "aws.ses", "detail": sample.event}).encode()
    asked = request(body, {"X-Mailqueue-Secret": "of-eventbridge"})
    source.verify(asked)
    assert source.confirm(asked) is None
    (event,) = source.read(asked)
    assert (event.type, event.email_id) == (EventType.BOUNCED_HARD, EMAIL_ID)
    assert event.key == source.read(SES.authentic(sample.event))[0].key
    with pytest.raises(NotAuthentic):
        source.verify(request(body, {"X-Mailqueue-Secret": "other"}))
    with pytest.raises(NotAuthentic):  # without a secret, only the topic is believed
        SES.source().verify(asked)


def test_a_complaint_that_names_several_people_suppresses_none_of_them() -> None:
    event = json.loads(json.dumps(SES.samples[9].event))
    people = [{"emailAddress": f"{name}@example.net"} for name in ("ann", "bob")]
    event["complaint"]["complainedRecipients"] = people
    events = SES.source().read(SES.authentic(event))
    assert [each.recipient for each in events] == ["ann@example.net", "bob@example.net"]
    assert len({each.key for each in events}) == 2
    assert {each.suppress for each in events} == {None}


# Mailtrap ----------------------------------------------------------------------------------------


def test_events_may_come_as_lines_of_which_one_that_is_bad_harms_no_other() -> None:
    case = CASES["mailtrap"]
    lines = [json.dumps(sample.event).encode() for sample in case.samples[:2]]
    asked = case.request(b"\n".join([lines[0], b"{", b"7", lines[1], b""]))
    asked = changed(asked, headers={**asked.headers, "content-type": "application/jsonl"})
    case.source().verify(asked)
    events = case.source().read(asked)
    assert [event.type for event in events] == [s.type for s in case.samples[:2]]


# MailerSend --------------------------------------------------------------------------------------


def test_mailersends_test_is_answered_without_a_signature_and_has_no_effect() -> None:
    source = CASES["mailersend"].source()
    for body, is_test in ((b'{"type":"webhook.test"}', True), (b"webhook.test", False)):
        assert (source.greet(request(body)) is not None) == is_test


# What is fetched ---------------------------------------------------------------------------------


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/page")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/absent" else 200)
        self.end_headers()
        self.wfile.write(b"x" * (sns.MAX_BYTES + 1 if self.path == "/large" else 7))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_page_is_fetched_but_no_redirect_and_nothing_large(pages: str) -> None:
    assert sns.download(f"{pages}/page") == b"x" * 7
    for path in ("moved", "absent", "large"):
        with pytest.raises(OSError, match="HTTP"):
            sns.download(f"{pages}/{path}")
    with pytest.raises(OSError, match="refused"):
        sns.download("http://127.0.0.1:1/")
