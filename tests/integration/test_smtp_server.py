"""The SMTP vendor and Postfix: what a server says that nobody wrote for these tests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from mailqueue.config import VendorConfig
from mailqueue.consumer import Consumer
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.answers import sanitize
from mailqueue.vendors.base import Attempt
from mailqueue.vendors.smtp import Smtp
from tests.postfix import ROOM, Postfix, missing
from tests.stage import Stage
from tests.vendor_servers import HOST
from tests.waiting import wait_until

GREYLISTED = "450 4.7.1 Greylisted, come back later"
UNHEARD_OF = "550 5.1.1 No such mailbox"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[Postfix]:
    why_not = missing()
    if why_not and os.environ.get("CI") and not os.geteuid():
        pytest.fail(why_not, pytrace=False)
    if why_not:
        pytest.skip(why_not)
    with Postfix(authority.issue_cert(HOST)) as postfix:
        yield postfix


@pytest.fixture
def postfix(
    server: Postfix, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Postfix:
    """The server as on the first day; its certificate is trusted as any other on this machine."""
    server.refuse({})
    for mail in (server.folder / "mail").glob("new/*"):
        mail.unlink()
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    return server


@contextmanager
def consuming(stage: Stage) -> Iterator[None]:
    """A consumer at work while the block runs; stopped and done at its end."""
    consumer = Consumer(stage.config)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(consumer.run)
        try:
            yield
        finally:
            consumer.stop()
            assert running.result(30) == 0


def delivered(postfix: Postfix, number: int) -> list[str]:
    """To whom, once there are so many mails."""
    wait_until(lambda: len(postfix.mails()) >= number, what=f"{number} mails are delivered")
    return sorted(recipient for recipient, _ in postfix.mails())


def email(**fields: Any) -> Email:
    given: dict[str, Any] = {
        "from": "Ann <ann@example.com>",
        "to": ["bob@example.net"],
        "text": "Hello\n",
    }
    return Email.from_mapping({**given, **fields})


def attempt() -> Attempt:
    message_id = "<65f0a1b2c3d4e5f6a7b8c9d0@example.com>"
    return Attempt(email_id=message_id[1:25], message_id=message_id, deadline=time.monotonic() + 10)


@pytest.fixture
def vendor(postfix: Postfix) -> Iterator[Smtp]:
    keys = {"host": HOST, "port": postfix.port, "tls": "starttls"}
    made = Smtp(VendorConfig(name="smtp", type="smtp", keys=keys))
    yield made
    made.close()


def test_an_email_is_handed_over_by_starttls_and_arrives_whole(
    postfix: Postfix, vendor: Smtp
) -> None:
    text = "Grüße\n.\n..\n" + "x" * 900 + "\nFrom here on\n"
    files = [{"filename": "Übersicht.bin", "content": bytes(range(256))}]
    whole = email(subject="Grüße 🎉", text=text, bcc=["eve@example.net"], attachments=files)
    result = vendor.send(whole, attempt())
    assert (result.outcome, result.code) == (Outcome.ACCEPTED, "smtp-250")
    assert delivered(postfix, 2) == ["bob@example.net", "eve@example.net"]
    for _, mail in postfix.mails():
        body, (file,) = mail.get_body(), mail.iter_attachments()
        assert body is not None
        assert (mail["Subject"], body.get_content()) == (whole.subject, text)
        assert (file.get_filename(), file.get_content()) == ("Übersicht.bin", bytes(range(256)))
        assert (mail["Bcc"], mail["Message-ID"]) == (None, attempt().message_id)
    vendor.close()
    wait_until(lambda: "starttls=1" in postfix.log, what="Postfix says how it got it")


def test_a_server_with_a_certificate_of_unknown_origin_gets_nothing(
    postfix: Postfix, vendor: Smtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    result = Smtp(replace(vendor.config, name="another")).send(email(), attempt())
    assert (result.outcome, result.code, result.answered) == (Outcome.UNAVAILABLE, "tls", False)


def test_mailboxes_that_are_not_ascii_are_taken(postfix: Postfix, vendor: Smtp) -> None:
    assert vendor.send(email(to=["dörte@example.net"]), attempt()).outcome is Outcome.ACCEPTED
    assert delivered(postfix, 1) == ["dörte@example.net"]


def test_what_is_larger_than_the_server_takes_is_another_vendors(
    postfix: Postfix, vendor: Smtp
) -> None:
    result = vendor.send(email(text="x" * 30_000), attempt())
    assert (result.outcome, result.code) == (Outcome.UNSUITABLE, "size")
    assert vendor.send(email(), attempt()).outcome is Outcome.ACCEPTED
    assert delivered(postfix, 1) == ["bob@example.net"]


def test_who_is_refused_for_good_is_recorded_and_the_others_get_it(
    postfix: Postfix, vendor: Smtp
) -> None:
    postfix.refuse({"gone@example.net": UNHEARD_OF})
    result = vendor.send(email(to=["gone@example.net", "bob@example.net"]), attempt())
    assert (result.outcome, result.refused) == (Outcome.ACCEPTED, ("gone@example.net",))
    assert delivered(postfix, 1) == ["bob@example.net"]
    result = vendor.send(email(to=["gone@example.net"]), attempt())
    assert (result.outcome, result.code) == (Outcome.REJECTED, "smtp-550")
    assert vendor.send(email(), attempt()).outcome is Outcome.ACCEPTED
    assert delivered(postfix, 2) == ["bob@example.net"] * 2


def test_a_domain_that_it_does_not_serve_is_a_policy_of_this_vendor(vendor: Smtp) -> None:
    strange = email(to=["bob@example.org"])
    result = sanitize(vendor.send(strange, attempt()), strange, vendor)
    assert (result.outcome, result.code) == (Outcome.UNSUITABLE, "smtp-554")  # "5.7.1 ... denied"
    assert "bob@example.org" not in result.detail


def test_a_name_in_ehlo_that_it_does_not_take_is_no_fault_of_the_email(
    postfix: Postfix, vendor: Smtp
) -> None:
    """Postfix says so at RCPT."""
    keys = {**vendor.config.keys, "helo": "app"}
    short = Smtp(replace(vendor.config, keys=keys))
    result = short.send(email(), attempt())
    short.close()
    assert (result.outcome, result.code) == (Outcome.UNSUITABLE, "smtp-504")
    assert "Helo command rejected" in result.detail
    named = Smtp(replace(vendor.config, keys={**keys, "helo": "app.example.com"}))
    assert named.send(email(), attempt()).outcome is Outcome.ACCEPTED
    named.close()


def test_more_senders_than_it_takes_connections_wait_for_each_other(
    postfix: Postfix, vendor: Smtp
) -> None:
    senders = [Smtp(vendor.config) for _ in range(ROOM + 4)]

    def twice(sender: Smtp) -> list[SendResult]:
        return [sender.send(email(), attempt()) for _ in range(2)]

    with ThreadPoolExecutor(len(senders)) as pool:
        results = [result for both in pool.map(twice, senders) for result in both]
    for sender in senders:
        sender.close()
    assert {result.outcome for result in results} == {Outcome.ACCEPTED}
    assert len(delivered(postfix, len(results))) == len(results)


def test_who_is_greylisted_gets_it_later_and_nobody_gets_it_twice(
    postfix: Postfix, stage: Stage
) -> None:
    """The connection is kept, and so is the server's mind: a new consumer finds it changed."""
    postfix.refuse({"late@example.net": GREYLISTED, "gone@example.net": UNHEARD_OF})
    server = {"name": "smtp", "type": "smtp", "host": HOST, "port": postfix.port}
    stage.settings["vendors"].append(server)
    stage.settings["retry"] = {"base": 0.2, "cap": 0.2, "max_attempts": 10_000}
    several = email(to=["bob@example.net", "late@example.net", "gone@example.net"])
    ids = stage.producer.send_many([several, email(to=["late@example.net"])])
    with consuming(stage):
        wait_until(lambda: all(len(stage.outcomes(id_)) >= 2 for id_ in ids), what="two attempts")
    assert stage.statuses() == {"queued": 2}
    assert stage.document(ids[0])["pending"] == ["late@example.net"]
    stopped = {"not_started"}  # a claim that was given back when the consumer stopped
    assert {outcome for _, outcome in stage.outcomes(ids[1])} - stopped == {"deferred"}

    postfix.refuse({})
    with consuming(stage):
        stage.until(sent=2)
    assert delivered(postfix, 3) == ["bob@example.net", "late@example.net", "late@example.net"]
    assert stage.status(ids[0]).refused == ("gone@example.net",)
    shown = {mail["Message-ID"]: str(mail["To"]) for _, mail in postfix.mails()}
    assert shown[stage.document(ids[0])["message_id"]] == ", ".join(map(str, several.to))


