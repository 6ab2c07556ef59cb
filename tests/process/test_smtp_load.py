"""``mailqueue smtp`` when it is killed, and when clients are many, slow or large."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.process.conftest import Consumers
from tests.process.test_smtp_service import (
    HELLO,
    Services,
    can_hand_over,
    serve,
    silent_clients,
    stored_id,
)
from tests.smtp_service import SmtpService
from tests.stage import Stage
from tests.waiting import wait_until

__all__ = ["serve"]  # a fixture
MIB = 2**20
LINE = b"x" * 998 + b"\r\n"
SUBMISSIONS, ENOUGH, LATE = 500, 150, 50


def test_killed_amid_500_submissions_every_250_is_stored_and_each_is_sent_once(
    stage: Stage, serve: Services, ready: Consumers
) -> None:
    vendor = stage.vendor("first")
    stage.settings["consumer"] = {"sweep_every": 1}  # some jobs were not put any more
    service = serve(stage)
    acknowledged = asyncio.run(submit_all(service))
    assert ENOUGH <= len(acknowledged) < SUBMISSIONS
    subjects = {str(e["_id"]): e["email"]["subject"] for e in stage.emails.find()}
    assert {i: subjects.get(i) for i in acknowledged} == acknowledged
    ready(stage)
    stage.until(sent=len(subjects))
    assert vendor.accepted == Counter(subjects.keys())


async def submit_all(service: SmtpService) -> dict[str, str]:
    """Hand over all at the same time, kill in the middle; ids and subjects of what was promised."""
    acknowledged: dict[str, str] = {}
    killed = asyncio.Event()

    async def submit(n: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        with suppress(OSError, asyncio.IncompleteReadError), closing(writer):
            await reader.readuntil(b"\r\n")
            for command in ("HELO me", "MAIL FROM:<ann@example.com>", "RCPT TO:<bob@example.org>"):
                writer.write(f"{command}\r\n".encode())
                await reader.readuntil(b"\r\n")
            if n >= SUBMISSIONS - LATE:  # else a slow machine hears all answers before it kills
                await asyncio.wait_for(killed.wait(), 60)
            writer.write(b"DATA\r\n")
            await reader.readuntil(b"\r\n")
            writer.write(HELLO.replace("Hi", f"Number {n}").encode() + b".\r\n")
            reply = await reader.readuntil(b"\r\n")
            acknowledged[stored_id(reply.decode().rstrip())] = f"Number {n}"
            if len(acknowledged) == ENOUGH:
                service.kill()
                killed.set()

    await asyncio.gather(*map(submit, range(SUBMISSIONS)))
    return acknowledged


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may hold 10,000 connections; without that the test is skipped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 10_500:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 10_500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_silent_clients_cost_little_and_keep_nobody_out(
    stage: Stage, serve: Services, many_files: None
) -> None:
    service = serve(stage)
    before = service.resident
    with silent_clients(service, 10_000):
        wait_until(lambda: can_hand_over(service), 30)
        assert service.resident - before < 100 * MIB


def test_slow_clients_keep_nobody_out(stage: Stage, serve: Services) -> None:
    """Slow loris: a byte now and then, of a command or of a message."""
    stage.settings["smtp"] = {"connections": 50}
    service = serve(stage)
    with silent_clients(service, 50) as talks:
        for n, talk in enumerate(talks):
            talk.reply()
            talk.send("EHLO me\r\n")
            talk.reply()
            if n % 2:
                talk.send("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")

        def drip() -> bool:
            for talk in talks:
                with suppress(OSError):
                    talk.send("x")
            return can_hand_over(service)

        wait_until(drip)


def test_messages_of_200_mb_cost_little_memory_and_keep_nobody_out(
    stage: Stage, serve: Services
) -> None:
    service = serve(stage)
    before = peak(service)
    with ThreadPoolExecutor() as threads:
        blocks = [LINE * 4000] * 50
        replies = threads.submit(asyncio.run, hand_over_together(service, blocks, 4))
        while not replies.done():
            assert can_hand_over(service)
    assert replies.result() == {"552": 4}
    assert peak(service) - before < 160 * MIB


def test_many_large_messages_at_a_time_are_taken_with_bounded_memory(
    stage: Stage, serve: Services
) -> None:
    """They wait for each other."""
    service = serve(stage)
    before = service.resident
    large = [HELLO.encode(), LINE * 14_000]
    replies = asyncio.run(hand_over_together(service, large, 12))
    assert replies == {"250": 12}
    assert peak(service) - before < 300 * MIB


async def hand_over_together(
    service: SmtpService, blocks: Sequence[bytes], clients: int
) -> Counter[str]:
    """The replies to a message that so many clients send at the same time."""

    async def hand_over() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        await reader.readuntil(b"\r\n")
        for command in (b"HELO me", b"MAIL FROM:<ann@example.com>", b"RCPT TO:<bob@example.org>"):
            writer.write(command + b"\r\n")
            await reader.readuntil(b"\r\n")
        writer.write(b"DATA\r\n")
        await reader.readuntil(b"\r\n")
        for block in (*blocks, b".\r\n"):
            writer.write(block)
            await writer.drain()
        reply = await reader.readuntil(b"\r\n")
        writer.close()
        return reply[:3].decode()

    return Counter(await asyncio.gather(*(hand_over() for _ in range(clients))))


def peak(service: SmtpService) -> int:
    """The most memory that it ever took, in bytes."""
    status = Path(f"/proc/{service.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
