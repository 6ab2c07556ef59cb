"""django-post_office in the roles of ``work``: Django's ORM on PostgreSQL, threads that send.

Its command takes a batch, has threads send it, marks the batch, until nothing is left. The manual
starts that from cron every minute; here it is called again and again, so that its latency is its
own and not cron's. Nothing is logged in its table.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import django
import work
from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.core.mail.backends.base import BaseEmailBackend

CHUNK = 500
PAUSE = 0.01
# Each batch sorts the backlog, starts threads, and ends with its slowest e-mail; with the default
# of 100 that takes most of the time. It is marked as a whole: after a crash, all of it goes again.
BATCH_SIZE = 1000
QUIET = {
    "version": 1,
    "handlers": {"none": {"class": "logging.NullHandler"}},
    "loggers": {"post_office": {"handlers": ["none"], "propagate": False}},
}


def database() -> dict[str, Any]:
    parts = urlsplit(work.BROKER)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname,
        "PORT": parts.port,
    }


def set_up() -> None:
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "post_office"],
        DATABASES={"default": database()},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        USE_TZ=True,
        LOGGING=QUIET,
        POST_OFFICE={
            "BACKENDS": {"default": "peer_post_office.Backend"},
            "BATCH_SIZE": BATCH_SIZE,
            "THREADS_PER_PROCESS": work.CONCURRENCY,
            "LOG_LEVEL": 0,
            "MAX_RETRIES": 5,
        },
    )
    django.setup()


class Backend(BaseEmailBackend):
    """What post_office's threads send with."""

    def send_messages(self, email_messages: Sequence[EmailMultiAlternatives]) -> int:
        for message in email_messages:
            work.send(
                {
                    "from": message.from_email,
                    "to": message.to,
                    "subject": message.subject,
                    "text": message.body,
                    "html": message.alternatives[0][0],
                }
            )
        return len(email_messages)


# The application ---------------------------------------------------------------------------------


def wanted(mail: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``mail.send``; the priority is the default, which means queued."""
    return {
        "recipients": mail["to"],
        "sender": mail["from"],
        "subject": mail["subject"],
        "message": mail["text"],
        "html_message": mail["html"],
        "priority": "medium",
    }


def one(mail: dict[str, Any]) -> None:
    from post_office import mail as post_office

    post_office.send(**wanted(mail))


def many(mails: Sequence[dict[str, Any]]) -> None:
    from post_office import mail as post_office

    post_office.send_many([wanted(mail) for mail in mails])


def fill(count: int) -> None:
    for start in range(0, count, CHUNK):
        many([work.email(n) for n in range(start, min(start + CHUNK, count))])


def prepare() -> None:
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0, interactive=False)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE post_office_email CASCADE")


# The worker --------------------------------------------------------------------------------------


def worker() -> None:
    from post_office.mail import get_queued, send_queued_mail_until_done

    lock = os.environ["BENCH_DONE"] + ".post_office"
    while True:
        send_queued_mail_until_done(lock, processes=1)
        while not get_queued().exists():
            time.sleep(PAUSE)  # nothing tells it of new e-mail


def main(role: str, *arguments: str) -> None:
    set_up()
    if role == "prepare":
        prepare()
    elif role == "worker":
        worker()
    elif role == "enqueue":
        work.enqueue(one, int(arguments[0]), float(arguments[1]))
    elif role == "bulk":
        work.bulk(many, float(arguments[0]))
    elif role == "fill":
        fill(int(arguments[0]))
    elif role == "ping":
        work.ping(one, int(arguments[0]), float(arguments[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
