"""What of SES and Azure the suite for all vendors does not ask."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest

from mailqueue.config import VendorConfig
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Email
from mailqueue.store.ids import to_uuid
from mailqueue.vendors import load
from mailqueue.vendors.azure import Azure
from mailqueue.vendors.ses import Ses
from tests.contract import azure, ses
from tests.contract.conftest import EMAIL_ID, Attempts, Vendors
from tests.vendor_servers import HttpServer


@pytest.fixture
def a_ses(vendor: Vendors) -> Ses:
    made = vendor("ses", base_url="http://127.0.0.1:1", keys=ses.CASE.keys)
    assert isinstance(made, Ses)
    return made


@pytest.fixture
def an_azure(vendor: Vendors) -> Azure:
    made = vendor("azure", base_url="http://127.0.0.1:1", keys=azure.CASE.keys)
    assert isinstance(made, Azure)
    return made


def tags(made: Ses, email: Email, attempt: Attempts) -> dict[str, str]:
    payload = json.loads(made.build(email, attempt()).body)
    found = {tag["Name"]: tag["Value"] for tag in payload["EmailTags"]}
    assert len(found) == len(payload["EmailTags"])
    return found


def changed(email: Email, **fields: Any) -> Email:
    return Email.from_mapping({**email.to_mapping(), **fields})


def test_plain_words_are_email_tags_as_they_are(
    a_ses: Ses, plain: Email, attempt: Attempts
) -> None:
    email = changed(plain, tags=["a-b", "C_9"], metadata={"user": "42", "plan": "", "tag-x": "y"})
    assert tags(a_ses, email, attempt) == {
        "user": "42",
        "tag-x": "y",
        "tag-1": "a-b",
        "tag-2": "C_9",
        "mailqueue_id": EMAIL_ID,
    }


def test_other_words_and_those_that_look_like_ours_are_packed(
    a_ses: Ses, plain: Email, attempt: Attempts
) -> None:
    metadata = {"tag-1": "b64-x", "mailqueue_id": "not ours", "a b": "tag-1"}
    found = tags(a_ses, changed(plain, tags=["Ä"], metadata=metadata), attempt)
    assert found == {
        "b64-dGFnLTE": "b64-YjY0LXg",
        "b64-YSBi": "tag-1",
        "tag-1": "b64-w4Q",
        "mailqueue_id": EMAIL_ID,
    }


def test_the_longest_words_that_ses_is_offered_fit(
    a_ses: Ses, plain: Email, attempt: Attempts
) -> None:
    longest = {"x y" * 63: "a b" * 63}
    longer = {"x y" * 63 + "z": "v", "n": "x" * 190}
    email = changed(plain, tags=["ü" * 95, "ü" * 94], metadata=longer | longest)
    assert a_ses.can_carry(email) is None
    found = tags(a_ses, email, attempt)
    assert len(found) == 3
    assert max(len(word) for pair in found.items() for word in pair) == 256


def test_blind_copies_are_in_the_destination_alone_and_nobody_is_twice(
    a_ses: Ses, rich: Email, attempt: Attempts
) -> None:
    payload = json.loads(a_ses.build(rich, attempt()).body)
    assert payload["Destination"] == {
        "ToAddresses": ["bob@example.net", "carol@example.net"],
        "CcAddresses": ["doerte@example.net"],
        "BccAddresses": ["eve@example.net"],
    }
    assert b"eve@example.net" not in b64decode(payload["Content"]["Raw"]["Data"])


def test_a_configuration_set_is_named_where_there_is_one(
    vendor: Vendors, plain: Email, attempt: Attempts
) -> None:
    names = []
    for more in ({}, {"configuration_set": "mq"}):
        made = vendor("ses", base_url="http://127.0.0.1:1", keys={**ses.CASE.keys, **more})
        assert isinstance(made, Ses)
        names.append(json.loads(made.build(plain, attempt()).body).get("ConfigurationSetName"))
    assert names == [None, "mq"]


def test_azures_operation_is_the_same_over_all_attempts_and_yet_no_key(
    an_azure: Azure, plain: Email, attempt: Attempts
) -> None:
    ids = [attempt().email_id, attempt().email_id, "6" * 24]
    sent = [an_azure.build(plain, attempt(email_id=each)).headers["Operation-Id"] for each in ids]
    assert sent[0] == sent[1] != sent[2]
    assert sent[2] == str(to_uuid("6" * 24))  # so that an event with it leads to the e-mail
    assert an_azure.key_life is None


def test_azure_has_no_address_of_its_own() -> None:
    config = VendorConfig(name="a", type="azure", keys=azure.CASE.keys)
    with pytest.raises(ConfigError, match=r"vendors\.a\.base_url: required key is missing"):
        load(config, simulated=False)


def test_a_key_that_cannot_be_put_on_the_wire_is_misconfigured(
    vendor: Vendors, plain: Email, attempt: Attempts
) -> None:
    keys = {**ses.CASE.keys, "access_key_id": "ключ"}
    with HttpServer(ses.CASE.accepted) as server:
        result = vendor("ses", base_url=server.url, keys=keys).send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "invalid_request")
    assert "ключ" not in repr(result)
    assert server.requests == []
