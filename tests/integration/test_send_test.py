"""``mailqueue doctor --send-test``: real HTTP and SMTP servers, and no MongoDB anywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mailqueue import cli
from mailqueue.cli import send_test
from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.base import Attempt, Vendor
from tests.stage import DOWN, CountingVendor
from tests.vendor_servers import HOST, HttpServer, Reply, SmtpServer

Document = dict[str, Any]
OPERATOR = "operator@example.org"
GONE = {"name": "gone", "type": "sendgrid", "api_key": "k", "base_url": "http://127.0.0.1:9"}
# Nobody listens there.
NOWHERE = {"mongodb": {"uri": "mongodb://127.0.0.1:9", "timeout": 0.5}}


class Asked:
    """``doctor --send-test``, as a program that is told this configuration."""

    def __init__(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._file, self._capsys = file, capsys
        self.sections: Document = {}

    def __call__(self, entries: list[Document], *options: str) -> tuple[int, str, str]:
        settings = {**NOWHERE, **self.sections, "vendors": entries}
        self._file.write_text(json.dumps(settings))
        self._file.chmod(0o600)
        self._capsys.readouterr()
        arguments = ["--config", str(self._file), "doctor", "--send-test", OPERATOR, *options]
        code = cli.main(arguments)
        return (code, *self._capsys.readouterr())

    def results(self, entries: list[Document], *options: str) -> list[Document]:
        code, out, _ = self(entries, "--json", *options)
        data = json.loads(out)
        assert code == (not data["ok"])
        results: list[Document] = data["send_test"]
        return results


@pytest.fixture
def asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Asked:
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    return Asked(tmp_path / "config.json", capsys)


Serve = Callable[..., Any]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield stack.enter_context


def smtp_entry(server: SmtpServer, **keys: Any) -> Document:
    return {"name": "relay", "type": "smtp", "host": HOST, "port": server.port, **keys}


def resend_entry(server: HttpServer) -> Document:
    return {"name": "resend", "type": "resend", "api_key": "re_key", "base_url": server.url}


def test_each_vendor_gets_one_real_email_and_its_answer_is_shown(
    asked: Asked, serve: Serve
) -> None:
    first, relay = serve(CountingVendor("first")), serve(SmtpServer())
    entries = [first.entry, smtp_entry(relay, tls="none")]
    code, out, err = asked(entries)
    assert (code, err) == (0, "")
    assert first.accepted.total() == 1
    (letter,) = relay.letters
    assert (letter.sender, letter.recipients) == (OPERATOR, [OPERATOR])
    assert letter.message["Subject"] == "Test of relay"
    assert "doctor --send-test" in letter.message.get_content()
    head, *rows = [line.split() for line in out.splitlines()]
    assert head == ["VENDOR", "RESULT", "TIME", "ANSWER"]
    assert [row[:2] for row in rows] == [["first", "accepted"], ["relay", "accepted"]]
    assert "its id there: at-the-vendor" in out


def test_the_sender_is_the_one_that_is_named_else_the_vendors_own(
    asked: Asked, serve: Serve
) -> None:
    relay = serve(SmtpServer())
    asked([smtp_entry(relay, tls="none")], "--from", "shop@example.com")
    asked([smtp_entry(relay, tls="none", **{"from": "own@example.com"})])
    senders = [letter.message["From"] for letter in relay.letters]
    assert senders == ["shop@example.com", "own@example.com"]


def test_one_vendor_alone_is_tried_even_if_the_entry_of_another_is_broken(
    asked: Asked, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    first, second = serve(CountingVendor("first")), serve(CountingVendor("second"))
    entries = [{**first.entry, "api_key": "${NO_SUCH_KEY}"}, second.entry]
    assert [r["outcome"] for r in asked.results(entries, "--vendor", "second")] == ["accepted"]
    broken, good = asked.results(entries)
    problem = "vendors[0].api_key: environment variable NO_SUCH_KEY is not set"
    assert (broken["outcome"], broken["detail"]) == ("not_configured", problem)
    assert good["outcome"] == "accepted"
    assert (first.calls, len(second.calls)) == ([], 2)


def test_what_a_vendor_says_is_shown_without_the_address_and_the_key(
    asked: Asked, serve: Serve
) -> None:
    words = f"The domain of {OPERATOR} is not verified, key re_key"
    body = json.dumps({"statusCode": 403, "name": "validation_error", "message": words})
    server = serve(HttpServer(Reply(403, {"Content-Type": "application/json"}, body.encode())))
    code, out, _ = asked([resend_entry(server)])
    assert code == 1
    assert "unsuitable" in out
    assert "is not verified" in out
    assert OPERATOR not in out
    assert "re_key" not in out
    assert "-> the vendor does not take such an e-mail: look at the sender (--from)" in out


def test_a_refused_login_a_dead_vendor_and_one_that_is_not_there_are_told_apart(
    asked: Asked, serve: Serve
) -> None:
    relay = serve(SmtpServer(login=("me", "secret")))
    login = {"username": "me", "password": "wrong"}
    entries = [
        smtp_entry(relay, tls="none", **login),
        serve(CountingVendor("dead", DOWN)).entry,
        GONE,
    ]
    found = {r["vendor"]: (r["outcome"], r["code"]) for r in asked.results(entries)}
    assert found == {
        "relay": ("misconfigured", "smtp-535"),
        "dead": ("unavailable", "503"),
        "gone": ("not_reached", "connect_refused"),
    }
    assert relay.letters == []


def test_in_the_simulation_nothing_leaves_and_that_is_said(
    asked: Asked, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAILQUEUE_ENV")
    first = serve(CountingVendor("first"))
    code, out, err = asked([{**first.entry, "api_key": "${NO_SUCH_KEY}"}])
    assert code == 0
    assert out.splitlines()[1].split()[:2] == ["first", "simulated"]
    assert "simulation: no e-mail left" in err
    assert first.calls == []


def test_a_sandbox_is_not_mistaken_for_a_delivery(asked: Asked, serve: Serve) -> None:
    first = serve(CountingVendor("first"))
    first.reply = Reply(200)
    (result,) = asked.results([{**first.entry, "sandbox": True}])
    assert result["outcome"] == "sandbox"
    assert len(first.calls) == 1


def test_staging_keeps_the_test_from_strangers(asked: Asked, serve: Serve) -> None:
    relay = serve(SmtpServer())
    entries = [smtp_entry(relay, tls="none")]
    asked.sections = {"staging": {"allow": ["@example.net"]}}
    assert [r["outcome"] for r in asked.results(entries)] == ["not_allowed"]
    assert relay.letters == []
    asked.sections = {"staging": {"redirect_to": "team@example.net"}}
    _, _, err = asked(entries)
    assert [letter.recipients for letter in relay.letters] == [["team@example.net"]]
    assert "it went to redirect_to instead" in err


class Hanging(Vendor):
    """A class of the user's own that never comes back."""

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        time.sleep(3600)
        raise AssertionError("nobody waits for so long")


