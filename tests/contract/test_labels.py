"""Tags and metadata never keep an e-mail from a vendor and never get before a recipient."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from mailqueue.config import VendorConfig
from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Email
from mailqueue.vendors import labels, limits
from mailqueue.vendors.http import HttpVendor
from tests.contract.case import Carried, Case
from tests.contract.cases import CASES
from tests.contract.conftest import EMAIL_ID, Attempts, Vendors
from tests.vendor_servers import HttpServer, Received

BY_TYPE = {case.type: case for case in CASES}
each_vendor = pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])

PLAIN = {
    "from": "Ann <ann@example.org>",
    "to": ["bob@example.net"],
    "subject": "A long enough subject",
    "text": "A long enough text.",
    "html": "<p>A long enough text.</p>",
}


def _email(**fields: Any) -> Email:
    return Email.from_mapping({**PLAIN, **fields})


ODD = [
    {"tags": [f"tag{n}" for n in range(50)]},
    {"tags": ["Größe", "日本", "_x", " ", "x" * 5000, "{{x}}", "a\tb"]},
    {"metadata": {f"name{n}": "v" for n in range(300)}},
    {"metadata": {"x" * 300: "v", "n": "x" * 40_000, "ä": "ö", "{{x}}": "{% if %}"}},
    {"metadata": {"mailqueue_id": "not ours", "Mailqueue_ID": "nor this", "": "", "event": "x"}},
]


@pytest.mark.parametrize("type_", VENDOR_TYPES)
@pytest.mark.parametrize("fields", ODD, ids=["many", "words", "entries", "long", "ours"])
def test_no_label_keeps_an_email_from_a_vendor(type_: str, fields: dict[str, Any]) -> None:
    email = _email(**fields)
    keys = BY_TYPE[type_].keys if type_ in BY_TYPE else {"host": "localhost"}
    config = VendorConfig(name="v", type=type_, keys=keys, base_url="https://example.org")
    assert limits.can_carry(type_, email) is None
    assert limits.nobody_carries([config], email) is None


def _sent(
    case: Case, email: Email, vendor: Vendors, attempt: Attempts, **options: Any
) -> tuple[Received, HttpVendor]:
    with HttpServer(case.accepted) as server:
        made = vendor(case.type, base_url=server.url, keys=case.keys, options=options)
        assert made.can_carry(email) is None
        assert made.send(email, attempt()).outcome is Outcome.ACCEPTED
    assert isinstance(made, HttpVendor)
    return server.requests[0], made


@each_vendor
@pytest.mark.parametrize("fields", ODD, ids=["many", "words", "entries", "long", "ours"])
def test_whatever_the_labels_the_vendor_gets_those_that_fit_and_always_our_id(
    case: Case, fields: dict[str, Any], vendor: Vendors, attempt: Attempts
) -> None:
    email = _email(**fields)
    request, made = _sent(case, email, vendor, attempt)
    found = case.parse(request)
    assert found.email_id == EMAIL_ID
    assert len(found.tags) == len(made.tags(email))
    if case.type != "mailgun":  # it gets some in another form
        assert set(found.tags) <= set(email.tags)
    sent = made.metadata(email)
    assert len(found.metadata) in {len(sent), len([v for v in sent.values() if v])}


SECRET = {"tags": ["segment-7"], "metadata": {"plan": "secret-plan"}}


def _shown(case: Case, request: Received) -> str:
    """What recipients can see of labels: the headers of the message."""
    headers = [
        (name, value) for name, value in case.parse(request).headers.items() if name not in PLAIN
    ]
    return str(headers) + ("" if case.type in {"ses", "mailgun"} else _headers(request.json))


def _headers(payload: Any) -> str:
    """Whatever stands under a key that is called headers."""
    if isinstance(payload, list):
        return " ".join(map(_headers, payload))
    if not isinstance(payload, dict):
        return ""
    said = [json.dumps(v) for name, v in payload.items() if "headers" in name.lower()]
    return " ".join([*said, *map(_headers, payload.values())])


@each_vendor
def test_labels_are_in_no_header_that_recipients_can_see(
    case: Case, vendor: Vendors, attempt: Attempts
) -> None:
    request, made = _sent(case, _email(**SECRET), vendor, attempt)
    for secret in ("segment-7", "secret-plan"):
        assert secret not in _shown(case, request)
    kept = {
        "tags": made.tags(_email(**SECRET)) != (),
        "metadata": made.metadata(_email(**SECRET)) != {},
    }
    assert {name for name, there in kept.items() if there} == set(case.labels)


@each_vendor
def test_labels_are_shown_where_there_is_no_other_place_if_they_may_be_exposed(
    case: Case, vendor: Vendors, attempt: Attempts
) -> None:
    email = _email(**SECRET)
    options = {"expose_metadata": True, **case.exposed_options}
    request, _ = _sent(case, email, vendor, attempt, **options)
    assert b"expose_metadata" not in request.body
    assert b"custom_headers" not in request.body.replace(b'"custom_headers":[{', b"")
    found = _exposed(case, request)
    for name in {*case.labels, *case.exposed}:
        assert getattr(found, name) == {"tags": ["segment-7"], "metadata": email.metadata}[name]


def _exposed(case: Case, request: Received) -> Carried:
    """What was found, with the labels in our headers where there are any."""
    found, headers = case.parse(request), dict(_pairs(request, case))
    if "X-Mailqueue-Metadata" not in headers:
        return found
    return replace(
        found,
        tags=json.loads(headers["X-Mailqueue-Tags"]),
        metadata=json.loads(headers["X-Mailqueue-Metadata"]),
    )


def _pairs(request: Received, case: Case) -> list[tuple[str, str]]:
    if case.type in {"ses", "mailgun"}:
        return []
    for name in ("headers", "additional_headers", "custom_headers"):
        given = request.json.get(name)
        if isinstance(given, dict):
            return list(given.items())
        if isinstance(given, list):
            return [(h.get("name") or h.get("key") or h["header"], h["value"]) for h in given]
    return []


@pytest.mark.parametrize("name", ["expose_metadata", "custom_headers"])
@pytest.mark.parametrize("value", [None, "true", 1])
def test_what_may_be_seen_is_said_by_true_or_false(name: str, value: Any, vendor: Vendors) -> None:
    case = BY_TYPE["mailersend"]
    with pytest.raises(
        ConfigError, match=rf"vendors\.first\.options\.{name}: must be true or false"
    ):
        vendor(case.type, keys=case.keys, options={name: value})


def test_a_field_of_smtp2go_that_has_the_name_of_our_option_is_its_own(
    vendor: Vendors, attempt: Attempts
) -> None:
    own = [{"header": "X-A", "value": "b"}]
    request, _ = _sent(BY_TYPE["smtp2go"], _email(), vendor, attempt, custom_headers=own)
    assert request.json["custom_headers"] == own


def test_an_email_cannot_expose_what_the_configuration_does_not(
    vendor: Vendors, attempt: Attempts
) -> None:
    email = _email(**SECRET, vendor_options={"first": {"expose_metadata": True}})
    request, _ = _sent(BY_TYPE["azure"], email, vendor, attempt)
    assert b"secret-plan" not in request.body
    assert b"expose_metadata" not in request.body


def test_mailguns_variables_which_recipients_can_see_can_be_left_out(
    vendor: Vendors, attempt: Attempts
) -> None:
    case = BY_TYPE["mailgun"]
    request, _ = _sent(case, _email(**SECRET), vendor, attempt, expose_metadata=False)
    found = case.parse(request)
    assert (found.metadata, found.email_id, found.tags) == ({}, EMAIL_ID, ["segment-7"])


# --- what fits

LONG_TAG = sha256(b"x" * 129).hexdigest()
TAGS = [
    ("sendgrid", ["x" * 255, "x" * 256, "Größe"], ["x" * 255]),
    ("sendgrid", [f"t{n}" for n in range(11)], [f"t{n}" for n in range(10)]),
    ("mailgun", ["receipt", "a b", "x" * 128], ["receipt", "a b", "x" * 128]),
    ("mailgun", ["Größe", "a\x7f", " a"], ["b64-R3LDtsOfZQ", "b64-YX8", "b64-IGE"]),
    ("mailgun", ["x" * 129, "日本"], [f"sha256-{LONG_TAG}", "b64-5pel5pys"]),
    ("mailgun", ["a", "b", "a", "c", "d"], ["a", "b", "c"]),
    ("postmark", ["x" * 1001, "b", "c"], ["b"]),
    ("sparkpost", ["ä" * 33, "ä" * 32], ["ä" * 32]),
    ("mandrill", ["_x", "x" * 51, "x" * 50], ["x" * 50]),
    ("mailersend", list("abcdef"), list("abcd")),
    ("mailtrap", ["x" * 256, "ok"], ["ok"]),
    ("azure", ["a"], []),
    ("own", ["a", "Größe"], ["a", "Größe"]),
]


@pytest.mark.parametrize("type_,given,kept", TAGS)
def test_the_tags_that_a_vendor_takes_as_they_are(
    type_: str, given: list[str], kept: list[str]
) -> None:
    assert list(labels.tags(type_, _email(tags=given))) == kept


def test_postmark_takes_nine_fields_of_20_and_80_characters_beside_our_id() -> None:
    given = {"x" * 21: "v", "long": "x" * 81, "Name": "1", "NAME": "2", "x" * 20: "ä" * 80}
    given |= {f"n{n}": "v" for n in range(20)}
    kept = labels.metadata("postmark", _email(metadata=given))
    assert len(kept) == 9
    assert list(kept)[:3] == ["Name", "x" * 20, "n0"]


BYTES = {"sendgrid": 10_000, "sparkpost": 10_000, "mailtrap": 1000, "mandrill": 250}


@pytest.mark.parametrize("type_,most", BYTES.items())
def test_metadata_end_where_the_vendors_room_ends(type_: str, most: int) -> None:
    given = {f"type{n}": '"ä' * 5 for n in range(1000)}
    kept = labels.metadata(type_, _email(metadata=given))
    told = json.dumps({**kept, "mailqueue_id": EMAIL_ID}, ensure_ascii=False).encode()
    assert most * 0.8 < len(told) <= most


def test_resend_takes_75_labels_in_all(vendor: Vendors, attempt: Attempts) -> None:
    email = _email(tags=[f"t{n}" for n in range(100)], metadata={f"n{n}": "v" for n in range(100)})
    request, _ = _sent(BY_TYPE["resend"], email, vendor, attempt)
    names = [tag["name"] for tag in request.json["tags"]]
    assert len(names) == len(set(names)) == 75
    assert "mailqueue_id" in names


def test_mandrill_takes_no_metadata_whose_name_begins_with_an_underscore() -> None:
    assert labels.metadata("mandrill", _email(metadata={"_a": "1", "a_": "2"})) == {"a_": "2"}


def test_a_short_entry_behind_one_that_is_too_long_is_kept() -> None:
    given = {"long": "x" * 1000, "short": "y"}
    assert labels.metadata("mailtrap", _email(metadata=given)) == {"short": "y"}


def test_mailguns_headers_tags_and_metadata_share_their_room() -> None:
    metadata = {f"n{n}": "x" * 90 for n in range(100)}
    alone = labels.metadata("mailgun", _email(metadata=metadata))
    beside = labels.metadata(
        "mailgun", _email(metadata=metadata, tags=["t" * 100], headers={"X-A": "y" * 12_000})
    )
    assert len(alone) == 100
    assert 0 < len(beside) < 50
    full = _email(metadata=metadata, headers={"X-A": "y" * 16_100})
    assert limits.can_carry("mailgun", full) is None
    assert len(labels.metadata("mailgun", full)) == 0


def test_metadata_with_the_names_of_sendgrids_own_fields_get_another(
    vendor: Vendors, attempt: Attempts
) -> None:
    names = ("email", "event", "timestamp", "reason", "sg_event_id", "smtp-id", "category")
    given = {name: name for name in (*names, "metadata_email", "user", "sg", "emails")}
    request, _ = _sent(BY_TYPE["sendgrid"], _email(metadata=given), vendor, attempt)
    expected = {f"metadata_{name}": name for name in (*names, "metadata_email")}
    plain = {name: name for name in ("user", "sg", "emails")}
    assert request.json["custom_args"] == expected | plain | {"mailqueue_id": EMAIL_ID}


def test_brevo_is_given_only_exposed_metadata_that_its_header_can_hold(
    vendor: Vendors, attempt: Attempts
) -> None:
    given = {
        "user": "42",
        "ä": "1",
        "city": "Köln",
        "odd": "=?utf-8?q?x?=",
        "t": "a\tb",
        "x": "{{y}}",
    }
    email = _email(metadata=given)
    request, _ = _sent(BY_TYPE["brevo"], email, vendor, attempt, expose_metadata=True)
    held = json.loads(request.json["headers"]["X-Mailin-custom"])
    assert held == {"user": "42", "mailqueue_id": EMAIL_ID}


def test_mailersend_carries_own_headers_where_the_plan_has_them(
    vendor: Vendors, attempt: Attempts
) -> None:
    email, case = _email(headers={"X-Name": "Über", "X-A": "b"}), BY_TYPE["mailersend"]
    assert limits.can_carry("mailersend", email) == "custom headers"
    assert limits.can_carry("mailersend", email, {"custom_headers": "yes"}) == "custom headers"
    options = {"custom_headers": True}
    config = VendorConfig(name="v", type="mailersend", keys=case.keys, options=options)
    assert limits.nobody_carries([config], email) is None
    request, _ = _sent(case, email, vendor, attempt, **options)
    name, other = request.json["headers"]
    assert name == {"name": "X-Name", "value": "=?utf-8?b?w5xiZXI=?="}
    assert other == {"name": "X-A", "value": "b"}


@each_vendor
def test_own_headers_are_handed_over_in_ascii(
    case: Case, vendor: Vendors, attempt: Attempts
) -> None:
    email = _email(headers={"X-Name": "Über 🎉"})
    if vendor(case.type, base_url="http://127.0.0.1:1", keys=case.keys).can_carry(email):
        assert case.type in {"brevo", "mailersend"}  # the one undoes it, the other has none
        return
    request, _ = _sent(case, email, vendor, attempt)
    assert "Über".encode() not in request.body
    if case.type != "ses":  # there the message is encoded as a whole
        assert case.parse(request).headers["X-Name"].isascii()
