"""Staging step by step: who is left out, what is recorded, and what follows."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from mailqueue.config import Config
from mailqueue.config.checks import may_address
from mailqueue.config.dicts import StagingDict
from mailqueue.consumer.staging import REDIRECTED_FROM, Staging
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email, EmailDict
from mailqueue.producer import Producer
from mailqueue.store.suppressions import Report, Suppressions
from tests.integration.bench import DOWN, MAIL, UNHEARD, Bench
from tests.integration.test_suppressions import Post

Document = dict[str, Any]
ANN, BOB, EVE, TEAM = "ann@example.net", "bob@example.net", "eve@example.org", "team@example.com"
MIXED: EmailDict = {**MAIL, "to": [EVE, ANN], "cc": BOB}


def post_of(config: Config, monkeypatch: pytest.MonkeyPatch, staging: StagingDict) -> Post:
    bench = Bench(config.replace(staging=staging, suppression={}))
    bench.store.ensure_indexes()
    return Post(bench, monkeypatch)


@pytest.fixture
def strict(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    """What is for others ends."""
    post = post_of(config, monkeypatch, {"allow": ["@example.net"]})
    yield post
    post.producer.close()
    post.bench.close()


@pytest.fixture
def redirecting(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    """What is for others goes to the team."""
    post = post_of(config, monkeypatch, {"allow": ["@example.net"], "redirect_to": TEAM})
    yield post
    post.producer.close()
    post.bench.close()


def to(email: Email) -> list[str]:
    return [person.address for person in email.recipients]


def test_an_email_to_others_only_is_cancelled_and_never_sent(strict: Post) -> None:
    email_id = strict.send({**MAIL, "to": EVE, "bcc": "x@sub.example.net"})
    status = strict.status(email_id)
    assert (status.status, status.reason) == ("cancelled", "not_allowed")
    assert (status.attempts, status.refused) == ((), (EVE, "x@sub.example.net"))
    assert strict.sent == []
    strict.document(email_id)


def test_those_on_the_list_get_it_and_the_others_are_refused(strict: Post) -> None:
    email_id = strict.send(MIXED)
    assert (strict.status(email_id).status, strict.status(email_id).refused) == ("sent", (EVE,))
    ((email, recipients),) = strict.sent
    assert (to(email), recipients) == ([ANN, BOB], None)
    (line,) = strict.document(email_id)["attempts"]
    assert (line["suppressed"], line["refused"]) == ([EVE], [EVE])


def test_what_may_have_left_before_is_uncertain_and_nobody_is_asked(
    config: Config, strict: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = Post(Bench(config), monkeypatch)
    free.answer(UNHEARD)
    email_id = free.send({**MAIL, "to": EVE})
    free.producer.close()
    free.bench.close()
    strict.bench.work()
    status = strict.status(email_id)
    assert (status.status, status.reason, strict.sent) == ("uncertain", "not_allowed", [])
    strict.document(email_id)


def test_those_who_are_left_of_a_partial_yes_are_on_the_list(strict: Post) -> None:
    strict.answer(SendResult(outcome=Outcome.ACCEPTED, pending=(BOB,), retry_after=0))
    email_id = strict.send(MIXED)
    strict.bench.work()
    assert [recipients for _, recipients in strict.sent] == [None, (BOB,)]
    assert strict.status(email_id).refused == (EVE,)
    strict.document(email_id)


def test_a_suppressed_person_on_the_list_is_left_out_as_well(strict: Post) -> None:
    Suppressions(strict.bench.store).add([Report(BOB, "manual")])
    email_id = strict.send(MIXED)
    assert strict.status(email_id).refused == (EVE, BOB)
    both = strict.send({**MAIL, "to": [EVE, BOB]})
    assert (strict.status(both).status, strict.status(both).reason) == ("failed", "suppressed")
    assert [to(email) for email, _ in strict.sent] == [[ANN]]


def test_an_email_to_others_goes_to_the_team_and_says_for_whom_it_was(redirecting: Post) -> None:
    people: Any = {"to": [f"Eve <{EVE}>", ANN], "cc": "dora@bücher.example"}
    email_id = redirecting.send({**MAIL, **people, "bcc": "fred@example.org"})
    status = redirecting.status(email_id)
    assert (status.status, status.refused) == ("sent", ())
    ((email, _),) = redirecting.sent
    assert (to(email), email.cc, email.bcc) == ([ANN, TEAM], (), ())
    names = email.headers[REDIRECTED_FROM]
    assert names == f"{EVE}, dora@xn--bcher-kva.example, fred@example.org"
    lone = redirecting.send({**MAIL, "to": [ANN]})
    stored = redirecting.bench.store.find({}, 2, "_id")
    lines = {str(each.id): each.document["attempts"][-1] for each in stored}
    assert lines[email_id]["redirected"] is True
    assert "redirected" not in lines[lone]
    assert TEAM not in str(lines)


def test_every_attempt_is_the_same(redirecting: Post) -> None:
    redirecting.answer(DOWN)
    redirecting.send(MIXED)
    redirecting.bench.work()
    first, second = (email.to_mapping() for email, _ in redirecting.sent)
    assert first == second


def test_an_email_to_the_list_only_is_left_alone(redirecting: Post) -> None:
    redirecting.send({**MAIL, "to": [ANN], "cc": BOB, "headers": {"X-Campaign": "1"}})
    ((email, _),) = redirecting.sent
    assert email.to_mapping() == {**MAIL, "to": [ANN], "cc": [BOB], "headers": {"X-Campaign": "1"}}


def test_no_header_names_a_stranger_or_has_anybody_write_to_one(redirecting: Post) -> None:
    """Nor one in an encoded word, nor one that asks the recipients' programs for a receipt."""
    encoded = "=?utf-8?b?" + b64encode(EVE.encode()).decode() + "?="
    receipts = ("Disposition-Notification-To", "Return-Receipt-To", "X-Confirm-Reading-To")
    asking = dict.fromkeys((*receipts, "Errors-To"), "boss@example.org")
    headers = {"X-For": encoded, "X-Campaign": "1", **asking}
    redirecting.send({**MIXED, "headers": headers})
    ((email, _),) = redirecting.sent
    assert email.headers.keys() == {"X-Campaign", REDIRECTED_FROM}


