"""``mailqueue smtp`` as a real process, and clients as they come."""

from __future__ import annotations

import base64
import re
import smtplib
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme

from mailqueue.service.keys import digest_of, new_secret
from mailqueue.smtp.session import MAX_ERRORS, MAX_IDLE
from tests.process.conftest import Consumers
from tests.servers import BreakableServers
from tests.smtp_service import REPO, SmtpService, Talk, write_config
from tests.stage import Stage
from tests.waiting import wait_until

HELLO = "From: ann@example.com\r\nTo: bob@example.org\r\nSubject: Hi\r\n\r\nHello\r\n"
BODY = "the-words-of-the-body"
Services = Callable[..., SmtpService]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Services]:
    """Start the service on a stage: ``serve(stage, "--host", "0.0.0.0")``."""
    with ExitStack() as stack:

        def start(stage: Stage, *arguments: str, **environ: str) -> SmtpService:
            folder = tmp_path / f"smtp{time.monotonic_ns()}"
            return stack.enter_context(SmtpService(stage.settings, folder, *arguments, **environ))

        yield start


@pytest.fixture
def certified(stage: Stage, tmp_path: Path) -> ssl.SSLContext:
    """The stage's configuration has a certificate; what a client needs to trust it."""
    authority = trustme.CA()
    chain = tmp_path / "chain.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(chain))
    stage.settings["smtp"] = {"certificate": str(chain)}
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def add_key(
    stage: Stage,
    name: str = "shop",
    scope: Sequence[str] = ("send",),
    senders: Sequence[str] = (),
) -> str:
    """One more API key; returns its secret."""
    secret = new_secret()
    keys = stage.settings.setdefault("http", {}).setdefault("keys", [])
    keys.append({"name": name, "sha256": digest_of(secret), "scope": scope, "from": senders})
    return secret


def stored_id(reply: str) -> str:
    assert reply.startswith("250 2.0.0 Stored as "), reply
    return reply.rpartition(" ")[2]


def plain(secret: str, user: str = "anybody") -> str:
    return base64.b64encode(f"\0{user}\0{secret}".encode()).decode()


# The promise --------------------------------------------------------------------------------------


def test_a_message_that_was_answered_with_250_is_stored_under_the_id_and_sent_once(
    stage: Stage, serve: Services, ready: Consumers
) -> None:
    vendor = stage.vendor("first")
    service = serve(stage)
    assert service.first_line == f"mailqueue smtp: listening on smtp://127.0.0.1:{service.port}\n"
    with service.talk() as talk:
        talk.say("EHLO client.example.com")
        email_id = stored_id(talk.hand_over(HELLO))
    assert stage.document(email_id)["email"] == {
        "from": "ann@example.com",
        "to": ["bob@example.org"],
        "subject": "Hi",
        "text": "Hello\r\n",
    }
    ready(stage)
    stage.until(sent=1)
    assert vendor.accepted == {email_id: 1}


def test_250_does_not_wait_for_beanstalkd(
    fragile_stage: Stage, servers_to_break: BreakableServers, serve: Services
) -> None:
    service = serve(fragile_stage)
    servers_to_break.beanstalkd.stop()
    with service.talk() as talk:
        talk.say("EHLO me")
        assert fragile_stage.document(stored_id(talk.hand_over(HELLO)))["status"] == "queued"


def test_451_while_mongodb_is_away_and_soon_once_that_is_known(
    fragile_stage: Stage, servers_to_break: BreakableServers, serve: Services
) -> None:
    fragile_stage.settings["mongodb"]["timeout"] = 6
    service = serve(fragile_stage)
    with service.talk() as talk:
        talk.say("EHLO me")
        stored_id(talk.hand_over(HELLO))
        servers_to_break.mongod.stop()
        assert talk.hand_over(HELLO).startswith("451 4.3.0")
        began = time.monotonic()
        assert talk.hand_over(HELLO).startswith("451 4.3.0")
        assert time.monotonic() - began < 5  # one that waited for MongoDB would take 6
        servers_to_break.mongod.start()
        wait_until(lambda: talk.hand_over(HELLO).startswith("250"), 30)


