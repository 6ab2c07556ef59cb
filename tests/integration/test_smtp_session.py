"""Conversations of the SMTP service in this process: which thread does what."""

from __future__ import annotations

import asyncio
import smtplib
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import pytest

from mailqueue.aio import AsyncProducer
from mailqueue.config import Config
from mailqueue.service.keys import KeyRing
from mailqueue.smtp import submission
from mailqueue.smtp.connections import Connections, Memory
from mailqueue.smtp.session import IN_LOOP, Rules, protocol
from mailqueue.testing import Outbox

HEAD = "From: ann@example.com\r\nTo: bob@example.org\r\n\r\n"


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    with Outbox() as outbox:
        yield outbox


def hand_over(port: int, *messages: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        for message in messages:
            client.sendmail("ann@example.com", "bob@example.org", message)


async def serve(reader: Executor, *messages: str) -> None:
    """Serve a client that hands these over."""
    async with AsyncProducer(Config.from_mapping({})) as producer:
        rules = Rules(
            producer=producer,
            keys=KeyRing(()),
            connections=Connections(10),
            memory=Memory(2**24),
            reader=reader,
            hostname="here",
            max_bytes=2**22,
            timeout=30,
            is_exposed=False,
        )
        loop = asyncio.get_running_loop()
        async with await loop.create_server(partial(protocol, rules), "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.to_thread(hand_over, port, *messages)


def test_the_loop_looks_through_small_messages_only(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    content = submission.content

    def record(raw: bytearray) -> bytearray:
        threads.append(threading.current_thread().name)
        return content(raw)

    monkeypatch.setattr(submission, "content", record)
    with ThreadPoolExecutor(1, "reader") as reader:
        asyncio.run(serve(reader, *(HEAD + ".a\r\n" * lines for lines in (1, IN_LOOP))))
    assert threads == [threading.main_thread().name, "reader_0"]
    assert [(item.email.text or "").count(".a") for item in outbox] == [1, IN_LOOP]
