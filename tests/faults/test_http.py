"""The promise over the HTTP door: a 201 is a stored e-mail, whatever happens around it.

The service is a real process, its clients are real connections, and a real consumer sends what
they bring to a vendor that counts.
"""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from itertools import count, cycle
from pathlib import Path
from typing import TypeVar

import pytest

from mailqueue.store import ids
from tests.conftest import TEST_PREFIX
from tests.faults.conftest import all_is_well, make_impatient
from tests.faults.http_clients import (
    PATIENCE,
    Answer,
    Client,
    ask,
    get,
    head,
    post,
    post_batch,
    send,
)
from tests.process.consumer_process import ConsumerProcess, HttpProcess
from tests.servers import BreakableServers
from tests.stage import Stage, letter

REQUESTS = 500
MIB = 2**20
T = TypeVar("T")
Services = Callable[..., HttpProcess]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Services]:
    """Start a service on a stage; gone at the end. It is ready when it is returned."""
    numbers = count(1)
    with ExitStack() as stack:

        def start(stage: Stage, **environ: str) -> HttpProcess:
            folder = tmp_path / f"http{next(numbers)}"
            return stack.enter_context(HttpProcess(stage.settings, folder, **environ))

        yield start


def run(main: Awaitable[T]) -> T:
    """Its result; no test waits for ever."""

    async def bounded() -> T:
        return await asyncio.wait_for(main, 2 * PATIENCE)

    return asyncio.run(bounded())


async def all_of(calls: Iterator[Awaitable[T]]) -> list[T]:
    """Their results; all of them at once."""
    return await asyncio.gather(*calls)


def email_id(answer: Answer) -> str:
    return str(ids.parse(answer.json["id"]))


def numbers_by_id(stage: Stage) -> dict[str, int]:
    """The number of each stored e-mail, which its subject tells."""
    return {str(d["_id"]): int(d["email"]["subject"].split()[1]) for d in stage.emails.find()}


def numbers(stage: Stage) -> list[int]:
    return sorted(numbers_by_id(stage).values())


# Killed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [1, 100, 300])
def test_every_201_before_a_kill_is_stored_and_every_email_is_sent_once(
    stage: Stage, service: Services, tmp_path: Path, answered: int
) -> None:
    """Many ask at once, and so many are answered. Of the others, those who have a key ask again.

    The last hundred ask after the kill, so that some have no answer, however fast the service is.
    """
    stage.vendor("only")
    stage.settings["consumer"] = {"sweep_every": 0.5}  # some are stored and have no job
    first = service(stage)
    keys = [f"order-{n}" if n % 2 else None for n in range(REQUESTS)]
    left, killed = answered, asyncio.Event()

    async def one(number: int) -> Answer | None:
        nonlocal left
        if number >= REQUESTS - 100:
            await killed.wait()
        answer = await send(first.port, number, keys[number])
        left -= answer is not None
        if not left and not killed.is_set():
            first.kill()
            killed.set()
        return answer

    with ConsumerProcess(stage.settings, tmp_path / "consumer") as consumer:
        answers = run(all_of(map(one, range(REQUESTS))))
        stored = {n: answer for n, answer in enumerate(answers) if answer is not None}
        assert answered <= len(stored) < REQUESTS
        assert {answer.status for answer in stored.values()} == {201}
        by_id = numbers_by_id(stage)
        assert {n: by_id.get(email_id(answer)) for n, answer in stored.items()} == {
            n: n for n in stored
        }
        second, lost = service(stage), [n for n in range(REQUESTS) if n not in stored and keys[n]]
        repeated = run(all_of(ask(second.port, post(n, keys[n])) for n in lost))
        assert {answer.status for answer in repeated} == {201}
        by_id = numbers_by_id(stage)
        assert {by_id[email_id(answer)] for answer in repeated} == set(lost)
        assert len(set(by_id.values())) == len(by_id)
        assert set(by_id.values()) >= {*stored, *lost}
        stage.until(60, sent=len(by_id))
        assert consumer.stop() == 0
    assert stage.copies == dict.fromkeys(by_id, 1)


