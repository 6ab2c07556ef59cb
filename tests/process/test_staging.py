"""Staging in production mode: a real consumer, vendors of several kinds, and 10,000 recipients."""

from __future__ import annotations

import json
import random
from base64 import b64decode
from collections.abc import Iterator
from contextlib import ExitStack
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from mailqueue.consumer.staging import REDIRECTED_FROM
from mailqueue.message import EmailDict
from tests.contract import azure, mailgun, mandrill, postmark, resend, sendgrid, ses, sparkpost
from tests.contract.case import Case
from tests.process.consumer_process import ConsumerProcess
from tests.stage import Stage
from tests.vendor_servers import HttpServer, SmtpServer

CASES = (azure, mailgun, mandrill, postmark, resend, sendgrid, ses, sparkpost)
ALLOW = ["@example.com", "ann@example.org", "@bücher.example"]
TEAM = "team@inbox.example"
EMAILS, EACH = 250, 20  # twice: 10,000 recipients
STRANGER = "xq7z"  # in the local part of each, so that none can be overlooked

# What {0} stands for is in no other address.
ON_THE_LIST = (
    *("a{0}@example.com", "A{0}+news@EXAMPLE.com", "Ann O'Nym <a{0}@Example.com>"),
    *("Änn <ann@example.org>", "b{0}@bücher.example", "b{0}@xn--bcher-kva.example"),
)
OFF_THE_LIST = (
    *("{0}@sub.example.com", "{0}@example.com.evil.example", "{0}@evilexample.com"),
    *("{0}@example.co", "{0}@ex\u0430mple.com", "{0}@xn--exmple-4nf.com", "ann+{0}@example.org"),
    *("{0}%example.com@evil.example", '"ann@example.org" <{0}@evil.example>', "{0}@EVIL.example"),
    *('"{0}@example.com"@evil.example', "Zoë {0} <{0}@bücher.example.net>", "{0}@bucher.example"),
    *("{0}=example.com@evil.example", "{0}.ann@example.org", "Ann <{0}@example.org>"),
)


def people(rand: random.Random, number: int, n: int) -> list[str]:
    """Some of the list, and more who are not on it."""
    strangers = [rand.choice(OFF_THE_LIST).format(f"{STRANGER}{number}i{i}") for i in range(n // 2)]
    others = [rand.choice(ON_THE_LIST).format(f"{number}i{i}") for i in range(n - n // 2)]
    both = strangers + (others if number % 5 else [])
    rand.shuffle(both)
    return both or strangers


def letter(rand: random.Random, number: int) -> EmailDict:
    """Recipients anywhere; things that name them, or would add others, everywhere else."""
    some, third = people(rand, number, EACH), EACH // 3
    stranger = f"{STRANGER}{number}@evil.example"
    email: EmailDict = {
        "from": "Shop <shop@shop.example>",
        "to": [stranger, *some[:third]],
        "cc": some[third : 2 * third],
        "bcc": some[2 * third :],
        "subject": f"Number {number}",
        "text": "Hello",
        "html": "<p>Hello</p>",
        "metadata": {"user": stranger, "shop": "1"},
        "tags": [stranger, "spring"],
        "headers": {
            "X-For": f"<{stranger.upper()}>",
            "X-SMTPAPI": json.dumps({"to": [stranger]}),
            "X-MC-BccAddress": stranger,
        },
        "vendor_options": {
            "postmark": {"Bcc": stranger},
            "resend": {"to": [stranger]},
            "sendgrid": {"personalizations": [{"to": [{"email": stranger}]}]},
            "mandrill": {"message": {"bcc_address": stranger}},
            "mailgun": {"bcc": stranger},
            "sparkpost": {"recipients": {"list_id": STRANGER}},
            "ses": {"Destination": {"BccAddresses": [stranger]}},
            "azure": {"recipients": {"bcc": [{"address": stranger}]}},
        },
    }
    if number % 7 == 0:  # shown, and not sent to; only some vendors can do that
        email["envelope"] = {"recipients": some[third:]}
        email["cc"] = email["bcc"] = None
    return email


def mime_text(octets: bytes) -> str:
    """All that a message says, decoded; without the header that may name strangers."""
    message = message_from_bytes(octets, policy=policy.default)
    del message[REDIRECTED_FROM]
    headers = [f"{name}: {value}" for name, value in message.items()]
    return "\n".join(
        [*headers, *(str(part.get_content()) for part in message.walk() if not part.is_multipart())]
    )


def json_texts(value: Any) -> Iterator[str]:
    """All texts and names in a request, decoded; without the header that may name strangers."""
    if isinstance(value, dict):
        named = value.get("name", value.get("Name"))
        for name, each in value.items():
            if REDIRECTED_FROM not in (name, named):
                yield name
                yield from json_texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from json_texts(each)
    elif isinstance(value, str):
        if value.startswith(("From: ", "MIME-Version", "To: ")):
            value = mime_text(value.encode())
        yield value
        if len(value) > 200 and " " not in value:
            yield mime_text(b64decode(value))


def texts_of(server: HttpServer | SmtpServer) -> Iterator[str]:
    """All that a vendor was told, request by request."""
    if isinstance(server, SmtpServer):
        for got in server.letters:
            yield "\n".join([got.sender, *got.recipients, mime_text(got.octets)])
        return
    for request in server.requests:
        if request.headers["content-type"].startswith("multipart/"):
            parts = [(name, part) for name, part in request.form if REDIRECTED_FROM not in name]
            yield "\n".join(
                f"{name} {part.get_payload(decode=True)!r}"
                for name, part in parts
                if part.get_content_type() != "message/rfc822"
            )
            for _, part in parts:
                if part.get_content_type() == "message/rfc822":
                    (message,) = part.iter_parts()
                    yield mime_text(message.as_bytes())
        else:
            yield "\n".join(json_texts(request.json))


def entry_of(case: Case, server: HttpServer) -> dict[str, Any]:
    return {"name": case.type, "type": case.type, "base_url": server.url, **case.keys}


@pytest.mark.parametrize("redirect_to", [TEAM, None])
def test_nobody_outside_the_list_is_ever_named_to_a_vendor(
    stage: Stage, tmp_path: Path, redirect_to: str | None
) -> None:
    rand = random.Random(f"{redirect_to}")
    allow = ALLOW if redirect_to is None else [*ALLOW[:2], "@xn--bcher-kva.example"]
    with ExitStack() as stack:
        servers: list[HttpServer | SmtpServer] = []
        for module in CASES:
            server = stack.enter_context(HttpServer(module.CASE.accepted))
            stage.settings["vendors"].append(entry_of(module.CASE, server))
            servers.append(server)
        servers.append(stage.smtp("smtp"))
        stage.producer.send_many([letter(rand, n) for n in range(EMAILS)])
        stage.settings["staging"] = {"redirect_to": redirect_to, "allow": allow}
        with ConsumerProcess(stage.settings, tmp_path / "consumer") as consumer:
            stage.until(60, **expected(redirect_to))
        assert f"staging={'redirected' if redirect_to else 'cancelled'}" in consumer.output
        assert STRANGER not in consumer.output
        told = [list(texts_of(server)) for server in servers]
    assert all(len(texts) > 5 for texts in told)
    named = [text for texts in told for text in texts if STRANGER in text.lower()]
    assert named == []
    if redirect_to is not None:
        assert all(TEAM in text for texts in told for text in texts)


def expected(redirect_to: str | None) -> dict[str, int]:
    """Every fifth e-mail is to strangers only."""
    number = EMAILS
    if redirect_to is not None:
        return {"sent": number}
    return {"sent": number - number // 5, "cancelled": number // 5}
