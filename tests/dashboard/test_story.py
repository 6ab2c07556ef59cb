"""The page of one e-mail: what happened, what comes next, and its content only behind "show"."""

from __future__ import annotations

import logging
import re
import socket
from contextlib import closing
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

import pytest
from bson import Code
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.config.dicts import DashboardDict
from mailqueue.dashboard import backend
from mailqueue.store import ids
from tests.conftest import Document
from tests.dashboard.conftest import BASE, Client
from tests.dashboard.stored import CONTENT, SECRETS, email, failed, store, tried, uncertain
from tests.dashboard.test_markup import Elements

CROSS = {"Sec-Fetch-Site": "cross-site"}
WORDS = "550 No such user secret.person@example.org"


def failed_over() -> Document:
    """One that the second vendor took, and what followed."""
    at = datetime.now(UTC) - timedelta(minutes=2)
    attempts = [
        *tried("first", "unavailable", "503", 4, detail=WORDS)["attempts"],
        *tried("second", "accepted", "250", 3, n=2, token=2, message_id="q-1")["attempts"],
    ]
    retry = {"n": 1, "verb": "retry", "was": "failed", "reason": "rejected", "token": 1, "at": at}
    callback = {"id": "cb1", "type": "email.sent", "state": "due", "tries": 2, "code": "500"}
    return email(
        5,
        status="sent",
        vendor="second",
        vendor_message_id="q-1",
        sent_at=at,
        attempts=attempts,
        lease={"token": 2},
        request_id="req-77",
        idempotency_key="secret.person@example.org/1",
        interventions=[{**retry, "nonce": ids.new(), "by": "ann@ops"}],
        callbacks=[{**callback, "at": at, "since": at, "due_at": at, "token": 0}],
    )


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", "", page))


def test_a_failover_is_told_from_its_beginning_to_its_end(
    client: Client, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, failed_over())
    page = client.get(f"/emails/{email_id}").text
    story = text_of(page.partition("What happened")[2])
    places = [
        story.find(words)
        for words in ("handed it in", "Attempt 1 at first", "Attempt 2 at second", "ann@ops")
    ]
    assert -1 not in places
    assert places == sorted(places)
    assert re.search(r"503.*420 ms.*accepted.*250.*420 ms.*email\.sent due 2 500", story)
    assert "req-77" in page


def test_the_events_of_its_vendor_are_told_too(
    client: Client, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, failed_over())
    now = datetime.now(UTC)
    event = {"email_id": email_id, "vendor": "second", "type": "bounced_hard", "code": "5.1.1"}
    times = {"at": now, "received_at": now}
    people = {"recipient": "secret.person@example.org", "detail": WORDS}
    emails.database[f"{emails.name}.events"].insert_one({**event, **times, **people})
    page = client.get(f"/emails/{email_id}").text
    assert "5.1.1" in page
    assert "secret" not in page


def test_both_forms_of_an_id_lead_to_it(client: Client, emails: Collection[Document]) -> None:
    (email_id,) = store(emails, email())
    for form in (str(email_id), ids.as_uuid(str(email_id)), str(email_id).upper()):
        assert f"E-mail {email_id}" in client.get(f"/emails/{form}").text


@pytest.mark.parametrize("place", ["", "/content", "/html"])
def test_what_is_no_e_mail_is_not_found(client: Client, place: str) -> None:
    assert client.get(f"/emails/nothing{place}").status_code == 404
    assert client.get(f"/emails/{ids.new()}{place}").status_code == 404


@pytest.mark.parametrize(
    "damage",
    [{"attempts": "x"}, {"status": {"a": 1}}, {"status": Code("x")}, {"email": 7}, {}],
)
def test_a_damaged_document_has_its_page(
    client: Client, emails: Collection[Document], damage: dict[str, Any]
) -> None:
    (email_id,) = store(emails, failed_over() | {"priority": [], "callbacks": 1, "vendor": []})
    emails.update_one({"_id": email_id}, {"$set": damage})
    emails.update_one({"_id": email_id}, {"$unset": {"created_at": 1}})
    for place in ("/emails", f"/emails/{email_id}", f"/emails/{email_id}/content"):
        assert client.get(place).status_code == 200


@pytest.mark.parametrize(
    "make, verbs",
    [(failed, ["retry", "mark-sent"]), (uncertain, ["retry", "mark-sent"]), (email, ["cancel"])],
)
def test_it_offers_what_may_be_done(
    client: Client, emails: Collection[Document], make: Any, verbs: list[str]
) -> None:
    (email_id,) = store(emails, make())
    page = client.get(f"/emails/{email_id}").text
    assert re.findall(r'name="verb" value="([\w-]+)"', page) == verbs


