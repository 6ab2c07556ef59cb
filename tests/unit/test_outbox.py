"""``Outbox`` of ``mailqueue.testing`` and the fixture ``mailqueue_outbox``."""

from __future__ import annotations

import asyncio
import json
import threading
import tomllib
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pymongo import common

from mailqueue import (
    AsyncProducer,
    Config,
    ConfigError,
    EmailDict,
    InvalidEmail,
    Producer,
    StoreUnavailable,
)
from mailqueue.aio.writer import JobThread
from mailqueue.producer.storage import Announces, Storage
from mailqueue.testing import Outbox, outbox

REPO = Path(__file__).parents[2]
MAIL: EmailDict = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "subject": "Hi",
    "text": "Hello",
}
OTHER: EmailDict = {**MAIL, "text": "Something else"}
VENDOR = {"name": "first", "type": "scaleway", "secret_key": "x", "project_id": "y"}


# What is sent ------------------------------------------------------------------------------------


def test_what_an_application_sends_is_in_the_outbox_with_its_options(
    mailqueue_outbox: Outbox,
) -> None:
    at = datetime(2027, 1, 1, 9, tzinfo=UTC)
    email_id = Producer().send(
        MAIL,
        priority="high",
        send_at=at,
        expires_at=at + timedelta(hours=1),
        idempotency_key="welcome-4711",
    )
    (item,) = mailqueue_outbox
    assert (item.id, item.priority, item.send_at) == (email_id, "high", at)
    assert (item.expires_at, item.idempotency_key) == (at + timedelta(hours=1), "welcome-4711")
    assert (item.email.subject, item.email.text) == ("Hi", "Hello")
    assert [person.address for person in item.email.to] == ["bob@example.org"]


def test_the_outbox_is_a_sequence_in_the_order_of_sending(mailqueue_outbox: Outbox) -> None:
    producer = Producer()
    ids = [producer.send(MAIL), *producer.send_many([MAIL, OTHER])]
    assert [item.id for item in mailqueue_outbox] == ids
    assert mailqueue_outbox[-1].email.text == "Something else"
    assert [item.id for item in mailqueue_outbox[:2]] == ids[:2]
    with pytest.raises(IndexError):
        mailqueue_outbox[3]
    mailqueue_outbox.clear()
    assert not mailqueue_outbox


def test_no_address_and_no_key_is_in_what_a_failing_test_prints(mailqueue_outbox: Outbox) -> None:
    Producer().send(MAIL, idempotency_key="secret")
    shown = repr(mailqueue_outbox) + repr(list(mailqueue_outbox))
    assert not [word for word in ("ann@", "bob@", "Hello", "secret") if word in shown]


def test_producers_of_all_threads_and_those_made_before_send_into_it(
    config_of_nobody: Config,
) -> None:
    early = Producer(config_of_nobody)
    with Outbox() as outbox:
        producers = [early, Producer()]
        with ThreadPoolExecutor(8) as pool:
            ids = set(pool.map(lambda n: producers[n % 2].send(MAIL), range(200)))
        assert {item.id for item in outbox} == ids
    assert len(ids) == 200


@pytest.fixture
def config_of_nobody() -> Config:
    return Config.from_mapping({"mongodb": {"uri": "mongodb://nobody.invalid", "timeout": 0.1}})


async def _send_from_many_tasks() -> list[str]:
    async with AsyncProducer() as producer:
        ids = await asyncio.gather(*(producer.send(MAIL) for _ in range(100)))
        ids.append(await producer.send(OTHER, idempotency_key="k"))
        assert await producer.send_each([{"email": OTHER, "idempotency_key": "k"}]) == ids[-1:]
        assert await producer.send(OTHER, idempotency_key="k") == ids[-1]
        assert await producer.cancel(ids[0])
        status = await producer.status(ids[1])
        assert status is not None
        assert status.status == "queued"
        with pytest.raises(InvalidEmail):
            await producer.send({**MAIL, "to": ["nobody"]})
        return ids


