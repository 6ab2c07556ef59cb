"""One mailbox in to, cc and bcc gets one copy, whatever the vendor."""

from __future__ import annotations

from typing import Any

import pytest

from mailqueue.message import Email
from mailqueue.vendors import limits
from mailqueue.vendors.payloads import unique_recipients
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HOST, HttpServer, Received, ScriptedSmtp, Wire, polite

LONG: dict[str, Any] = {
    "from": "Ann <ann@example.org>",
    "subject": "A long enough subject",
    "text": "A long text.",
}

each_vendor = pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])


def _email(**people: list[str]) -> Email:
    return Email.from_mapping({**LONG, "html": "<p>A long enough text</p>", **people})


TWICE = _email(
    to=["Bob <bob@bücher.example>", "bob@xn--bcher-kva.example", "carol@example.net"],
    cc=["bob@BÜCHER.example", "dora@example.net", "Carol <CAROL@example.net>"],
    bcc=["bob@XN--bcher-kva.example", "Dora@Example.NET", "eve@example.net", "eve@example.net"],
)


@each_vendor
def test_a_mailbox_is_handed_over_once_where_it_is_shown_first(
    case: Case, vendor: Vendors, attempt: Attempts
) -> None:
    with HttpServer(case.accepted) as server:
        vendor(case.type, base_url=server.url, keys=case.keys).send(TWICE, attempt())
    found = case.parse(server.requests[0])
    told = {name: [at for _, at in getattr(found, name)] for name in ("to", "cc", "bcc")}
    if case.type == "ses":  # the message shows what was written; who gets it is told beside it
        told = _destination(server.requests[0])
    assert told == {
        "to": ["bob@xn--bcher-kva.example", "carol@example.net"],
        "cc": ["dora@example.net"],
        "bcc": ["eve@example.net"],
    }


def _destination(request: Received) -> dict[str, list[str]]:
    fields = request.json["Destination"].items()
    return {name.removesuffix("Addresses").lower(): people for name, people in fields}


def test_smtp_names_each_mailbox_once_and_knows_upper_from_lower_case(
    vendor: Vendors, attempt: Attempts
) -> None:
    named: list[str] = []

    def answer(wire: Wire, line: str) -> bytes | None:
        if line.upper().startswith("RCPT"):
            named.append(line.partition("<")[2].partition(">")[0])
        return polite(wire, line)

    with ScriptedSmtp(answer) as server:
        keys = {"host": HOST, "port": server.port, "tls": "none"}
        vendor("smtp", keys=keys).send(TWICE, attempt())
    assert [_lower_domain(at) for at in named] == [
        *("bob@xn--bcher-kva.example", "carol@example.net", "dora@example.net"),
        *("CAROL@example.net", "Dora@example.net", "eve@example.net"),
    ]


def _lower_domain(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.lower()}"


@pytest.mark.parametrize(
    "one,other",
    [
        ("zoe\u0301@example.org", "zoé@example.org"),
        ("bob@例え.example", "bob@xn--r8jz45g.example"),
        ("bob@STRASSE.example", "bob@strasse.example"),
    ],
)
def test_one_mailbox_in_two_spellings_is_one(one: str, other: str) -> None:
    assert [person.address for person in _email(to=[one], cc=[other]).recipients] == [one]


def test_a_mailbox_in_upper_case_is_another_one_but_not_for_a_vendors_api() -> None:
    email = _email(to=["Bob@example.org"], cc=["bob@example.org"])
    assert [person.address for person in email.recipients] == ["Bob@example.org", "bob@example.org"]
    assert list(unique_recipients(email)) == ["to"]


MANY = [f"r{n}@example.org" for n in range(50)]


@pytest.mark.parametrize("type_", ["postmark", "resend", "mailjet", "azure", "mailersend"])
def test_who_is_there_twice_counts_once_against_a_vendors_limit(type_: str) -> None:
    again: dict[str, Any] = {"to": [*MANY, "R7@EXAMPLE.org"], "cc": MANY[:10]}
    assert limits.can_carry(type_, _email(**again)) is None
    assert limits.can_carry(type_, _email(to=[*MANY, "other@example.org"])) is not None
