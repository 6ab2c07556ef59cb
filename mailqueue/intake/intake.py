"""Storing what a tube brings: all events that are ready in one durable write.

Decides: when an event ends. It is deleted once its e-mail is stored, buried if it never can be, and
given back while MongoDB is away.

Assumes: an event may come again at any time. It has the same key then, and its e-mail is stored.

Promises: a deleted event is a stored e-mail, an event makes one e-mail however often it comes, and
no event is lost. One that cannot be stored does not keep the others from it, whatever is wrong with
it. No line of the log quotes an event.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from mailqueue.errors import InvalidEmail, Unavailable
from mailqueue.intake.event import WHOLE, read
from mailqueue.logs import event, place
from mailqueue.producer.connections import Connections
from mailqueue.producer.stored_log import log_stored
from mailqueue.producer.submission import Inserted, KeyTaken, Outcome, Refused, Submission
from mailqueue.queue.broker import BURIED, DELETED, Event, EventReceiver

logger = logging.getLogger(__name__)

WAIT = 1  # second
BATCH = 200  # events in one write: 13 MB, if all are as large as they may be
LONGEST_PAUSE = 5.0  # seconds between two tries while a server is away


@dataclass(frozen=True, slots=True)
class Intake:
    """The events of one server; one thread calls ``run``.

    ``counts``: events that were stored, repeated, buried.
    """

    receiver: EventReceiver
    connections: Connections
    counts: Counter[str] = field(default_factory=lambda: Counter(stored=0, repeated=0, buried=0))

    def run(self, stopping: threading.Event) -> None:
        """Store events until ``stopping``; outages are waited for."""
        again = Retrying(
            retry=retry_if_exception_type(Unavailable),
            # At random: many processes must not all come back at the same moment.
            wait=wait_random_exponential(multiplier=0.1, max=LONGEST_PAUSE),
            stop=stop_when_event_set(stopping),
            sleep=sleep_using_event(stopping),
        )
        while not stopping.is_set():
            try:
                again(self.turn)
            except RetryError:
                logger.debug("stopped while a server was away")
        self.receiver.close()

    def turn(self) -> int:
        """Store the events that are ready, or wait a second for one; returns how many ended.

        Raises ``Unavailable``; the events are back on the tube then.
        """
        events = self.receiver.reserve(0, BATCH) or self.receiver.reserve(WAIT)
        try:
            if events:
                self._take_in(events)
        except Unavailable:
            self.receiver.give_back()
            raise
        return len(events)

    def _take_in(self, events: Sequence[Event]) -> None:
        refusals: dict[Event, InvalidEmail] = {}
        submissions: dict[Event, Submission] = {}
        for each, key in self._keys(events).items():
            try:
                submissions[each] = read(each.body, key)
            except Exception as error:  # noqa: BLE001  # a bug of ours must not stop the others
                refusals[each] = _refusal(error)
        outcomes = self._store(list(submissions.values()))
        for each, outcome in zip(submissions, outcomes, strict=True):
            if isinstance(outcome, Refused):
                refusals[each] = outcome.error
        # Not before: what is deleted must be stored.
        self.receiver.end([each for each in events if each not in refusals], DELETED)
        for each, refusal in refusals.items():
            note = f"{refusal.field}: {refusal.problem}"
            self.receiver.end([each], replace(BURIED, note=note))
        self.connections.announce(outcomes)
        log_stored(outcomes)
        self._say(refusals, outcomes)

    def _keys(self, events: Sequence[Event]) -> Mapping[Event, str]:
        """The key of each event, or its other key if an e-mail is stored under that."""
        others = [each.other_key for each in events if each.other_key]
        if not others:
            return {each: each.key for each in events}
        stored = self.connections.call(lambda storage: storage.store.by_key(others))
        return {each: each.other_key if each.other_key in stored else each.key for each in events}

    def _store(self, submissions: list[Submission]) -> Sequence[Outcome]:
        """Together; if that fails other than by an outage, each alone."""
        if not submissions:
            return ()
        try:
            return self.connections.call(lambda _: self.connections.write(submissions))
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  # as above
            if len(submissions) == 1:
                return (Refused(_refusal(error)),)
            return [self._store([each])[0] for each in submissions]

    def _say(self, refusals: Mapping[Event, InvalidEmail], outcomes: Sequence[Outcome]) -> None:
        for each, error in refusals.items():
            facts = {"server": self.receiver.name, "job": each.name}
            facts |= {"field": error.field, "problem": error.problem}
            event(logger, logging.ERROR, "event.buried", **facts)
        repeated = sum(isinstance(outcome, KeyTaken) for outcome in outcomes)
        stored = sum(isinstance(outcome, Inserted) for outcome in outcomes)
        self.counts.update(stored=stored, repeated=repeated, buried=len(refusals))


def _refusal(error: Exception) -> InvalidEmail:
    """Why an event is buried; its own fault, unless it drew a bug of ours."""
    if isinstance(error, InvalidEmail):
        return error
    return InvalidEmail(WHOLE, f"a bug, please report it: {type(error).__name__} {place(error)}")