def test_an_application_in_asyncio_sends_into_it_too(mailqueue_outbox: Outbox) -> None:
    ids = asyncio.run(_send_from_many_tasks())
    assert {item.id for item in mailqueue_outbox} == set(ids[1:])
    mailqueue_outbox.fail_next(StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        asyncio.run(AsyncProducer().send(MAIL))


def test_a_job_that_is_announced_after_the_outbox_is_over_goes_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An asyncio producer announces in a thread that may be late."""
    is_over = threading.Event()
    opened: list[object] = []
    announce = JobThread._announce

    def announce_late(jobs: JobThread, announcer: Announces) -> None:
        assert is_over.wait(30)
        announce(jobs, announcer)

    monkeypatch.setattr(JobThread, "_announce", announce_late)
    monkeypatch.setattr(Storage, "open", opened.append)
    with Outbox():
        producer = AsyncProducer()
        asyncio.run(producer.send(MAIL))
    is_over.set()
    asyncio.run(producer.aclose())
    assert opened == []


def test_connecting_and_closing_need_no_server(mailqueue_outbox: Outbox) -> None:
    with Producer() as producer:
        producer.send(MAIL)
    producer.send(MAIL)
    assert len(mailqueue_outbox) == 2


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change,field",
    [
        ({"to": []}, "to"),
        ({"to": ["nobody"]}, "to[0]"),
        ({"sujbect": "Hi"}, "sujbect"),
        ({"text": "x" * 16 * 2**20}, "email"),
    ],
)
def test_the_real_producers_checks_refuse(
    mailqueue_outbox: Outbox, change: EmailDict, field: str
) -> None:
    with pytest.raises(InvalidEmail) as caught:
        Producer().send({**MAIL, **change})
    assert caught.value.field == field
    assert len(mailqueue_outbox) == 0


def test_a_naive_time_is_refused(mailqueue_outbox: Outbox) -> None:
    with pytest.raises(InvalidEmail, match="send_at: must be an aware datetime"):
        Producer().send(MAIL, send_at=datetime(2027, 1, 1))  # noqa: DTZ001  # that is the point
    assert len(mailqueue_outbox) == 0


def test_what_no_configured_vendor_carries_is_refused(tmp_path: Path) -> None:
    """By the producer's own configuration: an object, a file; or by that of the outbox."""
    config = Config.from_mapping({"vendors": [VENDOR]})
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"vendors": [{**VENDOR, "secret_key": "${NOT_SET}"}]}))
    with Outbox():
        producers = [Producer(config), Producer(file)]
    with Outbox(config):
        producers.append(Producer("absent.json"))
    with Outbox() as outbox:
        for producer in producers:
            with pytest.raises(InvalidEmail, match="no vendor can carry it"):
                producer.send(MAIL)
        assert Producer("absent.json").send(MAIL)
        assert len(outbox) == 1


def test_a_configuration_file_that_is_wrong_is_refused(
    mailqueue_outbox: Outbox, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"mongodb": {"timeout": -1}}')
    with pytest.raises(ConfigError, match=r"mongodb\.timeout"):
        Producer(file)


# Keys, cancelling --------------------------------------------------------------------------------


def test_a_key_is_honoured(mailqueue_outbox: Outbox) -> None:
    producer = Producer()
    first = producer.send(MAIL, idempotency_key="k")
    assert producer.send(MAIL, idempotency_key="k") == first
    assert Producer().send_many([MAIL, OTHER], idempotency_keys=["k", "l"])[0] == first
    for send in (
        lambda: producer.send(OTHER, idempotency_key="k"),
        lambda: producer.send_many([OTHER, MAIL], idempotency_keys=["k", None]),
    ):
        with pytest.raises(InvalidEmail) as caught:
            send()
        assert caught.value.field == "idempotency_key"
    assert len(mailqueue_outbox) == 2


def test_what_is_cancelled_is_not_sent(mailqueue_outbox: Outbox) -> None:
    producer = Producer()
    kept, cancelled = producer.send_many([MAIL, OTHER])
    assert producer.cancel(cancelled)
    assert [item.id for item in mailqueue_outbox] == [kept]
    assert not producer.cancel("0" * 24)
    statuses = [producer.status(each) for each in (kept, cancelled)]
    assert [status.status for status in statuses if status] == ["queued", "cancelled"]
    assert producer.status("0" * 24) is None
    assert producer.announce([kept, cancelled, "0" * 24]) == 1


