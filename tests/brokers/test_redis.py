"""What Redis alone can do to a queue, on real servers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import pytest
import redis
import trustme
from bson import ObjectId

from mailqueue import Producer, reentrancy
from mailqueue.config import Config, Redis
from mailqueue.errors import QueueUnavailable
from mailqueue.lifecycle.outcomes import NORMAL, RETRY_NORMAL
from mailqueue.queue.broker import BURIED, DELETED, INTAKE, Announcement, End, Job, release_end
from mailqueue.queue.redis import connection, scripts
from mailqueue.queue.redis import events as redis_events
from mailqueue.queue.redis.broker import RedisBroker
from mailqueue.queue.redis.connection import Connection
from mailqueue.queue.redis.events import MAX_BYTES, EventStream
from mailqueue.queue.redis.inspection import inspect
from mailqueue.queue.redis.receiver import UNDER_WAY, RedisReceiver
from tests.brokers.cases import CASES
from tests.brokers.conftest import Servers
from tests.conftest import _running as running
from tests.forks import in_a_child
from tests.integration.bench import MAIL
from tests.servers import BreakableRedis
from tests.waiting import wait_until

REPO = Path(__file__).parents[2]
TTR = 60
CASE = next(case for case in CASES if case.type == "redis")
Client = redis.Redis


def announcements(number: int = 1, priority: int = NORMAL, delay: float = 0) -> list[Announcement]:
    return [Announcement(ObjectId(), priority, delay) for _ in range(number)]


def ids(jobs: Sequence[Job | Announcement]) -> list[ObjectId | None]:
    return [each.email_id for each in jobs]


@pytest.fixture
def settings(queue_servers: Servers) -> Redis:
    """A tube of its own on the server that is shared."""
    server = queue_servers.of(CASE)
    assert isinstance(server, BreakableRedis)
    return Redis(url=server.url, tube=f"mailqueue_test_{uuid4().hex}")


@pytest.fixture
def client(settings: Redis) -> Iterator[Client]:
    """For looking at what is there."""
    with Client.from_url(settings.url, decode_responses=True) as made:
        yield made


def own_server(*arguments: str, aof: bool = True) -> AbstractContextManager[BreakableRedis]:
    """A server that the test may break, or that has options of its own."""
    return running(BreakableRedis(*arguments, aof=aof))


@contextmanager
def broker_on(settings: Redis, ttr: int = TTR) -> Iterator[RedisBroker]:
    broker = RedisBroker(settings, ttr)
    try:
        yield broker
    finally:
        broker.close()


@contextmanager
def receiving(broker: RedisBroker) -> Iterator[RedisReceiver]:
    (receiver,) = broker.receivers()
    try:
        yield receiver
    finally:
        receiver.close()


# Reservations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [DELETED, BURIED, release_end(RETRY_NORMAL, 30)])
def test_an_end_that_comes_too_late_leaves_the_next_reservation_alone(
    settings: Redis, how: End
) -> None:
    with (
        broker_on(settings, ttr=1) as broker,
        receiving(broker) as slow,
        receiving(broker) as other,
    ):
        sent = announcements()
        broker.announce(sent)
        (late,) = slow.reserve(30)
        (job,) = other.reserve(30)
        slow.end({late: how})
        slow.close()
        assert ids([job]) == ids(sent)
        assert broker.depth() == {"ready": 0, "reserved": 1, "delayed": 0, "buried": 0}


def test_a_job_put_twice_is_one_and_comes_at_the_earlier_time(settings: Redis) -> None:
    (email,) = announcements()
    with broker_on(settings) as broker, receiving(broker) as receiver:
        for delay in (60.0, 0.0, 30.0):
            broker.announce([Announcement(email.email_id, NORMAL, delay)])
        assert broker.depth()["ready"] == 1
        assert broker.depth()["delayed"] == 0
        assert ids(receiver.reserve(0, 10)) == [email.email_id]


def test_a_job_put_while_it_is_reserved_is_another(settings: Redis) -> None:
    """The e-mail may have changed since the first was read."""
    sent = announcements()
    with broker_on(settings) as broker, receiving(broker) as receiver:
        broker.announce(sent)
        first = receiver.reserve(0)
        broker.announce(sent)
        assert ids(receiver.reserve(0)) == ids(first)


def test_what_is_in_no_set_of_ours_is_harmless(settings: Redis, client: Client) -> None:
    key = f"{{{settings.tube}}}:"
    with broker_on(settings) as broker, receiving(broker) as receiver:
        client.zadd(key + "reserved", {"": 1, "x": 2, "9:" + "a" * 24: 3, "4:short": 4})
        client.zadd(key + "normal", {"a" * 24: float("inf"), "b" * 24: float("-inf")})
        jobs = receiver.reserve(0, 10)
        assert [job.email_id for job in jobs] == [ObjectId("b" * 24), None]
        assert receiver.reserve(1) == []


@pytest.mark.parametrize("name", ["high", "reserved", "buried"])
def test_a_name_of_ours_that_is_something_else_is_said(
    settings: Redis, client: Client, name: str
) -> None:
    client.set(f"{{{settings.tube}}}:{name}", "a string")
    with broker_on(settings) as broker, receiving(broker) as receiver:
        step = broker.depth if name == "buried" else partial(receiver.reserve, 1)
        with pytest.raises(QueueUnavailable, match="something else under a name of ours"):
            step()
        assert broker.announce([]) == []


# Waiting ----------------------------------------------------------------------------------------


def test_nothing_grows_while_no_consumer_is_there(settings: Redis, client: Client) -> None:
    emails = announcements(3)
    with broker_on(settings) as broker:
        for _ in range(50):
            broker.announce(emails)
    keys = {key: client.type(key) for key in client.scan_iter(f"*{settings.tube}*")}
    prefix = f"{{{settings.tube}}}:"
    assert keys == {prefix + "normal": "zset", prefix + "wake": "list"}
    assert client.zcard(prefix + "normal") == 3
    assert client.llen(prefix + "wake") == 1


@pytest.fixture
def patient(settings: Redis, monkeypatch: pytest.MonkeyPatch) -> Redis:
    """Whoever waits looks again only after 30 s: within 10 s something must wake him."""
    for module in (scripts, connection):
        monkeypatch.setattr(module, "LONGEST_WAIT", 30.0)
    return replace(settings, timeout=60.0)


def test_many_that_wait_get_one_job_each_at_once(patient: Redis, client: Client) -> None:
    """One token wakes one; who leaves jobs behind wakes the next."""
    number = 8
    with broker_on(patient) as broker, own_threads() as start, ExitStack() as stack:
        jobs: list[Job] = []
        for _ in range(number):
            start(partial(collect, stack.enter_context(receiving(broker)), jobs))
        wait_until(lambda: blocked(client) >= number, what="all wait")
        broker.announce(announcements(number))
        wait_until(lambda: len(jobs) == number, what="all have a job")
    assert len(set(ids(jobs))) == number


def collect(receiver: RedisReceiver, jobs: list[Job]) -> None:
    jobs += receiver.reserve(30)


def blocked(client: Client) -> int:
    number: int = client.info("clients")["blocked_clients"]
    return number


@contextmanager
def own_threads() -> Iterator[Callable[[Callable[[], object]], threading.Thread]]:
    threads: list[threading.Thread] = []

    def start(work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join()


def test_whoever_waits_looks_seldom(settings: Redis, client: Client) -> None:
    with broker_on(settings) as broker, receiving(broker) as receiver:
        receiver.reserve(0)
        before = calls(client, "eval")
        receiver.reserve(2)
        assert calls(client, "eval") - before <= 4


def calls(client: Client, command: str) -> int:
    number: int = client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)
    return number


def test_a_delayed_job_is_taken_when_it_is_due_not_at_the_next_look(patient: Redis) -> None:
    with broker_on(patient) as broker, own_threads() as start, receiving(broker) as receiver:
        broker.announce(announcements(delay=0.3))
        jobs: list[Job] = []
        start(partial(collect, receiver, jobs))
        wait_until(lambda: jobs, what="it is taken")


# Memory -----------------------------------------------------------------------------------------


def test_with_the_memory_full_jobs_are_taken_and_ended_but_not_put() -> None:
    with own_server(aof=False) as server:
        settings = Redis(url=server.url)
        with broker_on(settings) as broker, receiving(broker) as receiver:
            first = announcements(20)
            broker.announce(first)
            with Client.from_url(server.url) as client:
                client.config_set("maxmemory", "1mb")
                with pytest.raises(redis.RedisError):
                    client.set("x", "y")
                refused = announcements(2)
                assert broker.announce(refused) == []
                jobs = receiver.reserve(0, 20)
                assert set(ids(jobs)) == set(ids(first))
                ends = [DELETED, BURIED, release_end(RETRY_NORMAL, 0), release_end(NORMAL, 60)]
                receiver.end({job: ends[n % 4] for n, job in enumerate(jobs)})
                receiver.give_back([])
                wait_until(lambda: broker.depth()["reserved"] == 0, what="all ended")
                depth = {"ready": 5, "reserved": 0, "delayed": 5, "buried": 5}
                assert broker.depth() == depth
                client.config_set("maxmemory", "0")
            wait_until(lambda: len(broker.announce(announcements())) == 1, what="puts again")
            assert set(ids(refused)) <= set(ids(receiver.reserve(0, 100)))  # from the backlog


# Outages ----------------------------------------------------------------------------------------


def test_ends_of_an_outage_are_executed_when_the_server_is_back() -> None:
    with (
        own_server() as server,
        broker_on(Redis(url=server.url)) as broker,
        receiving(broker) as receiver,
    ):
        emails = announcements(UNDER_WAY * 3)
        broker.announce(emails)
        jobs = receiver.reserve(0, len(emails))
        receiver.end({jobs[0]: DELETED})
        server.kill()
        for job in jobs[1:]:
            receiver.end({job: DELETED})
        server.start()
        with pytest.raises(QueueUnavailable):
            receiver.reserve(0)
        assert receiver.reserve(0) == []
        wait_until(lambda: not any(broker.depth().values()), what="all ended")


def test_an_end_waits_for_no_server_that_hangs() -> None:
    with own_server() as server:
        settings = Redis(url=server.url, timeout=1.0)
        with broker_on(settings) as broker, receiving(broker) as receiver:
            broker.announce(announcements(10))
            jobs = receiver.reserve(0, 10)
            server.pause()
            for job in jobs:
                receiver.end({job: DELETED})
            with pytest.raises(QueueUnavailable, match="Timeout"):
                receiver.reserve(0)
            assert broker.announce(announcements()) == []
            assert broker.announce(announcements()) == []  # at once
            server.resume()
            wait_until(lambda: not ended(receiver), what="the server answers")
            wait_until(lambda: not any(broker.depth().values()), what="all ended")


def ended(receiver: RedisReceiver) -> list[Job]:
    jobs = reserve(receiver)
    receiver.end(dict.fromkeys(jobs, DELETED))
    return jobs


def reserve(receiver: RedisReceiver) -> list[Job]:
    try:
        return receiver.reserve(0)
    except QueueUnavailable:
        return []


def test_scripts_and_all_data_may_be_lost_at_any_moment(settings: Redis, client: Client) -> None:
    with broker_on(settings) as broker, receiving(broker) as receiver:
        broker.announce(announcements(2))
        jobs = receiver.reserve(0, 2)
        client.script_flush()
        client.delete(*client.scan_iter(f"*{settings.tube}*"))
        receiver.end({jobs[0]: release_end(NORMAL, 0)})
        receiver.give_back(jobs[1:])
        sent = announcements()
        assert broker.announce(sent) == sent
        assert ids(receiver.reserve(0, 10)) == ids(sent)


def test_a_connection_that_was_idle_over_a_restart_costs_no_announcement() -> None:
    with own_server() as server, broker_on(Redis(url=server.url)) as broker:
        broker.announce(announcements())
        server.restart()
        sent = announcements()
        assert broker.announce(sent) == sent


# Servers that refuse ----------------------------------------------------------------------------


def refusal(url: str, timeout: float = 5.0) -> str:
    """What a consumer says at its start."""
    with broker_on(Redis(url=url, timeout=timeout)) as broker:
        with pytest.raises(QueueUnavailable) as caught:
            broker.depth()
        assert broker.announce(announcements()) == []
    return str(caught.value)


def test_a_password_that_is_wrong_or_missing_is_said_without_it() -> None:
    with own_server("--requirepass", "right") as server:
        for url in (server.url, server.url.replace("//", "//:wr0ng@")):
            assert refusal(url) == "redis: wants another user or password"
        with broker_on(Redis(url=server.url.replace("//", "//:right@"))) as broker:
            assert not any(broker.depth().values())


def test_a_user_who_may_not_is_told_and_one_with_the_least_rights_may() -> None:
    with own_server() as server, Client.from_url(server.url) as client:
        commands = "+eval +time +del +exists +@sortedset +@list +@stream"
        tiny = f"~{{mailqueue* ~mailqueue.* {commands}"
        for name, rights in {"nobody": "+ping", "tiny": tiny}.items():
            client.execute_command("ACL", "SETUSER", name, "on", ">secret", *rights.split())
        nobody = server.url.replace("//", "//nobody:secret@")
        assert refusal(nobody) == "redis: does not allow this user a command or a key (ACL)"
        settings = Redis(url=server.url.replace("//", "//tiny:secret@"))
        with broker_on(settings) as broker, receiving(broker) as receiver:
            broker.announce(announcements())
            receiver.end(dict.fromkeys(receiver.reserve(1), DELETED))
            assert receiver.reserve(1) == []
            assert not any(broker.depth().values())
        stream = EventStream(settings)
        assert stream.reserve(0) == []
        stream.close()
        assert not inspect(settings, TTR).forgets  # CONFIG is not allowed: nothing is said


def test_a_database_that_is_not_there_a_replica_and_a_cluster_are_said() -> None:
    with own_server() as server:
        assert refusal(server.url[:-1] + "99") == "redis: has no database of that number"
        host, port = server.address.split(":")
        with own_server("--replicaof", host, port) as replica:
            assert refusal(replica.url) == "redis: is a replica, which takes no writes"
    with own_server("--cluster-enabled", "yes") as cluster:
        assert refusal(cluster.url) == "redis: is a node of a cluster that is down"


def test_a_node_of_a_cluster_that_has_our_slots_is_used() -> None:
    with own_server("--cluster-enabled", "yes") as server, Client.from_url(server.url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")))
        settings = Redis(url=server.url)
        with broker_on(settings) as broker, receiving(broker) as receiver:
            sent = announcements()
            assert broker.announce(sent) == sent
            assert ids(receiver.reserve(30)) == ids(sent)
        client.xadd(settings.tube + INTAKE, {"event": "{}"})
        stream = EventStream(settings)
        stream.end(stream.reserve(30), BURIED)
        stream.close()
        assert redis_events.depth(settings)["buried"] == 1


@contextmanager
def scripted(*replies: bytes) -> Iterator[str]:
    """A server that answers each piece that it hears with the next reply, then not at all."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                connected, _ = listening.accept()
                with connected:
                    for reply in replies:
                        if not connected.recv(65536):
                            break
                        connected.sendall(reply)
                    connected.recv(65536)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


