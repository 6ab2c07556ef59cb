"""The pages for applications: their code is run, with Django, in an outbox, the whole way."""

from __future__ import annotations

import re
import unittest
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mailqueue import Config, Producer
from mailqueue.cli import VERBS
from mailqueue.config.config import SECTIONS
from mailqueue.config.section import keys_of
from mailqueue.devserver import Mongod
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.testing import Outbox
from tests import django_settings
from tests.integration.test_docs_code import BLOCKS
from tests.structure.test_docs import column, first_column
from tests.structure.test_structure import PACKAGE

django_settings.configure()

from anymail.message import AnymailMessage  # noqa: E402  # Django wants its settings first
from django.core.mail import EmailMessage, EmailMultiAlternatives  # noqa: E402  # see above
from django.test import override_settings  # noqa: E402  # see above
from django.utils.module_loading import import_string  # noqa: E402  # see above

Names = dict[str, Any]
DIFFS = [block for block in BLOCKS if block["kind"] == "diff"]
TOMORROW = datetime.now(UTC) + timedelta(days=1)
old_settings = pytest.mark.skipif(django_settings.HAS_MAILERS, reason="Django 6.1 has mailers")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration file is found by accident."""
    monkeypatch.chdir(tmp_path)


def run(name: str, names: Names | None = None, edit: Callable[[str], str] = str) -> Names:
    """What the block with this name leaves behind."""
    (block,) = [block for block in BLOCKS if block["name"] == name]
    names = {} if names is None else names
    exec(edit(block["code"]), names)
    return names


# testing.md --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["test_a_new_user_is_welcomed_once", "test_a_database_that_is_away_is_no_crash"]
)
def test_the_tests_with_the_fixture_pass(mailqueue_outbox: Outbox, name: str) -> None:
    run("outbox")[name](mailqueue_outbox)


def test_the_test_with_unittest_passes() -> None:
    names = run("unittest")
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(names["WelcomeTest"])
    result = unittest.TestResult()
    suite.run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])


def test_the_test_of_the_whole_way_passes(
    config: Config, mongod: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_URI", mongod.uri)
    database = config.mongodb.database
    assert run("failover", edit=lambda code: code.replace("shop_test", database))["email_id"]


# django.md ---------------------------------------------------------------------------------------


@old_settings
def test_the_settings_of_django_send_through_mailqueue(mailqueue_outbox: Outbox) -> None:
    names = run("django")
    with override_settings(**{name: names[name] for name in names if name.isupper()}):
        EmailMessage("Hi", "Hello", "ann@example.com", ["bob@example.org"]).send()
    assert len(mailqueue_outbox) == 1


def test_each_of_the_mailers_sends_through_mailqueue(mailqueue_outbox: Outbox) -> None:
    for alias, mailer in run("mailers")["MAILERS"].items():
        backend = import_string(mailer["BACKEND"])(alias=alias, **mailer.get("OPTIONS", {}))
        message = EmailMessage("Hi", "Hello", "ann@example.com", ["bob@example.org"])
        assert backend.send_messages([message]) == 1
    assert len(mailqueue_outbox) == 2


def test_the_confirmation_is_sent_after_the_commit_only(mailqueue_outbox: Outbox) -> None:
    confirm = run("commit")["confirm"]
    order = SimpleNamespace(pk=7, article="A lamp", address="bob@example.org")
    order.save = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        confirm(order)
    assert len(mailqueue_outbox) == 0
    order.save = lambda: len(mailqueue_outbox)
    confirm(order)
    assert [item.idempotency_key for item in mailqueue_outbox] == ["order-7"]


@old_settings
def test_the_test_of_a_django_project_passes(mailqueue_outbox: Outbox) -> None:
    run("djangotest")["test_a_mail_is_accepted"](mailqueue_outbox)


def test_the_table_has_the_attributes_that_the_backend_reads() -> None:
    reading = (PACKAGE / "django/messages.py").read_text("utf-8")
    attributes = first_column("docs/django.md", "attribute")
    assert [name for name in attributes if f'"{name}"' not in reading] == []
    assert set(re.findall(r'_extra\(message, "(\w+)"\)', reading)) <= set(attributes)


# migrating.md ------------------------------------------------------------------------------------


def side(code: str, sign: str) -> str:
    """The code before (``-``) or after (``+``) the change."""
    lines = code.splitlines()
    return "\n".join(line[1:] for line in lines if not line or line[0] in (sign, " "))


@pytest.mark.parametrize("block", DIFFS, ids=[str(block["name"]) for block in DIFFS])
def test_the_code_after_the_change_sends_and_that_before_it_is_code(
    block: dict[str, str], mailqueue_outbox: Outbox
) -> None:
    compile(side(block["code"], "-"), "before", "exec")
    names: Names = {"tomorrow": TOMORROW}
    exec(side(block["code"], "+"), names)
    if mapping := names.get("MAILQUEUE_CONFIG"):
        with override_settings(MAILQUEUE_CONFIG=mapping):
            EmailMessage("Hi", "Hello", "ann@example.com", ["bob@example.org"]).send()
    assert len(mailqueue_outbox) == 1
    assert mailqueue_outbox[0].send_at is not None or mapping


def test_every_attribute_that_anymail_adds_has_its_place() -> None:
    own = vars(AnymailMessage()).keys() - vars(EmailMultiAlternatives()).keys()
    named = " ".join(first_column("docs/migrating.md", "anymail"))
    assert own <= set(re.findall(r"\w+", named))


@pytest.mark.parametrize("name", ["anymail", "postoffice", "celery"])
def test_what_is_named_in_the_place_of_something_else_is_there(name: str) -> None:
    for code in column("docs/migrating.md", name, 2):
        section, _, key = code.partition(".")
        known = (
            code.split()[-1] in VERBS
            or code in ATTRIBUTES
            or (section in SECTIONS and key in {"", *keys_of(SECTIONS[section])})
            or (section == "Producer" and hasattr(Producer, key.partition("(")[0]))
        )
        assert known, code


ATTRIBUTES = {
    *first_column("docs/django.md", "attribute"),
    *PRIORITIES,
    *("send()", "InvalidEmail", "mailqueue_outbox", "message.mailqueue_id", "vendors[].options"),
    *("mailqueue.django.EmailBackend", "python -m mailqueue.consumer"),
    *("now", "on_commit", "render_to_string()", "send_mass_mail()"),  # post_office's, and Django's
}
