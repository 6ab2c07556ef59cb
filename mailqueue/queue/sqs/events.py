"""Events over Amazon SQS: messages that other programs put on a queue of their own.

Decides: the key of an event is its message's id, which the service makes unique and which stays the
same however often it is received. A message that somebody puts again (from a dead-letter queue,
say) has a new id, so it is another event.

Promises: as of ``EventReceiver``. What cannot be stored is hidden for an hour at a time: it is for
the queue's redrive policy, or ends with the queue's retention.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from mailqueue.config.queue import Sqs
from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.broker import End, Event
from mailqueue.queue.sqs.client import Clients, Message, Queue
from mailqueue.queue.sqs.messages import Messages
from mailqueue.queue.sqs.receiver import BURIED_FOR


class SqsEvents:
    """The events of one queue, ``url``. One thread reserves and ends them."""

    def __init__(self, settings: Sqs, url: str, ttr: int) -> None:
        self.name = f"sqs {settings.region}"
        self.place = f"queue {url.rpartition('/')[2]} of {self.name}"
        self._queue = Queue(Clients(settings), url)
        self._outage = Outage(self.name)
        self._messages = Messages([self._queue], ttr, self._outage)
        self._reserved: dict[str, None] = {}  # receipts

    def reserve(self, timeout: int, limit: int = 1) -> list[Event]:
        """See ``EventReceiver``."""
        messages = self._messages.receive(timeout, limit)
        events = [_event(message) for _, message in messages]
        self._reserved |= dict.fromkeys(each.handle for each in events)
        return events

    def end(self, events: Sequence[Event], how: End) -> None:
        """Delete events, or hide them from everybody for an hour."""
        receipts = [each.handle for each in events]
        for receipt in receipts:
            self._reserved.pop(receipt, None)
        if not receipts:
            return
        with suppress(QueueUnavailable), self._outage.listen():
            if how.word == "delete":
                self._queue.delete(receipts)
            else:
                self._queue.hide(receipts, BURIED_FOR if how.word == "bury" else how.delay)

    def give_back(self) -> None:
        """Show to anybody at once what is reserved here."""
        receipts, self._reserved = list(self._reserved), {}
        if receipts:
            with suppress(QueueUnavailable), self._outage.listen():
                self._queue.hide(receipts, 0)

    def close(self) -> None:
        """Give back what is reserved here, also what a request under way brings."""
        self._messages.close()
        self.give_back()


def _event(message: Message) -> Event:
    name = message["MessageId"]
    return Event(name, message["Body"].encode(), f"intake:{name}", handle=message["ReceiptHandle"])