def test_a_batch_whose_answer_was_lost_in_a_kill_is_completed_by_its_repeat(
    stage: Stage, service: Services, tmp_path: Path
) -> None:
    """Some of its e-mails may be stored: the repeat stores the others, and no e-mail twice."""
    stage.vendor("only")
    stage.settings["consumer"] = {"sweep_every": 0.5}
    first, batches, left, killed = service(stage), range(100), 20, asyncio.Event()

    def request(number: int) -> bytes:
        return post_batch(range(number * 10, number * 10 + 10), f"batch-{number}")

    async def one(number: int) -> Answer | None:
        nonlocal left
        if number >= 90:  # so that some have no answer, however fast the service is
            await killed.wait()
        with suppress(ConnectionError):
            answer = await ask(first.port, request(number))
            left -= 1
            if not left:
                first.kill()
                killed.set()
            return answer
        return None

    with ConsumerProcess(stage.settings, tmp_path / "consumer") as consumer:
        answers = run(all_of(map(one, batches)))
        assert {answer.status for answer in answers if answer} == {201}
        lost = [n for n in batches if answers[n] is None]
        assert lost
        second = service(stage)
        repeated = run(all_of(ask(second.port, request(n)) for n in lost))
        assert {answer.status for answer in repeated} == {201}
        assert numbers(stage) == list(range(1000))
        by_id = numbers_by_id(stage)
        for n, answer in [*enumerate(answers), *zip(lost, repeated, strict=True)]:
            if answer is not None:
                shown = [by_id[str(ids.parse(each["id"]))] for each in answer.json["data"]]
                assert shown == list(range(n * 10, n * 10 + 10))
        stage.until(60, sent=1000)
        assert consumer.stop() == 0
    assert stage.copies == dict.fromkeys(by_id, 1)


# Servers that are away ---------------------------------------------------------------------------

TIMEOUT = 6.0  # mongodb.timeout
SOON = 2.0  # seconds, for an answer while the outage is known


