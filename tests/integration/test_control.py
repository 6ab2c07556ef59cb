"""What an operator stops waits, without a job, and goes on when that is over."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue import Producer, cli
from mailqueue.config import Config
from mailqueue.config.rates import Rate
from mailqueue.consumer import Consumer
from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.store.control import Control, ControlStore
from mailqueue.store.document import HELD
from mailqueue.store.store import Store
from tests.integration.bench import DOWN, MAIL, UNHEARD, Bench, ready_ids

Document = dict[str, Any]
NEWS: Any = {**MAIL, "tags": ["news"]}


@pytest.fixture(autouse=True)
def no_wait_for_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever puts a job does so before the next step."""
    monkeypatch.setattr("mailqueue.consumer.fetcher.RESERVE_TIMEOUT", 0)


@pytest.fixture
def controls(store: Store) -> ControlStore:
    return ControlStore(store)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No consumer runs beside the command, so that it need not look twice."""
    monkeypatch.setattr("mailqueue.store.control.SECOND_LOOK", 0.0)


class Shell:
    """``mailqueue`` in this process."""

    def __init__(self, mapping: Document, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._file = folder / "config.json"
        self._file.write_text(json.dumps(mapping))
        self._file.chmod(0o600)
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """What it says as JSON."""
        found = cli.main(["--config", str(self._file), *arguments, "--json"])
        said = self._capsys.readouterr()
        assert found == code, said
        return json.loads(said.out)


@pytest.fixture
def shell(
    config: Config,
    config_mapping: Document,
    tmp_path: Path,
    quick: None,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    return Shell(config_mapping, tmp_path, capsys)


def work_all(bench: Bench, times: int = 10) -> None:
    for _ in range(times):
        bench.board.refresh()
        bench.work()


def statuses(emails: Collection[Document]) -> Counter[str]:
    return Counter(document["status"] for document in emails.find())


# Holds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, number",
    [(("--tag", "news"), 3), (("--priority", "bulk"), 2), (("--all",), 7)],
)
def test_what_is_held_waits_and_goes_on_after_its_release(
    shell: Shell,
    bench: Bench,
    producer: Producer,
    emails: Collection[Document],
    options: tuple[str, ...],
    number: int,
) -> None:
    """No attempt is used up, nothing else is kept from going, and nothing gets lost."""
    producer.send_many([NEWS] * 3)
    producer.send_many([MAIL] * 2, priority="bulk")
    producer.send_many([MAIL] * 2)
    assert shell("hold", *options, "--reason", "wrong price")["emails"] == number
    work_all(bench)
    assert statuses(emails) == Counter(queued=number, sent=7 - number)
    assert all(document["attempts"] == [] for document in emails.find({"status": "queued"}))
    (held,) = shell("hold")["held"]
    assert held["waiting"] == number
    assert shell("release", *options)["emails"] == number
    work_all(bench)
    assert statuses(emails) == {"sent": 7}
    assert bench.asked == 7


def test_a_held_e_mail_has_no_job_and_names_its_hold(
    shell: Shell, bench: Bench, producer: Producer, config: Config
) -> None:
    """So 100,000 of them are in nobody's way."""
    email_id = producer.send(NEWS)
    shell("hold", "--tag", "news")
    work_all(bench, 2)
    assert ready_ids(config) == []
    status = producer.status(email_id)
    assert status is not None
    assert (status.hold, status.due_at) == ("tag:news", None)