class Raising(Vendor):
    """A class of the user's own that is broken."""

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        raise RuntimeError(str(email.to))


def test_a_class_that_hangs_or_raises_holds_up_no_other(
    asked: Asked, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_test, "PATIENCE", 0.5)
    monkeypatch.setattr(send_test, "GRACE", 0.1)
    own = [{"name": c.__name__, "type": f"{__name__}:{c.__name__}"} for c in (Hanging, Raising)]
    results = asked.results([*own, serve(CountingVendor("first")).entry])
    assert [(r["outcome"], r["code"]) for r in results] == [
        ("unknown", "deadline"),
        ("unknown", "raised_RuntimeError"),
        ("accepted", "202"),
    ]


class Choosy(Vendor):
    """A class of the user's own that cannot carry it."""

    def can_carry(self, email: Email) -> str | None:
        return "no such e-mail"

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        raise AssertionError("it is not asked for what it cannot carry")


class Spent(Vendor):
    """A class of the user's own whose quota is spent: it keeps the e-mail back."""

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        return SendResult(outcome=Outcome.ACCEPTED, code="queued", quota_held=True)


def test_an_email_that_would_not_leave_is_not_called_accepted(asked: Asked) -> None:
    own = [{"name": c.__name__, "type": f"{__name__}:{c.__name__}"} for c in (Choosy, Spent)]
    results = asked.results(own)
    assert [(r["outcome"], r["detail"]) for r in results] == [
        ("unsuitable", "no such e-mail"),
        ("held", ""),
    ]


@pytest.mark.parametrize(
    "options, problem",
    [
        (["--vendor", "nobody"], "nobody: no such vendor is configured (configured: gone)"),
        (["--from", "no address"], "argument --from: "),
    ],
)
def test_what_cannot_be_tried_is_wrong_usage(
    options: list[str], problem: str, asked: Asked
) -> None:
    code, out, err = asked([GONE], *options)
    assert (code, out) == (2, "")
    assert problem in err


def test_the_options_of_the_test_are_refused_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vendors": []}))
    assert cli.main(["--config", str(tmp_path / "config.json"), "doctor", "--vendor", "x"]) == 2
    assert "go with --send-test" in capsys.readouterr().err
