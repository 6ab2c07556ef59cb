"""What the servers allow: bare loops over pymongo, beanstalkd and http.client.

No validation, no ledger, no leases, no failover; but the same durable writes: an insert, a claim
and a result for each e-mail, journaled by a majority. Writes of concurrent e-mails are merged, and
commands to beanstalkd that belong together are written together. This is the limit that mailqueue
is measured against.
"""

from __future__ import annotations

import http.client
import json
import queue
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import work
from bson import ObjectId
from pymongo import MongoClient, UpdateMany, WriteConcern

SETTINGS = json.loads(Path(work.BROKER).read_text())
TUBE = b"raw"
BATCH = 500
DURABLE = WriteConcern(w="majority", j=True)
CLIENT: MongoClient[dict[str, Any]] = MongoClient(SETTINGS["mongodb"]["uri"])
EMAILS = CLIENT["raw"].get_collection("emails", write_concern=DURABLE)
_thread = threading.local()


class Tube:
    """A connection that writes many commands at once; greenstalk waits for each reply."""

    def __init__(self) -> None:
        host, _, port = SETTINGS["queue"]["servers"][0].rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.replies = self.socket.makefile("rb")
        self.owed = 0
        self.tell([b"use %b\r\n" % TUBE, b"watch %b\r\n" % TUBE])

    def tell(self, commands: list[bytes]) -> None:
        """Commands whose replies are one line each, which are read with the next."""
        self.settle()
        self.socket.sendall(b"".join(commands))
        self.owed = len(commands)

    def settle(self) -> None:
        for _ in range(self.owed):
            self.replies.readline()
        self.owed = 0

    def put(self, bodies: list[bytes]) -> None:
        self.tell([b"put 65536 0 180 %d\r\n%b\r\n" % (len(body), body) for body in bodies])
        self.settle()

    def reserve(self, most: int, *, wait: bool) -> list[tuple[bytes, ObjectId]]:
        """Up to so many jobs, by id; ``wait``: for the first of them."""
        self.settle()
        at_once = b"reserve-with-timeout 0\r\n"
        self.socket.sendall(b"reserve\r\n" + at_once * (most - 1) if wait else at_once * most)
        jobs = []
        for _ in range(most):
            word, *rest = self.replies.readline().split()
            if word == b"RESERVED":
                jobs.append((rest[0], ObjectId(self.replies.read(int(rest[1]) + 2)[:-2].decode())))
        return jobs

    def delete(self, jobs: list[bytes]) -> None:
        self.tell([b"delete %b\r\n" % job for job in jobs])


def tube() -> Tube:
    if not hasattr(_thread, "tube"):
        _thread.tube = Tube()
    found: Tube = _thread.tube
    return found


# The application ---------------------------------------------------------------------------------


def one(mail: dict[str, Any]) -> None:
    made = {"_id": ObjectId(), "status": "queued", "email": mail}
    EMAILS.insert_one(made)
    tube().put([str(made["_id"]).encode()])


def many(mails: list[dict[str, Any]]) -> None:
    made = [{"_id": ObjectId(), "status": "queued", "email": mail} for mail in mails]
    EMAILS.insert_many(made, ordered=False)
    tube().put([str(each["_id"]).encode() for each in made])


# The worker --------------------------------------------------------------------------------------


def move(ids: list[ObjectId], before: str, after: str) -> UpdateMany:
    """A claim, or a result, of many e-mails."""
    update = {"$set": {"status": after, "at": time.time()}}
    return UpdateMany({"_id": {"$in": ids}, "status": before}, update)


def write(done: list[ObjectId], claimed: list[ObjectId]) -> None:
    moves = [move(done, "sending", "sent")] if done else []
    moves += [move(claimed, "queued", "sending")] if claimed else []
    if moves:
        EMAILS.bulk_write(moves, ordered=False)


def read(ids: list[ObjectId]) -> dict[ObjectId, Any]:
    return {each["_id"]: each for each in EMAILS.find({"_id": {"$in": ids}})} if ids else {}


def drain() -> None:
    """Without a vendor one thread does it all, in batches."""
    while True:
        jobs = tube().reserve(BATCH, wait=True)
        ids = [each for _, each in jobs]
        read(ids)
        write([], ids)
        for _ in ids:
            work.tick()
        write(ids, [])
        tube().delete([job for job, _ in jobs])


class Pump:
    """One thread takes, claims and settles, all of a turn in one write; the others post."""

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
        jobs = tube().reserve(free, wait=free == work.CONCURRENCY and not done)
        ids = [each for _, each in jobs]
        found = read(ids)
        write([each for _, each in done], ids)
        for job, each in jobs:
            self.tasks.put((job, found[each]))
        tube().delete([job for job, _ in done])
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
            self.results.put((job, found["_id"]))


def prepare() -> None:
    CLIENT.drop_database("raw")
    while jobs := tube().reserve(BATCH, wait=False):
        tube().delete([job for job, _ in jobs])
    tube().settle()


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
