"""An envelope on its whole way: stored, sent to its recipients and nobody else, recorded, shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mailqueue import cli
from mailqueue.errors import InvalidEmail
from mailqueue.message import EmailDict
from tests.integration.test_failover import IMPATIENT, consuming, drain
from tests.stage import Stage, letter
from tests.waiting import wait_until

VERP = "bounce+4711@example.com"
NAMED = ["bob@example.org", "eve@example.net", "full@example.org"]


def notice(**envelope: Any) -> EmailDict:
    """It shows the list and one of those who are sent to."""
    people = ["list@example.org", "bob@example.org"]
    return {**letter(0), "to": people, "envelope": {"recipients": NAMED, **envelope}}  # type: ignore[typeddict-item]  # the keys are as in the tests


def test_it_goes_to_its_recipients_under_its_sender_and_to_a_vendor_that_can(stage: Stage) -> None:
    http = stage.vendor("sendgrid")
    server = stage.smtp("smtp")
    ids = stage.producer.send_many([notice(**{"from": VERP})] * 4)
    drain(stage)
    assert [(each.sender, each.recipients) for each in server.letters] == [(VERP, NAMED)] * 4
    assert {str(each.message["To"]) for each in server.letters} == {
        "list@example.org, bob@example.org"
    }
    assert http.calls == []
    assert {tuple(stage.outcomes(each)) for each in ids} == {(("smtp", "accepted"),)}


def test_only_those_of_the_envelope_who_were_put_off_are_sent_to_again(stage: Stage) -> None:
    server = stage.smtp("smtp")
    replies = {"full@example.org": "452 4.2.2 mailbox full", "eve@example.net": "550 5.1.1 unknown"}
    server.handler.rcpt |= replies
    stage.settings["retry"] = IMPATIENT
    email_id = stage.producer.send(notice(**{"from": VERP}))
    with consuming(stage):
        wait_until(lambda: stage.document(email_id).get("pending") == ["full@example.org"])
        server.handler.rcpt.clear()
        stage.until(sent=1)
    told = [(each.sender, each.recipients) for each in server.letters]
    assert told == [(VERP, ["bob@example.org"]), (VERP, ["full@example.org"])]
    assert stage.status(email_id).refused == ("eve@example.net",)


def test_all_of_them_refused_is_the_end_though_the_headers_show_others(stage: Stage) -> None:
    server = stage.smtp("smtp")
    server.handler.rcpt |= dict.fromkeys(NAMED, "550 5.1.1 unknown")
    email_id = stage.producer.send(notice())
    drain(stage)
    status = stage.status(email_id)
    assert (status.status, status.refused) == ("failed", tuple(NAMED))
    assert server.letters == []


def test_an_envelope_that_no_vendor_can_carry_is_refused_at_once(stage: Stage) -> None:
    stage.vendor("only")
    for envelope in ({"recipients": NAMED}, {"from": VERP}, {"from": ""}):
        mail: Any = {**letter(0), "envelope": envelope}
        with pytest.raises(InvalidEmail, match=r"only: envelope") as caught:
            stage.producer.send(mail)
        assert caught.value.field == "envelope"
    assert stage.emails.count_documents({}) == 0


def test_a_hidden_recipient_of_the_envelope_is_sent_to_by_any_vendor(stage: Stage) -> None:
    vendor = stage.vendor("only")
    mail: Any = {**letter(0), "to": "bob@example.org", "envelope": {"recipients": NAMED}}
    email_id = stage.producer.send(mail)
    drain(stage)
    (request,) = vendor.requests
    (people,) = request.json["personalizations"]
    assert [each["email"] for each in people["to"]] == ["bob@example.org"]
    assert [each["email"] for each in people["bcc"]] == NAMED[1:]
    assert "envelope" not in stage.document(email_id)["email"]


def test_what_the_headers_say_is_not_stored_and_has_the_same_key(stage: Stage) -> None:
    stage.smtp("smtp")
    plain = letter(0)
    same: Any = {
        **plain,
        "envelope": {"from": "ann@example.com", "recipients": ["reader0@EXAMPLE.org"]},
    }
    first = stage.producer.send(plain, idempotency_key="a")
    assert stage.producer.send(same, idempotency_key="a") == first
    with pytest.raises(InvalidEmail, match="idempotency_key"):
        stage.producer.send(notice(), idempotency_key="a")
    other = stage.document(stage.producer.send(notice(**{"from": ""})))
    assert other["email"]["envelope"] == {"from": "", "recipients": NAMED}


def test_show_has_it_only_where_the_content_was_asked_for(
    stage: Stage, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.smtp("smtp")
    email_id = stage.producer.send(notice(**{"from": VERP}))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(stage.settings))
    config.chmod(0o600)
    for more in ([], ["--json"]):
        cli.main(["show", "--config", str(config), email_id, *more])
        assert "eve@example.net" not in (shown := capsys.readouterr().out)
        assert VERP not in shown
        cli.main(["show", "--config", str(config), email_id, "--content", *more])
        assert "eve@example.net" in (shown := capsys.readouterr().out)
        assert VERP in shown
