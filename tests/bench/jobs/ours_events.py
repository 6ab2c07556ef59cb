"""Vendors' events at ``mailqueue http``; ``BENCH_BROKER`` is mailqueue's config file.

Roles: ``prepare``; ``fill BATCHES SIZE`` stores sent e-mails and writes the requests that SendGrid
would make of them, each with ``SIZE`` signed events of its own; ``serve PORT``; ``load PORT
CONNECTIONS`` makes the requests and prints the tally; ``stored`` prints how many events there are.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import pickle
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ours
import work
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailqueue.config import Config
from mailqueue.message.message import content_hash
from mailqueue.store import document, ids

FILE, REQUESTS = Path(work.BROKER + ".events"), Path(work.BROKER + ".requests")
TIME = "1780000000"


def fill(config: Config, batches: int, size: int) -> None:
    """Sent e-mails, and one event of each."""
    from pymongo import MongoClient

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = base64.b64encode(public).decode()
    vendor = {"name": "sendgrid", "type": "sendgrid", "api_key": "x", "events": {"secret": secret}}
    FILE.write_text(json.dumps({**json.loads(Path(work.BROKER).read_text()), "vendors": [vendor]}))
    FILE.chmod(0o600)
    requests = []
    with MongoClient(config.mongodb.uri) as client:
        emails = client[config.mongodb.database][config.mongodb.collection]
        for batch in range(batches):
            documents = [_sent(batch * size + number) for number in range(size)]
            emails.insert_many(documents)
            body = json.dumps([_event(each) for each in documents]).encode() + b"\r\n"
            signature = key.sign(TIME.encode() + body, ec.ECDSA(hashes.SHA256()))
            requests.append((base64.b64encode(signature).decode(), body))
    REQUESTS.write_bytes(pickle.dumps(requests))


def _sent(number: int) -> dict[str, Any]:
    mail, now = work.email(number), datetime.now(UTC)
    email_id = ids.new()
    made = document.new(
        mail,
        email_id=email_id,
        message_id=f"<{email_id}@example.com>",
        env="production",
        content_hash=content_hash(mail),
        priority=65_536,
        now=now,
    )
    line = {"n": 1, "token": 1, "vendor": "sendgrid", "started_at": now, "ended_at": now}
    line |= {"outcome": "accepted", "message_id": "x"}
    return {**made, "status": "sent", "sent_at": now, "lease": {"token": 1}, "attempts": [line]}


def _event(made: dict[str, Any]) -> dict[str, Any]:
    return {
        "event": "delivered",
        "sg_event_id": f"of-{made['_id']}",
        "timestamp": int(TIME),
        "email": made["email"]["to"][0],
        "sg_message_id": "x.filter0001.2.3",
        "response": "250 ok",
        "mailqueue_id": str(made["_id"]),
    }


def load(port: int, connections: int) -> None:
    """Make all requests, over so many connections at a time."""
    requests = pickle.loads(REQUESTS.read_bytes())  # our own
    work_left = iter(requests)
    lock, bad = threading.Lock(), []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            with lock:
                request = next(work_left, None)
            if request is None:
                return
            signature, body = request
            headers = {
                "X-Twilio-Email-Event-Webhook-Signature": signature,
                "X-Twilio-Email-Event-Webhook-Timestamp": TIME,
            }
            connection.request("POST", "/events/sendgrid", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                bad.append(answer.status)

    threads = [threading.Thread(target=client) for _ in range(connections)]
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if bad:
        raise SystemExit(f"{len(bad)} requests were answered otherwise: {set(bad)}")
    work.tally(sum(len(json.loads(body)) for _, body in requests), began, cpu)


def main(role: str, *arguments: str) -> None:
    config = Config.from_mapping(json.loads(Path(work.BROKER).read_text()))
    if role == "prepare":
        ours.prepare(config)
    elif role == "fill":
        fill(config, int(arguments[0]), int(arguments[1]))
    elif role == "serve":
        command = ["-m", "mailqueue", "http", "--config", str(FILE), "--port", arguments[0]]
        os.execv(sys.executable, [sys.executable, *command])
    elif role == "load":
        load(int(arguments[0]), int(arguments[1]))
    elif role == "stored":
        from pymongo import MongoClient

        with MongoClient(config.mongodb.uri) as client:
            events = client[config.mongodb.database][config.mongodb.collection + ".events"]
            work.tell(count=events.count_documents({}))


if __name__ == "__main__":
    main(*sys.argv[1:])
