"""A WSGI application, loaded before the server forks; it has sent an e-mail by then.

``$CONFIG`` and ``$JOURNAL`` are paths. A request's path is the label of the e-mail that it sends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mailqueue import Producer
from tests.faults.application import Journal, letter

_producer = Producer(os.environ["CONFIG"]).connect()
_journal = Journal(Path(os.environ["JOURNAL"]))
_journal.write(_producer.send(letter("preload")), "preload")


def application(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    label = environ["PATH_INFO"].removeprefix("/")
    email_id = _producer.send(letter(label))
    _journal.write(email_id, label)
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {email_id}".encode()]