def test_emails_that_do_not_depend_on_each_other_are_sent_or_refused_each() -> None:
    with Outbox(Config.from_mapping({"limits": {"max_size": 10_000}})) as outbox:
        results = Producer().send_each(
            [
                {"email": MAIL, "idempotency_key": "k", "priority": "bulk"},
                {"email": {**MAIL, "to": ["nobody"]}},
                {"email": OTHER, "idempotency_key": "k"},
                {"email": MAIL, "idempotency_key": "k"},
                {"email": {**MAIL, "text": "x" * 10_000}},
                {"email": OTHER},
            ]
        )
    first, bad, other, again, large, last = results
    assert (first, last) == tuple(item.id for item in outbox)
    assert again == first
    refused = [each for each in (bad, other, large) if isinstance(each, InvalidEmail)]
    assert [(error.field, error.index) for error in refused] == [
        ("to[0]", 1),
        ("idempotency_key", 2),
        ("email", 4),
    ]


# Failures ----------------------------------------------------------------------------------------


def test_the_next_call_fails_and_stores_nothing(mailqueue_outbox: Outbox) -> None:
    producer = Producer()
    mailqueue_outbox.fail_next(StoreUnavailable)
    with pytest.raises(StoreUnavailable) as caught:
        producer.send(MAIL, idempotency_key="k")
    assert len(caught.value.ids_unknown) == 1
    assert len(mailqueue_outbox) == 0
    assert producer.send(MAIL, idempotency_key="k") == mailqueue_outbox[0].id


def test_as_many_calls_fail_as_the_test_wants(mailqueue_outbox: Outbox) -> None:
    producer = Producer()
    email_id = producer.send(MAIL)
    mailqueue_outbox.fail_next(StoreUnavailable("as it is at night"), times=4)
    calls = (
        lambda: producer.send_many([MAIL, MAIL]),
        lambda: producer.status(email_id),
        lambda: producer.cancel(email_id),
        producer.connect,
    )
    for call in calls:
        with pytest.raises(StoreUnavailable, match="as it is at night"):
            call()
    assert producer.cancel(email_id)


def test_after_the_outbox_no_producer_made_in_it_reaches_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(outbox._NOWHERE, "timeout", 0.1)  # which it waits for here
    # The driver looks again only after this time, however short the timeout is.
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.05)
    with Outbox():
        producer = Producer()
    with closing(producer), pytest.raises(StoreUnavailable):
        producer.send(MAIL)


def test_two_outboxes_at_a_time_are_an_error(mailqueue_outbox: Outbox) -> None:
    with pytest.raises(RuntimeError, match="in use already"), Outbox():
        pass
    Producer().send(MAIL)
    assert len(mailqueue_outbox) == 1


def test_a_client_is_only_there_if_the_application_has_one(mailqueue_outbox: Outbox) -> None:
    with pytest.raises(RuntimeError, match="give the Producer a client of your own"):
        _ = Producer().client


def test_what_was_sent_is_found_listed_and_given_another_time(mailqueue_outbox: Outbox) -> None:
    at = datetime(2027, 1, 1, 9, tzinfo=UTC)
    producer = Producer()
    ids = [producer.send(MAIL, expires_at=at) for _ in range(3)]
    found = producer.find(ids[0])
    assert found is not None
    assert found.email == mailqueue_outbox[0].email
    assert [each.id for each in producer.recent(2)] == [ids[2], ids[1]]
    assert [each.id for each in producer.recent(after=ids[1])] == [ids[0]]
    assert [each.id for each in producer.recent(1, before=ids[0])] == [ids[1]]
    assert producer.reschedule(ids[0], at - timedelta(hours=1))
    assert mailqueue_outbox[0].send_at == at - timedelta(hours=1)
    assert not producer.reschedule(ids[1], at)
    assert producer.cancel(ids[2])
    assert not producer.reschedule(ids[2], at - timedelta(hours=1))


def test_the_outbox_is_writable_until_it_is_told_to_fail(mailqueue_outbox: Outbox) -> None:
    producer = Producer()
    producer.check_writable()
    mailqueue_outbox.fail_next(StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        producer.check_writable()


# Other frameworks --------------------------------------------------------------------------------


class WelcomeTest(unittest.TestCase):
    """As it is with the standard library."""

    def setUp(self) -> None:
        self.outbox = self.enterContext(Outbox())

    def test_a_new_user_gets_a_mail(self) -> None:
        Producer().send(MAIL)
        self.assertEqual(self.outbox[0].email.subject, "Hi")  # noqa: PT009  # as unittest does


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["entry-points"]["pytest11"] == {
        "pytest_mailqueue": "pytest_mailqueue"
    }
    assert (
        "pytest_mailqueue.py"
        in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    )
