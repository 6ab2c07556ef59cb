"""``AsyncProducer`` against real servers: what its tasks are told, and what is stored then."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections import UserDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue import AsyncProducer, Email, InvalidEmail, Status, StoreUnavailable
from mailqueue.aio import pending as room
from mailqueue.config import Config
from mailqueue.message import EmailDict
from mailqueue.producer.group_commit import LARGE
from mailqueue.queue.beanstalkd.broker import depth
from tests.interrupts import KINDS
from tests.servers import BreakableServers
from tests.stage import letter

Document = dict[str, Any]
pytestmark = pytest.mark.anyio
pytest_plugins = ["anyio.pytest_plugin"]
REPO = Path(__file__).parents[2]
FOREVER = 60.0  # seconds; whoever waits for so long would wait for ever


on_both_loops = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def impatient(config_mapping: Document) -> Document:
    """A mapping for a config with the shortest time."""
    config_mapping["mongodb"]["timeout"] = 1
    return config_mapping


@pytest.fixture
def breakable(servers_to_break: BreakableServers) -> Config:
    """The config of servers that can be paused; who is told that they are away has waited 2 s."""
    settings = servers_to_break.config
    return Config.from_mapping(
        {
            "mongodb": {**settings["mongodb"], "timeout": 2},
            "beanstalkd": {**settings["beanstalkd"], "tube": "mailqueue_test_aio"},
        }
    )


class OwnMapping(UserDict[str, Any]):
    """An e-mail in a mapping of the application's own, which does something when it is read."""

    def __init__(self, on_read: Callable[[], object]) -> None:
        super().__init__(letter(1))
        self._on_read = on_read

    def __getitem__(self, key: str) -> Any:
        self._on_read()
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        self._on_read()
        return super().__iter__()


class Slow(OwnMapping):
    """An e-mail that cannot be read before ``gate`` is open."""

    def __init__(self) -> None:
        self.gate, self.reached = threading.Event(), threading.Event()
        super().__init__(self._wait)

    def _wait(self) -> None:
        self.reached.set()
        self.gate.wait(FOREVER)


@pytest.fixture
def slow() -> Iterator[Slow]:
    """Its gate is opened at the end, so that no thread waits for ever."""
    made = Slow()
    yield made
    made.gate.set()


def as_email(mapping: OwnMapping) -> EmailDict:
    return mapping  # type: ignore[return-value]  # what a program does that nobody type-checked


async def until(condition: Callable[[], object]) -> int:
    """How many times the loop turned until this was true."""
    turns = 0
    async with asyncio.timeout(FOREVER):
        while not condition():
            await asyncio.sleep(0)
            turns += 1
    return turns


def ids_of(emails: Collection[Document]) -> set[str]:
    return {str(each) for each in emails.distinct("_id")}


# Sending -----------------------------------------------------------------------------------------


async def test_an_id_is_returned_when_the_email_is_stored(
    config: Config, emails: Collection[Document]
) -> None:
    async with AsyncProducer(config) as producer:
        email_id = await producer.send(letter(1))
        stored = emails.find_one({"_id": ObjectId(email_id)})
    assert stored is not None
    assert stored["email"]["to"] == ["reader1@example.org"]


@on_both_loops
async def test_many_tasks_get_the_ids_of_their_own_emails(
    config: Config, emails: Collection[Document]
) -> None:
    async with AsyncProducer(config) as producer:
        ids = await asyncio.gather(*(producer.send(letter(n)) for n in range(500)))
    recipients = {str(d["_id"]): d["email"]["to"] for d in emails.find()}
    expected = [[f"reader{n}@example.org"] for n in range(500)]
    assert [recipients[email_id] for email_id in ids] == expected
    assert depth(config.beanstalkd)["ready"] == 500


