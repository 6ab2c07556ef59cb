"""What the servers allow: bare loops over pymongo, greenstalk and http.client.

No validation, no ledger, no leases, no failover; but the same durable writes: an insert, a claim
and a result for each e-mail, journaled by a majority. Writes of concurrent e-mails are merged
(``BENCH_MERGE=0``: one write each). This is the limit that mailqueue is measured against.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import greenstalk
import work
from bson import ObjectId
from pymongo import MongoClient, UpdateOne, WriteConcern

SETTINGS = json.loads(Path(work.BROKER).read_text())
TUBE = "raw"
BATCH = 500
DURABLE = WriteConcern(w="majority", j=True)
MERGE = os.environ.get("BENCH_MERGE", "1") == "1"
CLIENT: MongoClient[dict[str, Any]] = MongoClient(SETTINGS["mongodb"]["uri"])
EMAILS = CLIENT["raw"].get_collection("emails", write_concern=DURABLE)
_thread = threading.local()


def tube() -> greenstalk.Client[bytes]:
    if not hasattr(_thread, "tube"):
        host, port = SETTINGS["beanstalkd"]["servers"][0].split(":")
        address = (host, int(port))
        _thread.tube = greenstalk.Client(address, encoding=None, use=TUBE, watch=TUBE)
    found: greenstalk.Client[bytes] = _thread.tube
    return found


# The application ---------------------------------------------------------------------------------


def one(mail: dict[str, Any]) -> None:
    made = {"_id": ObjectId(), "status": "queued", "email": mail}
    EMAILS.insert_one(made)
    tube().put(str(made["_id"]).encode())


def many(mails: list[dict[str, Any]]) -> None:
    made = [{"_id": ObjectId(), "status": "queued", "email": mail} for mail in mails]
    EMAILS.insert_many(made, ordered=False)
    put_all([str(each["_id"]).encode() for each in made])


def put_all(bodies: list[bytes]) -> None:
    """Every put in one write; greenstalk's own waits for each reply."""
    host, port = SETTINGS["beanstalkd"]["servers"][0].split(":")
    if not hasattr(_thread, "pipe"):
        import socket

        _thread.pipe = socket.create_connection((host, int(port)))
        _thread.replies = _thread.pipe.makefile("rb")
        _thread.pipe.sendall(b"use %s\r\n" % TUBE.encode())
        _thread.replies.readline()
    commands = (b"put 65536 0 180 %d\r\n%s\r\n" % (len(body), body) for body in bodies)
    _thread.pipe.sendall(b"".join(commands))
    for _ in bodies:
        _thread.replies.readline()


# The worker --------------------------------------------------------------------------------------


def sending(ids: list[ObjectId]) -> list[UpdateOne]:
    claim = {"$set": {"status": "sending", "at": time.time()}}
    return [UpdateOne({"_id": each, "status": "queued"}, claim) for each in ids]


def sent(ids: list[ObjectId]) -> list[UpdateOne]:
    result = {"$set": {"status": "sent", "at": time.time()}}
    return [UpdateOne({"_id": each, "status": "sending"}, result) for each in ids]


def reserve(most: int, *, wait: bool) -> list[greenstalk.Job[bytes]]:
    jobs = [tube().reserve()] if wait else []
    try:
        while len(jobs) < most:
            jobs.append(tube().reserve(0))
    except greenstalk.TimedOutError:
        pass
    return jobs


def drain() -> None:
    """Without a vendor one thread does it all, in batches."""
    while True:
        jobs = reserve(BATCH, wait=True)
        ids = [ObjectId(job.body.decode()) for job in jobs]
        list(EMAILS.find({"_id": {"$in": ids}}))
        EMAILS.bulk_write(sending(ids), ordered=False)
        for _ in ids:
            work.tick()
        EMAILS.bulk_write(sent(ids), ordered=False)
        for job in jobs:
            tube().delete(job)


class Pump:
    """One thread takes, claims and settles; ``CONCURRENCY`` threads post.

    With ``MERGE`` the claims and results of a turn go into one write, else each has its own.
    """

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.under_way = 0

    def run(self) -> None:
        for _ in range(work.CONCURRENCY):
            threading.Thread(target=self.post, daemon=True).start()
        while True:
            self.turn()

    def turn(self) -> None:
        free = work.CONCURRENCY - self.under_way
        done = self.collected(wait=not free)
        free += len(done)
        jobs = reserve(free, wait=free == work.CONCURRENCY and not done)
        ids = [ObjectId(job.body.decode()) for job in jobs]
        found = {each["_id"]: each for each in EMAILS.find({"_id": {"$in": ids}})} if ids else {}
        write([*sent([each["_id"] for _, each in done]), *sending(ids)])
        for job, each in zip(jobs, ids, strict=True):
            self.tasks.put((job, found[each]))
        for job, _ in done:
            tube().delete(job)
        self.under_way += len(jobs) - len(done)
        if not jobs and not done:
            time.sleep(0.001)  # a blocking reserve would keep the results waiting

    def collected(self, wait: bool) -> list[Any]:
        done = [self.results.get()] if wait else []
        while not self.results.empty():
            done.append(self.results.get())
        return done

    def post(self) -> None:
        parts = urlsplit(work.URL)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        while True:
            job, found = self.tasks.get()
            connection.request("POST", work.PATH, work.body(found["email"]), work.HEADERS)
            connection.getresponse().read()
            self.results.put((job, found))


def write(writes: list[UpdateOne]) -> None:
    if MERGE and writes:
        EMAILS.bulk_write(writes, ordered=False)
    for each in () if MERGE else writes:
        EMAILS.bulk_write([each])


def prepare() -> None:
    CLIENT.drop_database("raw")
    try:
        while True:
            tube().delete(tube().reserve(0))
    except greenstalk.TimedOutError:
        pass


def main(role: str, *arguments: str) -> None:
    if role == "prepare":
        prepare()
    elif role == "worker":
        Pump().run() if work.URL else drain()
    elif role == "enqueue":
        work.enqueue(one, int(arguments[0]), float(arguments[1]))
    elif role == "bulk":
        work.bulk(many, float(arguments[0]))
    elif role == "fill":
        for start in range(0, int(arguments[0]), BATCH):
            many([work.email(n) for n in range(start, start + BATCH)])
    elif role == "ping":
        work.ping(one, int(arguments[0]), float(arguments[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
