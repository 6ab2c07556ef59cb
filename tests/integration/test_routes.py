"""Which vendors an e-mail may go to: what caller and configuration say, and what follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from pymongo.collection import Collection

from mailqueue import InvalidEmail, Producer
from mailqueue.config import Config
from mailqueue.errors import ConfigError
from mailqueue.producer.submission import SendCall
from mailqueue.testing import Outbox
from tests.integration.bench import DOWN, MAIL, Bench

Document = dict[str, Any]
ROUTES = [
    {"match": {"tag": "news"}, "vendors": ["second"]},
    {"match": {"to_domain": ["bücher.example", "x.org"]}, "vendors": ["first"]},
    {"match": {"from_domain": "Example.COM", "tag": ["a", "b"]}, "vendors": ["second", "first"]},
]


@pytest.fixture(autouse=True)
def no_wait_for_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailqueue.consumer.fetcher.RESERVE_TIMEOUT", 0)


def work_all(bench: Bench, times: int = 6) -> None:
    for _ in range(times):
        bench.board.refresh()
        bench.work()


def route_of(outbox: Outbox) -> tuple[str, ...] | None:
    return outbox[-1].vendors


# At send() ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "email, expected",
    [
        ({"tags": ["x", "news"]}, ("second",)),
        ({"tags": ["news"], "to": ["a@x.org"]}, ("second",)),
        ({"to": ["a@y.org"], "bcc": ["b@X.org"]}, ("first",)),
        ({"to": ["a@xn--bcher-kva.example"]}, ("first",)),
        ({"to": ["a@below.x.org"]}, None),
        ({"tags": ["b"]}, ("second", "first")),
        ({"tags": ["b"], "from": "a@other.example"}, None),
        ({}, None),
    ],
)
def test_the_first_route_that_matches_counts(
    config_mapping: Document, email: Any, expected: tuple[str, ...] | None
) -> None:
    config = Config.from_mapping({**config_mapping, "routes": ROUTES})
    with Outbox(config) as outbox:
        Producer(config).send({**MAIL, **email})
        assert route_of(outbox) == expected


def test_what_the_caller_names_counts_instead(config_mapping: Document) -> None:
    config = Config.from_mapping({**config_mapping, "routes": ROUTES})
    call: SendCall = {"email": {**MAIL, "tags": ["news"]}, "vendors": ["first", "first"]}
    with Outbox(config) as outbox:
        producer = Producer(config)
        producer.send(call["email"], vendors=["first"])
        producer.send_many([call["email"]], vendors=("first",))
        producer.send_all([call])
        producer.send_each([call])
        assert [each.vendors for each in outbox] == [("first",)] * 4


@pytest.mark.parametrize("vendors", ["first", [], [7], ["no such"], ["first", "x" * 65], {"first"}])
def test_what_names_no_vendors_is_refused(config: Config, vendors: Any) -> None:
    with Outbox(config) as outbox, pytest.raises(InvalidEmail) as error:
        Producer(config).send(MAIL, vendors=vendors)
    assert error.value.field == "vendors"
    assert not outbox


def test_a_route_that_nobody_can_serve_is_refused(config_mapping: Document) -> None:
    """Also where another vendor could send the e-mail, and also one of the configuration."""
    weak = {"name": "weak", "type": "sendgrid", "api_key": "x"}
    mapping = {**config_mapping, "vendors": [*config_mapping["vendors"], weak]}
    mapping["routes"] = [{"match": {"tag": "t"}, "vendors": ["weak"]}]
    config = Config.from_mapping(mapping)
    quoted: Any = {**MAIL, "envelope": {"from": "b@example.com", "recipients": ["c@example.org"]}}
    with Outbox(config) as outbox:
        Producer(config).send(quoted)
        cases: list[tuple[Any, Any]] = [(quoted, ["weak"]), ({**quoted, "tags": ["t"]}, None)]
        for email, vendors in cases:
            with pytest.raises(InvalidEmail) as error:
                Producer(config).send(email, vendors=vendors)
            assert error.value.field == "vendors"
        with pytest.raises(InvalidEmail) as error:
            Producer(config).send(MAIL, vendors=["first", "third"])
        assert "third" not in str(error.value)
        assert len(outbox) == 1


@pytest.mark.parametrize(
    "route, place",
    [
        ({"match": {"tag": "t"}, "vendors": ["third"]}, "routes[0].vendors"),
        ({"match": {"tag": "t"}, "vendors": []}, "routes[0].vendors"),
        ({"match": {"tag": "t"}}, "routes[0].vendors"),
        ({"match": {}, "vendors": ["first"]}, "routes[0].match"),
        ({"match": {"subject": "s"}, "vendors": ["first"]}, "routes[0].match"),
        ({"match": {"to_domain": "a@b"}, "vendors": ["first"]}, "routes[0].match"),
        ({"match": {"tag": 7}, "vendors": ["first"]}, "routes[0].match"),
        ({"vendors": ["first"]}, "routes[0].match"),
    ],
)
def test_a_route_that_means_nothing_is_a_problem_of_the_configuration(
    config_mapping: Document, route: Mapping[str, Any], place: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Config.from_mapping({**config_mapping, "routes": [route]})
    assert [problem.partition(":")[0] for problem in error.value.problems] == [place]


# On the way ---------------------------------------------------------------------------------------


def test_an_e_mail_goes_to_the_vendors_of_its_route_alone(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    email_ids = producer.send_many([MAIL] * 6, vendors=["second"])
    producer.send_many([MAIL] * 6)
    work_all(bench)
    assert emails.count_documents({"status": "sent"}) == 12
    assert emails.count_documents({"route": ["second"], "vendor": "second"}) == 6
    assert bench.vendors["first"].asked
    status = producer.status(email_ids[0])
    assert status is not None
    assert status.route == ("second",)


def test_no_other_vendor_stands_in_for_one_of_a_route(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    """The e-mail waits for it."""
    bench.vendors["second"].results = [DOWN]
    producer.send(MAIL, vendors=["second"])
    work_all(bench)
    document = emails.find_one({}) or {}
    assert (document["status"], [line["vendor"] for line in document["attempts"]]) == (
        "queued",
        ["second"],
    )
    assert not bench.vendors["first"].asked


def test_an_e_mail_whose_vendors_were_removed_waits_and_is_sent_when_one_is_back(
    config: Config, config_mapping: Document, producer: Producer, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL, vendors=["second"])
    producer.send(MAIL)
    mapping = {**config_mapping, "vendors": config_mapping["vendors"][:1]}
    without_second = Config.from_mapping(mapping)
    bench = Bench(without_second)
    work_all(bench)
    assert Counter(d["status"] for d in emails.find()) == Counter(queued=1, sent=1)
    waiting = Producer(without_second)
    status = waiting.status(email_id)
    assert status is not None
    assert (status.route, status.attempts) == ((), ())
    waiting.close()
    bench.close()
    emails.update_one({"status": "queued"}, {"$set": {"due_at": None}})
    producer.announce([email_id])
    whole = Bench(config)
    work_all(whole)
    assert emails.count_documents({"status": "sent", "vendor": "second"}) == 1
    whole.close()


def test_a_vendor_that_cannot_take_it_leaves_its_route(
    bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    email_id = producer.send(MAIL)
    emails.update_one({}, {"$set": {"round.refused": ["first"]}})
    status = producer.status(email_id)
    assert status is not None
    assert status.route == ("second",)