@pytest.fixture
def fragile(servers_to_break: BreakableServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage on servers of its own, to be broken."""
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    settings = servers_to_break.config
    settings["mongodb"] |= {"database": f"{TEST_PREFIX}http"}
    settings["beanstalkd"] |= {"tube": f"{TEST_PREFIX}http"}
    with Stage(settings) as stage:
        stage.vendor("only")
        make_impatient(stage)
        stage.settings["mongodb"]["timeout"] = TIMEOUT
        yield stage


def assert_unavailable(answer: Answer) -> None:
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["statusCode"] == answer.json["status"] == 503


@pytest.mark.parametrize("how", ["stop", "pause"])
def test_without_mongodb_the_first_wait_for_its_timeout_and_the_others_hear_it_at_once(
    fragile: Stage, servers_to_break: BreakableServers, service: Services, how: str
) -> None:
    process = service(fragile, WATCHDOG_USEC="500000")
    mongod = servers_to_break.mongod

    async def asked(numbers: range, within: float) -> None:
        calls = (asyncio.wait_for(ask(process.port, post(n)), within) for n in numbers)
        for answer in await asyncio.gather(*calls):
            assert_unavailable(answer)

    async def status(path: str) -> int:
        return (await asyncio.wait_for(ask(process.port, get(path)), SOON)).status

    async def during() -> None:
        await asked(range(1, 200), TIMEOUT + SOON)
        for begin in range(300, 900, 200):
            await asked(range(begin, begin + 200), SOON)
        assert (await status("/readyz"), await status("/healthz")) == (503, 200)
        assert process.heard().count("WATCHDOG=1") > TIMEOUT / 2  # all the time

    async def afterwards() -> None:
        while (await ask(process.port, get("/readyz"))).status != 200:  # noqa: ASYNC110  # of others
            await asyncio.sleep(0.1)
        assert (await ask(process.port, post(200))).status == 201

    assert run(ask(process.port, post(0))).status == 201
    getattr(mongod, how)()
    try:
        run(during())
    finally:
        getattr(mongod, {"stop": "start", "pause": "resume"}[how])()
    run(afterwards())
    assert {0, 200} <= set(numbers(fragile)) <= set(range(201))
    assert process.stop() == 0


def test_a_service_that_starts_without_mongodb_says_503_until_it_is_there(
    fragile: Stage, servers_to_break: BreakableServers, service: Services
) -> None:
    servers_to_break.mongod.stop()
    process = service(fragile)

    async def main() -> None:
        for request in (get("/readyz"), post(1)):
            assert_unavailable(await ask(process.port, request))
        await asyncio.to_thread(servers_to_break.mongod.start)
        while (await ask(process.port, post(1))).status != 201:  # noqa: ASYNC110  # of others
            await asyncio.sleep(0.1)

    run(main())
    assert process.stop() == 0


@pytest.mark.parametrize("how", ["stop", "pause"])
def test_without_beanstalkd_every_answer_is_201_and_the_emails_are_sent_when_it_is_back(
    fragile: Stage, servers_to_break: BreakableServers, service: Services, tmp_path: Path, how: str
) -> None:
    process, beanstalkd = service(fragile), servers_to_break.beanstalkd
    getattr(beanstalkd, how)()
    try:
        answers = run(all_of(ask(process.port, post(n)) for n in range(100)))
    finally:
        getattr(beanstalkd, {"stop": "start", "pause": "resume"}[how])()
    assert {answer.status for answer in answers} == {201}
    with ConsumerProcess(fragile.settings, tmp_path / "consumer"):
        all_is_well(fragile, [email_id(answer) for answer in answers])
    assert numbers(fragile) == list(range(100))


# Bad clients -------------------------------------------------------------------------------------

HALVES = [
    b"POST /emails HTTP/1.1\r\nHo",
    head(1000),
    head(1000) + b"{",
    head(None) + b"5\r\n{",
]


async def drip(client: Client) -> None:
    """Say a byte now and then; ends when the service has cut it."""
    while not client.reader.at_eof():
        try:
            await client.say(b" ")
            await asyncio.wait_for(client.reader.read(1000), 0.5)
        except TimeoutError:
            continue
        except ConnectionError:
            return


def test_clients_that_never_finish_a_request_are_cut_and_the_others_are_served(
    stage: Stage, service: Services
) -> None:
    """They stop in the head or in the body, and drip a byte now and then."""
    stage.settings["http"] = {"timeout": 3}
    process = service(stage)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(process.port)) for _ in range(400)]
            for client, half in zip(clients, cycle(HALVES), strict=False):
                await client.say(half)
            cut = asyncio.gather(*map(drip, clients))
            served = await all_of(ask(process.port, post(n)) for n in range(100))
            assert {answer.status for answer in served} == {201}
            await asyncio.wait_for(cut, PATIENCE)

    run(main())
    assert numbers(stage) == list(range(100))
    assert process.stop() == 0


@pytest.mark.parametrize("length", [200 * MIB, None], ids=["as it says", "in chunks"])
def test_bodies_of_200_mib_are_refused_in_bounded_memory_and_the_others_are_served(
    stage: Stage, service: Services, length: int | None
) -> None:
    process = service(stage)
    piece = b" " * MIB
    chunk = b"%x\r\n%b\r\n" % (MIB, piece) if length is None else piece

    async def huge() -> int:
        """The status of its answer, which comes while the body is still being sent."""
        async with Client(process.port) as client:
            answer = asyncio.create_task(client.answer())
            try:
                await client.say(head(length))
                for _ in range(200):
                    if answer.done():
                        break
                    await client.say(chunk)
            except ConnectionError:
                pass  # the answer came before
            return (await answer).status

    async def main() -> None:
        refused = asyncio.gather(*(huge() for _ in range(40)))
        served = await all_of(ask(process.port, post(n)) for n in range(1, 101))
        assert {answer.status for answer in served} == {201}
        assert set(await refused) <= {413, 429}

    assert run(ask(process.port, post(0))).status == 201
    before = process.memory
    run(main())
    assert process.memory - before < 320 * MIB
    assert numbers(stage) == list(range(101))


def test_large_emails_all_at_once_take_bounded_memory_and_small_ones_are_stored_meanwhile(
    stage: Stage, service: Services
) -> None:
    """Together they are 600 MB on the wire; those that find no room are told to repeat."""
    process = service(stage)
    file = {"filename": "a.bin", "content": b64encode(os.urandom(8 * MIB)).decode()}
    body = json.dumps({**letter(0), "attachments": [file]}).encode()

    async def large() -> Answer:
        return await ask(process.port, head(len(body)) + body)

    async def main() -> None:
        answers = asyncio.gather(*(large() for _ in range(50)))
        served = await all_of(ask(process.port, post(n)) for n in range(1, 101))
        assert {answer.status for answer in served} == {201}
        statuses = Counter(answer.status for answer in await answers)
        assert statuses[201] >= 1
        assert statuses.keys() <= {201, 429, 503}
        assert all("retry-after" in a.headers for a in answers.result() if a.status != 201)

    before = process.memory
    run(main())
    assert process.memory - before < 512 * MIB
    assert process.stop() == 0


def test_a_client_that_asks_and_asks_and_never_reads_takes_bounded_memory(
    stage: Stage, service: Services
) -> None:
    process = service(stage)
    before = process.memory

    async def deaf() -> None:
        """Ask for a large answer until the service reads no more questions, and wait."""
        async with Client(process.port) as client:
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(3):
                    while True:
                        await client.say(get("/openapi.json") * 100)

    async def main() -> None:
        deaf_ones = asyncio.gather(*(deaf() for _ in range(20)))
        served = await all_of(ask(process.port, post(n)) for n in range(100))
        assert {answer.status for answer in served} == {201}
        await deaf_ones

    run(main())
    assert process.memory - before < 100 * MIB
    assert process.stop() == 0


def test_10_000_connections_take_bounded_memory_and_those_who_ask_are_served(
    stage: Stage, service: Services
) -> None:
    process = service(stage)
    before = process.memory

    async def main() -> None:
        async with AsyncExitStack() as stack:
            clients: list[Client] = []
            for _ in range(100):
                new = (stack.enter_async_context(Client(process.port)) for _ in range(100))
                clients += await all_of(new)
                for client, half in zip(clients[-50:], cycle(HALVES), strict=False):
                    with suppress(ConnectionError):
                        await client.say(half)
            answers = await all_of(ask(process.port, post(n)) for n in range(200))
            assert {answer.status for answer in answers} == {201}

    run(main())
    assert process.memory - before < 200 * MIB
    assert process.stop() == 0


def test_10_000_requests_at_once_take_bounded_memory_and_what_is_answered_is_stored(
    stage: Stage, service: Services
) -> None:
    """For most there is no room: they are told to repeat. No 201 is lost."""
    process = service(stage)
    before = process.memory
    answers = run(all_of(send(process.port, n) for n in range(10_000)))
    statuses = Counter(answer.status for answer in answers if answer is not None)
    assert statuses.keys() <= {201, 429, 503}
    assert statuses[201] >= REQUESTS
    stored = {n for n, answer in enumerate(answers) if answer is not None and answer.status == 201}
    all_stored = numbers(stage)
    assert len(set(all_stored)) == len(all_stored)
    assert set(all_stored) >= stored
    assert run(ask(process.port, post(10_000))).status == 201
    assert process.memory - before < 300 * MIB
    assert process.stop() == 0


# Stopped -----------------------------------------------------------------------------------------


def test_sigterm_lets_the_requests_under_way_finish_and_exits_with_0(
    fragile: Stage, servers_to_break: BreakableServers, service: Services
) -> None:
    """Those that wait for MongoDB, and those whose body is still coming."""
    process = service(fragile)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(process.port)) for _ in range(200)]
            waiting, sending, idle = clients[:100], clients[100:150], clients[150:]
            for n, client in enumerate(idle, 150):
                assert (await client.ask(post(n))).status == 201
            servers_to_break.mongod.pause()
            for n, client in enumerate(waiting):
                await client.say(post(n))
            for n, client in enumerate(sending, 100):
                await client.say(post(n)[:-10])
            # What was said before this is read before it is answered.
            assert (await ask(process.port, get("/healthz"))).status == 200
            process.terminate()
            await asyncio.to_thread(process.wait_for, "STOPPING=1")
            servers_to_break.mongod.resume()
            for n, client in enumerate(sending, 100):
                await client.say(post(n)[-10:])
            answers = await all_of(client.answer() for client in [*waiting, *sending])
            assert {answer.status for answer in answers} == {201}
            assert [await client.reader.read() for client in idle] == [b""] * len(idle)

    try:
        run(main())
    finally:
        servers_to_break.mongod.resume()
    assert process.exit_code() == 0
    assert numbers(fragile) == list(range(200))


def test_a_restart_under_load_stores_what_it_answers_and_nothing_else(
    stage: Stage, service: Services
) -> None:
    """Each client asks and asks on one connection, until the service closes it."""
    process, number, sent = service(stage), count(), list[int]()

    async def client() -> None:
        async with Client(process.port) as connection:
            while True:
                own = next(number)
                try:
                    answer = await connection.ask(post(own))
                except ConnectionError:
                    return
                assert answer.status == 201
                sent.append(own)
                if len(sent) == REQUESTS:
                    process.terminate()
                if answer.headers.get("connection") == "close":
                    return

    async def main() -> None:
        await all_of(client() for _ in range(100))

    run(main())
    assert process.exit_code() == 0
    assert len(sent) >= REQUESTS
    assert numbers(stage) == sorted(sent)


def test_sigterm_while_mongodb_is_away_answers_503_and_exits_with_0(
    fragile: Stage, servers_to_break: BreakableServers, service: Services
) -> None:
    process = service(fragile)

    async def main() -> None:
        servers_to_break.mongod.pause()
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(process.port)) for _ in range(50)]
            for n, client in enumerate(clients):
                await client.say(post(n))
            assert (await ask(process.port, get("/healthz"))).status == 200
            process.terminate()
            for answer in await all_of(client.answer() for client in clients):
                assert_unavailable(answer)

    try:
        run(main())
        assert process.exit_code() == 0
    finally:
        servers_to_break.mongod.resume()