SET_INFO = (b"+OK\r\n", b"+OK\r\n")


def test_a_server_that_is_too_old_is_said() -> None:
    with scripted(*SET_INFO, bulk("redis_version:5.0.14\r\n")) as url:
        text = refusal(url)
    assert text == "redis: version 5.0.14, and 6.2 or newer is needed"


REFUSALS = {
    "MOVED 3999 127.0.0.1:6381": "is a node of a cluster that has other keys",
    "CLUSTERDOWN Hash slot not served": "is a node of a cluster that is down",
    "READONLY You can't write against a read only replica.": "is a replica, which takes no writes",
    "OOM command not allowed when used memory > 'maxmemory'.": "has reached its maxmemory",
    "LOADING Redis is loading the dataset in memory": "is loading its data",
    "MISCONF Errors writing to the AOF file": "cannot write its data to disk, and takes no writes",
    "NOREPLICAS Not enough good replicas to write.": "has too few replicas for writes",
    "BUSY Redis is busy running a script.": "is busy with a script",
    "WRONGTYPE Operation against a key": "has something else under a name of ours",
    "ERR what '6b09608f33974bc99bbf66b3' is": "ResponseError",
}


@pytest.mark.parametrize("reply, text", REFUSALS.items())
def test_a_refusal_is_said_in_words_of_ours(reply: str, text: str) -> None:
    facts = (bulk("redis_version:7.0.15\r\n"), bulk("role:master\r\n"))
    with scripted(*SET_INFO, *facts, f"-{reply}\r\n".encode()) as url:
        assert refusal(url) == f"redis: {text}"


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\r\n", b"*x\r\n", b"$-7\r\n", b"\xff\xfe\r\n"]
)
def test_a_server_that_is_no_redis_is_trouble_but_no_surprise(reply: bytes) -> None:
    with scripted(*SET_INFO, reply) as url:
        assert refusal(url, timeout=0.3).startswith("redis: ")


