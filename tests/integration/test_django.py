"""Django's mail through real servers: MongoDB, beanstalkd, a consumer, a forking web server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from pymongo.collection import Collection

from mailqueue import Config, Consumer, InvalidEmail, StoreUnavailable
from mailqueue.devserver.process import dies_with_parent
from tests import django_settings
from tests.forks import in_a_child

django_settings.configure()

from django.core import mail  # noqa: E402  # Django wants its settings first
from django.core.mail import EmailMultiAlternatives  # noqa: E402  # see above
from django.test import override_settings  # noqa: E402  # see above

from mailqueue.django import EmailBackend  # noqa: E402  # see above
from mailqueue.django.backend import producer_for  # noqa: E402  # see above

Document = dict[str, Any]
REPO = Path(__file__).parents[2]
NOBODY = {"uri": "mongodb://127.0.0.1:9/?directConnection=true", "timeout": 0.5}


@pytest.fixture
def project(config: Config) -> Iterator[Config]:
    with override_settings(MAILQUEUE_CONFIG=config):
        yield config
        producer_for().close()


def message(**attributes: Any) -> EmailMultiAlternatives:
    one = EmailMultiAlternatives("Grüße", "Hallo", None, ["bob@example.org"])
    for name, value in attributes.items():
        setattr(one, name, value)
    return one


def test_what_django_sends_is_sent_by_a_consumer(
    project: Config, emails: Collection[Document]
) -> None:
    one = message(bcc=["eve@example.org"], tags=["welcome"], idempotency_key="k")
    one.attach_alternative("<p>Hallo</p>", "text/html")
    one.attach("größe.txt", "Größe", "text/plain")
    assert (one.send(), message().send()) == (1, 1)
    assert mail.send_mail("Hi", "Hello", None, ["ann@example.org"]) == 1
    assert Consumer(project, burst=True).run() == 0
    status = producer_for().status(one.mailqueue_id)
    assert status is not None
    assert (status.status, emails.count_documents({"status": "sent"})) == ("sent", 3)
    stored = emails.find_one({"idempotency_key": "k"})
    assert stored is not None
    assert stored["email"]["bcc"] == ["eve@example.org"]
    assert stored["email"]["attachments"][0]["content"] == "Größe".encode()


def test_mass_mail_is_stored_in_few_writes_but_for_what_is_refused(
    project: Config, emails: Collection[Document]
) -> None:
    messages = [message(to=[f"{n}@example.org"]) for n in range(1200)]
    messages[7].to = ["nobody"]
    messages[900].idempotency_key = messages[901].idempotency_key = "k"
    messages[901].body = "Another"
    with pytest.raises(InvalidEmail) as caught:
        EmailBackend().send_messages(messages)
    assert (caught.value.field, caught.value.index) == ("to[0]", 7)
    assert [n for n, each in enumerate(messages) if each.mailqueue_id is None] == [7, 901]
    assert emails.count_documents({}) == 1198


@pytest.mark.parametrize("silent", [False, True])
def test_when_mongodb_is_away_it_is_raised_unless_silence_is_wanted(silent: bool) -> None:
    with override_settings(MAILQUEUE_CONFIG={"mongodb": NOBODY}):
        backend, one = EmailBackend(fail_silently=silent), message()
        try:
            assert backend.send_messages([one, message(to=["nobody"])]) == 0
            assert silent
        except StoreUnavailable:
            assert not silent
        assert one.mailqueue_id is None
        producer_for().close()


def test_threads_of_a_process_send_through_one_producer(
    project: Config, emails: Collection[Document]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda n: message(idempotency_key=f"k-{n}").send(), range(100)))
    assert sum(counts) == emails.count_documents({}) == 100


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_after_a_send_sends_too(
    project: Config, emails: Collection[Document]
) -> None:
    """Both have the same backend and producer."""

    def send() -> str:
        one = message()
        one.send()
        return str(one.mailqueue_id)

    ids = {send(), in_a_child(send), send()}
    assert {str(each) for each in emails.distinct("_id")} == ids
    assert len(ids) == 3


# The example -------------------------------------------------------------------------------------


@contextmanager
def served(environ: dict[str, str]) -> Iterator[int]:
    """The port of the example under gunicorn: two workers, forked from one that has loaded it."""
    application = "django.core.wsgi:get_wsgi_application()"
    options = ["--preload", "--workers", "2", "--threads", "2"]
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        command = [sys.executable, "-m", "gunicorn", application, *options]
        process = subprocess.Popen(
            [*dies_with_parent(), *command, "--bind", f"fd://{listener.fileno()}"],
            pass_fds=[listener.fileno()],
            env=environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield listener.getsockname()[1]
            process.terminate()
            _, log = process.communicate(timeout=30)
            assert (process.returncode, "Traceback" in log) == (0, False), log
        finally:
            process.kill()
            process.communicate()


def signup(port: int, name: str, email: str) -> tuple[int, Document]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    form = urlencode({"name": name, "email": email})
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/signup", form, kind)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, json.loads(body)


def test_the_example_welcomes_each_new_user_once(
    config: Config, config_mapping: Document, emails: Collection[Document], tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config_mapping))
    environ = os.environ | {
        "DJANGO_SETTINGS_MODULE": "django_settings",
        "MAILQUEUE_CONFIG": str(file),
        "PYTHONPATH": f"{REPO / 'examples'}{os.pathsep}{REPO}",
        "SHOP_DATABASE": str(tmp_path / "shop.sqlite3"),
    }
    migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, env=environ, check=True, capture_output=True)
    with served(environ) as port:
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda n: signup(port, f"user{n}", f"{n}@example.org"), range(20))
            )
        assert signup(port, "user1", "again@example.org")[0] == 409
    ids = {body["id"] for status, body in answers if status == 201}
    assert len(ids) == 20
    assert {str(each) for each in emails.distinct("_id")} == ids
    assert Consumer(config, burst=True).run() == 0
    assert emails.count_documents({"status": "sent", "email.tags": "welcome"}) == 20