def test_the_time_that_storing_takes_is_not_the_clients(
    fragile_stage: Stage, servers_to_break: BreakableServers, serve: Services
) -> None:
    """Else it would be sent away without the 250 of a message that is stored, and send it again."""
    fragile_stage.settings["mongodb"]["timeout"] = 20
    fragile_stage.settings["smtp"] = {"timeout": 1.5}
    with serve(fragile_stage).talk() as talk:
        talk.say("EHLO me")
        stored_id(talk.hand_over(HELLO))
        talk.say("MAIL FROM:<ann@example.com>", "RCPT TO:<bob@example.org>", "DATA")
        servers_to_break.mongod.pause()
        talk.send(f"{HELLO}.\r\n")
        time.sleep(3.5)  # twice the timeout and more; nothing depends on how much longer
        servers_to_break.mongod.resume()
        stored_id(talk.reply())


def test_it_starts_while_mongodb_is_away(
    fragile_stage: Stage, servers_to_break: BreakableServers, serve: Services
) -> None:
    fragile_stage.settings["mongodb"]["timeout"] = 1
    servers_to_break.mongod.stop()
    with serve(fragile_stage).talk() as talk:
        talk.say("EHLO me")
        assert talk.hand_over(HELLO).startswith("451 4.3.0")


def test_a_message_that_is_under_way_is_finished_when_the_service_stops(
    stage: Stage, serve: Services
) -> None:
    service = serve(stage)
    with service.talk() as talk, service.talk() as idle:
        talk.say("EHLO me", "MAIL FROM:<ann@example.com>", "RCPT TO:<bob@example.org>", "DATA")
        service.terminate()
        assert idle.reply().startswith("421 4.3.2")
        talk.send(HELLO)
        assert stage.document(stored_id(talk.say(".")))["status"] == "queued"
        assert talk.reply().startswith("421 4.3.2")
    assert service.wait() == 0


def test_outside_production_an_e_mail_is_for_simulated_consumers(
    stage: Stage, serve: Services
) -> None:
    service = serve(stage, MAILQUEUE_ENV="")
    with service.talk() as talk:
        talk.say("EHLO me")
        assert stage.document(stored_id(talk.hand_over(HELLO)))["env"] == "simulated"
    assert "mode=simulated" in service.log


# Who may come -------------------------------------------------------------------------------------


def test_without_keys_it_says_so_and_serves_this_host_only(
    stage: Stage, serve: Services, tmp_path: Path
) -> None:
    assert "http.keys is empty" in serve(stage).log
    config = write_config(tmp_path / "elsewhere", stage.settings)
    command = [sys.executable, "-m", "mailqueue", "smtp", "--host", "0.0.0.0", "--port", "0"]
    command += ["--config", str(config)]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "http.keys: none" in ended.stderr
    assert "smtp.certificate: needed" in ended.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_nobody_relays_without_a_key(
    stage: Stage, serve: Services, certified: ssl.SSLContext, host: str
) -> None:
    add_key(stage)
    with serve(stage, "--host", host).client() as client:
        client.starttls(context=certified)
        client.ehlo()
        for command in ("MAIL FROM:<ann@example.com>", "RCPT TO:<bob@example.org>", "DATA"):
            assert client.docmd(command)[0] == 530


def test_a_wrong_key_and_one_of_another_scope_are_refused(stage: Stage, serve: Services) -> None:
    add_key(stage)
    reader = add_key(stage, "reader", scope=["read"])
    service = serve(stage)
    for secret in (new_secret(), reader, "", "x" * 1000):
        with service.talk() as talk:
            talk.say("EHLO me")
            assert talk.say(f"AUTH PLAIN {plain(secret)}").startswith("535 5.7.8")
            assert talk.say("MAIL FROM:<ann@example.com>").startswith("530")
    assert service.log.count("login.refused") == 4
    assert reader not in service.log


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "plain"])
def test_a_key_is_the_password_with_any_user_name(
    stage: Stage, serve: Services, mechanism: str
) -> None:
    secret = add_key(stage)
    with serve(stage).talk() as talk:
        assert "AUTH PLAIN LOGIN" in talk.say("EHLO me")
        if mechanism == "LOGIN":
            assert talk.say("AUTH LOGIN") == "334 VXNlcm5hbWU6"
            words = [base64.b64encode(word.encode()).decode() for word in ("me", secret)]
            assert talk.say(*words).startswith("235")
        else:
            assert talk.say(f"AUTH {mechanism} {plain(secret)}").startswith("235")
        stored_id(talk.hand_over(HELLO))


