"""What comes next for an e-mail, and when, in sentences. Pure.

Decides: which sentences. What an end becomes is asked of ``decide``, whose turn it is of ``turns``.

Promises: as ``history``. ``Unreadable`` is raised where the document is damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from mailqueue.config import Config, Sqs
from mailqueue.lifecycle.outcomes import Reason, Snapshot, Status
from mailqueue.monitoring.conditions import Conditions
from mailqueue.monitoring.history import as_time, callback_text, objects, text
from mailqueue.monitoring.sentence import Action, Sentence
from mailqueue.monitoring.turns import RESEND, Turns, end_text
from mailqueue.monitoring.words import count, listed, span
from mailqueue.store.callbacks import DUE
from mailqueue.store.document import Stored
from mailqueue.store.stats import ALIVE

LATE = 60.0  # seconds past its time from which an e-mail is called late


@dataclass(frozen=True)
class Outlook:
    """One e-mail's future, as things stand now."""

    stored: Stored
    config: Config
    conditions: Conditions

    def sentences(self) -> list[Sentence]:
        """What comes next, in order. The time of the first one says when."""
        status = self.stored.status
        if status.final:
            return [*self._callbacks(), self._after_end(status)]
        steps = self._sending() if status is Status.SENDING else self._queued()
        return [*self._no_consumer(), *steps, *self._callbacks()]

    @property
    def is_held(self) -> bool:
        """Whether an operator lets it wait, also where no consumer has put it aside yet."""
        if self.stored.status is not Status.QUEUED:
            return False
        return Turns(self.stored, self.config, self.conditions, self.stored.now).hold is not None

    @cached_property
    def _snapshot(self) -> Snapshot:
        return self.stored.snapshot()

    def _no_consumer(self) -> Iterator[Sentence]:
        consumers, kind = self.conditions.consumers, self.stored.env
        if consumers is None or kind in consumers.values():
            return
        words = f"No {kind} consumer gave a sign of life for {span(ALIVE)}: "
        words += "nothing comes next until one runs"
        words += ", or AWS Lambda is called." if isinstance(self.config.broker, Sqs) else "."
        if consumers:
            words += f" Those that run are {listed(sorted(set(consumers.values())))}."
        yield Sentence(words)

    def _callbacks(self) -> Iterator[Sentence]:
        for each in objects(self.stored.document.get("callbacks")):
            if text(each.get("state")) == DUE:
                words = f"{callback_text(each)} A responder does that."
                yield Sentence(words, as_time(each.get("due_at")))

    def _after_end(self, status: Status) -> Sentence:
        if status is Status.UNCERTAIN:
            return Sentence(
                "Nothing is sent by itself: a person decides. It is never deleted. "
                "An event of its vendor may still prove that it was sent."
            )
        name = "sent_days" if status is Status.SENT else "failed_days"
        days = getattr(self.config.retention, name)
        since = as_time(self.stored.document.get("updated_at"))
        at = None if since is None else since + timedelta(days=days)
        return Sentence(f"It is deleted (retention.{name}). Nothing is sent by itself.", at)

    # Sending -------------------------------------------------------------------------------------

    def _sending(self) -> Iterator[Sentence]:
        line, lease = self.stored.open_line, self.stored.document["lease"]
        owner, until = text(lease.get("owner")) or "without a name", as_time(lease.get("until"))
        vendor = "its vendor" if line is None else line["vendor"]
        consumers = self.conditions.consumers
        if self.stored.leased_for <= 0:
            words = f"The lease of the consumer {owner} is over: it died, hangs, or lost MongoDB. "
            words += "The sweeper of any consumer takes the e-mail up in its next round."
            yield Sentence(words)
        elif consumers is not None and owner not in consumers:
            words = f"The consumer {owner} has it, and gave no sign of life for {span(ALIVE)}. "
            words += "When its lease is over, the sweeper of any consumer takes the e-mail up."
            yield Sentence(words, until)
        else:
            words = f"The consumer {owner} records what {vendor} answers, by then at the latest."
            yield Sentence(words, until)
        yield Sentence(f"If no answer is recorded, {self._if_unknown(vendor)}")

    def _if_unknown(self, vendor: str) -> str:
        """What follows if no answer is recorded at all."""
        line = self.stored.open_line or {}
        if self.stored.document.get("late_accept") or line.get("event"):
            return "the yes that was heard makes it sent."
        parks = self.config.delivery.on_unknown == "park" or self._snapshot.unknowns > 0
        end = "it ends as uncertain" if parks else RESEND
        if line.get("key") is None:
            return f"{end}. A copy may have left."
        words = f"{vendor} is asked again under the same key, while that is safe."
        return f"{words} Without an answer to that, {end}."

    # Queued --------------------------------------------------------------------------------------

    def _queued(self) -> Iterator[Sentence]:
        snapshot, wait = self._snapshot, self.stored.due_in
        at = self.stored.now + timedelta(seconds=max(0.0, 0.0 if self.stored.is_held else wait))
        turns = Turns(self.stored, self.config, self.conditions, at)
        if snapshot.expires_in is not None and snapshot.expires_in <= 0:
            words = f"Its expires_at has passed: {end_text(snapshot, Reason.EXPIRED)}"
            yield Sentence(words, self.stored.now)
            return
        if hold := turns.hold:
            yield turns.held(hold)
        else:
            yield self._due(wait, at, turns)
            yield from self._queue_away()
            if snapshot.expires_in is not None and snapshot.expires_in <= wait:
                yield Sentence("Its expires_at comes first: no vendor is asked any more.")
            else:
                yield from self._cautions()
                yield from turns.sentences()
        yield from self._ends()

    def _due(self, wait: float, at: datetime, turns: Turns) -> Sentence:
        lines = objects(self.stored.document["attempts"])
        if wait > 0 and not lines:
            return Sentence(f"It is due in {span(wait)}.", at)
        if wait > 0:
            words = f"It is due again in {span(wait)}. It waits for its back-off, "
            return Sentence(f"{words}or until a vendor may be asked.", at)
        document = self.stored.document
        since = as_time(document.get("due_at")) or as_time(document.get("updated_at"))
        late = 0.0 if since is None else (self.stored.now - since).total_seconds()
        if self.conditions.queue_error:  # what follows says why no consumer takes it
            return Sentence("It is due.", at)
        words = "It is due: the next consumer that is free takes it."
        if not turns.has_vendor:  # what follows says why it waits
            words = "It is due."
        if late > LATE:
            words += f" It has been due for {span(late)}: mailqueue doctor may say why."
        return Sentence(words, at)

    def _queue_away(self) -> Iterator[Sentence]:
        """A consumer learns from the queue which e-mails are due."""
        if error := self.conditions.queue_error:
            words = f"The queue is not reached from here ({self.config.broker.place}: {error}). "
            words += "As long as consumers do not reach it either, none takes the e-mail. When it "
            words += "is back, so is its job, or the sweeper of a consumer announces it again."
            action = Action("mailqueue doctor", "Say what is wrong with the queue.")
            yield Sentence(words, actions=(action,))

    def _cautions(self) -> Iterator[Sentence]:
        """What makes this attempt unlike others."""
        snapshot = self._snapshot
        if snapshot.unknowns and snapshot.pin is None:
            words = "A copy may have left before. "
            if self.stored.line_to_look_up is not None:
                words += "A vendor that can be asked whether it has the e-mail is asked first. "
            yield Sentence(f"{words}One more outcome that stays unknown makes it uncertain.")
        if snapshot.pending is not None:
            people = count(len(snapshot.pending), "recipient")
            yield Sentence(f"It goes to {people} only: the others have it, or were refused.")
        if (staging := self.config.staging) is not None:
            words = "This is a staging installation: only recipients on its list get it"
            others = "" if staging.redirect_to is None else ", staging.redirect_to for all others"
            yield Sentence(f"{words}{others}.")

    def _ends(self) -> Iterator[Sentence]:
        """What ends it, if no vendor accepts it."""
        snapshot, retry = self._snapshot, self.config.retry
        if (expires_at := as_time(self.stored.document.get("expires_at"))) is not None:
            words = f"Without a yes by then (expires_at), {end_text(snapshot, Reason.EXPIRED)}"
            yield Sentence(words, expires_at)
        start = as_time(self.stored.document.get("clock_from"))
        if start is not None and not self.stored.is_held:
            words = "Without a yes by then (retry.give_up_after), or after "
            words += f"{retry.max_attempts} attempts that count ({snapshot.counted} so far), "
            words += end_text(snapshot, Reason.GAVE_UP)
            yield Sentence(words, start + timedelta(seconds=retry.give_up_after))
