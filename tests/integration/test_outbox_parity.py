"""An outbox answers as MongoDB does: the same calls, once with real servers and once in memory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from mailqueue import Config, EmailDict, EmailStatus, MailQueueError, Producer
from mailqueue.producer.status import StoredEmail
from mailqueue.testing import Outbox

MAIL: EmailDict = {"from": "ann@example.com", "to": ["bob@example.org"], "text": "Hello"}
OTHER: EmailDict = {**MAIL, "text": "Something else"}
BAD: EmailDict = {**MAIL, "to": ["nobody"]}
LARGE: EmailDict = {**MAIL, "text": "x" * 16 * 2**20}
SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
LATER = SOON + timedelta(hours=1)
NOBODY = "0" * 24


class Story:
    """Calls, one after the other, and what each said; ids by the order in which they came."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.ids: list[str] = []
        self.answers: list[object] = []

    def tell(self, call: Callable[..., object], *arguments: object) -> Any:
        try:
            answer = call(*arguments)
        except (MailQueueError, ValueError) as error:
            answer = error
        self.answers.append(self._plain(answer))
        return answer

    def _plain(self, value: Any) -> object:
        if isinstance(value, list):
            return [self._plain(each) for each in value]
        if isinstance(value, EmailStatus):
            ends = (value.status, value.reason, value.due_at, value.attempts, value.simulated)
            return self._plain(value.id), *ends
        if isinstance(value, StoredEmail):
            facts = (value.email, value.priority, value.expires_at, value.idempotency_key)
            return self._plain(value.status), *facts
        if isinstance(value, Exception):
            parts = [getattr(value, name, None) for name in ("field", "problem", "index")]
            return type(value).__name__, *parts
        if isinstance(value, str) and len(value) == 24 and value != NOBODY:
            self.ids += [value] if value not in self.ids else []
            return self.ids.index(value)
        return value


def story(producer: Producer) -> list[object]:
    """What an application may do."""
    own = Story(producer)
    tell = own.tell
    producer.connect()
    first = tell(lambda: producer.send(MAIL, idempotency_key="a", priority="high"))
    tell(lambda: producer.send(MAIL, idempotency_key="a"))
    tell(lambda: producer.send(OTHER, idempotency_key="a"))
    for mail in (BAD, LARGE):
        tell(producer.send, mail)
    many = tell(lambda: producer.send_many([MAIL, OTHER, MAIL], idempotency_keys=["b", None, "b"]))
    tell(lambda: producer.send_many([OTHER, MAIL], idempotency_keys=["c", "a"]))
    tell(lambda: producer.send_many([OTHER, OTHER], idempotency_keys=["d", "b"]))
    tell(lambda: producer.send_many([OTHER, MAIL], idempotency_keys=["e", "e"]))
    tell(lambda: producer.send_many([]))
    calls = [(MAIL, "f"), (BAD, None), (OTHER, "f"), (MAIL, "f"), (LARGE, None), (OTHER, None)]
    tell(
        lambda: producer.send_each(
            {"email": mail, "idempotency_key": key, "send_at": SOON} for mail, key in calls
        )
    )
    for keys in (("g", "g"), ("h", "a"), ("i", None)):
        tell(
            producer.send_all,
            [
                {"email": MAIL, "idempotency_key": keys[0]},
                {"email": OTHER, "idempotency_key": keys[1]},
            ],
        )
    tell(producer.send_all, [{"email": MAIL}, {"email": BAD}])
    late = tell(lambda: producer.send(OTHER, send_at=SOON, expires_at=LATER))
    for email_id in (first, many[1], NOBODY, "x"):
        tell(producer.status, email_id)
        tell(producer.find, email_id)
    tell(producer.cancel, many[1])
    tell(producer.cancel, many[1])
    tell(producer.cancel, NOBODY)
    tell(lambda: producer.send(MAIL, idempotency_key="b"))
    for email_id in (late, many[1], NOBODY):
        for at in (SOON - timedelta(minutes=1), LATER):
            tell(producer.reschedule, email_id, at)
        tell(producer.status, email_id)
    tell(producer.announce, [first, many[1], NOBODY])
    tell(producer.recent, 3)
    tell(lambda: producer.recent(2, after=many[1]))
    tell(lambda: producer.recent(2, before=first))
    tell(producer.check_writable)
    return own.answers


def test_an_application_gets_the_same_answers(config: Config) -> None:
    with Producer(config) as producer:
        expected = story(producer)
    with Outbox():
        answers = story(Producer(config))
    for number, (answer, real) in enumerate(zip(answers, expected, strict=True)):
        assert answer == real, number
