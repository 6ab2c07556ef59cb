"""mailqueue in the roles of ``work``; ``BENCH_BROKER`` is its config file, but for the vendors."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import work

from mailqueue import Producer
from mailqueue.config import Beanstalkd, Config, QueueSettings, Redis
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.base import Attempt, Vendor

SHARED = {"http": {"share_port": True}}


class Ticking(Vendor):
    """A vendor without HTTP: says yes at once, and counts."""

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        work.tick()
        return SendResult(outcome=Outcome.ACCEPTED, code="tick", message_id=attempt.email_id)


def settings() -> dict[str, Any]:
    """The config with the vendors: SendGrid's API at each URL, or the one that only counts."""
    config = json.loads(Path(work.BROKER).read_text())
    config["vendors"] = [
        {"name": f"vendor-{n}", "type": "sendgrid", "api_key": "SG.x", "base_url": url}
        for n, url in enumerate(filter(None, work.URL.split(",")))
    ] or [{"name": "ticking", "type": "ours:Ticking"}]
    return config


def empty(queue: QueueSettings) -> None:
    """Lose all jobs."""
    if isinstance(queue, Beanstalkd):
        import greenstalk

        with greenstalk.Client(queue.addresses[0], use=queue.tube, watch=queue.tube) as tube:
            while True:
                try:
                    tube.delete(tube.reserve(0))
                except greenstalk.TimedOutError:
                    break
    if isinstance(queue, Redis):
        from redis import Redis as Client

        with Client.from_url(queue.url) as client:
            client.flushdb()


def prepare(config: Config) -> None:
    """Forget all e-mails and jobs; the indexes stay."""
    from pymongo import MongoClient

    with MongoClient(config.mongodb.uri) as client:
        client.drop_database(config.mongodb.database)
    empty(config.broker)
    with Producer(config):
        pass


def waits(config: Config) -> None:
    """Of the e-mails that needed a second vendor: the longest way, and how much of it was calls."""
    from pymongo import MongoClient

    retried = {"attempts.1": {"$exists": True}, "status": "sent"}
    most, beside = 0.0, 0.0
    with MongoClient(config.mongodb.uri) as client:
        emails = client[config.mongodb.database][config.mongodb.collection]
        found = list(emails.find(retried, {"attempts": 1}))
    for each in found:
        lines = each["attempts"]
        way = (lines[-1]["ended_at"] - lines[0]["started_at"]).total_seconds()
        calls = sum((x["ended_at"] - x["started_at"]).total_seconds() for x in lines)
        most, beside = max(most, way), max(beside, way - calls)
    work.tell(retried=len(found), longest_ms=most * 1000, between_ms=beside * 1000)


def stored(config: Config) -> None:
    from pymongo import MongoClient

    with MongoClient(config.mongodb.uri) as client:
        emails = client[config.mongodb.database][config.mongodb.collection]
        work.tell(count=emails.count_documents({}))


def serve(verb: str, port: str) -> None:
    """Become a server, or one of several that share the port."""
    file = Path(work.BROKER + ".served")
    file.write_text(json.dumps(json.loads(Path(work.BROKER).read_text()) | SHARED))
    for _ in range(1, int(os.environ["BENCH_PROCESSES"])):
        if os.fork() == 0:
            break
    command = ["-m", "mailqueue", verb, "--config", str(file), "--port", port]
    os.execv(sys.executable, [sys.executable, *command])


def main(role: str, *arguments: str) -> None:
    config = Config.from_mapping(settings())
    if role == "prepare":
        prepare(config)
    elif role == "waits":
        waits(config)
    elif role == "worker":
        file = Path(work.BROKER + ".worker")
        file.write_text(json.dumps(settings()))
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        command = ["-m", "mailqueue.consumer", "--config", str(file)]
        command += ["--concurrency", str(work.CONCURRENCY)]
        os.execv(sys.executable, [sys.executable, *command])
    elif role in {"serve", "smtp"}:
        serve("smtp" if role == "smtp" else "http", arguments[0])
    elif role == "stored":
        stored(config)
    else:
        with Producer(config) as producer:
            enqueue(producer, role, *arguments)


def enqueue(producer: Producer, role: str, *arguments: str) -> None:
    if role == "enqueue":
        work.enqueue(producer.send, int(arguments[0]), float(arguments[1]))
    elif role == "bulk":
        work.bulk(producer.send_many, float(arguments[0]))
    elif role == "fill":
        count = int(arguments[0])
        for start in range(0, count, 5000):
            producer.send_many([work.email(n) for n in range(start, min(start + 5000, count))])
    elif role == "ping":
        work.ping(producer.send, int(arguments[0]), float(arguments[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