def test_a_server_with_room_for_ten_connections_gets_all_emails_of_more_senders(
    stage: Stage,
) -> None:
    server = stage.smtp("smtp", room=10)
    stage.settings["consumer"] = {**stage.settings.get("consumer", {}), "concurrency": 24}
    ids = stage.send(120)
    with consuming(stage):
        stage.until(sent=120)
    assert len(server.letters) == 120
    assert stage.health("smtp").get("unavailable_until") is None
    assert all(stage.document(id_)["counted"] <= 1 for id_ in ids)


def test_where_the_connections_are_bounded_the_senders_do_not_crowd_for_them(
    stage: Stage,
) -> None:
    server = stage.smtp("smtp")
    stage.settings["vendors"][0]["connections"] = 1
    ids = stage.send(30)
    with consuming(stage):
        stage.until(sent=30)
    assert len(server.letters) == 30
    assert [stage.outcomes(id_) for id_ in ids] == [[("smtp", "accepted")]] * 30


def test_the_envelope_goes_to_its_recipients_and_bounces_to_its_sender(
    postfix: Postfix, vendor: Smtp
) -> None:
    """What is shown is another thing; Postfix says on top of the mail who sent it."""
    named = {"from": "bounce+4711@example.com", "recipients": ["eve@example.net"]}
    assert vendor.send(email(envelope=named), attempt()).outcome is Outcome.ACCEPTED
    assert vendor.send(email(envelope={**named, "from": ""}), attempt()).outcome is Outcome.ACCEPTED
    assert delivered(postfix, 2) == ["eve@example.net", "eve@example.net"]
    mails = [mail for _, mail in postfix.mails()]
    senders = sorted(str(mail["Return-Path"]) for mail in mails)
    assert senders == ["<>", "<bounce+4711@example.com>"]
    assert {(str(mail["To"]), str(mail["From"])) for mail in mails} == {
        ("bob@example.net", "Ann <ann@example.com>")
    }