def test_a_key_bounds_the_sender_of_the_envelope_and_of_the_header_fields(
    stage: Stage, serve: Services
) -> None:
    stage.smtp("any")
    secret = add_key(stage, senders=["*@example.com"])
    with serve(stage).talk() as talk:
        talk.say("EHLO me", f"AUTH PLAIN {plain(secret)}")
        assert talk.say("MAIL FROM:<eve@example.net>").startswith("550 5.7.1")
        foreign = HELLO.replace("ann@example.com", "eve@example.net")
        assert talk.hand_over(foreign) == "550 5.7.1 From: this API key may not send from there"
        shown = "Sender: eve@example.net\r\n" + HELLO
        assert talk.hand_over(shown).startswith("550 5.7.1 Sender")
        stored_id(talk.hand_over(HELLO))
    assert stage.statuses() == {"queued": 1}


def test_idempotency_keys_of_two_api_keys_have_nothing_to_do_with_each_other(
    stage: Stage, serve: Services
) -> None:
    secrets = [add_key(stage, "one"), add_key(stage, "two")]
    service = serve(stage)
    ids = []
    for secret in (*secrets, *secrets):
        with service.talk() as talk:
            talk.say("EHLO me", f"AUTH PLAIN {plain(secret)}")
            ids.append(stored_id(talk.hand_over("Idempotency-Key: order-7\r\n" + HELLO)))
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2


# TLS ----------------------------------------------------------------------------------------------


def test_from_elsewhere_a_password_is_taken_over_tls_only(
    stage: Stage, serve: Services, certified: ssl.SSLContext
) -> None:
    secret = add_key(stage)
    with serve(stage, "--host", "0.0.0.0").client() as client:
        client.ehlo()
        assert not client.has_extn("auth")
        assert client.docmd("AUTH", f"PLAIN {plain(secret)}")[0] == 530
        assert client.docmd("MAIL", "FROM:<ann@example.com>")[0] == 530
        client.starttls(context=certified)
        client.login("anybody", secret)
        assert client.sendmail("ann@example.com", "bob@example.org", HELLO) == {}


def test_tls_from_the_first_byte(stage: Stage, serve: Services, certified: ssl.SSLContext) -> None:
    secret = add_key(stage)
    stage.settings["smtp"]["tls"] = "implicit"
    service = serve(stage, "--host", "0.0.0.0")
    assert "smtps://" in service.first_line
    with smtplib.SMTP_SSL("127.0.0.1", service.port, context=certified) as client:
        client.login("anybody", secret)
        assert not client.has_extn("starttls")
        assert client.sendmail("ann@example.com", "bob@example.org", HELLO) == {}


def test_commands_that_came_with_starttls_are_forgotten(
    stage: Stage, serve: Services, certified: ssl.SSLContext
) -> None:
    with serve(stage).talk() as talk:
        talk.say("EHLO me", "MAIL FROM:<ann@example.com>")
        talk.send("STARTTLS\r\nEHLO eve\r\nMAIL FROM:<eve@example.net>\r\n")
        assert talk.reply().startswith("220")
        talk.start_tls(certified)
        assert talk.say("NOOP") == "250 2.0.0 OK"
        assert talk.say("MAIL FROM:<ann@example.com>").startswith("503")  # not yet greeted


def test_a_renewed_certificate_is_shown_after_sighup_and_one_that_is_broken_is_not(
    stage: Stage, serve: Services, certified: ssl.SSLContext
) -> None:
    chain = Path(stage.settings["smtp"]["certificate"])
    service = serve(stage)

    def shown() -> bytes:
        with service.client() as client:
            client.starttls(context=certified)
            assert isinstance(client.sock, ssl.SSLSocket)
            return client.sock.getpeercert(binary_form=True) or b""

    first = shown()
    authority = trustme.CA()
    authority.configure_trust(certified)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(chain))
    service.hang_up()
    wait_until(lambda: "certificate.renewed" in service.log)
    second = shown()
    assert second != first
    chain.write_text("no certificate")
    service.hang_up()
    wait_until(lambda: "certificate.not_renewed" in service.log)
    assert shown() == second


