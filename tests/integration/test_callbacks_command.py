"""``mailqueue callbacks``: what is due or has failed, and having it posted again."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.store import document
from mailqueue.store.document import PRODUCTION
from mailqueue.store.store import Store
from tests.console import Console
from tests.stage import letter

Document = dict[str, Any]
URL = "https://hooks.example.com/mail?key=secret"


@pytest.fixture
def console(console: Console, config_mapping: Document) -> Console:
    console.configure({**config_mapping, "callbacks": {}})
    return console


def store(config: Config, *states: str) -> ObjectId:
    """An e-mail that was sent, with callbacks in these states; returns its id."""
    own = Store(config.mongodb, env=PRODUCTION)
    now, email_id = own.now(), ObjectId()
    made = document.new(
        letter(1),
        email_id=email_id,
        message_id="<m@example.com>",
        content_hash="x",
        env=PRODUCTION,
        priority=65_536,
        now=now,
        callback_url=URL,
        request_id="r-1",
    )
    for n, state in enumerate(states):
        entry: Document = {"id": f"msg_{email_id}_sent_{n}", "type": "email.sent", "state": state}
        entry |= {"at": now, "since": now, "token": 9, "tries": 9, "code": "500"}
        entry |= {"due_at": now} if state == "due" else {"ended_at": now}
        made.setdefault("callbacks", []).append(entry)
    own.insert([made])
    own.close()
    return email_id


def states(emails: Collection[Document]) -> list[Any]:
    return [entry["state"] for found in emails.find().sort("_id") for entry in found["callbacks"]]


def test_what_failed_is_listed_without_the_url(config: Config, console: Console) -> None:
    first = store(config, "failed", "delivered")
    store(config, "due")
    answer = console("callbacks", "list")
    assert answer.code == 0
    assert str(first) in answer.out
    assert "hooks.example.com" in answer.out
    assert "secret" not in answer.out
    assert len(answer.out.splitlines()) == 2
    listed = console.data("callbacks", "list", "--state", "due")
    assert [row["tries"] for row in listed["callbacks"]] == [9]
    assert console.data("list", "--callback", "failed")["emails"][0]["id"] == str(first)


def test_show_has_the_callbacks_and_the_request_id_but_not_the_url(
    config: Config, console: Console
) -> None:
    email_id = str(store(config, "failed"))
    for arguments in ((), ("--json",)):
        answer = console("show", email_id, *arguments)
        assert "email.sent" in answer.out
        assert "r-1" in answer.out
        assert "secret" not in answer.out
    assert URL in console("show", email_id, "--content").out


def test_those_of_an_email_are_posted_again(
    config: Config, console: Console, emails: Collection[Document]
) -> None:
    email_id = store(config, "failed", "delivered", "gone")
    assert console("callbacks", "retry", str(email_id), "--dry-run").code == 0
    assert states(emails) == ["failed", "delivered", "gone"]
    answer = console("callbacks", "retry", str(email_id))
    assert (answer.code, "2 callbacks" in answer.out) == (0, True)
    assert states(emails) == ["due", "delivered", "due"]
    (found,) = emails.find()
    assert {entry["tries"] for entry in found["callbacks"]} == {0, 9}
    assert console("callbacks", "retry", str(email_id)).code == 1
    assert console("callbacks", "retry", str(ObjectId())).code == 1


def test_those_of_several_emails_need_a_yes(
    config: Config, console: Console, emails: Collection[Document]
) -> None:
    for _ in range(3):
        store(config, "failed")
    assert console("callbacks", "retry", "--state", "failed").code == 2
    assert states(emails) == ["failed"] * 3
    assert console("callbacks", "retry", "--state", "failed", "--yes").code == 0
    assert states(emails) == ["due"] * 3
    assert console("callbacks", "retry", "--state", "failed", "--yes").code == 1
    assert console("callbacks", "retry").code == 2
