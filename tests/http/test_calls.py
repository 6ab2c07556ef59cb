"""The calls of the HTTP service: what each takes, and every answer that it gives."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pymongo.collection import Collection

from mailqueue import Producer
from mailqueue.config import Config
from mailqueue.store import ids
from tests.conftest import Document
from tests.http_service import Answer, HttpService, Key

EMAIL = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "subject": "Hi",
    "text": "Hello",
}
LATER = datetime(2040, 1, 31, 9, tzinfo=UTC)
RAW = b"""From: Ann <ann@example.com>\r
To: bob@example.org\r
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r
\r
Hello\r
"""


@pytest.fixture
def send(service: HttpService, key: Key) -> Any:
    """Send this e-mail, changed in these keys."""

    def ask(headers: dict[str, str] | None = None, /, **changes: object) -> Answer:
        return service.ask(
            "POST", "/emails", EMAIL | changes, secret=key.secret, headers=headers or {}
        )

    return ask


def stored(emails: Collection[Document], answer: Answer) -> Document:
    assert answer.status == 201, answer.json
    document = emails.find_one({"_id": ids.parse(answer.json["id"])})
    assert document
    return document


# Sending -----------------------------------------------------------------------------------------


def test_an_e_mail_is_stored_with_all_that_it_holds(
    send: Any, emails: Collection[Document]
) -> None:
    answer = send(
        cc="Carl <carl@example.org>",
        bcc=["dora@example.org"],
        reply_to="help@example.com",
        html="<p>Hello</p>",
        headers={"X-Campaign": "7"},
        attachments=[
            {"filename": "a.pdf", "content": base64.b64encode(b"%PDF").decode()},
            {"filename": "b.txt", "content": [72, 105], "content_type": "text/plain"},
            {"filename": "c.png", "content": "iVBO\nRw==", "inline_content_id": "logo"},
        ],
        tags=[{"name": "category", "value": "welcome"}, "autumn", {"name": "sale"}],
        metadata={"order": 4711},
        scheduled_at="2040-01-31T10:00:00+01:00",
        expires_at=(LATER + timedelta(days=1)).isoformat(),
        priority="high",
    )
    document = stored(emails, answer)
    assert document["email"] == {
        "from": "Ann <ann@example.com>",
        "to": ["bob@example.org"],
        "cc": ["Carl <carl@example.org>"],
        "bcc": ["dora@example.org"],
        "reply_to": ["help@example.com"],
        "subject": "Hi",
        "text": "Hello",
        "html": "<p>Hello</p>",
        "headers": {"X-Campaign": "7"},
        "attachments": [
            {"filename": "a.pdf", "content": b"%PDF", "content_type": "application/pdf"},
            {"filename": "b.txt", "content": b"Hi", "content_type": "text/plain"},
            {
                "filename": "c.png",
                "content": b"\x89PNG",
                "content_type": "image/png",
                "content_id": "logo",
            },
        ],
        "tags": ["autumn", "sale"],
        "metadata": {"category": "welcome", "order": "4711"},
    }
    assert document["priority"] == 2048
    assert document["send_at"] == LATER
    assert document["expires_at"] == LATER + timedelta(days=1)


def test_the_id_is_a_uuid_that_holds_the_id_of_the_e_mail(send: Any) -> None:
    answer = send()
    uuid = UUID(answer.json["id"])
    assert (answer.status, uuid.version) == (201, 8)
    assert uuid == ids.to_uuid(str(ids.parse(str(uuid))))


def test_null_is_the_same_as_absent(send: Any, emails: Collection[Document]) -> None:
    nothing = dict.fromkeys(
        ("cc", "html", "headers", "attachments", "tags", "metadata", "priority", "scheduled_at")
    )
    answer = send(**nothing, template=None, topic_id=None)
    assert set(stored(emails, answer)["email"]) == {"from", "to", "subject", "text"}


def test_a_raw_message_is_an_e_mail_too(
    service: HttpService, key: Key, emails: Collection[Document]
) -> None:
    kind = {"Content-Type": "message/rfc822"}
    answer = service.ask("POST", "/emails", RAW, secret=key.secret, headers=kind)
    email = stored(emails, answer)["email"]
    assert (email["from"], email["subject"]) == ("Ann <ann@example.com>", "Grüße")


def test_a_raw_message_that_is_not_valid_is_refused_with_its_field(
    service: HttpService, key: Key
) -> None:
    kind = {"Content-Type": "message/rfc822"}
    answer = service.ask(
        "POST", "/emails", b"To: bob@example.org\r\n\r\nHi", secret=key.secret, headers=kind
    )
    assert (answer.status, answer.pointers) == (422, ["/from"])


def test_beanstalkd_may_be_away(settings: Document, key: Key, tmp_path: Any) -> None:
    settings["beanstalkd"]["servers"] = ["127.0.0.1:1"]
    with HttpService(settings, tmp_path / "http") as service:
        assert service.ask("POST", "/emails", EMAIL, secret=key.secret).status == 201
        assert service.ask("GET", "/readyz").status == 200


# Batches -----------------------------------------------------------------------------------------


def test_a_batch_answers_with_the_ids_in_order(
    service: HttpService, key: Key, emails: Collection[Document]
) -> None:
    batch = [EMAIL | {"subject": str(n), "priority": p} for n, p in enumerate(("high", "bulk"))]
    answer = service.ask("POST", "/emails/batch", batch, secret=key.secret)
    assert answer.status == 201
    found = [emails.find_one({"_id": ids.parse(each["id"])}) for each in answer.json["data"]]
    assert [(e["email"]["subject"], e["priority"]) for e in found if e] == [
        ("0", 2048),
        ("1", 1048576),
    ]


def test_of_a_batch_with_a_bad_e_mail_nothing_is_stored(
    service: HttpService, key: Key, emails: Collection[Document]
) -> None:
    batch = [EMAIL, EMAIL | {"to": ["bob@example.org", "nobody"]}]
    answer = service.ask("POST", "/emails/batch", batch, secret=key.secret)
    assert (answer.status, answer.pointers) == (422, ["/1/to/1"])
    assert emails.count_documents({}) == 0


def test_of_a_permissive_batch_what_is_valid_is_stored(
    service: HttpService, key: Key, emails: Collection[Document]
) -> None:
    emails_of_batch = [
        EMAIL | {"subject": "0"},
        EMAIL | {"to": "nobody"},
        EMAIL | {"subject": "2", "attachments": 7},
        EMAIL | {"subject": "3"},
    ]
    headers = {"X-Batch-Validation": "permissive", "Idempotency-Key": "k"}
    for _ in range(2):
        answer = service.ask(
            "POST", "/emails/batch", emails_of_batch, secret=key.secret, headers=headers
        )
        assert answer.status == 201
        assert [error["index"] for error in answer.json["errors"]] == [1, 2]
        assert answer.json["errors"][0]["message"].startswith("[1].to: is not a valid")
        stored_ids = [ids.parse(each["id"]) for each in answer.json["data"]]
        found = [emails.find_one({"_id": each}) for each in stored_ids]
        assert [each["email"]["subject"] for each in found if each] == ["0", "3"]
    assert emails.count_documents({}) == 2
    other = {"X-Batch-Validation": "loose"}
    assert (
        service.ask("POST", "/emails/batch", [EMAIL], secret=key.secret, headers=other).status
        == 422
    )


@pytest.mark.parametrize("batch", [[], [EMAIL] * 101, EMAIL, None, 7])
def test_a_batch_has_1_to_100_e_mails(service: HttpService, key: Key, batch: object) -> None:
    answer = service.ask("POST", "/emails/batch", batch or [], secret=key.secret)
    assert (answer.status, answer.pointers) == (422, [""])


def test_each_e_mail_of_a_batch_has_the_key_with_its_number(
    service: HttpService, key: Key, emails: Collection[Document]
) -> None:
    headers = {"Idempotency-Key": "k"}
    batch = [EMAIL, EMAIL | {"subject": "2"}]
    first, second = (
        service.ask("POST", "/emails/batch", batch, secret=key.secret, headers=headers)
        for _ in range(2)
    )
    assert first.json == second.json
    assert {each["idempotency_key"] for each in emails.find()} == {"shop:k#0", "shop:k#1"}
    other = [batch[0], EMAIL | {"subject": "3"}]
    answer = service.ask("POST", "/emails/batch", other, secret=key.secret, headers=headers)
    assert (answer.status, answer.pointers) == (409, ["/1"])


# Idempotency keys --------------------------------------------------------------------------------


def test_the_same_key_with_the_same_content_is_the_same_e_mail(
    send: Any, emails: Collection[Document]
) -> None:
    first, second = (send({"Idempotency-Key": "welcome-1"}) for _ in range(2))
    assert (first.status, first.json) == (second.status, second.json)
    assert emails.count_documents({}) == 1


def test_the_same_key_with_other_content_is_a_conflict(send: Any) -> None:
    headers = {"Idempotency-Key": "welcome-1"}
    send(headers)
    answer = send(headers, subject="Other")
    assert (answer.status, answer.json["name"]) == (409, "invalid_idempotent_request")


def test_two_callers_with_the_same_key_do_not_meet(
    settings: Document, tmp_path: Any, key: Key
) -> None:
    other = Key.new("blog")
    settings["http"]["keys"].append(other.entry)
    headers = {"Idempotency-Key": "welcome-1"}
    with HttpService(settings, tmp_path / "http") as service:
        first, second = (
            service.ask(
                "POST",
                "/emails",
                EMAIL | {"subject": k.entry["name"]},
                secret=k.secret,
                headers=headers,
            )
            for k in (key, other)
        )
    assert first.status == second.status == 201
    assert first.json != second.json


@pytest.mark.parametrize("key_header", ["", "x" * 257])
def test_a_key_has_1_to_256_characters(send: Any, key_header: str) -> None:
    answer = send({"Idempotency-Key": key_header})
    assert (answer.status, answer.json["name"]) == (400, "invalid_idempotency_key")


# Looking and changing ----------------------------------------------------------------------------


def test_an_e_mail_is_shown_as_resend_shows_it_with_what_is_known_of_it(
    service: HttpService, key: Key, send: Any
) -> None:
    sent = send(tags=[{"name": "category", "value": "welcome"}, "autumn"], bcc="dora@example.org")
    for email_id in (sent.json["id"], str(ids.parse(sent.json["id"]))):
        answer = service.ask("GET", f"/emails/{email_id}", secret=key.secret)
        assert answer.status == 200
        email = answer.json
        created_at = datetime.fromisoformat(email.pop("created_at"))
        assert abs(datetime.now(UTC) - created_at) < timedelta(minutes=1)
        assert email.pop("message_id").endswith("@example.com>")
        assert email == {
            "object": "email",
            "id": sent.json["id"],
            "from": "Ann <ann@example.com>",
            "to": ["bob@example.org"],
            "cc": [],
            "bcc": ["dora@example.org"],
            "reply_to": [],
            "subject": "Hi",
            "text": "Hello",
            "html": None,
            "tags": [{"name": "category", "value": "welcome"}],
            "scheduled_at": None,
            "last_event": "queued",
            "mailqueue": {
                "status": "queued",
                "reason": None,
                "priority": "normal",
                "due_at": None,
                "expires_at": None,
                "sent_at": None,
                "vendor": None,
                "vendor_message_id": None,
                "unknowns": 0,
                "simulated": False,
                "delivery": None,
                "tags": ["autumn"],
                "refused": [],
                "attempts": [],
                "deliveries": [],
                "events": [],
                "event_counts": {},
            },
        }


def test_an_e_mail_that_waits_for_its_time_is_scheduled(
    service: HttpService, key: Key, send: Any
) -> None:
    sent = send(scheduled_at=LATER.isoformat())
    email = service.ask("GET", f"/emails/{sent.json['id']}", secret=key.secret).json
    assert (email["last_event"], email["scheduled_at"]) == ("scheduled", "2040-01-31T09:00:00.000Z")


def test_the_newest_e_mails_come_page_by_page(service: HttpService, key: Key, send: Any) -> None:
    sent = [send(subject=str(n)).json["id"] for n in range(5)][::-1]

    def page(query: str) -> tuple[list[str], bool]:
        answer = service.ask("GET", f"/emails?{query}", secret=key.secret)
        assert (answer.status, answer.json["object"]) == (200, "list")
        return [each["id"] for each in answer.json["data"]], answer.json["has_more"]

    assert page("") == (sent, False)
    assert page("limit=100") == (sent, False)
    assert page("limit=2") == (sent[:2], True)
    assert page(f"limit=2&after={sent[1]}") == (sent[2:4], True)
    assert page(f"limit=2&after={sent[3]}") == (sent[4:], False)
    assert page(f"limit=2&before={sent[4]}") == (sent[2:4], True)
    assert page(f"limit=2&before={sent[2]}") == (sent[:2], False)
    assert page(f"limit=2&before={ids.parse(sent[1])}") == (sent[:1], False)


def test_a_list_has_no_bodies(service: HttpService, key: Key, send: Any) -> None:
    send(html="<p>Hi</p>")
    (email,) = service.ask("GET", "/emails", secret=key.secret).json["data"]
    assert "text" not in email
    assert "html" not in email
    assert email["subject"] == "Hi"


@pytest.mark.parametrize(
    "query, pointer",
    [
        ("limit=0", "/limit"),
        ("limit=101", "/limit"),
        ("limit=ten", "/limit"),
        ("after=nobody", "/after"),
        ("before=x", "/before"),
        (f"after={'a' * 24}&before={'b' * 24}", "/before"),
        ("status=failed", ""),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(
    service: HttpService, key: Key, query: str, pointer: str
) -> None:
    answer = service.ask("GET", f"/emails?{query}", secret=key.secret)
    assert (answer.status, answer.pointers) == (422, [pointer])


def test_an_e_mail_gets_another_time(
    service: HttpService, key: Key, send: Any, emails: Collection[Document]
) -> None:
    sent = send(scheduled_at=LATER.isoformat())
    path = f"/emails/{sent.json['id']}"
    body = {"scheduled_at": (LATER + timedelta(days=1)).isoformat()}
    answer = service.ask("PATCH", path, body, secret=key.secret)
    assert (answer.status, answer.json) == (200, {"object": "email", "id": sent.json["id"]})
    assert stored(emails, sent)["due_at"] == LATER + timedelta(days=1)


@pytest.mark.parametrize(
    "body, pointer",
    [
        ({}, "/scheduled_at"),
        ({"scheduled_at": None}, "/scheduled_at"),
        ({"scheduled_at": "in 1 min"}, "/scheduled_at"),
        ({"scheduled_at": "2040-01-31T09:00:00"}, "/scheduled_at"),
        ({"scheduled_at": LATER.isoformat(), "to": []}, "/to"),
        ({"scheduled_at": LATER.isoformat(), "id": "0" * 24}, "/id"),
        ([], ""),
    ],
)
def test_another_time_must_be_one(
    service: HttpService, key: Key, send: Any, body: object, pointer: str
) -> None:
    answer = service.ask("PATCH", f"/emails/{send().json['id']}", body, secret=key.secret)
    assert (answer.status, answer.pointers) == (422, [pointer])


def test_an_e_mail_is_cancelled_once_and_for_all(
    service: HttpService, key: Key, send: Any, emails: Collection[Document]
) -> None:
    sent = send()
    path = f"/emails/{sent.json['id']}"
    for _ in range(2):
        answer = service.ask("POST", f"{path}/cancel", {}, secret=key.secret)
        assert (answer.status, answer.json) == (200, {"object": "email", "id": sent.json["id"]})
    assert stored(emails, sent)["status"] == "cancelled"
    assert service.ask("GET", path, secret=key.secret).json["last_event"] == "canceled"
    answer = service.ask("PATCH", path, {"scheduled_at": LATER.isoformat()}, secret=key.secret)
    assert (answer.status, answer.json["name"]) == (409, "conflict")


def test_what_is_being_sent_cannot_be_cancelled(
    service: HttpService, key: Key, send: Any, emails: Collection[Document]
) -> None:
    sent = send()
    emails.update_one({"_id": ids.parse(sent.json["id"])}, {"$set": {"status": "sending"}})
    answer = service.ask("POST", f"/emails/{sent.json['id']}/cancel", secret=key.secret)
    assert (answer.status, answer.json["name"]) == (409, "conflict")


@pytest.mark.parametrize("email_id", ["0" * 24, str(ids.to_uuid("0" * 24)), "receiving", "%2e%2e"])
@pytest.mark.parametrize(
    "method, path, body",
    [
        ("GET", "/emails/{}", None),
        ("PATCH", "/emails/{}", {"scheduled_at": LATER.isoformat()}),
        ("POST", "/emails/{}/cancel", None),
    ],
)
def test_an_e_mail_that_is_not_there_is_not_found(
    service: HttpService, key: Key, method: str, path: str, body: object, email_id: str
) -> None:
    answer = service.ask(method, path.format(email_id), body, secret=key.secret)
    assert (answer.status, answer.json["name"]) == (404, "not_found")


# Errors ------------------------------------------------------------------------------------------


def test_an_error_speaks_both_vocabularies(send: Any) -> None:
    answer = send(to=["bob@example.org", "nobody"])
    problem = "is not a valid e-mail address: correct it, or leave it out"
    assert answer.json == {
        "statusCode": 422,
        "name": "validation_error",
        "message": f"to[1]: {problem}",
        "type": "urn:mailqueue:problem:validation_error",
        "title": "The request is not valid",
        "status": 422,
        "detail": f"to[1]: {problem}",
        "errors": [{"pointer": "/to/1", "detail": problem}],
    }
    assert answer.headers["Content-Type"] == "application/json"


def test_problem_json_is_for_who_asks_for_it(send: Any) -> None:
    answer = send({"Accept": "application/problem+json, application/json"}, to="nobody")
    assert (answer.status, answer.headers["Content-Type"]) == (422, "application/problem+json")


@pytest.mark.parametrize(
    "changes, pointer",
    [
        ({"from": None}, "/from"),
        ({"from": "nobody"}, "/from"),
        ({"to": []}, "/to"),
        ({"cc": "a@example.org, b@example.org"}, "/cc"),
        ({"text": None}, "/text"),
        ({"text": "\ud800"}, "/text"),
        ({"subject": "Hi\nBcc: eve@example.org"}, "/subject"),
        ({"headers": {"X-A": 1}}, "/headers/X-A"),
        ({"headers": {"Bcc": "eve@example.org"}}, "/headers/Bcc"),
        ({"metadata": {"a": None}}, "/metadata/a"),
        ({"metadata": []}, "/metadata"),
        ({"priority": "urgent"}, "/priority"),
        ({"priority": 1}, "/priority"),
        ({"scheduled_at": "tomorrow"}, "/scheduled_at"),
        ({"scheduled_at": 7}, "/scheduled_at"),
        ({"scheduled_at": "9999-12-31T23:59:59Z"}, "/scheduled_at"),
        ({"expires_at": "2040-01-31"}, "/expires_at"),
        ({"attachments": {}}, "/attachments"),
        ({"attachments": ["x"]}, "/attachments/0"),
        ({"attachments": [{"content": "%"}]}, "/attachments/0/content"),
        ({"attachments": [{"content": "ä"}]}, "/attachments/0/content"),
        ({"attachments": [{"content": [256]}]}, "/attachments/0/content"),
        ({"attachments": [{"content": [True]}]}, "/attachments/0/content"),
        ({"attachments": [{"filename": "a.pdf"}]}, "/attachments/0/content"),
        ({"attachments": [{"content": "", "path": "https://example.com"}]}, "/attachments/0/path"),
        ({"attachments": [{"content": "", "file": 1}]}, "/attachments/0/file"),
        ({"tags": "autumn"}, "/tags"),
        ({"tags": [{"name": "a", "value": "b"}, "x\n"]}, "/tags/1"),
        ({"tags": ["x", {"name": "a", "value": "b\n"}]}, "/tags/1"),
        ({"tags": ["x", {"name": "$a", "value": "b"}]}, "/tags/1"),
        ({"tags": [{"name": "a", "value": 1}]}, "/tags/0/value"),
        ({"tags": [{"value": "a"}]}, "/tags/0/name"),
        ({"tags": [{"name": "a", "value": "b"}] * 2}, "/tags/1/name"),
        ({"tags": [{"name": "a", "value": "b"}], "metadata": {"a": 1}}, "/tags/0/name"),
        ({"template": {"id": "x"}}, "/template"),
        ({"topic_id": "x"}, "/topic_id"),
        ({"callback_url": "http://example.com"}, "/callback_url"),
        ({"callback_url": 5}, "/callback_url"),
        ({"sbject": "Hi"}, "/sbject"),
        ({"bob@example.org": 1}, ""),
    ],
)
def test_bad_input_is_refused_by_its_place_and_not_stored(
    send: Any, emails: Collection[Document], changes: Document, pointer: str
) -> None:
    answer = send(**changes)
    assert (answer.status, answer.json["name"]) == (422, "validation_error")
    assert answer.pointers == [pointer]
    assert emails.count_documents({}) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"from": NaN}',
        b'{"metadata": {"n": 1e400}}',
        b'{"metadata": {"n": -Infinity}}',
        b'{"from": "a@example.com", "from": "b@example.com"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"metadata": {"n": 1' + b"0" * 5000 + b"}}",
        b'\xef\xbb\xbf{"from": "a@example.com"}',
        '{"from": "ä"}'.encode("latin-1"),
        '{"from": "a"}'.encode("utf-16"),
        b"'{}'",
        b"{} {}",
    ],
)
def test_what_is_no_json_is_malformed(service: HttpService, key: Key, body: bytes) -> None:
    for path in ("/emails", "/emails/batch"):
        answer = service.ask("POST", path, body, secret=key.secret)
        assert (answer.status, answer.json["name"]) == (400, "validation_error"), answer.json


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-" + "9" * 400])
def test_a_number_that_no_float_holds_is_refused(
    service: HttpService, key: Key, number: str
) -> None:
    body = b'{"from":"a@example.com","to":"b@example.org","text":"","metadata":{"n":%b}}'
    answer = service.ask("POST", "/emails", body % number.encode(), secret=key.secret)
    assert (answer.status, answer.pointers) == (422, ["/metadata/n"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Encoding": "gzip"},
    ],
)
def test_another_form_of_content_is_refused(send: Any, headers: dict[str, str]) -> None:
    answer = send(headers)
    assert (answer.status, answer.json["name"]) == (415, "unsupported_media_type")


def test_a_method_that_an_address_does_not_have_is_refused(service: HttpService, key: Key) -> None:
    answer = service.ask("DELETE", "/emails", secret=key.secret)
    assert (answer.status, answer.json["name"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("path", ["/", "/emails/", "/domains", "/emails/a/b", "/docs/../x"])
def test_an_address_that_is_not_there_is_not_found(
    service: HttpService, key: Key, path: str
) -> None:
    answer = service.ask("GET", path, secret=key.secret)
    assert (answer.status, answer.json["name"]) == (404, "not_found")
    assert answer.headers["X-Request-Id"]


def test_every_answer_has_the_callers_request_id_if_that_is_a_plain_word(send: Any) -> None:
    assert send({"X-Request-Id": "req-4711"}).headers["X-Request-Id"] == "req-4711"
    assert send({"X-Request-Id": "req-1"}, to="nobody").headers["X-Request-Id"] == "req-1"
    own = send({"X-Request-Id": "ann@example.com"}).headers["X-Request-Id"]
    assert "@" not in own
    assert own != send().headers["X-Request-Id"]


def test_the_callers_request_id_and_callback_url_are_stored_with_the_email(
    send: Any, emails: Collection[Document]
) -> None:
    send({"X-Request-Id": "req-4711"}, callback_url="https://hooks.example.com/x?a=1")
    (document,) = emails.find()
    assert document["callback_url"] == "https://hooks.example.com/x?a=1"
    assert document["request_id"] == "req-4711"
    emails.delete_many({})
    send()
    (document,) = emails.find()
    assert {"callback_url", "request_id"}.isdisjoint(document), "ours is not the caller's"


def test_an_e_mail_larger_than_the_limit_is_refused(
    settings: Document, key: Key, tmp_path: Any
) -> None:
    settings["limits"] = {"max_size": 1000}
    with HttpService(settings, tmp_path / "http") as service:
        answer = service.ask("POST", "/emails", EMAIL | {"text": "x" * 1000}, secret=key.secret)
        assert (answer.status, answer.pointers) == (422, [""])


def test_the_application_and_the_service_see_the_same_e_mails(
    config: Config, service: HttpService, key: Key
) -> None:
    with Producer(config) as producer:
        email_id = producer.send({"from": "a@example.com", "to": "b@example.org", "text": "Hi"})
        answer = service.ask("GET", f"/emails/{email_id}", secret=key.secret)
        assert answer.json["text"] == "Hi"
        sent = service.ask("POST", "/emails", EMAIL, secret=key.secret).json["id"]
        assert producer.status(sent)
