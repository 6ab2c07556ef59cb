"""``POST /events/{vendor}`` of a real process, asked as each vendor asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from pymongo import MongoClient

from mailqueue.config import Config
from mailqueue.errors import StoreUnavailable
from mailqueue.events import EventStore
from mailqueue.http.events import Events
from mailqueue.http.limits import Limits
from mailqueue.store import ids
from mailqueue.vendors.events.source import EventRequest
from tests.callbacks.receiver import SECRET
from tests.conftest import Document
from tests.events.case import ANN, EMAIL_ID, EventsCase, basic
from tests.events.cases import CASES
from tests.http_service import Answer, HttpService, Key
from tests.servers import BreakableMongod

# Those whose requests are of the moment, or whose certificates stand where no test reaches, are
# tried without a process (tests/events).
TRIED = {
    name: case for name, case in CASES.items() if name not in ("resend", "mailgun", "scaleway")
}
TRIED = {name: case for name, case in TRIED.items() if name != "ses"}
SES = {"name": "ses", "type": "ses", "region": "eu-west-1", "events": {"secret": "of-eventbridge"}}


def vendors() -> list[Document]:
    named = [{**case.config, "events": case.settings} for case in TRIED.values()]
    return [*named, SES, {"name": "quiet", "type": "smtp", "host": "127.0.0.1"}]


@pytest.fixture(scope="module")
def service(
    shared_settings: Document,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[HttpService]:
    callbacks = {"url": "https://hooks.example.com/mail", "secrets": [SECRET]}
    settings = {**shared_settings, "vendors": vendors(), "callbacks": callbacks}
    with HttpService(settings, tmp_path_factory.mktemp("events")) as running:
        yield running


@pytest.fixture
def stored(shared_settings: Document, mongo_client: MongoClient[Document]) -> Any:
    """The stored events, empty at first."""
    mongodb = shared_settings["mongodb"]
    found = mongo_client[mongodb["database"]][mongodb["collection"] + ".events"]
    found.delete_many({})
    return found


def post(service: HttpService, vendor: str, request: EventRequest) -> Answer:
    headers = {"Content-Type": "application/json", **request.headers}
    return service.ask("POST", f"/events/{vendor}", request.body, headers=headers)


@pytest.mark.parametrize("case", TRIED.values(), ids=list(TRIED))
def test_a_vendors_own_request_is_stored_once_and_a_forged_one_is_refused(
    case: EventsCase, service: HttpService, stored: Any
) -> None:
    name = case.config["name"]
    forge = next(iter(case.forgeries.values()))
    refused = post(service, name, forge(case.authentic(case.samples[0].event)))
    assert (refused.status, stored.count_documents({})) == (401, 0)
    assert refused.headers["www-authenticate"] == 'Basic realm="mailqueue"'
    for _ in range(2):
        for sample in case.samples:
            answer = post(service, name, case.authentic(sample.event))
            assert answer.status == 200, answer.body
    assert stored.count_documents({}) == len(case.samples)
    assert stored.count_documents({"vendor": name}) == len(case.samples)
    assert ANN not in service.log


def test_a_secret_of_one_vendor_opens_no_other(service: HttpService, stored: Any) -> None:
    request = CASES["postmark"].authentic(CASES["postmark"].samples[0].event)
    assert post(service, "mt", request).status == 401
    assert stored.count_documents({}) == 0


def test_a_vendor_without_events_or_without_an_entry_has_no_address(service: HttpService) -> None:
    for name in ("quiet", "nobody", "..%2Femails"):
        assert service.ask("POST", f"/events/{name}", b"{}").status == 404


def test_what_asks_before_the_first_event_is_answered(service: HttpService) -> None:
    for method in ("GET", "HEAD"):
        assert service.ask(method, "/events/md").status == 200
    assert service.ask("OPTIONS", "/events/az").status == 200
    headers = {"aeg-event-type": "SubscriptionValidation"}
    headers["Authorization"] = basic("user:invented-word")
    data = {"validationCode": "code-1"}
    kind = "Microsoft.EventGrid.SubscriptionValidationEvent"
    body = json.dumps([{"eventType": kind, "data": data}]).encode()
    answer = service.ask("POST", "/events/az", body, headers=headers)
    assert answer.json == {"validationResponse": "code-1"}
    assert service.ask("DELETE", "/events/az").status == 405


def test_an_authentic_request_that_means_nothing_is_answered_as_received(
    service: HttpService, stored: Any
) -> None:
    case = CASES["mailjet"]
    for body in (b"7", b"[]", b"[null, 7]", b'[{"event": "new-thing"}]', b"{"):
        assert post(service, "mj", case.request(body)).status == 200
    assert stored.count_documents({}) == 1
    assert 'reason="the body is no JSON"' in service.log


def test_a_large_request_is_refused_before_it_is_read(service: HttpService) -> None:
    for vendor, longest in ("mj", 10 * 2**20), ("ses", 2**20):
        answer = service.ask("POST", f"/events/{vendor}", b"[" + b" " * longest + b"]")
        assert answer.status == 413


def test_a_large_request_of_a_stranger_does_not_hold_up_the_others(service: HttpService) -> None:
    """What it costs is done in a thread; the loop goes on."""
    form = b"mandrill_events=" + b"%5B%5D" * 1_700_000
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(service.ask, "POST", "/events/md", form, headers=headers)
        answered = 0
        while not refused.done():
            answered += service.ask("GET", "/healthz").status == 200
    assert refused.result().status == 401
    assert answered > 20


def test_events_over_eventbridge_change_the_e_mail(
    service: HttpService, stored: Any, shared_settings: Document
) -> None:
    event = CASES["ses"].samples[3].event
    body = json.dumps({"source": "aws.ses", "detail": event}).encode()
    headers = {"X-Mailqueue-Secret": "of-eventbridge"}
    assert service.ask("POST", "/events/ses", body, headers=headers).status == 200
    (one,) = stored.find()
    assert (one["type"], str(one["email_id"])) == ("bounced_hard", EMAIL_ID)


def test_many_batches_at_a_time_are_all_stored(service: HttpService, stored: Any) -> None:
    case = CASES["sendgrid"]

    def batch(number: int) -> int:
        events = [{**case.samples[1].event, "sg_event_id": f"{number}-{n}"} for n in range(100)]
        return post(service, "sg", case.authentic(*events)).status

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(batch, range(40))) == {200}
    assert stored.count_documents({}) == 4000


def test_no_request_waits_for_another_one_that_waits_for_mongodb(
    monkeypatch: pytest.MonkeyPatch, shared_settings: Document
) -> None:
    both = Barrier(2)

    def ensure_indexes(_: EventStore) -> None:
        both.wait(30)
        raise StoreUnavailable("MongoDB: does not answer")

    monkeypatch.setattr(EventStore, "ensure_indexes", ensure_indexes)
    config = Config.from_mapping({**shared_settings, "vendors": vendors()})
    events = Events(config, Limits(1000, 1000, 1))
    with ThreadPoolExecutor(2) as pool:
        for waiting in [pool.submit(events._call, repr) for _ in range(2)]:
            with pytest.raises(StoreUnavailable):
                waiting.result()
    # Nor, where MongoDB is known to be away, for the one that looks whether that is over.
    outage = events._mongodb._outage
    outage.begin("does not answer")
    assert outage.claim(60)
    with pytest.raises(StoreUnavailable):
        events._call(repr)
    assert both.n_waiting == 0
    events.close()


def test_while_mongodb_is_away_each_vendor_is_told_to_repeat(
    shared_settings: Document, tmp_path: Path
) -> None:
    with BreakableMongod() as mongod:
        settings = {**shared_settings, "vendors": vendors()}
        settings["mongodb"] = {"uri": mongod.uri, "timeout": 2}
        with HttpService(settings, tmp_path / "away") as running:
            expected = dict.fromkeys(TRIED, 503) | {"brevo": 429}
            sent = {name: case.authentic(case.samples[0].event) for name, case in TRIED.items()}
            mongod.pause()
            with ThreadPoolExecutor(len(TRIED)) as pool:
                answers = pool.map(
                    lambda name: post(running, TRIED[name].config["name"], sent[name]), TRIED
                )
                assert {n: a.status for n, a in zip(TRIED, answers, strict=True)} == expected
            mongod.resume()
            for name, request in sent.items():
                while (answer := post(running, TRIED[name].config["name"], request)).status != 200:
                    assert answer.status == expected[name]


def test_an_e_mail_is_shown_with_what_became_of_it(
    service: HttpService,
    shared_settings: Document,
    mongo_client: MongoClient[Document],
    stored: Any,
    key: Key,
) -> None:
    case = CASES["sendgrid"]
    made = service.ask(
        "POST",
        "/emails",
        {"from": "ann@example.com", "to": [ANN], "subject": "Hi", "text": "Hello"},
        secret=key.secret,
    )
    email_id = ids.parse(made.json["id"])
    mongodb = shared_settings["mongodb"]
    emails = mongo_client[mongodb["database"]][mongodb["collection"]]
    line = {"n": 1, "token": 1, "vendor": "sg", "outcome": "accepted"}
    times = dict.fromkeys(("started_at", "ended_at"), datetime.now(UTC))
    sent = {"status": "sent", "attempts": [line | times]}
    emails.update_one({"_id": email_id}, {"$set": sent})
    seen = []
    for name in ("deferred", "delivered", "open", "bounce", "spamreport"):
        event = {
            "event": name,
            "type": "bounce",
            "sg_event_id": f"{name} of {email_id}",
            "timestamp": 1780000000,
            "email": ANN,
            "mailqueue_id": str(email_id),
        }
        assert post(service, "sg", case.authentic(event)).status == 200
        seen.append(service.ask("GET", f"/emails/{email_id}", secret=key.secret).json)
    assert [each["last_event"] for each in seen] == [
        *("delivery_delayed", "delivered", "opened", "bounced", "complained")
    ]
    story = seen[-1]["mailqueue"]
    assert story["status"] == "sent"
    assert story["deliveries"] == [
        {"recipient": 0, "state": "bounced_hard", "marks": ["opened", "complained"]}
    ]
    assert [each["type"] for each in story["events"]] == [
        *("deferred", "delivered", "opened", "bounced_hard", "complained")
    ]
    assert story["events"][0]["recipient"] == ANN
    assert {name: each["n"] for name, each in story["event_counts"].items()} == dict.fromkeys(
        ("bounced_hard", "complained", "deferred", "delivered", "opened"), 1
    )
    # ``callbacks.url`` is for all e-mails, so for this one too.
    stored_email = emails.find_one({"_id": email_id})
    assert stored_email is not None
    assert [entry["type"] for entry in stored_email["callbacks"]] == [
        *("email.delivery_delayed", "email.delivered", "email.opened"),
        *("email.bounced", "email.complained"),
    ]