def test_a_hold_begins_and_ends_although_the_queue_is_too_long_to_be_counted(
    shell: Shell,
    controls: ControlStore,
    producer: Producer,
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To look through millions of e-mails for a tag may take longer than ``mongodb.timeout``."""
    counted = Store.count

    def count(store: Store, match: Any, limit: int) -> int:
        if limit > 1:
            raise StoreUnavailable("timed out")
        return counted(store, match, limit)

    monkeypatch.setattr(Store, "count", count)
    producer.send(NEWS)
    assert shell("hold", "--tag", "news")["emails"] is None
    assert list(controls.read().active) == ["tag:news"]
    emails.update_many({}, {"$set": {"due_at": HELD, "hold": "tag:news"}})
    assert shell("release", "--tag", "news")["emails"] is None
    assert emails.count_documents({"hold": "tag:news"}) == 0


def test_a_held_vendors_e_mails_wait_and_the_others_go(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    """Nobody else gets them, unlike those of a vendor that is drained."""
    producer.send_many([MAIL] * 10)
    shell("hold", "--vendor", "first")
    work_all(bench)
    assert not bench.vendors["first"].asked
    assert statuses(emails) == Counter(queued=5, sent=5)
    shell("release", "--vendor", "first")
    work_all(bench)
    assert statuses(emails) == {"sent": 10}


def test_no_e_mail_waits_for_the_probe_of_a_vendor_that_is_held(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    bench.vendors["first"].results = [DOWN] * 4
    producer.send_many([MAIL] * 4)
    work_all(bench)
    emails.database[f"{emails.name}.vendors"].update_one(
        {"_id": "first"}, {"$set": {"unavailable_until": datetime(2020, 1, 1, tzinfo=UTC)}}
    )
    shell("hold", "--vendor", "first")
    producer.send_many([MAIL] * 4)
    asked = len(bench.vendors["first"].asked)
    work_all(bench)
    assert len(bench.vendors["first"].asked) == asked
    assert statuses(emails) == {"sent": 8}


def test_a_held_e_mail_expires_all_the_same(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(NEWS, expires_at=datetime.now(UTC) + timedelta(days=1))
    shell("hold", "--tag", "news")
    work_all(bench, 2)
    emails.update_one({}, {"$set": {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}})
    bench.sweeper.sweep()
    document = emails.find_one({})
    assert document is not None
    assert (document["status"], document["reason"]) == ("failed", "expired")
    assert "hold" not in document


def test_a_held_e_mail_can_be_cancelled(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    email_id = producer.send(NEWS)
    shell("hold", "--tag", "news")
    work_all(bench, 2)
    assert producer.cancel(email_id)
    assert "hold" not in (emails.find_one({}) or {})


def test_the_time_under_a_hold_is_not_part_of_an_e_mails_age(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    """Else ``retry.give_up_after`` would end what an operator lets wait for days."""
    long_ago = datetime.now(UTC) - timedelta(days=9)
    producer.send(NEWS)
    shell("hold", "--tag", "news")
    work_all(bench, 2)
    emails.update_one({}, {"$set": {"clock_from": long_ago, "updated_at": long_ago}})
    shell("release", "--tag", "news")
    document = emails.find_one({})
    assert document is not None
    assert datetime.now(UTC) - document["clock_from"] < timedelta(minutes=5)


def test_what_a_hold_left_behind_is_found_by_the_sweeper(
    shell: Shell,
    bench: Bench,
    controls: ControlStore,
    producer: Producer,
    emails: Collection[Document],
) -> None:
    """A release that was stopped half-way, or a consumer that had not heard of it."""
    producer.send(NEWS)
    control = Control("tag", "news")
    assert controls.begin(control)
    work_all(bench, 2)
    bench.sweeper.sweep()
    assert emails.count_documents({"due_at": HELD}) == 1
    assert controls.end(control)
    bench.board.refresh()
    bench.sweeper.sweep()
    work_all(bench, 2)
    assert statuses(emails) == {"sent": 1}


def test_a_second_job_of_a_held_e_mail_is_dropped(
    shell: Shell, bench: Bench, producer: Producer, config: Config
) -> None:
    email_id = producer.send(NEWS)
    shell("hold", "--tag", "news")
    work_all(bench, 2)
    producer.announce([email_id])
    bench.board.refresh()
    bench.work()
    assert ready_ids(config) == []


def test_a_hold_that_comes_between_plan_and_claim_counts(
    bench: Bench, controls: ControlStore, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(NEWS)
    assert bench.worker.fetcher.fetch(bench.tube)
    controls.begin(Control("tag", "news"))
    bench.board.refresh()
    bench.take()
    bench.settle()
    assert emails.count_documents({"hold": "tag:news", "attempts": []}) == 1


def test_a_hold_that_comes_between_claim_and_call_counts(
    bench: Bench, controls: ControlStore, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send(NEWS)
    bench.take()
    controls.begin(Control("tag", "news"))
    bench.board.refresh()
    bench.deliver()
    bench.settle()
    work_all(bench, 2)
    assert bench.asked == 0
    assert emails.count_documents({"hold": "tag:news", "counted": 0}) == 1


def test_holds_are_listed_with_who_when_and_why(shell: Shell, bench: Bench) -> None:
    shell("hold", "--tag", "news", "--reason", "wrong price")
    (row,) = shell("hold")["held"]
    assert (row["control"], row["reason"], row["waiting"]) == ("tag:news", "wrong price", 0)
    assert "@" in row["by"]
    assert row["since"]
    shell("hold", "--tag", "news", code=1)
    shell("release", "--tag", "news")
    shell("release", "--tag", "news", code=1)
    found = shell("hold")
    assert found["held"] == []
    assert [entry["verb"] for entry in found["history"]] == ["begin", "end"]


def test_a_dry_run_changes_nothing(shell: Shell, bench: Bench, producer: Producer) -> None:
    producer.send_many([NEWS] * 2)
    assert shell("hold", "--tag", "news", "--dry-run")["emails"] == 2
    assert shell("hold")["held"] == []
    shell("hold", "--tag", "news")
    work_all(bench, 3)
    assert shell("release", "--tag", "news", "--dry-run")["emails"] == 2
    assert shell("hold")["held"][0]["waiting"] == 2


def test_the_list_of_holds_counts_what_no_consumer_has_seen_yet(
    shell: Shell, bench: Bench, producer: Producer
) -> None:
    producer.send_many([NEWS] * 2)
    producer.send(MAIL)
    for option in (["--tag", "news"], ["--priority", "high"], ["--vendor", "first"]):
        shell("hold", *option)

    def numbers(verb: str) -> dict[str, tuple[int, int | None]]:
        return {row["control"]: (row["waiting"], row["due"]) for row in shell(verb)["held"]}

    unseen = {"tag:news": (0, 2), "priority:high": (0, 0), "vendor:first": (0, None)}
    assert numbers("hold") == numbers("stats") == unseen
    work_all(bench, 4)
    assert numbers("hold")["tag:news"] == (2, 0)


def test_a_damaged_control_hides_no_other(
    bench: Bench, controls: ControlStore, producer: Producer
) -> None:
    controls.begin(Control("tag", "news"))
    controls.collection.insert_one({"_id": ObjectId(), "active": True, "kind": 7, "name": []})
    assert list(bench.board.refresh()) == ["first", "second"]
    assert list(bench.board.controls.active) == ["tag:news"]


def test_every_class_can_be_held() -> None:
    assert all(Control("priority", name).id == f"priority:{name}" for name in PRIORITIES)


# Drains -------------------------------------------------------------------------------------------


def test_a_drained_vendor_gets_no_e_mail_and_the_others_get_its_share(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send_many([MAIL] * 6)
    shell("vendors", "drain", "first", "--reason", "contract ends")
    work_all(bench)
    assert not bench.vendors["first"].asked
    assert statuses(emails) == {"sent": 6}
    (row, _) = shell("vendors")["vendors"]
    assert (row["vendor"], row["drained"]["reason"]) == ("first", "contract ends")
    shell("vendors", "undrain", "first")
    producer.send_many([MAIL] * 6)
    work_all(bench)
    assert bench.vendors["first"].asked


def test_while_all_vendors_are_drained_the_jobs_stay_where_they_are(
    shell: Shell, bench: Bench, producer: Producer, config: Config, emails: Collection[Document]
) -> None:
    """Doctor says so."""
    sent = producer.send_many([MAIL] * 3)
    for name in ("first", "second"):
        shell("vendors", "drain", name)
    bench.board.refresh()
    assert not bench.worker.fetcher.fetch(bench.tube)
    assert ready_ids(config) == sent
    findings = shell("doctor", code=1)["findings"]
    text = "no vendor to send through: first is drained, second is drained"
    assert text in [finding["text"] for finding in findings]
    shell("vendors", "undrain", "second")
    work_all(bench)
    assert statuses(emails) == {"sent": 3}


def test_an_e_mail_waits_whose_only_other_vendor_is_drained(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    """It has not failed: the drained vendor may take it."""
    hold_for_drain(shell, bench, producer, emails)
    shell("vendors", "undrain", "first")
    work_all(bench, 3)
    assert statuses(emails) == {"sent": 1}


def hold_for_drain(shell: Shell, bench: Bench, producer: Producer, emails: Any) -> None:
    """An e-mail waits that the one vendor refused, as the other one is drained."""
    producer.send(MAIL)
    emails.update_one({}, {"$set": {"round.refused": ["second"]}})
    shell("vendors", "drain", "first")
    work_all(bench, 3)
    assert emails.count_documents({"hold": "drain"}) == 1


@pytest.mark.parametrize("has_lease", [True, False])
def test_what_waits_for_the_end_of_a_drain_goes_on_after_a_reload(
    shell: Shell,
    bench: Bench,
    producer: Producer,
    emails: Collection[Document],
    has_lease: bool,
) -> None:
    """The new configuration may have another vendor for it; the old one may be gone for good."""
    hold_for_drain(shell, bench, producer, emails)
    if not has_lease:
        emails.database[f"{emails.name}.leases"].delete_many({})
        with closing(Bench(bench.config)) as other:
            other.sweeper.sweep()
            work_all(bench, 3)
            _reload_and_sweep(bench, emails)
        return
    bench.sweeper.sweep()
    work_all(bench, 3)
    bench.sweeper.sweep()
    _reload_and_sweep(bench, emails)


def _reload_and_sweep(bench: Bench, emails: Collection[Document]) -> None:
    assert emails.count_documents({"hold": "drain"}) == 1
    bench.sweeper.rules = bench.config, bench.routing.renew(bench.config, bench.vendors)
    bench.sweeper.sweep()
    assert emails.count_documents({"hold": "drain"}) == 0
    work_all(bench, 3)
    bench.sweeper.sweep()  # held again, and it is known by now
    assert emails.count_documents({"hold": "drain"}) == 1


def test_the_end_of_a_drain_takes_up_each_e_mail_once(
    controls: ControlStore,
    producer: Producer,
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Consumers may hold it again at once, for another drain: that must not go on for ever."""
    monkeypatch.setattr("mailqueue.store.control.PAGE", 2)
    sent = producer.send_many([MAIL] * 5)
    held = {"$set": {"due_at": HELD, "hold": "drain"}}
    emails.update_many({}, held)
    seen = []
    for page in islice(controls.put_back("drain"), 10):
        seen += [str(stored.id) for stored in page]
        emails.update_many({}, held)
    assert seen == sent


def test_a_pinned_e_mail_is_repeated_at_a_vendor_that_is_drained(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    """No other vendor can tell whether the first attempt was a copy."""
    producer.send(MAIL)
    bench.routing._key_lives = dict.fromkeys(bench.vendors, 3600.0)
    for vendor in bench.vendors.values():
        vendor.results = [UNHEARD]
    bench.work()
    pin = (emails.find_one({}) or {})["pin"]["vendor"]
    shell("vendors", "drain", pin)
    work_all(bench, 2)
    assert [line["vendor"] for line in (emails.find_one({}) or {})["attempts"]] == [pin, pin]
    assert statuses(emails) == {"sent": 1}


def test_a_vendor_that_is_not_configured_cannot_be_drained(shell: Shell) -> None:
    shell("vendors", "drain", "third", code=1)


# Cancelling ---------------------------------------------------------------------------------------


def test_what_has_a_tag_is_cancelled_after_it_was_counted(
    shell: Shell, producer: Producer, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages, of which each leaves what the next one looks for."""
    monkeypatch.setattr("mailqueue.store.store.PAGE", 3)
    news = producer.send_many([NEWS] * 10)
    producer.send_many([MAIL] * 5)
    assert sorted(shell("cancel", "--tag", "news", "--dry-run")["changed"]) == news
    assert statuses(emails) == {"queued": 15}
    assert len(shell("cancel", "--tag", "news", "--limit", "1")["changed"]) == 1
    assert sorted(shell("cancel", "--tag", "news", "--yes")["changed"]) == news[1:]
    assert statuses(emails) == Counter(queued=5, cancelled=10)


def test_a_held_e_mail_is_cancelled_with_its_tag(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send_many([NEWS] * 2)
    shell("hold", "--tag", "news")
    work_all(bench, 2)
    shell("cancel", "--tag", "news", "--yes")
    shell("release", "--tag", "news")
    work_all(bench, 2)
    assert statuses(emails) == {"cancelled": 2}
    assert bench.asked == 0


def test_a_burst_ends_while_everything_is_held(
    config: Config, controls: ControlStore, producer: Producer, emails: Collection[Document]
) -> None:
    producer.send_many([MAIL] * 3)
    controls.begin(Control("all"))
    assert Consumer(config, burst=True).run() == 0
    assert statuses(emails) == {"queued": 3}


def test_a_burst_ends_when_every_budget_is_used_up(
    config: Config, producer: Producer, emails: Collection[Document]
) -> None:
    """It does not wait until midnight, and neither does what was not sent get lost."""
    producer.send_many([MAIL] * 5)
    limited = [replace(vendor, rate=Rate(per_day=1)) for vendor in config.vendors]
    assert Consumer(config.replace(vendors=limited), burst=True).run() == 0
    assert statuses(emails) == Counter(queued=3, sent=2)


def test_a_restored_backup_waits_until_an_operator_has_looked(
    shell: Shell, bench: Bench, producer: Producer, emails: Collection[Document]
) -> None:
    """As docs/operating.md says: what left since the backup is not sent again."""
    left, waiting = (
        producer.send(MAIL),
        producer.send(MAIL, send_at=datetime.now(UTC) + timedelta(hours=1)),
    )
    backup = list(emails.find())
    work_all(bench)
    emails.delete_many({})
    emails.insert_many(backup)
    shell("hold", "--all", "--reason", "restored")
    emails.update_many({}, {"$set": {"due_at": None}})
    producer.announce([left, waiting])
    work_all(bench)
    assert statuses(emails) == {"queued": 2}
    shell("cancel", left)
    shell("release", "--all")
    producer.announce([waiting])
    work_all(bench)
    assert statuses(emails) == {"cancelled": 1, "sent": 1}
    assert bench.asked == 2
