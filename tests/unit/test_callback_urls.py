"""Where a callback may go, as far as its URL tells, and the section of the configuration."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from mailqueue.config import Config
from mailqueue.config.callbacks import MAX_URL, url_problem
from mailqueue.errors import ConfigError, InvalidEmail
from mailqueue.producer.submission import SendOptions, Submission, prepare
from tests.for_each import for_each
from tests.stage import letter

SECRET = "whsec_" + b64encode(bytes(24)).decode()


@for_each(
    "url",
    [
        "https://hooks.example.com",
        "https://hooks.example.com:8443/a/b?tenant=1&x=%20",
        "https://93.184.216.34/",
        "https://[2606:2800:220:1::1]:8443/",
        "HTTPS://Hooks.Example.com/",
    ],
)
def test_https_to_any_host_is_good(url: str) -> None:
    assert url_problem(url, ()) is None


@for_each(
    "url",
    [
        *("", "hooks.example.com", "ftp://example.com/", "https://", "https:///path"),
        *("http://hooks.example.com/", "https://localhost/", "https://127.0.0.1/"),
        *("https://169.254.169.254/latest", "https://10.0.0.1/", "https://[::ffff:127.0.0.1]/"),
        *("https://user@example.com/", "https://user:pw@example.com/", "https://:pw@example.com/"),
        *("https://example.com/#part", "https://exa mple.com/", "https://example.com/\r\nX: 1"),
        *("https://example.com:0/", "https://example.com:99999/", "https://example.com:x/"),
        *("https://b\xfccher.example/", "https://example.com/" + "x" * MAX_URL, "https://[::1/"),
    ],
)
def test_what_is_no_https_url_of_a_host_is_refused_and_not_quoted(url: str) -> None:
    problem = url_problem(url, ("hooks.internal",))
    assert problem is not None
    assert "pw" not in problem


@for_each(
    "url, allow",
    [
        ("http://127.0.0.1:8000/", ("127.0.0.1",)),
        ("http://127.0.0.1:8000/", ("127.0.0.1:8000",)),
        ("http://Hooks.internal/x", ("hooks.Internal",)),
        ("https://localhost/", ("localhost",)),
        ("http://[::1]:8000/", ("[::1]",)),
    ],
)
def test_a_host_that_is_allowed_needs_no_https(url: str, allow: tuple[str, ...]) -> None:
    assert url_problem(url, allow) is None


def test_a_port_that_is_not_allowed_is_refused() -> None:
    assert url_problem("http://127.0.0.1:8001/", ("127.0.0.1:8000",)) is not None


@for_each(
    "section, path",
    [
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": 5}, "url"),
        ({"types": ["email.sent", "email.lost"]}, "types"),
        ({"types": []}, "types"),
        ({"secrets": ["whsec_!"]}, "secrets"),
        ({"secrets": [b64encode(b"short").decode()]}, "secrets"),
        ({"secrets": [5]}, "secrets"),
        ({"allow": ["http://hooks.internal"]}, "allow"),
        ({"allow": [5]}, "allow"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused_by_its_key(
    section: dict[str, Any], path: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping({"callbacks": section})
    (problem,) = caught.value.problems
    assert problem.startswith(f"callbacks.{path}: ")


def test_no_repr_shows_a_secret_or_a_url() -> None:
    shown = repr(Config(callbacks={"secrets": [SECRET], "url": "https://h.example.com/?k=tok"}))
    assert SECRET not in shown
    assert "tok" not in shown


def test_only_a_responder_needs_the_secrets() -> None:
    callbacks = {"secrets": ["${CALLBACK_SECRET}"]}
    config = Config.from_mapping({"callbacks": callbacks}, environ={})
    assert config.callbacks.secrets == ("",)
    config = Config.from_mapping({"callbacks": callbacks}, environ={"CALLBACK_SECRET": SECRET})
    assert config.callbacks.secrets == (SECRET,)


@for_each("value", ["", 5, "a b", "x" * 201, "\x00", "\xe4"])
def test_a_request_id_is_one_visible_word(value: Any) -> None:
    with pytest.raises(InvalidEmail, match=r"^request_id: "):
        SendOptions(request_id=value)


def test_a_callback_url_is_judged_by_the_configuration() -> None:
    options = SendOptions(callback_url="http://127.0.0.1:1/")
    submission = Submission.of(letter(1), options, None)
    (refusal,) = prepare([submission], Config(), "simulated").values()
    assert refusal.error.field == "callback_url"
    allowing = Config(callbacks={"allow": ["127.0.0.1"]})
    assert prepare([submission], allowing, "simulated") == {}
    assert submission.document["callback_url"] == "http://127.0.0.1:1/"