def test_the_envelope_counts_and_not_what_is_shown(redirecting: Post, strict: Post) -> None:
    shown = {**MAIL, "to": [ANN, EVE], "envelope": {"recipients": [EVE]}}
    rule = Staging(redirecting.bench.config.staging)  # type: ignore[arg-type]  # there is one
    snapshot: Any = type("S", (), {"pending": None})()
    email, _, outside = rule.apply(Email.from_mapping(shown), snapshot)
    assert email is not None
    assert (to(email), outside) == ([TEAM], ())
    assert [person.address for person in email.to] == [ANN, TEAM]
    rule = Staging(strict.bench.config.staging)  # type: ignore[arg-type]  # there is one
    assert rule.apply(Email.from_mapping(shown), snapshot)[0] is None


@pytest.mark.parametrize(
    "address",
    [
        *("ann@mail.example.net", "ann@example.net.evil.org", "ann@evilexample.net", "ann@net"),
        *("x@evil.org, ann@example.net", "Eve <x@evil.org> <ann@example.net>", "example.net", ""),
        *("x@evil.org\r\nRCPT TO:<y@example.net>", '"ann@example.net"@evil.org', "@example.net"),
        *("Bob@example.org.", "b\u006fb+x@example.org", "\u212aate@example.org"),
    ],
)
def test_what_only_looks_like_an_address_of_the_list_is_not(address: str, config: Config) -> None:
    staging = {"allow": ["@example.net", "bob@example.org", "kate@example.org"]}
    rule = Staging(config.replace(staging=staging).staging)  # type: ignore[arg-type]  # it is there
    assert not rule.allows(address)
    for same in ("Bob@EXAMPLE.org", '"a b"@Example.net', "a+b@example.net", "KATE@example.org"):
        assert rule.allows(same)


@pytest.mark.parametrize(
    "staging, place",
    [
        ({}, "staging.redirect_to"),
        ({"allow": []}, "staging.redirect_to"),
        ({"redirect_to": "team"}, "staging.redirect_to"),
        ({"redirect_to": "a@x.org, b@x.org"}, "staging.redirect_to"),
        ({"allow": ["@example.com", "*@example.org"]}, "staging.allow"),
        ({"allow": ["@-.org"]}, "staging.allow"),
        ({"allow": ["Ann <ann@example.org>"]}, "staging.allow"),
        ({"allow": "@example.com"}, "staging.allow"),
        ({"allow": [7]}, "staging.allow"),
        ({"allow": ["@x.org"], "redirect": "a@x.org"}, "staging.redirect"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(
    config_mapping: Document, staging: Document, place: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        Config.from_mapping({**config_mapping, "staging": staging})
    assert str(raised.value).startswith(place)
    assert "team" not in str(raised.value).removeprefix(place)


def test_an_option_of_a_vendor_that_adds_recipients_is_refused(config_mapping: Document) -> None:
    staging = {"allow": ["@bücher.example", "@example.com"], "redirect_to": TEAM}
    vendor = {"name": "p", "type": "postmark", "api_key": "x"}
    wrong = {**vendor, "options": {"Bcc": "archive", "TrackOpens": True}}
    with pytest.raises(ConfigError, match=r"vendors\[0\]\.options\.Bcc: may name recipients"):
        Config.from_mapping({**config_mapping, "vendors": [wrong], "staging": staging})


def test_a_producer_stores_what_it_was_given(config: Config) -> None:
    """So a staging consumer protects, whatever the configuration of the producers."""
    with Producer(config.replace(staging={"allow": ["@example.net"]})) as producer:
        email_id = producer.send(MIXED)
        status = producer.status(email_id)
    assert status is not None
    assert status.status == "queued"


def test_options_are_judged_by_what_they_could_name() -> None:
    harmless = {"TrackOpens": True, "MessageStream": "x", "o:tag": ["a"], "ip_pool": "b", "n": 1}
    assert not any(may_address(name, value) for name, value in harmless.items())
    assert may_address("x", [{"y": "a@b"}])
    assert may_address("message", {"to": ["c"]})
