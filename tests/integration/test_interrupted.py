"""Whatever runs in the middle of a call, or ends it there, does no harm to it, nor to others."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType

import pytest
from pymongo.collection import Collection

from mailqueue import reentrancy
from mailqueue.config import Config
from mailqueue.errors import StoreUnavailable
from mailqueue.producer import Producer
from tests.integration.bench import MAIL, Document, object_ids
from tests.interrupts import KINDS, RAISED, interrupt, is_in_a_lock
from tests.servers import BreakableBeanstalkd, BreakableServers

TIMES = 30
ENDS_WITHIN = 60


class MailsErrors(logging.Handler):
    """Sends an e-mail for each record, as Django's ``AdminEmailHandler`` can be made to do."""

    def __init__(self, producer: Producer) -> None:
        super().__init__(logging.WARNING)
        self.producer = producer
        self.ids: list[str] = []
        self.raised = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.ids.append(self.producer.send({**MAIL, "subject": record.getMessage()}))
        except StoreUnavailable:
            self.raised += 1


@contextmanager
def mailing_errors(producer: Producer) -> Iterator[MailsErrors]:
    handler = MailsErrors(producer)
    logger = logging.getLogger("mailqueue")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)


def test_a_log_handler_that_sends_does_not_wait_for_the_send_that_it_came_from(
    config: Config, emails: Collection[Document]
) -> None:
    with BreakableBeanstalkd(binlog=False) as own:
        away = config.replace(beanstalkd=replace(config.beanstalkd, servers=(own.address,)))
        with Producer(away) as producer, mailing_errors(producer) as handler:
            ids = [producer.send(MAIL)]
            own.stop()
            with ThreadPoolExecutor(8) as threads:
                ids += threads.map(lambda _: producer.send(MAIL), range(40), timeout=ENDS_WITHIN)
    assert len(handler.ids) == 1
    assert set(emails.distinct("_id")) == set(object_ids([*ids, *handler.ids]))


def test_a_log_handler_that_sends_is_told_at_once_that_mongodb_is_away(
    servers_to_break: BreakableServers,
) -> None:
    mapping = {
        "mongodb": {**servers_to_break.config["mongodb"], "timeout": 1},
        "beanstalkd": {**servers_to_break.config["beanstalkd"], "tube": "mailqueue_test_log"},
    }
    with Producer(Config.from_mapping(mapping)) as producer, mailing_errors(producer) as handler:
        producer.send(MAIL)
        servers_to_break.mongod.pause()
        try:
            with pytest.raises(StoreUnavailable):
                producer.send(MAIL)
        finally:
            servers_to_break.mongod.resume()
        assert handler.raised == 1
        assert producer.send(MAIL)
        assert len(handler.ids) == 1


# In the middle of it ----------------------------------------------------------------------------


@contextmanager
def alarms(handler: object, every: float) -> Iterator[None]:
    """A signal, again and again."""
    before = signal.signal(signal.SIGALRM, handler)  # type: ignore[arg-type]  # it is one
    signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_may_send_in_the_middle_of_a_send(
    producer: Producer, emails: Collection[Document]
) -> None:
    ids: list[str] = []
    inside: list[str] = []

    def handler(_: int, __: FrameType | None) -> None:
        if reentrancy.depth() < 2:  # the handler is interrupted, too
            inside.append(producer.send({**MAIL, "subject": "From a handler"}))

    enough = threading.Event()

    def other() -> list[str]:
        mine = []
        while not enough.is_set():
            mine.append(producer.send(MAIL))
        return mine

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(other) for _ in range(2)]
        try:
            with alarms(handler, 0.011):
                while len(inside) < TIMES:
                    ids.append(producer.send(MAIL))
        finally:
            enough.set()
        for each in others:
            ids += each.result(ENDS_WITHIN)
    given = object_ids([*ids, *inside])
    assert len(set(given)) == len(given)
    assert set(emails.distinct("_id")) == set(given)


def test_a_send_that_a_signal_interrupts_anywhere_leaves_the_producer_usable(
    producer: Producer, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # it strikes in finalizers, too
    ids: list[str] = []
    times = 0

    def handler(_: int, frame: FrameType | None) -> None:
        nonlocal times
        times += 1
        if not is_in_a_lock(frame):
            raise KINDS[times % 2]

    with suppress(*RAISED), alarms(handler, 0.007):
        while times < TIMES:
            with suppress(*RAISED):
                ids.append(producer.send(MAIL))
    ids += [producer.send(MAIL) for _ in range(3)]
    assert set(object_ids(ids)) <= set(emails.distinct("_id"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_that_are_interrupted_anywhere_lose_nothing_and_harm_nobody(
    producer: Producer, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # it strikes in finalizers, too
    enough = threading.Event()
    victims_ids: list[str] = []

    def victim() -> None:
        while not enough.is_set():
            with suppress(*RAISED):
                while not enough.is_set():
                    victims_ids.append(producer.send(MAIL))

    def bystander(_: int) -> list[str]:
        mine = []
        while not enough.is_set():
            mine.append(producer.send(MAIL))
        return mine

    victims = [threading.Thread(target=victim) for _ in range(3)]
    for each in victims:
        each.start()
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(bystander, n) for n in range(3)]
        for n in range(TIMES * 2):
            time.sleep(0.007)  # an interrupt now and then; when does not matter
            interrupt(victims[n % 3], KINDS[n % 2])
        enough.set()
        ids = [email_id for each in others for email_id in each.result(ENDS_WITHIN)]
    for each in victims:
        each.join(ENDS_WITHIN)
        assert not each.is_alive()
    given = [*ids, *victims_ids, producer.send(MAIL)]
    assert len(set(given)) == len(given)
    assert set(object_ids(given)) <= set(emails.distinct("_id"))