def test_a_certificate_that_cannot_be_read_is_said(stage: Stage, tmp_path: Path) -> None:
    stage.settings["smtp"] = {"certificate": str(tmp_path / "missing.pem")}
    config = write_config(tmp_path / "smtp", stage.settings)
    command = [sys.executable, "-m", "mailqueue", "smtp", "--config", str(config)]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "smtp.certificate: cannot be used: No such file" in ended.stderr


# Messages -----------------------------------------------------------------------------------------


def test_what_is_not_valid_is_refused_with_its_field_and_the_next_one_is_taken(
    stage: Stage, serve: Services
) -> None:
    service = serve(stage)
    with service.talk() as talk:
        talk.say("EHLO me")
        bad = HELLO.replace("To: ", "To: nobody-at-all, ")
        assert talk.hand_over(bad).startswith("550 5.6.0 to[0]: ")
        urgent = "X-Mailqueue-Priority: urgent\r\n" + HELLO
        assert talk.hand_over(urgent).startswith("550 5.6.0 priority: ")
        email_id = stored_id(talk.hand_over("Idempotency-Key: 7\r\n" + HELLO))
        other = "Idempotency-Key: 7\r\n" + HELLO + "more\r\n"
        assert talk.hand_over(other).startswith("550 5.6.0 idempotency_key: ")
        assert stored_id(talk.hand_over("Idempotency-Key: 7\r\n" + HELLO)) == email_id
    assert "nobody-at-all" not in service.log


def test_the_envelope_says_who_gets_it_and_a_bcc_field_says_nothing(
    stage: Stage, serve: Services, ready: Consumers
) -> None:
    vendor = stage.smtp("any")
    with serve(stage).talk() as talk:
        talk.say("EHLO me")
        text = "Bcc: eve@example.org\r\n" + HELLO
        people = ("bob@example.org", "dan@example.org")
        stored_id(talk.hand_over(text, "ann@example.com", *people))
        shown = HELLO.replace("To: ", "To: list@example.org, ")
        stored_id(talk.hand_over(shown, "bounce+7@example.com", "bob@example.org"))
    ready(stage)
    stage.until(sent=2)
    deliveries = {(each.sender, tuple(sorted(each.recipients))) for each in vendor.letters}
    assert deliveries == {
        ("ann@example.com", people),
        ("bounce+7@example.com", ("bob@example.org",)),
    }
    assert all("bcc" not in each.message for each in vendor.letters)


def test_size_is_checked_before_and_after_the_message(stage: Stage, serve: Services) -> None:
    stage.settings["limits"] = {"max_size": 100_000}
    with serve(stage).talk() as talk:
        (size,) = (
            int(line.partition("SIZE ")[2])
            for line in talk.say("EHLO me").splitlines()
            if "SIZE" in line
        )
        assert 137_000 < size < 250_000
        assert talk.say(f"MAIL FROM:<ann@example.com> SIZE={size + 1}").startswith("552 5.3.4")
        assert talk.hand_over(HELLO + "x" * size + "\r\n").startswith("552 5.3.4")
        assert talk.hand_over(HELLO + "x" * 101_000 + "\r\n").startswith("552 5.3.4")
        stored_id(talk.hand_over(HELLO + "x" * 90_000 + "\r\n"))


def test_addresses_and_text_outside_ascii(stage: Stage, serve: Services) -> None:
    stage.smtp("any")
    message = EmailMessage()
    message["From"], message["To"] = "ann@example.com", "böb@exämple.org"
    message["Subject"] = "Grüße"
    message.set_content("Straße\n", cte="8bit")
    service = serve(stage)
    with service.client() as client:
        client.ehlo()
        assert client.has_extn("smtputf8")
        assert client.has_extn("8bitmime")
        client.send_message(message)
        client.mail("ann@example.com")
        assert client.docmd("RCPT", "TO:<böb@example.org>".encode().decode("latin-1"))[0] != 250
    (document,) = stage.emails.find()
    assert document["email"]["to"] == ["böb@exämple.org"]
    assert document["email"]["text"] == "Straße\r\n"
    with service.talk() as talk:
        talk.say("EHLO me", "MAIL FROM:<ann@example.com>")
        assert talk.say("RCPT TO:<böb@example.org>").startswith("553 5.6.7")
        talk.say("RSET", "MAIL FROM:<ann@example.com> SMTPUTF8 BODY=8BITMIME")
        assert talk.say("RCPT TO:<böb@example.org>").startswith("250")


