"""``examples/custom_vendor.py``: a class that the config names by its import path, at work."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mailqueue import vendors
from mailqueue.config import VendorConfig
from mailqueue.consumer import Consumer
from mailqueue.errors import ConfigError
from mailqueue.message import Email, EmailDict
from mailqueue.vendors import Attempt, Outcome, http, load
from tests.stage import Stage, letter
from tests.vendor_servers import HttpServer, Reply

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_vendor.py"
TAKEN = Reply(201, body=b'{"ring": "NL-2026-4711"}')


@pytest.fixture
def entry(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the config says about the vendor; its module is where consumers import from."""
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    made = {"name": "loft", "type": "custom_vendor:Pigeon", "loft": "secret-of-the-loft"}
    stage.settings["vendors"].append(made)
    return made


def test_the_example_has_under_40_lines_of_code() -> None:
    lines = EXAMPLE.read_text("utf-8").split('"""', 2)[2].splitlines()
    assert sum(bool(line.strip()) for line in lines) < 40


def test_a_vendor_of_your_own_is_used_as_any_other(stage: Stage, entry: dict[str, Any]) -> None:
    with HttpServer(TAKEN) as pigeons:
        entry["base_url"] = pigeons.url
        (email_id,) = stage.send()
        assert Consumer(stage.config, burst=True).run() == 0
    assert stage.outcomes(email_id) == [("loft", "accepted")]
    assert stage.document(email_id)["vendor_message_id"] == "NL-2026-4711"
    (request,) = pigeons.requests
    assert (request.path, request.headers["authorization"]) == ("/flights", entry["loft"])
    assert request.json == {
        "to": ["reader0@example.org"],
        "note": "Number 0: Hello",
        "id": email_id,
    }


def test_what_it_says_that_it_cannot_carry_goes_through_another(
    stage: Stage, entry: dict[str, Any]
) -> None:
    other = stage.vendor("other")
    with HttpServer(TAKEN) as pigeons:
        entry["base_url"] = pigeons.url
        longs: list[EmailDict] = [{**letter(n), "text": "x" * 101} for n in range(4)]
        ids = stage.producer.send_many(longs)
        assert Consumer(stage.config, burst=True).run() == 0
    assert sorted(other.calls) == sorted(ids)
    assert pigeons.requests == []


def test_what_a_vendor_of_your_own_says_decides_as_any_other_answer(
    stage: Stage, entry: dict[str, Any]
) -> None:
    with HttpServer(Reply(429, {"Retry-After": "900"}, b'{"error": "fog"}')) as pigeons:
        entry["base_url"] = pigeons.url
        (email_id,) = stage.send()
        assert Consumer(stage.config, burst=True).run() == 0
    assert stage.outcomes(email_id) == [("loft", "throttled")]
    assert stage.status(email_id).status == "queued"


def test_a_missing_key_of_its_own_is_a_config_error(entry: dict[str, Any]) -> None:
    config = VendorConfig(name="loft", type=entry["type"])
    with pytest.raises(ConfigError, match=r"vendors\.loft\.loft: required key is missing"):
        load(config, simulated=False)


def test_the_adapter_in_the_docstring_of_http_sends() -> None:
    lines = (http.__doc__ or "").partition("::\n")[2].partition("\n====")[0]
    names = {name: getattr(vendors, name) for name in vendors.__all__ if name[0].isupper()}
    names |= {"Email": Email, "json_request": vendors.json_request}
    exec(dedent(lines), names)  # our own text
    with HttpServer(Reply(201, body=b'{"id": "7"}')) as server:
        keys = {"api_key": "k"}
        config = VendorConfig("loft", "a:Pigeon", base_url=server.url, keys=keys)
        made = names["Pigeon"](config)
        at = Attempt(email_id="0" * 24, message_id="<a@b>", deadline=time.monotonic() + 5)
        result = made.send(Email(from_="a@x.org", to="b@x.org", text="Hello"), at)
        made.close()
    assert (result.outcome, result.message_id) == (Outcome.ACCEPTED, "7")
    assert [request.json["to"] for request in server.requests] == [["b@x.org"]]


def test_a_class_that_cannot_be_imported_is_a_config_error(entry: dict[str, Any]) -> None:
    config = VendorConfig(name="loft", type="custom_vendor:Dove")
    with pytest.raises(ConfigError, match=r"vendors\.loft\.type: cannot import custom_vendor:Dove"):
        load(config, simulated=False)
    with pytest.raises(ConfigError, match=r"vendors\.loft\.type: .* is not a Vendor class"):
        load(replace(config, type="custom_vendor:Email"), simulated=False)