# Ways to the server -----------------------------------------------------------------------------


def test_a_socket_of_this_host_leads_there(tmp_path: Path) -> None:
    place = tmp_path / "redis.sock"
    with (
        own_server("--unixsocket", str(place)),
        broker_on(Redis(url=f"unix://{place}?db=1")) as broker,
    ):
        assert len(broker.announce(announcements())) == 1
        assert broker.depth()["ready"] == 1


def test_tls_is_verified(tmp_path: Path) -> None:
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost")
    ca_file, cert_file, key_file = (tmp_path / name for name in ("ca", "cert", "key"))
    ca.cert_pem.write_to_path(str(ca_file))
    certificate.cert_chain_pems[0].write_to_path(str(cert_file))
    certificate.private_key_pem.write_to_path(str(key_file))
    port = free_port()
    tls = ("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(ca_file))
    files = ("--tls-cert-file", str(cert_file), "--tls-key-file", str(key_file))
    with own_server(*tls, *files):
        trusting = f"?ssl_ca_certs={ca_file}"
        with broker_on(Redis(url=f"rediss://localhost:{port}{trusting}")) as broker:
            assert len(broker.announce(announcements())) == 1
        for url in (f"rediss://localhost:{port}", f"rediss://127.0.0.1:{port}{trusting}"):
            assert refusal(url) == "redis: SSLCertVerificationError"
    assert refusal(f"redis://127.0.0.1:{free_port()}") == "redis: ConnectionRefusedError"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


# Interrupted calls, and forks -------------------------------------------------------------------


def test_a_call_in_the_middle_of_another_has_a_connection_of_its_own(
    settings: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler that sends an e-mail strikes while a reply is awaited."""
    inner, outer = announcements(), announcements()
    original, results = Connection.read, []

    with broker_on(settings) as broker:

        def handle(_: int, __: FrameType | None) -> None:
            results.append(reentrancy.run(broker.announce, inner))

        def read(connection: Connection) -> Any:
            monkeypatch.setattr(Connection, "read", original)
            os.kill(os.getpid(), signal.SIGUSR1)
            return original(connection)

        broker.announce(announcements())
        before = signal.signal(signal.SIGUSR1, handle)
        monkeypatch.setattr(Connection, "read", read)
        try:
            assert reentrancy.run(broker.announce, outer) == outer
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert results == [inner]
        assert broker.depth()["ready"] == 3


def test_an_exception_for_the_thread_spoils_no_later_announcement(
    settings: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(*_: object, **__: object) -> Any:
        monkeypatch.undo()
        raise Interrupt

    with broker_on(settings) as broker:
        broker.announce(announcements())
        monkeypatch.setattr(redis.Connection, "read_response", interrupt)
        with pytest.raises(Interrupt):
            broker.announce(announcements())
        sent = announcements()
        assert broker.announce(sent) == sent
        assert broker.depth()["ready"] == 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_a_connection_of_its_own(settings: Redis, config: Config) -> None:
    with Producer(config.replace(queue=settings)) as producer:
        producer.send(MAIL)

        def send_and_close() -> str:
            email_id = producer.send(MAIL)
            producer.close()
            return email_id

        assert producer.status(in_a_child(send_and_close)) is not None
        producer.send(MAIL)
    with broker_on(settings) as broker:
        assert broker.depth()["ready"] == 3


# Events -----------------------------------------------------------------------------------------


@contextmanager
def events_of(settings: Redis) -> Iterator[EventStream]:
    stream = EventStream(settings)
    try:
        yield stream
    finally:
        stream.close()


def test_an_event_too_large_or_without_the_field_has_no_body_and_can_be_buried(
    settings: Redis, client: Client
) -> None:
    name = settings.tube + INTAKE
    client.xadd(name, {"event": "x" * MAX_BYTES})
    client.xadd(name, {"event": "x" * (MAX_BYTES + 1)})
    client.xadd(name, {"mail": "{}"})
    client.xadd(name, {f"field {n}": "x" for n in range(20_000)})
    with events_of(settings) as stream:
        events = stream.reserve(0, 10)
        assert [len(event.body) for event in events] == [MAX_BYTES, 0, 0, 0]
        stream.end(events, BURIED)
        assert stream.reserve(0) == []
    assert redis_events.depth(settings) == {"ready": 0, "reserved": 0, "delayed": 0, "buried": 4}
    buried: Any = client.xrange(f"{{{name}}}.buried")
    assert [entry["id"] for _, entry in buried] == [event.name for event in events]
    assert buried[2][1]["mail"] == "{}"


def test_what_was_read_and_ended_takes_no_memory(settings: Redis, client: Client) -> None:
    name = settings.tube + INTAKE
    with events_of(settings) as stream:
        for _ in range(3):
            for _ in range(100):
                client.xadd(name, {"event": "{}"})
            stream.end(stream.reserve(0, 100), DELETED)
    assert client.xlen(name) == 0
    assert client.xpending(name, "mailqueue")["pending"] == 0


def test_an_event_of_an_intake_that_died_comes_to_another_with_its_key(
    settings: Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.xadd(settings.tube + INTAKE, {"event": "{}"})
    dead = EventStream(settings)
    (first,) = dead.reserve(0)
    with events_of(settings) as stream:
        assert stream.reserve(0) == []
        monkeypatch.setattr(redis_events, "IDLE", 0)
        (again,) = stream.reserve(30)
        assert again.key == first.key
        stream.end([again], DELETED)
        dead.end([first], DELETED)  # late, and harmless
        assert stream.reserve(0) == []


def test_keys_outlive_a_restart_and_are_never_used_again_after_a_loss() -> None:
    with own_server() as server, Client.from_url(server.url) as client:
        settings = Redis(url=server.url)
        keys = []
        for _ in range(3):
            client.xadd(settings.tube + INTAKE, {"event": "{}"}, id="1-1")
            with events_of(settings) as stream:
                keys += [event.key for event in stream.reserve(30)]
            server.restart()
            with events_of(settings) as stream:
                keys += [event.key for event in stream.reserve(30)]
            client.flushall()
    assert keys[0::2] == keys[1::2]
    assert len(set(keys)) == 3


def test_a_waiting_intake_has_a_new_event_at_once(patient: Redis, client: Client) -> None:
    with own_threads() as start, events_of(patient) as stream:
        events: list[Any] = []
        start(lambda: events.extend(stream.reserve(30)))
        wait_until(lambda: blocked(client), what="it waits")
        client.xadd(patient.tube + INTAKE, {"event": "{}"})
        wait_until(lambda: events)


def test_the_commands_of_the_documentation_put_and_put_back_an_event(tmp_path: Path) -> None:
    page = (REPO / "docs" / "intake.md").read_text("utf-8").split("## Over Redis")[1]
    put, show, back, delete = [line for line in page.splitlines() if line.startswith("redis-cli")]
    body = '{"email": {\n"to": "ann@example.org"}}\n'
    (tmp_path / "event.json").write_text(body)
    with own_server() as server:

        def run(command: str, id_: str = "") -> str:
            words = command.replace("redis-cli", f"redis-cli -p {server.port}").replace("ID", id_)
            done = subprocess.run(words, shell=True, cwd=tmp_path, capture_output=True, check=True)
            return done.stdout.decode()

        with events_of(Redis(url=server.url)) as stream:
            run(put)
            (event,) = stream.reserve(0)
            stream.end([event], BURIED)
            shown = run(show)
            assert str(event.name) in shown
            id_ = shown.split()[0]
            run(back, id_)
            assert run(delete, id_) == "1\n"
            assert run(show) == "\n"
            (again,) = stream.reserve(0)
            assert event.body == body.encode()
            assert json.loads(again.body) == json.loads(body)


# For people -------------------------------------------------------------------------------------


def test_what_a_server_does_to_our_keys_is_known(settings: Redis) -> None:
    assert not inspect(settings, TTR).forgets
    policy = ("--maxmemory", "100mb", "--maxmemory-policy")
    with own_server(*policy, "allkeys-lru", aof=False) as server:
        facts = inspect(Redis(url=server.url), TTR)
        assert (facts.forgets, facts.evicts) == (True, "allkeys-lru")
    with own_server(*policy, "volatile-lru", "--save", "900 1", aof=False) as server:
        facts = inspect(Redis(url=server.url), TTR)
        assert (facts.forgets, facts.evicts) == (False, "")