def test_commands_may_come_together(stage: Stage, serve: Services) -> None:
    envelope = "MAIL FROM:<ann@example.com>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n"
    with serve(stage).talk() as talk:
        assert "PIPELINING" in talk.say("EHLO me")
        talk.send(envelope + HELLO + ".\r\n" + envelope + ".\r\nNOOP\r\nQUIT\r\n")
        codes = [talk.reply()[:3] for _ in range(10)]
        # The second message is empty: it has no sender.
        assert codes == ["250", "250", "354", "250", "250", "250", "354", "550", "250", "221"]
        assert talk.reply() == ""
    assert stage.statuses() == {"queued": 1}


def test_dots_and_long_lines_arrive_as_they_were_sent(stage: Stage, serve: Services) -> None:
    text = f".\r\n..\r\n.dot\r\n{'x' * 100_000}\r\n" + ".\r\n" * 50_000
    with serve(stage).talk() as talk:
        talk.say("EHLO me")
        email_id = stored_id(
            talk.hand_over(HELLO + text.replace("\r\n.", "\r\n..").replace(".\r\n", "..\r\n", 1))
        )
    assert stage.document(email_id)["email"]["text"] == f"Hello\r\n{text}"


def test_a_client_that_closes_its_side_still_gets_its_replies(
    stage: Stage, serve: Services
) -> None:
    envelope = "EHLO me\r\nMAIL FROM:<ann@example.com>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n"
    with serve(stage).talk() as talk:
        talk.send(f"{envelope}{HELLO}.\r\n")
        talk.shut_down()
        replies = [talk.reply() for _ in range(5)]
    stored_id(replies[-1])


# Attacks ------------------------------------------------------------------------------------------

SMUGGLED = (
    "MAIL FROM:<eve@example.net>{end}RCPT TO:<bob@example.org>{end}DATA{end}{text}{end}.{end}"
)


@pytest.mark.parametrize(
    "dot", ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\n\n.\r\r\n"]
)
def test_no_second_message_is_smuggled_behind_a_line_end_that_is_none(
    stage: Stage, serve: Services, dot: str
) -> None:
    with serve(stage).talk() as talk:
        talk.say("EHLO me")
        smuggled = SMUGGLED.format(end="\r\n", text=HELLO)
        assert talk.hand_over(f"{HELLO}{dot}{smuggled}"[:-3]).startswith("550 5.5.2")
        assert talk.say("NOOP").startswith("250")  # and nothing came in between
    assert stage.statuses() == {}