def test_a_queue_that_does_not_answer_keeps_no_page_waiting(
    shared_settings: Document, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several pages ask it once."""
    monkeypatch.setattr(backend, "QUEUE_PATIENCE", 0.05)
    monkeypatch.setattr(backend, "QUEUE_FRESH", inf)
    waiting, ended = store(emails, email(1), failed(2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = [f"127.0.0.1:{silent.getsockname()[1]}"]
        settings = shared_settings["beanstalkd"] | {"servers": servers}
        config = Config.from_mapping(shared_settings | {"beanstalkd": settings})
        with closing(Client(config)) as client:
            pages = [text_of(client.get(f"/emails/{waiting}").text) for _ in range(3)]
            assert "The queue" not in client.get(f"/emails/{ended}").text
        silent.settimeout(60)
        silent.accept()[0].close()
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert "no answer within 0.05 s" in pages[0]
    assert all("The queue is not reached from here" in page for page in pages)


# Content ------------------------------------------------------------------------------------------


def test_content_is_shown_only_where_it_is_asked_for(
    client: Client, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, failed_over())
    page = client.get(f"/emails/{email_id}").text
    assert not [secret for secret in (*SECRETS, WORDS, "secret") if secret in page]
    assert "Show" in page
    shown = client.get(f"/emails/{email_id}/content").text
    parts = (*SECRETS, WORDS, "secret-file.pdf", "1,234 bytes", "secret.person@example.org/1")
    assert [part for part in parts if part not in shown] == []
    assert "A secret body" not in shown  # it has a frame of its own
    assert "A secret body" in client.get(f"/emails/{email_id}/html").text


def test_the_log_says_to_whom_it_was_shown_and_nothing_of_it(
    config: Config, emails: Collection[Document], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    proxy: DashboardDict = {"proxy_header": "X-User", "proxies": ["127.0.0.1"]}
    config = config.replace(http={"dashboard": proxy})
    (email_id,) = store(emails, failed_over())
    headers = {"X-User": "ann", "Sec-Fetch-Site": "same-origin"}
    with closing(Client(config, headers=headers)) as client:
        client.get(f"/emails?to={SECRETS[0]}")
        client.get(f"/emails/{email_id}")
        assert "content.shown" not in caplog.text
        client.get(f"/emails/{email_id}/content")
        client.get(f"/emails/{email_id}/html")
    assert f"content.shown id={email_id} part=message by=ann" in caplog.text
    assert f"content.shown id={email_id} part=html by=ann" in caplog.text
    assert "dashboard.answered method=GET path=/emails/{id}/content status=200" in caplog.text
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("mailqueue")]
    assert "secret" not in "".join(ours)


@pytest.mark.parametrize("place", ["content", "html"])
@pytest.mark.parametrize("headers", [CROSS, {"Sec-Fetch-Site": "same-site"}])
def test_no_other_site_has_it_shown(
    client: Client,
    emails: Collection[Document],
    caplog: pytest.LogCaptureFixture,
    place: str,
    headers: dict[str, str],
) -> None:
    caplog.set_level(logging.INFO)
    (email_id,) = store(emails, email())
    answer = client.get(f"/emails/{email_id}/{place}", headers=headers)
    assert answer.status_code == 403
    assert "content.shown" not in caplog.text
    assert not [secret for secret in SECRETS if secret in answer.text]


def test_browsers_that_say_only_where_they_come_from_have_it_shown(
    config: Config, emails: Collection[Document]
) -> None:
    """As over plain HTTP from elsewhere."""
    (email_id,) = store(emails, email())
    with closing(Client(config, headers={})) as client:
        for referer, status in (
            (f"{BASE}/dashboard/emails/{email_id}", 200),
            ("http://evil.example/127.0.0.1:8080", 403),
            ("http://127.0.0.1:8080@evil.example/", 403),
            ("", 403),
        ):
            headers = {"Referer": referer} if referer else {}
            answer = client.get(f"/emails/{email_id}/content", headers=headers)
            assert (referer, answer.status_code) == (referer, status)


def test_who_may_only_look_may_look_at_it(config: Config, emails: Collection[Document]) -> None:
    (email_id,) = store(emails, email())
    config = config.replace(http={"dashboard": {"read_only": True}})
    with closing(Client(config)) as client:
        assert SECRETS[0] in client.get(f"/emails/{email_id}/content").text


def test_a_body_of_html_has_no_rights(client: Client, emails: Collection[Document]) -> None:
    (email_id,) = store(emails, email())
    policy = client.get(f"/emails/{email_id}/html").headers["content-security-policy"]
    directives = dict(each.strip().partition(" ")[::2] for each in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert directives["sandbox"] == ""
    assert 'sandbox=""' in client.get(f"/emails/{email_id}/content").text


@pytest.mark.parametrize(
    "body",
    [
        *('<a href="//x">x</a>', "<A\nhref=//x>x</A>", '<svg><a/href="//x"></a></svg>'),
        '<map><area href="//x"></map>',
        *('<link rel="preconnect" href="//x">', "<IFRAME src=//x></IFRAME>", "<frame src=//x>"),
        '<math><mi href="//x">x</mi></math>',  # in MathML any element may lead somewhere
    ],
)
def test_a_body_of_html_leads_nowhere(
    client: Client, emails: Collection[Document], body: str
) -> None:
    (email_id,) = store(emails, email(content={**CONTENT, "html": f"<p>Hello</p>{body}"}))
    page = Elements(client.get(f"/emails/{email_id}/html").text)
    assert "p" in page.tags
    assert page.tags.isdisjoint({"a", "area", "link", "iframe", "frame", "math"})


def test_content_that_is_gone_cannot_be_shown(client: Client, emails: Collection[Document]) -> None:
    document = email(status="sent", content_dropped_at=datetime.now(UTC))
    del document["email"]["html"], document["email"]["text"]
    (email_id,) = store(emails, document)
    assert "no longer stored" in client.get(f"/emails/{email_id}").text
    assert client.get(f"/emails/{email_id}/html").status_code == 404
