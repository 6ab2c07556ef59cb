"""What is wrong with the state of an installation: each situation, alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from mailqueue import __version__
from mailqueue.config import Config
from mailqueue.lifecycle.outcomes import PRIORITIES, Status
from mailqueue.monitoring.finding import Finding, Level, Slug
from mailqueue.monitoring.overview import ENDED, Budget, Oldest, Overview, VendorState
from mailqueue.monitoring.situations import situations
from mailqueue.store.control import Control, Controls
from mailqueue.store.document import PRODUCTION, SIMULATED
from mailqueue.store.stats import Heartbeat
from tests.for_each import for_each

NOW = datetime(2026, 11, 27, 3, tzinfo=UTC)
HOST = "127.0.0.1"
VENDORS = [{"name": name, "type": "smtp", "host": HOST} for name in ("ses", "relay")]
CONFIG = Config.from_mapping({"vendors": VENDORS})
URL = "https://sqs.eu-west-1.amazonaws.com/1/"
ON_SQS = CONFIG.replace(
    queue={
        "type": "sqs",
        "region": "eu-west-1",
        "urgent": f"{URL}urgent",
        "normal": f"{URL}normal",
    }
)
SES, RELAY = (VendorState(name=name, type="smtp", available=True) for name in ("ses", "relay"))
CONSUMER = Heartbeat(
    owner="app1:1:a",
    at=NOW,
    in_flight=0,
    version=__version__,
    env=PRODUCTION,
    vendors=("ses", "relay"),
)
WELL = Overview(
    at=NOW,
    env=PRODUCTION,
    oldest_due=dict.fromkeys(PRIORITIES),
    emails={**dict.fromkeys(Status, 0), Status.SENT: 1000, Status.QUEUED: 5},
    estimated=frozenset(),
    other_env=0,
    failed=0,
    ended=1000,
    uncertain_oldest=None,
    vendors=(SES, RELAY),
    controls=Controls(),
    consumers=(CONSUMER,),
    queue={"ready": 5, "reserved": 0, "delayed": 0, "buried": 0},
    queue_error="",
    callbacks={},
)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def due(name: str, seconds: float) -> dict[str, Any]:
    oldest = Oldest(ObjectId(), ago(seconds=seconds), seconds)
    return {"oldest_due": {**WELL.oldest_due, name: oldest}}


def down(vendor: VendorState, **span: float) -> VendorState:
    return replace(vendor, available=False, since=ago(**span), reason="unavailable 503")


def budget(used: int) -> VendorState:
    return replace(SES, budgets={"day": Budget(used, 100, NOW + timedelta(hours=5))})


def under(*controls: Control) -> dict[str, Any]:
    return {"controls": Controls({control.id: control for control in controls})}


def found(config: Config = CONFIG, **changes: Any) -> list[Finding]:
    return list(situations(replace(WELL, **changes), config))


def levels(config: Config = CONFIG, **changes: Any) -> list[tuple[Slug | None, Level]]:
    return [(finding.slug, finding.level) for finding in found(config, **changes)]


FAIL, WARN = Level.FAIL, Level.WARN


def test_of_an_installation_that_is_well_there_is_nothing_to_say() -> None:
    assert found() == []
    assert found(vendors=(budget(79), RELAY), **due("normal", 300)) == []
    assert found(failed=20) == []
    assert found(callbacks={"due": 7, "delivered": 5}) == []


def test_without_a_consumer_what_is_due_waits() -> None:
    assert levels(consumers=(), **due("bulk", 90)) == [(Slug.NO_CONSUMER, FAIL)]
    (finding,) = found(consumers=(), **due("bulk", 90))
    assert (
        finding.text == "none gave a sign of life for 60 s, and e-mails are due, the oldest for 1m"
    )
    assert finding.todo == "start one with MAILQUEUE_ENV=production: python -m mailqueue.consumer"
    assert levels(consumers=()) == [(Slug.NO_CONSUMER, WARN)]
    assert levels(consumers=(), oldest_due={"high": None}) == [(Slug.NO_CONSUMER, FAIL)]
    (finding,) = found(consumers=(), env=SIMULATED)
    assert "without MAILQUEUE_ENV=production" in finding.todo


def test_on_aws_lambda_there_is_a_consumer_only_now_and_then() -> None:
    assert levels(ON_SQS, consumers=(), **due("bulk", 90)) == [(Slug.NO_CONSUMER, WARN)]


@for_each(
    "name, seconds, late",
    [("high", 60, False), ("high", 61, True), ("normal", 301, True), ("bulk", 301, True)],
)
def test_an_email_that_has_been_due_for_long_is_named_by_its_class(
    name: str, seconds: float, late: bool
) -> None:
    findings = found(**due(name, seconds))
    assert [(f.slug, f.level) for f in findings] == [(Slug.OLDEST_DUE, FAIL)] * late
    assert all(f"class {name} for " in finding.text for finding in findings)


def test_all_classes_that_are_late_make_one_finding() -> None:
    old = {name: due(name, s)["oldest_due"][name] for name, s in (("high", 120), ("bulk", 600))}
    (finding,) = found(oldest_due=old)
    assert finding.text == "due for too long, the oldest of class high for 2m, bulk for 10m"


@for_each(
    "failed, ended, many",
    [(50, 5000, False), (51, 5000, True), (2, 100, False), (3, 100, True), (1, 1, True)],
)
def test_many_failed_is_more_than_two_per_cent_or_fifty(
    failed: int, ended: int, many: bool
) -> None:
    assert levels(failed=failed, ended=ended) == [(Slug.MANY_FAILED, FAIL)] * many


def test_what_was_not_counted_further_is_said_to_be_more() -> None:
    (finding,) = found(failed=60, ended=ENDED + 60)
    assert finding.text == "60 failed and 100,000 or more were sent within a day"


def test_uncertain_emails_wait_for_a_person() -> None:
    emails = {**WELL.emails, Status.UNCERTAIN: 1200}
    oldest = Oldest(ObjectId(), ago(days=2), 172_800.0)
    assert levels(emails=emails) == [(Slug.UNCERTAIN, FAIL)]
    (finding,) = found(emails=emails, uncertain_oldest=oldest)
    assert finding.text == "1,200 uncertain, the oldest for 2d: a person must decide"


def test_a_vendor_that_is_unavailable_for_an_hour_is_a_failure() -> None:
    assert levels(vendors=(down(SES, minutes=59), RELAY)) == [(Slug.VENDOR_UNAVAILABLE, WARN)]
    assert levels(vendors=(down(SES, minutes=60), RELAY)) == [(Slug.VENDOR_UNAVAILABLE, FAIL)]
    (finding,) = found(vendors=(down(SES, hours=3), RELAY))
    assert finding.text == "ses unavailable for 3h: 503"
    assert finding.todo.endswith("mailqueue vendors enable ses")


def test_what_to_do_about_a_vendor_depends_on_what_it_said() -> None:
    for reason, word in (("misconfigured 401", "key"), ("throttled 429", "rate"), (None, "status")):
        (finding,) = found(vendors=(replace(down(SES, hours=3), reason=reason), RELAY))
        assert word in finding.todo


def test_where_no_vendor_is_left_it_is_said_why_of_each() -> None:
    vendors = (down(SES, seconds=5), replace(RELAY, drained=Control("drain", "relay")))
    first, second = found(vendors=vendors)
    assert (first.slug, first.level) == (Slug.ALL_VENDORS_UNAVAILABLE, FAIL)
    assert first.text == "no vendor to send through: ses is unavailable, relay is drained"
    assert second.slug == Slug.VENDOR_UNAVAILABLE
    vendors = (budget(100), replace(RELAY, held=Control("vendor", "relay")))
    text = "no vendor to send through: ses is at the end of its budget, relay is held"
    assert text in [finding.text for finding in found(vendors=vendors)]
    assert found(vendors=()) == []  # which is said of the configuration


def test_a_budget_is_told_of_from_80_per_cent_on() -> None:
    assert levels(vendors=(budget(80), RELAY)) == [(Slug.BUDGET, WARN)]
    (finding,) = found(vendors=(budget(100), RELAY))
    assert finding.text == "ses has used 100 of its 100 per day; a new day begins in 5h"
    assert finding.todo.startswith("the others get its e-mails then; ")
    (todo,) = [f.todo for f in found(vendors=(budget(100),)) if f.slug is Slug.BUDGET]
    assert todo.startswith("e-mails wait then; ")


def test_what_an_operator_stopped_is_told_and_after_a_day_whether_it_is_forgotten() -> None:
    new = Control("tag", "my news", ago(hours=23), "ann@app1")
    old = Control("drain", "ses", ago(hours=25), "ann@app1")
    first, second = found(**under(new, old))
    assert (first.slug, first.level, second.level) == (Slug.HELD, WARN, WARN)
    assert first.text == "tag my news has been held for 23h, by ann@app1"
    assert first.todo == "to end it: mailqueue release --tag 'my news'"
    assert second.text == "vendor ses has been drained for 1d, by ann@app1; forgotten?"
    assert second.todo == "to end it: mailqueue vendors undrain ses"


def test_that_everything_is_held_is_a_failure() -> None:
    everything = Control("all", at=ago(minutes=5), by="ann@app1")
    (finding,) = found(**under(everything))
    assert (finding.slug, finding.level) == (Slug.HELD, FAIL)
    assert finding.text == "everything has been held for 5m, by ann@app1: no e-mail is sent"
    assert finding.todo == "to end it: mailqueue release --all"


def test_a_consumer_of_another_version_or_with_other_vendors_is_named_by_its_host() -> None:
    owners = [f"app{n}:1:a" for n in range(5)]
    older = tuple(replace(CONSUMER, owner=owner, version="0.0.9") for owner in owners)
    assert levels(consumers=older) == [(Slug.CONSUMER_DIFFERS, WARN)]
    text = f"version 0.0.9 runs on app0, app1, app2 and 2 more; this is {__version__}"
    assert found(consumers=older)[0].text == text
    other = replace(CONSUMER, vendors=("ses",))
    (finding,) = found(consumers=(other, CONSUMER))
    assert finding.slug is Slug.CONSUMER_DIFFERS
    assert finding.text == "those on app1 send through ses; this configuration has relay, ses"
    assert found(consumers=(replace(CONSUMER, vendors=("relay", "ses")),)) == []


def test_the_queue_that_is_away_and_jobs_that_are_buried_are_told() -> None:
    assert levels(queue=None, queue_error="refused") == [(Slug.QUEUE_UNAVAILABLE, FAIL)]
    # What waits for it is no cause.
    both = levels(queue=None, queue_error="refused", failed=60, ended=60, **due("high", 90))
    assert both[0] == (Slug.QUEUE_UNAVAILABLE, FAIL)
    assert len(both) == 3
    assert levels(queue={"buried": 2}) == [(Slug.BURIED_JOBS, WARN)]
    assert found(queue={}) == []  # there is none beside MongoDB


def test_emails_of_the_other_mode_and_failed_callbacks_are_told() -> None:
    assert levels(other_env=3) == [(Slug.OTHER_MODE, WARN)]
    assert found(other_env=3)[0].text == "3 e-mails queued in the other mode (simulated)"
    assert "without MAILQUEUE_ENV" in found(other_env=3)[0].todo
    assert found(other_env=3, env=SIMULATED)[0].text.endswith("mode (production)")
    assert levels(callbacks={"failed": 1}) == [(Slug.CALLBACKS_FAILED, WARN)]
    assert found(callbacks={"failed": 3})[0].text.startswith("callbacks of 3 e-mails failed: ")


def test_that_nobody_posts_callbacks_is_told() -> None:
    for seconds, late in ((300, False), (301, True)):
        oldest = Oldest(ObjectId(), ago(seconds=seconds), seconds)
        assert levels(callbacks={"due": 1}, callback_oldest=oldest) == (
            [(Slug.CALLBACKS_DUE, WARN)] * late
        )
        assert levels(callback_oldest=oldest) == [(Slug.CALLBACKS_DUE, WARN)] * late  # no index
    for_all = CONFIG.replace(callbacks={"url": "https://shop.example.com/hooks"})
    assert levels(for_all) == [(Slug.CALLBACKS_DUE, WARN)]
    assert levels(for_all, callbacks={"due": 0}) == []
