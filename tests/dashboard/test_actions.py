"""Retry, mark as sent and cancel: what was counted is changed, once, and written down."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.config.dicts import DashboardDict
from mailqueue.dashboard import actions
from mailqueue.queue.beanstalkd.broker import depth
from mailqueue.store.indexes import EPOCH
from tests.conftest import Document
from tests.dashboard.conftest import Client
from tests.dashboard.stored import email, failed, store, uncertain

RETRY_ALL = {"verb": "retry", "which": "all", "status": "failed"}
NONCE = "1" * 24


def confirmed(client: Client, query: str) -> tuple[str, dict[str, Any]]:
    """The page that asks, and the form that says yes."""
    page = client.get(f"/confirm?{query}")
    assert page.status_code == 200
    fields: dict[str, Any] = {}
    for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text):
        fields.setdefault(name, []).append(html.unescape(value))
    if button := re.search(r'name="verb" value="([\w-]+)"', page.text):
        fields["verb"] = button[1]
    return page.text, fields


def say_yes(client: Client, fields: Mapping[str, Any]) -> str:
    """The page that says what came of it."""
    answer = client.post("/act", fields)
    assert answer.status_code == 303
    result = client.get(answer.headers["location"].removeprefix("/dashboard"))
    assert result.status_code == 200
    return re.sub(r"\s+", " ", result.text)


def statuses(emails: Collection[Document]) -> dict[ObjectId, str]:
    return {each["_id"]: each["status"] for each in emails.find({}, {"status": 1})}


def chosen(*email_ids: ObjectId) -> str:
    return "".join(f"&id={each}" for each in email_ids)


def test_those_that_were_chosen_are_retried(
    client: Client, emails: Collection[Document], config: Config
) -> None:
    first, second, third = store(emails, failed(3), failed(2), failed(1))
    page, fields = confirmed(client, f"verb=retry{chosen(first, second)}")
    assert "Retry 2 e-mails?" in page
    assert set(statuses(emails).values()) == {"failed"}  # nothing was done yet
    assert "2 e-mails were changed" in say_yes(client, fields)
    assert statuses(emails) == {first: "queued", second: "queued", third: "failed"}
    assert depth(config.beanstalkd)["ready"] == 2  # each has its job
    (line,) = emails.find_one({"_id": first})["interventions"]  # type: ignore[index]  # it is there
    assert (line["verb"], line["was"], line["by"]) == ("retry", "failed", "dashboard")


def test_an_answer_that_comes_twice_changes_nothing_twice(
    client: Client, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, failed())
    _, fields = confirmed(client, f"verb=retry{chosen(email_id)}")
    say_yes(client, fields)
    # It failed again, as if long ago: neither its status nor its time keeps the second answer off.
    ended = {"status": "failed", "updated_at": datetime(2020, 1, 1, tzinfo=UTC)}
    emails.update_one({"_id": email_id}, {"$set": ended})
    assert "0 e-mails were changed" in say_yes(client, fields)
    assert statuses(emails) == {email_id: "failed"}


def test_all_that_match_are_counted_first(client: Client, emails: Collection[Document]) -> None:
    store(emails, *[failed(tags=["news"]) for _ in range(7)], failed(), uncertain(tags=["news"]))
    page, fields = confirmed(client, "verb=retry&which=all&status=failed&tag=news")
    assert "Retry 7 e-mails?" in page
    assert "7 e-mails were changed" in say_yes(client, fields)
    assert emails.count_documents({"status": "queued"}) == 7


def test_what_begins_to_match_after_the_count_is_left_as_it_is(
    client: Client, emails: Collection[Document]
) -> None:
    store(emails, failed(1), failed(1))
    _, fields = confirmed(client, "verb=retry&which=all&status=failed")
    (late,) = store(emails, failed(5, updated_at=datetime.now(UTC)))
    assert "2 e-mails were changed" in say_yes(client, fields)
    assert statuses(emails)[late] == "failed"


def test_what_somebody_else_changed_since_is_left_as_it_is_and_told(
    client: Client, emails: Collection[Document]
) -> None:
    first, second = store(emails, failed(1), failed(1))
    for query in (f"verb=retry{chosen(first, second)}", "verb=retry&which=all&status=failed"):
        emails.update_many({}, {"$set": {"status": "failed"}})
        _, fields = confirmed(client, query)
        sent = {"status": "sent", "updated_at": datetime.now(UTC)}
        emails.update_one({"_id": second}, {"$set": sent})
        result = say_yes(client, fields)
        assert "1 e-mail was changed" in result
        assert "1 was left unchanged" in result
        assert ("is sent, but retry needs failed or uncertain" in result) == ("id=" in query)
        assert statuses(emails)[second] == "sent"
        emails.update_many({}, {"$set": {"updated_at": datetime(2020, 1, 1, tzinfo=UTC)}})


def test_of_many_that_were_chosen_those_that_were_not_changed_are_told(
    client: Client, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "MAX_TOLD", 1)
    *others, last = store(emails, failed(), failed(), failed())
    _, fields = confirmed(client, f"verb=retry{chosen(*others, last)}")
    emails.update_one({"_id": last}, {"$set": {"status": "sent"}})
    assert f"{last}</a>: is sent, but retry needs" in say_yes(client, fields)


def test_never_more_than_the_number_that_was_confirmed(
    client: Client, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "MOST", 3)
    ids = store(emails, *[failed(minutes) for minutes in (50, 40, 30, 20, 10)])
    page, fields = confirmed(client, "verb=mark-sent&which=all&status=failed")
    assert "More than 3 match. Only the 3 oldest are changed" in page
    fields["number"] = "5"
    assert "3 e-mails were changed" in say_yes(client, fields)
    assert "0 e-mails were changed" in say_yes(client, fields)  # nor the next ones
    assert [each for each, status in statuses(emails).items() if status == "sent"] == ids[:3]
    # Whatever a form says, one answer does not change without end.
    fields |= {"nonce": NONCE, "last": str(ids[4]), "number": "999"}
    emails.update_many({}, {"$set": {"status": "failed", "updated_at": EPOCH + timedelta(1)}})
    assert "3 e-mails were changed" in say_yes(client, fields)


def test_the_copies_that_may_come_are_told_before(
    client: Client, emails: Collection[Document]
) -> None:
    first, second = store(emails, uncertain(), failed())
    page, _ = confirmed(client, f"verb=retry{chosen(first, second)}")
    assert "1 of them is uncertain: a copy may have left already" in page
    page, _ = confirmed(client, f"verb=mark-sent{chosen(first, second)}")
    assert "a copy" not in page


def test_an_uncertain_e_mail_is_marked_as_sent(
    client: Client, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, uncertain())
    _, fields = confirmed(client, f"verb=mark-sent{chosen(email_id)}")
    say_yes(client, fields)
    assert statuses(emails) == {email_id: "sent"}


def test_queued_e_mails_are_cancelled_or_uncertain(
    client: Client, emails: Collection[Document]
) -> None:
    plain, risky = store(emails, email(), email(unknowns=1))
    page, fields = confirmed(client, "verb=cancel&which=all&status=queued")
    assert "A copy of 1 of them may have left already" in page
    assert "uncertain, not cancelled" in say_yes(client, fields)
    assert statuses(emails) == {plain: "cancelled", risky: "uncertain"}


def test_those_that_cannot_be_changed_are_told_before(
    client: Client, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, email(status="sent"))
    page, fields = confirmed(client, f"verb=retry{chosen(email_id)}")
    assert "There is nothing to change" in page
    assert "verb" not in fields


def test_the_log_says_who_did_it_and_to_how_many(
    config: Config, emails: Collection[Document], caplog: pytest.LogCaptureFixture
) -> None:
    proxy: DashboardDict = {"proxy_header": "X-User", "proxies": ["127.0.0.1"]}
    config = config.replace(http={"dashboard": proxy})
    caplog.set_level(logging.INFO)
    (email_id,) = store(emails, failed())
    headers = {"X-User": "ann", "Sec-Fetch-Site": "same-origin"}
    with closing(Client(config, headers=headers)) as client:
        _, fields = confirmed(client, f"verb=retry{chosen(email_id)}")
        say_yes(client, fields)
    assert "emails.changed verb=retry emails=1 by=ann" in caplog.text
    (document,) = emails.find()
    assert document["interventions"][0]["by"] == "ann"


@pytest.mark.parametrize(
    "form",
    [
        *({}, {"verb": "delete"}, {"verb": "retry"}, {"verb": "retry", "id": "x"}),
        {"verb": "retry", "which": "all"},  # of all statuses
        {"verb": "retry", "which": "all", "status": "gone", "number": "1"},
        RETRY_ALL,  # nobody counted
        {**RETRY_ALL, "at": "soon", "nonce": NONCE, "number": "1"},
        {**RETRY_ALL, "at": "2026-01-01T00:00:00Z", "nonce": "x", "number": "1"},
        # Of a filter that makes no sense, the rest would match more than was meant.
        {**RETRY_ALL, "at": "2126-01-01T00:00:00Z", "nonce": NONCE, "number": "1", "age": "odd"},
        {**RETRY_ALL, "at": "2026-01-01T00:00:00Z", "nonce": NONCE, "number": "0"},
        {**RETRY_ALL, "at": "0001-01-01T00:00:00Z", "nonce": NONCE, "number": "1", "age": "week"},
    ],
)
def test_what_was_not_confirmed_is_not_done(
    client: Client, emails: Collection[Document], form: Mapping[str, str]
) -> None:
    store(emails, failed())
    answer = client.post("/act", form)
    assert (answer.status_code, "Nothing was changed" in answer.text) == (400, True)
    assert emails.count_documents({"status": "failed"}) == 1


def test_another_sites_link_tells_no_result(client: Client) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    answer = client.get("/result?verb=retry&changed=99", headers=foreign)
    assert answer.headers["location"] == "/dashboard/emails"
