"""What the main job needs around it: vendors that count, an application, and their config.

``CountingVendor`` speaks SendGrid's API and counts by e-mail what it took, at the moment it took
it: whoever is killed afterwards, the copy is out. ``Stage`` holds the vendors, the producer and the
config that leads to them; a test adds vendors, changes ``settings``, then lets consumers run.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import greenstalk
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue import Producer
from mailqueue.config import Config
from mailqueue.message import EmailDict
from mailqueue.producer.status import EmailStatus
from mailqueue.queue.beanstalkd.broker import depth
from tests.vendor_servers import HttpServer, Received, Reply, SmtpServer, Wire
from tests.waiting import wait_until

TAKEN = Reply(202, {"X-Message-Id": "at-the-vendor"})
DOWN = Reply(503)
NO_ENTRY = Reply(401, body=b'{"errors": [{"message": "wrong key"}]}')
BAD_REQUEST = Reply(400, body=b'{"errors": [{"message": "not like this", "field": null}]}')

Document = dict[str, Any]


class CountingVendor(HttpServer):
    """SendGrid on loopback: ``replies`` one after the other, then ``reply`` for ever.

    ``calls`` are the e-mails it was asked for, in order; ``accepted`` counts those it took. After
    ``hold()`` answers wait for ``let_go()``.
    """

    def __init__(self, name: str, reply: Reply = TAKEN) -> None:
        super().__init__(self._behave)
        self.name = name
        self.reply = reply
        self.replies: list[Reply] = []
        self.calls: list[str] = []
        self.accepted: Counter[str] = Counter()
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()
        self._held: list[threading.Event] = []
        self._gate: threading.Event | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.let_go()
        super().__exit__(kind, error, trace)

    def hold(self) -> None:
        """Whoever asks from now on has to wait for the answer."""
        self._gate = threading.Event()
        self._held.append(self._gate)

    def answer_newcomers(self) -> None:
        """Only those who wait already go on waiting."""
        self._gate = None

    def let_go(self) -> None:
        """Answer everybody."""
        self._gate = None
        for gate in self._held:
            gate.set()

    def _behave(self, wire: Wire, request: Received) -> None:
        email_id = request.json["custom_args"]["mailqueue_id"]
        gate = self._gate
        with self._lock:
            reply = self.replies.pop(0) if self.replies else self.reply
            self.calls.append(email_id)
            self.accepted[email_id] += reply.status == 202
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        if gate is not None:
            gate.wait()
        with self._lock:
            self.under_way -= 1
        reply(wire, request)

    @property
    def entry(self) -> Document:
        """Its place in ``config.json``."""
        return {"name": self.name, "type": "sendgrid", "api_key": "SG.x", "base_url": self.url}


class Stage:
    """A context manager; ``settings`` is what ``config.json`` holds."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = {**settings, "vendors": []}
        self.vendors: list[CountingVendor] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # The vendors -------------------------------------------------------------------------------

    def vendor(self, name: str, reply: Reply = TAKEN) -> CountingVendor:
        """One more HTTP vendor."""
        made = self._stack.enter_context(CountingVendor(name, reply))
        self.vendors.append(made)
        self.settings["vendors"].append(made.entry)
        return made

    def smtp(self, name: str, room: int | None = None) -> SmtpServer:
        """One more SMTP vendor, with ``room`` for so many connections."""
        made = self._stack.enter_context(SmtpServer(room=room))
        entry = {"name": name, "type": "smtp", "host": "127.0.0.1", "port": made.port}
        self.settings["vendors"].append({**entry, "tls": "none"})
        return made

    @property
    def copies(self) -> Counter[str]:
        """How many copies of each e-mail the HTTP vendors took."""
        return sum((vendor.accepted for vendor in self.vendors), Counter())

    @property
    def under_way(self) -> int:
        """E-mails that wait for an answer of an HTTP vendor."""
        return sum(vendor.under_way for vendor in self.vendors)

    # The application ---------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        return Config.from_mapping(self.settings)

    @cached_property
    def producer(self) -> Producer:
        """The application's producer; it knows the vendors that were there when it was made."""
        made = Producer(self.config)
        self._stack.callback(made.close)
        return made

    def send(self, number: int = 1, **options: Any) -> list[str]:
        """Have the application send so many e-mails; returns their ids."""
        return self.producer.send_many([letter(i) for i in range(number)], **options)

    def status(self, email_id: str) -> EmailStatus:
        """What the application is told about an e-mail."""
        found = self.producer.status(email_id)
        assert found is not None
        return found

    def outcomes(self, email_id: str) -> list[tuple[str, str | None]]:
        """The e-mail's ledger: vendor and outcome of each attempt."""
        return [(line.vendor, line.outcome) for line in self.status(email_id).attempts]

    # What is stored ----------------------------------------------------------------------------

    @cached_property
    def emails(self) -> Collection[Document]:
        """The collection of e-mails."""
        client: MongoClient[Document] = MongoClient(self.config.mongodb.uri, tz_aware=True)
        self._stack.callback(client.close)
        return client[self.config.mongodb.database][self.config.mongodb.collection]

    def document(self, email_id: str) -> Document:
        found = self.emails.find_one({"_id": ObjectId(email_id)})
        assert found is not None
        return found

    def health(self, vendor: str) -> Document:
        """A vendor's shared health."""
        return self.emails.database[f"{self.emails.name}.vendors"].find_one({"_id": vendor}) or {}

    def edit_health(self, vendor: str, **fields: Any) -> None:
        """Let time pass for a vendor."""
        vendors = self.emails.database[f"{self.emails.name}.vendors"]
        assert vendors.update_one({"_id": vendor}, {"$set": fields}).matched_count

    def statuses(self) -> Counter[str]:
        """How many e-mails stand where."""
        groups = self.emails.aggregate([{"$group": {"_id": "$status", "n": {"$sum": 1}}}])
        return Counter({group["_id"]: group["n"] for group in groups})

    def until(self, timeout: float = 120, **statuses: int) -> None:
        """Wait until so many e-mails stand where it says, and none elsewhere."""
        wait_until(lambda: self.statuses() == statuses, timeout, f"e-mails are {statuses}")

    # The tube ----------------------------------------------------------------------------------

    def jobs(self) -> dict[str, int]:
        """The jobs on the tube by state, those of no number left out."""
        return {state: n for state, n in depth(self.config.beanstalkd).items() if n}

    @contextmanager
    def tube(self) -> Iterator[greenstalk.Client[str]]:
        """A connection to the tube."""
        settings = self.config.beanstalkd
        with greenstalk.Client(settings.addresses[0], use=settings.tube, watch=settings.tube) as it:
            yield it


def letter(number: int) -> EmailDict:
    """An e-mail that every vendor can carry."""
    return {
        "from": "Ann <ann@example.com>",
        "to": f"reader{number}@example.org",
        "subject": f"Number {number}",
        "text": "Hello",
    }
