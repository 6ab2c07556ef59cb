"""Every status that openapi.json has is given, and no other: each call goes wrong in every way."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from mailqueue.http import documents
from mailqueue.store import ids
from tests.conftest import Document
from tests.http_service import HttpService, Key
from tests.waiting import wait_until

EMAIL = {"from": "a@example.com", "to": "b@example.org", "text": "Hi"}
OTHER = EMAIL | {"text": "Ho"}
TIME = {"scheduled_at": "2040-01-31T09:00:00Z"}
BODIES: dict[str, tuple[Any, Any]] = {  # one that is good, and another one for the same key
    "POST /emails": (EMAIL, OTHER),
    "POST /emails/batch": ([EMAIL], [OTHER]),
    "PATCH /emails/{id}": (TIME, None),
}
READER, SENDER = Key.new("reader", "read"), Key.new("sender", "send")
WITHOUT = {"send": READER, "read": SENDER, "operate": SENDER}  # whose key lacks the scope

Statuses = set[tuple[str, str]]


def calls() -> Iterator[tuple[str, Any]]:
    """Method and path of each call, and its description; ``test_events`` has those of vendors."""
    paths = json.loads(documents.description())["paths"]
    for path, operations in ((p, o) for p, o in paths.items() if "{vendor}" not in p):
        for method, operation in operations.items():
            yield f"{method.upper()} {path}", operation


def ways(call: str, scope: str | None) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Bodies and arguments for a call: the first ones are good."""
    good, other = BODIES.get(call, (None, None))
    yield good, {}
    if good is not None:
        for body in (b"{", {"x": 1}, b" " * 100_000):
            yield body, {}
        yield good, {"headers": {"Content-Type": "text/plain"}}
    if other is not None:
        for body in (good, other):
            yield body, {"headers": {"Idempotency-Key": "once"}}
    if scope is not None:
        yield good, {"secret": None}
        yield good, {"secret": WITHOUT[scope].secret}


def answers(service: HttpService, key: Key, *email_ids: str, at_a_time: int = 1) -> Statuses:
    """The statuses of all calls, made in all ways, on each of these e-mails."""

    def ask(call: str, place: str, body: Any, arguments: dict[str, Any]) -> tuple[str, str]:
        method = call.split(maxsplit=1)[0]
        answer = service.ask(method, place, body, **{"secret": key.secret, **arguments})
        return call, str(answer.status)

    asked: list[tuple[str, str, Any, dict[str, Any]]] = []
    for call, operation in calls():
        path = call.split()[1]
        scope = next((s for s in WITHOUT if f"`{s}`" in operation.get("description", "")), None)
        for email_id in email_ids if "{id}" in path else ("",):
            place = path.format(id=email_id)
            asked += ((call, place, body, arguments) for body, arguments in ways(call, scope))
    asked.append(("GET /emails", "/emails?limit=0", None, {}))
    with ThreadPoolExecutor(at_a_time) as pool:
        return set(pool.map(ask, *zip(*asked, strict=True)))


def test_every_status_that_is_described_is_given_and_no_other(
    settings: Document, key: Key, tmp_path: Path, mongo_client: MongoClient[Document]
) -> None:
    settings["http"] = {"keys": [each.entry for each in (key, READER, SENDER)], "requests": 2}
    settings["limits"] = {"max_size": 1000}
    given: Statuses = set()
    with HttpService(settings, tmp_path / "well") as service:
        queued, sent = (
            service.ask("POST", "/emails", EMAIL, secret=key.secret).json["id"] for _ in range(2)
        )
        place = settings["mongodb"]
        mongo_client[place["database"]][place["collection"]].update_one(
            {"_id": ids.parse(sent)}, {"$set": {"status": "sent"}}
        )
        given |= answers(service, key, queued, sent, "0" * 24)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        uri = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        settings["mongodb"] |= {"uri": uri, "timeout": 8}
        with (
            HttpService(settings, tmp_path / "busy") as service,
            waiting_request(service, key),
            waiting_request(service, key),
        ):
            wait_until(lambda: _is_full(service, key))
            given |= answers(service, key, queued)
    settings["mongodb"] |= {"uri": "mongodb://127.0.0.1:1", "timeout": 1}
    settings["http"]["requests"] = 100
    with HttpService(settings, tmp_path / "away") as service:
        given |= answers(service, key, queued, at_a_time=16)
    described = {(call, status) for call, operation in calls() for status in operation["responses"]}
    assert given - described == set()
    assert described - given == set()


@contextmanager
def waiting_request(service: HttpService, key: Key) -> Iterator[None]:
    """A request that waits for MongoDB."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        head = f"GET /emails HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key.secret}\r\n\r\n"
        client.sendall(head.encode())
        yield


def _is_full(service: HttpService, key: Key) -> bool:
    """Asked with a path that needs no MongoDB: it answers at once."""
    return service.ask("GET", "/emails?limit=0", secret=key.secret).status == 429