async def test_tasks_that_send_at_the_same_time_share_a_write(
    config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncProducer(config) as producer:
        connections, sizes = producer._connections, []
        write = connections.write

        def count(submissions: list[Any]) -> list[Any]:
            sizes.append(len(submissions))
            return write(submissions)

        monkeypatch.setattr(connections, "write", count)
        await asyncio.gather(*(producer.send(letter(n)) for n in range(64)))
    assert sizes == [64]


async def test_a_bad_email_fails_its_own_task_only(
    config: Config, emails: Collection[Document]
) -> None:
    async with AsyncProducer(config) as producer:
        letters = [letter(n) for n in range(9)]
        letters[4]["to"] = "nobody"
        results = await asyncio.gather(*map(producer.send, letters), return_exceptions=True)
    failures = [(n, each) for n, each in enumerate(results) if isinstance(each, BaseException)]
    ((number, error),) = failures
    assert number == 4
    assert isinstance(error, InvalidEmail)
    assert error.field == "to"
    assert emails.count_documents({}) == 8


@pytest.mark.parametrize(
    "error", [ZeroDivisionError, StopIteration, SystemExit, asyncio.CancelledError, GeneratorExit]
)
async def test_what_a_callers_own_mapping_raises_is_raised_to_that_caller_only(
    error: type[BaseException], config: Config, emails: Collection[Document]
) -> None:
    def fail() -> None:
        raise error

    async with AsyncProducer(config) as producer:
        broken = as_email(OwnMapping(fail))
        results = await asyncio.gather(
            *map(producer.send, [letter(0), broken, letter(2)]), return_exceptions=True
        )
    assert [isinstance(each, str) for each in results] == [True, False, True]
    assert isinstance(results[1], Exception)
    assert emails.count_documents({}) == 2


async def test_the_same_key_gives_the_same_id_and_refuses_another_content(config: Config) -> None:
    """From the first call on: nobody has connected, so nobody has made the index."""
    producer = AsyncProducer(config)
    sends = (producer.send(letter(1), idempotency_key="order-1") for _ in range(50))
    (email_id,) = set(await asyncio.gather(*sends))
    with pytest.raises(InvalidEmail) as caught:
        await producer.send(letter(2), idempotency_key="order-1")
    assert caught.value.field == "idempotency_key"
    assert await producer.send(letter(1), idempotency_key="order-1") == email_id
    await producer.aclose()


async def test_large_emails_are_stored_in_writes_of_their_own(
    config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncProducer(config) as producer:
        connections, sizes = producer._connections, []
        write = connections.write

        def count(submissions: list[Any]) -> list[Any]:
            sizes.append({each.size > LARGE for each in submissions})
            return write(submissions)

        monkeypatch.setattr(connections, "write", count)
        letters = [letter(n) for n in range(30)]
        for each in letters[::3]:
            each["text"] = "x" * (LARGE + 1)
        ids = await asyncio.gather(*map(producer.send, letters))
    assert ids_of(emails) == set(ids)
    assert {len(each) for each in sizes} == {1}


async def test_the_options_are_those_of_a_producer(config: Config) -> None:
    async with AsyncProducer(config) as producer:
        ids = await producer.send_many([letter(1), letter(2)], priority="bulk")
        found = await producer.find(ids[0])
        assert found is not None
        assert found.priority == "bulk"
        assert [each.id for each in await producer.recent()] == ids[::-1]
        assert await producer.announce(ids) == 2
        assert await producer.cancel(ids[0])
        status = await producer.status(ids[0])
        assert status is not None
        assert status.status is Status.CANCELLED
        await producer.check_writable()
        with pytest.raises(ValueError, match="24 hexadecimal"):
            await producer.status("x")


async def test_an_email_can_be_part_of_the_applications_transaction(
    config: Config,
) -> None:
    """With a client of the driver's blocking kind: its calls are the application's own."""
    with MongoClient[Document](config.mongodb.uri) as client:
        async with AsyncProducer(config, client=client) as producer:
            with client.start_session() as session:
                session.start_transaction()
                aborted = await producer.send(letter(1), session=session)
                await asyncio.to_thread(session.abort_transaction)
                session.start_transaction()
                committed = await producer.send(letter(2), session=session)
                await asyncio.to_thread(session.commit_transaction)
            assert await producer.status(aborted) is None
            assert await producer.status(committed) is not None


# Cancelled tasks ---------------------------------------------------------------------------------


@on_both_loops
async def test_the_write_of_a_cancelled_task_goes_on(
    config: Config, emails: Collection[Document]
) -> None:
    async with AsyncProducer(config) as producer:
        tasks = [asyncio.create_task(producer.send(letter(n))) for n in range(20)]
        await asyncio.sleep(0)  # each has handed its e-mail in
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = [isinstance(each, asyncio.CancelledError) for each in results]
    assert cancelled == [True, False] * 10
    assert emails.count_documents({}) == 20


async def test_a_cancelled_send_many_goes_on(config: Config, emails: Collection[Document]) -> None:
    async with AsyncProducer(config) as producer:
        task = asyncio.create_task(producer.send_many([letter(n) for n in range(20)]))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert emails.count_documents({}) == 20


# The loop is never blocked -----------------------------------------------------------------------


async def test_the_loop_turns_while_an_email_is_validated(slow: Slow, config: Config) -> None:
    """Only the loop can open the gate."""
    async with AsyncProducer(config) as producer:
        task = asyncio.create_task(producer.send(as_email(slow)))
        await until(slow.reached.is_set)
        slow.gate.set()
        assert await task


async def test_the_loop_turns_while_a_large_email_is_read(config: Config) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "ann@example.com", "bob@example.org"
    message["Subject"] = "Large"
    message.set_content("Hello\n" * 500_000)
    async with AsyncProducer(config) as producer:
        await producer.send(letter(1))
        task = asyncio.create_task(producer.send(message))
        assert await until(task.done) > 20
        assert await task


@on_both_loops
async def test_the_loop_turns_while_mongodb_hangs(
    breakable: Config, servers_to_break: BreakableServers
) -> None:
    async with AsyncProducer(breakable) as producer:
        await producer.send(letter(1))
        calls: list[Callable[[], Awaitable[object]]] = [
            *(lambda: producer.send(letter(1)),) * 30,
            lambda: producer.send_many([letter(1), letter(2)]),
            lambda: producer.status(str(ObjectId())),
            producer.check_writable,
        ]
        servers_to_break.mongod.pause()
        try:
            tasks = [asyncio.ensure_future(call()) for call in calls]
            turns = await until(lambda: all(task.done() for task in tasks))
            errors = [task.exception() for task in tasks]
        finally:
            servers_to_break.mongod.resume()
        assert turns > 1000
        assert all(isinstance(error, StoreUnavailable) for error in errors)
        unknown = [error.ids_unknown for error in errors[:30]]  # type: ignore[union-attr]  # see above
        assert len({*unknown}) == 30
        assert all(len(each) == 1 for each in unknown)
        await until_recovered(producer)


async def until_recovered(producer: AsyncProducer) -> None:
    async with asyncio.timeout(FOREVER):
        while True:
            with suppress(StoreUnavailable):
                await producer.send(letter(1))
                return


# MongoDB is away ---------------------------------------------------------------------------------


@on_both_loops
async def test_while_mongodb_is_known_to_be_away_nobody_waits_for_the_time_out(
    servers_to_break: BreakableServers,
) -> None:
    """One call finds out; of an hour's time-out nobody waits for even a minute then."""
    settings = servers_to_break.config
    config = Config.from_mapping({"mongodb": {**settings["mongodb"], "timeout": 3600}})
    producer = AsyncProducer(config)
    await producer.send(letter(1))
    servers_to_break.mongod.pause()
    try:
        producer._connections.outage.begin("Timeout")
        producer._connections.outage._last_answer = -1e9
        async with asyncio.timeout(FOREVER):
            sends = (producer.send(letter(n)) for n in range(100))
            errors = await asyncio.gather(*sends, return_exceptions=True)
    finally:
        servers_to_break.mongod.resume()
    assert {type(error) for error in errors} == {StoreUnavailable}
    await until_recovered(producer)
    await producer.aclose()


async def test_what_waits_is_stored_once_mongodb_answers_again(
    breakable: Config, servers_to_break: BreakableServers
) -> None:
    """A write that fails at its first caller's time is tried again for those who came later."""
    async with AsyncProducer(breakable) as producer:
        await producer.send(letter(1))
        servers_to_break.mongod.pause()
        try:
            early = asyncio.create_task(producer.send(letter(2)))
            await asyncio.sleep(1)
            late = asyncio.create_task(producer.send(letter(3)))
            with suppress(StoreUnavailable):
                await early
        finally:
            servers_to_break.mongod.resume()
        assert await late


async def test_beanstalkd_that_hangs_delays_nobody(
    breakable: Config, servers_to_break: BreakableServers
) -> None:
    async with AsyncProducer(breakable) as producer:
        await producer.send(letter(1))
        servers_to_break.beanstalkd.pause()
        try:
            first = await producer.send(letter(2))
            ids = [await producer.send(letter(n)) for n in range(50)]
            assert len({first, *ids}) == 51
            thread = producer._own_threads()._jobs._executor
            assert thread._work_queue.qsize() > 1  # the first put still waits for its answer
        finally:
            servers_to_break.beanstalkd.resume()


# Room --------------------------------------------------------------------------------------------


@on_both_loops
async def test_beyond_the_room_a_task_waits_and_all_are_stored(
    config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_SHARES", 5)
    async with AsyncProducer(config) as producer:
        waiting = producer._own_threads().pending()
        tasks = [asyncio.create_task(producer.send(letter(n))) for n in range(100)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, len(waiting._calls))
            await asyncio.sleep(0)
    assert most == 5
    assert ids_of(emails) == {task.result() for task in tasks}


async def test_a_task_that_is_cancelled_while_it_waits_for_room_hands_nothing_in(
    config: Config, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_SHARES", 1)
    async with AsyncProducer(config) as producer:
        tasks = [asyncio.create_task(producer.send(letter(n))) for n in range(9)]
        await asyncio.sleep(0)
        for task in tasks[1::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert emails.count_documents({}) == 5


async def test_a_task_that_is_cancelled_when_its_turn_has_come_passes_it_on(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_SHARES", 1)
    async with AsyncProducer(config) as producer:
        first, second, third = (asyncio.create_task(producer.send(letter(n))) for n in range(3))
        waiting = producer._own_threads().pending()
        await until(lambda: len(waiting._newcomers) == 2)
        admit = waiting._admit

        def admit_and_cancel(number: int) -> None:
            admit(number)
            second.cancel()

        monkeypatch.setattr(waiting, "_admit", admit_and_cancel)
        async with asyncio.timeout(FOREVER):
            assert await first
            assert await third
        assert second.cancelled()


async def test_the_room_of_a_large_email_is_for_as_many_small_ones(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_SHARES", 20)
    async with AsyncProducer(config) as producer:
        large: EmailDict = {**letter(0), "text": "x" * room.SHARE * 19}
        first = asyncio.create_task(producer.send(large))
        others = [asyncio.create_task(producer.send(letter(n))) for n in range(1, 41)]
        waiting = producer._own_threads().pending()
        await until(lambda: len(waiting._newcomers) == 40)
        await first
        assert len(waiting._newcomers) == 20
        await asyncio.gather(*others)


def test_an_email_takes_its_share_of_the_room() -> None:
    parts = {"text": "x" * room.SHARE, "attachments": [{"content": b"x" * room.SHARE}]}
    assert room.shares_of(letter(1)) == 1
    assert room.shares_of({**letter(1), **parts}) == 3
    assert room.shares_of(Email.from_mapping({**letter(1), **parts})) == 3
    assert room.shares_of({"text": 7, "attachments": "x"}) == 1
    assert room.shares_of(EmailMessage()) == 1


# Several loops and processes ---------------------------------------------------------------------


def test_several_loops_use_one_producer_at_the_same_time(
    config: Config, emails: Collection[Document]
) -> None:
    producer = AsyncProducer(config)
    ids: list[str] = []

    async def work() -> None:
        for _ in range(10):
            ids.extend(await asyncio.gather(*(producer.send(letter(n)) for n in range(10))))

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(producer.aclose())
    assert len(ids) == 400
    assert ids_of(emails) == set(ids)


def test_a_loop_that_is_over_is_not_kept_in_memory(config: Config) -> None:
    producer = AsyncProducer(config)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def work() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await asyncio.gather(*(producer.send(letter(n)) for n in range(3)))

    for _ in range(5):
        asyncio.run(work())
    asyncio.run(producer.aclose())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 5


def test_a_loop_that_is_closed_with_calls_under_way_harms_no_other(
    slow: Slow, config: Config, emails: Collection[Document]
) -> None:
    producer = AsyncProducer(config)
    loop = asyncio.new_event_loop()
    task = loop.create_task(producer.send(as_email(slow)))
    loop.run_until_complete(until(slow.reached.is_set))
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # nobody need hear of it
    closed = weakref.ref(loop)
    loop.close()
    del loop, task
    slow.gate.set()
    assert asyncio.run(producer.send(letter(2)))
    gc.collect()
    assert closed() is None, "it stays in memory"
    asyncio.run(producer.aclose())
    assert emails.count_documents({}) == 2


SCRIPT = """
import asyncio, os, sys
from mailqueue import AsyncProducer
from tests.stage import letter

producer = AsyncProducer(sys.argv[1])

async def send(first, number):
    return await asyncio.gather(*(producer.send(letter(first + n)) for n in range(number)))

def tell(ids):
    os.write(1, "".join(f"{each}\\n" for each in ids).encode())
"""


def run_script(code: str, config: Path, *, exit_code: int = 0) -> list[str]:
    """The lines that a program prints which begins as ``SCRIPT`` does."""
    strict = ["-W", "error", "-W", "ignore:This process"]  # is multi-threaded: that is the test
    command = [sys.executable, *strict, "-c", SCRIPT + dedent(code), str(config)]
    done = subprocess.run(command, capture_output=True, cwd=REPO, timeout=FOREVER, check=False)
    assert done.stderr.decode() == ""
    assert done.returncode == exit_code
    return done.stdout.decode().split()


@pytest.fixture
def config_file(config_mapping: Document, config: Config, tmp_path: Path) -> Path:
    import json

    path = tmp_path / "config.json"
    vendors = [{"name": "first", "type": "smtp", "host": "127.0.0.1"}]
    path.write_text(json.dumps({**config_mapping, "vendors": vendors}))
    path.chmod(0o600)
    return path


def test_a_forked_child_has_threads_of_its_own(
    config_file: Path, emails: Collection[Document]
) -> None:
    ids = run_script(
        """
        tell(asyncio.run(send(0, 50)))
        children = []
        for child in range(3):
            if not (pid := os.fork()):
                tell(asyncio.run(send(100 * child, 50)))
                asyncio.run(producer.aclose())
                os._exit(0)
            children.append(pid)
        tell(asyncio.run(send(1000, 50)))
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
        asyncio.run(producer.aclose())
        """,
        config_file,
    )
    assert len(ids) == 250
    assert ids_of(emails) == set(ids)


def test_a_child_that_goes_on_with_its_parents_loop_starts_no_writer_for_it(
    config_file: Path, emails: Collection[Document]
) -> None:
    """What waits in the child's copy is the parent's to store."""
    ids = run_script(
        """
        import threading

        async def main():
            tasks = [asyncio.create_task(producer.send(letter(n))) for n in range(20)]
            await asyncio.sleep(0)  # they have handed in, and the writer has not heard of it
            if not (pid := os.fork()):
                for _ in range(3):
                    await asyncio.sleep(0)
                os._exit(threading.active_count() - 1)
            tell(await asyncio.gather(*tasks))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            await producer.aclose()

        asyncio.run(main())
        """,
        config_file,
    )
    assert ids_of(emails) == set(ids)


def test_a_child_forked_with_calls_under_way_repeats_none_of_them(
    config_file: Path, emails: Collection[Document]
) -> None:
    ids = run_script(
        """
        async def main():
            await producer.send(letter(0))
            tasks = [asyncio.create_task(producer.send(letter(n))) for n in range(200)]
            await asyncio.sleep(0)
            if not (pid := os.fork()):
                # The loop is the parent's: the child's own one takes its place.
                asyncio._set_running_loop(None)
                tell(asyncio.run(send(1000, 20)))
                os._exit(0)
            tell(await asyncio.gather(*tasks))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            await producer.aclose()

        asyncio.run(main())
        """,
        config_file,
    )
    assert len(set(ids)) == 220
    assert ids_of(emails) > set(ids)
    assert emails.count_documents({}) == 221


# The end -----------------------------------------------------------------------------------------


@on_both_loops
async def test_aclose_waits_for_what_was_handed_in(
    config: Config, emails: Collection[Document]
) -> None:
    producer = AsyncProducer(config)
    tasks = [asyncio.create_task(producer.send(letter(n))) for n in range(100)]
    await asyncio.sleep(0)
    await producer.aclose()
    assert emails.count_documents({}) == 100
    assert depth(config.beanstalkd)["ready"] == 100
    assert all(task.done() for task in tasks)
    assert await producer.send(letter(1)), "a later call opens new connections"
    await producer.aclose()
    await producer.aclose()


def test_what_was_handed_in_is_stored_when_the_interpreter_ends(
    config_file: Path, emails: Collection[Document]
) -> None:
    """The tasks are cancelled at the end of ``asyncio.run``; nobody calls ``aclose``."""
    run_script(
        """
        tasks = []

        async def main():
            for n in range(300):
                large = {"text": "x" * 300_000} if n % 50 == 49 else {}
                tasks.append(asyncio.create_task(producer.send({**letter(n), **large})))
            await asyncio.sleep(0)

        import warnings
        warnings.simplefilter("ignore", ResourceWarning)  # the client is not closed
        asyncio.run(main())
        assert all(task.cancelled() for task in tasks)
        """,
        config_file,
    )
    assert emails.count_documents({}) == 300


# The writer's thread -----------------------------------------------------------------------------


def writer_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("mailqueue-writer_")]


@pytest.mark.parametrize("kind", [*KINDS, MemoryError])
async def test_what_strikes_the_writers_thread_strikes_no_task(
    kind: type[BaseException],
    config: Config,
    emails: Collection[Document],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AsyncProducer(config) as producer:
        connections, calls = producer._connections, []
        write = connections.write

        def struck(submissions: list[Any]) -> list[Any]:
            calls.append(len(submissions))
            outcomes = write(submissions)
            if len(calls) == 1:
                raise kind
            return outcomes

        monkeypatch.setattr(connections, "write", struck)
        ids = await asyncio.gather(*(producer.send(letter(n)) for n in range(20)))
    assert calls[0] == 20
    assert ids_of(emails) == set(ids)
    assert emails.count_documents({}) == 20


@on_both_loops
async def test_a_writer_that_is_stuck_costs_its_tasks_their_time_and_is_replaced(
    slow: Slow, impatient: Document, emails: Collection[Document], caplog: pytest.LogCaptureFixture
) -> None:
    producer = AsyncProducer(Config.from_mapping(impatient))
    await producer.send(letter(0))
    tasks = [asyncio.create_task(producer.send(as_email(slow)))]
    await until(slow.reached.is_set)
    tasks += [asyncio.create_task(producer.send(letter(n))) for n in range(5)]
    async with asyncio.timeout(FOREVER):
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in errors} == {StoreUnavailable}
        assert await producer.send(letter(6))
    assert "writer.stuck" in caplog.text
    slow.gate.set()
    await producer.aclose()
    assert emails.count_documents({}) <= 3  # what was stuck may be stored, the others are not


async def test_a_writer_whose_thread_is_gone_is_replaced(
    impatient: Document, emails: Collection[Document]
) -> None:
    producer = AsyncProducer(Config.from_mapping(impatient))
    await producer.send(letter(0))
    executor = producer._own_threads().writer._executor
    executor._work_queue.put(object())  # type: ignore[arg-type]  # no work: it ends the thread
    await until(lambda: not any(thread.is_alive() for thread in executor._threads))
    async with asyncio.timeout(FOREVER):
        with pytest.raises(StoreUnavailable):
            await producer.send(letter(1))
        assert await producer.send(letter(2))
    await producer.aclose()
    assert emails.count_documents({}) == 2