def test_no_web_page_has_a_browser_hand_over_a_message(stage: Stage, serve: Services) -> None:
    """The content of a form is what its page says, and goes to any port of this host."""
    with serve(stage).talk() as talk:
        content = "EHLO me\r\n" + SMUGGLED.format(end="\r\n", text=HELLO)
        talk.send(f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n{content}QUIT\r\n")
        assert talk.reply().startswith("421 4.7.0")
        assert talk.reply() == ""
    assert stage.statuses() == {}


@pytest.mark.parametrize("line", ["NOOP\n", "NOOP\r\r\n", "NOOP\rRSET\r\n", "NOOP \0\r\n"])
def test_a_command_ends_in_cr_lf_too(stage: Stage, serve: Services, line: str) -> None:
    with serve(stage).talk() as talk:
        talk.send(line)
        assert talk.reply().startswith("500 5.5.2")


def test_errors_and_idle_commands_are_counted(stage: Stage, serve: Services) -> None:
    service = serve(stage)
    with service.talk() as talk:
        replies = [talk.say("WHATEVER") for _ in range(MAX_ERRORS)]
        assert {reply[:9] for reply in replies} == {"500 5.5.1"}
        assert (talk.reply()[:9], talk.reply()) == ("421 4.7.0", "")
    with service.talk() as talk:
        talk.say(*["NOOP"] * MAX_IDLE)
        assert (talk.say("NOOP")[:9], talk.reply()) == ("421 4.7.0", "")


def test_a_line_has_a_length(stage: Stage, serve: Services) -> None:
    with serve(stage).talk() as talk:
        assert talk.say("NOOP " + "x" * 3000).startswith("500 5.5.2")
        assert talk.say("NOOP").startswith("250")
        talk.send("x" * 200_000)
        assert talk.reply()[:9] in ("500 5.5.2", "")  # it does not wait until this is read
        assert talk.reply() == ""


def test_a_client_that_says_nothing_is_sent_away(stage: Stage, serve: Services) -> None:
    stage.settings["smtp"] = {"timeout": 1}
    service = serve(stage)
    with service.talk() as talk:
        assert (talk.reply()[:9], talk.reply()) == ("421 4.4.2", "")
    with service.talk() as talk:
        talk.say("EHLO me", "MAIL FROM:<ann@example.com>", "RCPT TO:<bob@example.org>", "DATA")
        assert (talk.reply()[:9], talk.reply()) == ("421 4.4.2", "")


@pytest.mark.parametrize("words", ["", "EHLO me\r\nAUTH LOGIN\r\n", "STARTTLS\r\n"])
def test_silent_clients_keep_nobody_out(
    stage: Stage, serve: Services, certified: ssl.SSLContext, words: str
) -> None:
    """In the middle of a login or of TLS's handshake, too."""
    stage.settings["smtp"]["connections"] = 20
    secret = add_key(stage)
    service = serve(stage)
    with silent_clients(service, 50) as talks:
        for talk in talks:
            talk.send(words)
        wait_until(lambda: can_hand_over(service, secret))


def test_too_many_recipients_are_put_off(stage: Stage, serve: Services) -> None:
    with serve(stage).talk() as talk:
        talk.say("EHLO me", "MAIL FROM:<ann@example.com>")
        talk.send("".join(f"RCPT TO:<reader{n}@example.org>\r\n" for n in range(1001)))
        codes = [talk.reply()[:9] for _ in range(1001)]
    assert codes == ["250 2.1.5"] * 1000 + ["452 4.5.3"]


@contextmanager
def silent_clients(service: SmtpService, number: int) -> Iterator[list[Talk]]:
    """So many connections that say nothing."""
    talks: list[Talk] = []
    try:
        talks.extend(Talk(service.port) for _ in range(number))
        yield talks
    finally:
        for talk in talks:
            talk.close()


def can_hand_over(service: SmtpService, secret: str = "") -> bool:
    with service.talk() as talk:
        if talk.greeting[:3] != "220" or not talk.say("EHLO me"):
            return False
        if secret:
            talk.say(f"AUTH PLAIN {plain(secret)}")
        return bool(stored_id(talk.hand_over(HELLO)))


# Other people's programs --------------------------------------------------------------------------


def test_swaks_over_starttls_with_a_key(
    stage: Stage, serve: Services, certified: ssl.SSLContext, swaks: str
) -> None:
    secret = add_key(stage)
    service = serve(stage, "--host", "0.0.0.0")
    command = [swaks, "--server", f"127.0.0.1:{service.port}", "--tls", "--auth", "LOGIN"]
    command += ["--auth-user", "shop", "--auth-password", secret, "--from", "ann@example.com"]
    command += ["--to", "bob@example.org,carol@example.org", "--body", BODY, "--pipeline"]
    sent = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    (document,) = stage.emails.find()
    assert f"250 2.0.0 Stored as {document['_id']}" in sent.stdout
    assert BODY in document["email"]["text"]


def test_nothing_that_a_client_sends_is_logged(stage: Stage, serve: Services) -> None:
    secret = add_key(stage)
    service = serve(stage)
    with service.talk() as talk:
        talk.say("EHLO me", f"AUTH PLAIN {plain(secret[:-1])}", f"AUTH PLAIN {plain(secret)}")
        talk.hand_over(HELLO + BODY + "\r\n")
        talk.hand_over(HELLO.replace("To: bob", "To: nobody-at-all, bob") + BODY + "\r\n")
        talk.hand_over(HELLO + BODY + "\n\r\n")
        talk.say("AUTH PLAIN", f"MAIL FROM:<{BODY}@example.com> X=1", BODY, f"HELP {BODY}")
    words = (secret, plain(secret), BODY, "ann@", "bob@", "nobody-at-all", "Hello")
    assert [word for word in words if word in service.log] == []
    [refused] = [line for line in service.log.splitlines() if "message.refused" in line]
    assert re.search(r"field=to(\[0\])? problem=.*e-mail address.* key=", refused)
