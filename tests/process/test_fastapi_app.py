"""``examples/fastapi_app.py`` under uvicorn, a process of its own, with real requests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.devserver.process import dies_with_parent
from mailqueue.queue.beanstalkd.broker import depth
from tests.servers import BreakableServers

REPO = Path(__file__).parents[2]
TASKS = 500
ENDS_WITHIN = 30.0
Document = dict[str, Any]
pytestmark = pytest.mark.anyio
pytest_plugins = ["anyio.pytest_plugin"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    """The example's process, and where it listens."""

    def __init__(self, config: Document, folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        with socket.create_server(("127.0.0.1", 0), backlog=TASKS) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            options = ["--app-dir", "examples", "--fd", str(listener.fileno())]
            command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", *options]
            self.process = subprocess.Popen(
                [*dies_with_parent(), *command, "--no-access-log"],
                cwd=REPO,
                env=os.environ | {"MAILQUEUE_CONFIG": str(path)},
                pass_fds=[listener.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=TASKS)
        return httpx.AsyncClient(
            base_url=self.url, timeout=ENDS_WITHIN, limits=limits, verify=False
        )

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[list[httpx.AsyncClient]]:
        """Several, for ``TASKS`` requests: each looks through all of its own for every one."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self.client()) for _ in range(TASKS // 25)]

    def end(self, how: signal.Signals) -> str:
        """Send a signal; returns what it wrote, once it has ended."""
        self.process.send_signal(how)
        _, log = self.process.communicate(timeout=ENDS_WITHIN)
        return log


@pytest.fixture
def server(config_mapping: Document, config: Config, tmp_path: Path) -> Iterator[Server]:
    assert config.mongodb.database == config_mapping["mongodb"]["database"]
    made = Server(config_mapping, tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()


def signup(number: int) -> Document:
    return {"id": str(number), "email": f"reader{number}@example.org"}


async def test_what_a_killed_server_has_acknowledged_is_stored(
    server: Server, emails: Collection[Document]
) -> None:
    """500 requests are under way all the time until SIGKILL."""
    acknowledged: list[str] = []

    async def go_on(task: int) -> None:
        client = clients[task % len(clients)]
        with suppress(httpx.TransportError):
            for number in range(task, 10**9, TASKS):
                answer = await client.post("/signups", json=signup(number))
                acknowledged.append(answer.raise_for_status().json()["id"])
                if len(acknowledged) == 2 * TASKS:
                    server.process.kill()

    async with server.clients() as clients:
        await asyncio.gather(*map(go_on, range(TASKS)))
    assert len(acknowledged) >= 2 * TASKS
    assert server.process.wait(ENDS_WITHIN) == -signal.SIGKILL
    assert {str(each) for each in emails.distinct("_id")} >= set(acknowledged)


async def test_a_server_that_is_told_to_end_stores_and_announces_what_it_was_sent(
    server: Server, config: Config, emails: Collection[Document]
) -> None:
    async with server.clients() as clients:
        requests = [
            clients[n % len(clients)].post("/signups", json=signup(n)) for n in range(TASKS)
        ]
        answers = await asyncio.gather(*requests)
    log = server.end(signal.SIGTERM)
    assert (server.process.returncode, "Traceback" in log) in {(0, False), (-15, False)}, log
    assert {answer.status_code for answer in answers} == {201}
    ids = {answer.json()["id"] for answer in answers}
    assert {str(each) for each in emails.distinct("_id")} == ids
    assert depth(config.beanstalkd)["ready"] == TASKS


async def test_a_repeated_request_sends_no_second_email_and_a_bad_one_none(
    server: Server, emails: Collection[Document]
) -> None:
    async with server.client() as client:
        repeats = [client.post("/signups", json=signup(1)) for _ in range(20)]
        answers = await asyncio.gather(*repeats)
        bad = await client.post("/signups", json={"id": "2", "email": "nobody"})
        ready = await client.get("/ready")
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert bad.status_code == 422
    assert "nobody" not in bad.text
    assert ready.status_code == 200
    assert emails.count_documents({}) == 1


async def test_the_server_answers_others_while_mongodb_hangs(
    servers_to_break: BreakableServers, tmp_path: Path
) -> None:
    settings = servers_to_break.config
    mapping = {**settings, "mongodb": {**settings["mongodb"], "timeout": 2}, "vendors": []}
    server = Server(mapping, tmp_path)
    try:
        async with server.client() as client:
            assert (await client.get("/ready")).status_code == 200
            servers_to_break.mongod.pause()
            slow = asyncio.create_task(client.post("/signups", json=signup(1)))
            served = 0
            while not slow.done():
                assert (await client.get("/openapi.json")).status_code == 200
                served += 1
            assert slow.result().status_code == 503
            assert slow.result().headers["Retry-After"] == "5"
            assert served > 20
            assert (await client.get("/ready")).status_code == 503
    finally:
        servers_to_break.mongod.resume()
        server.process.kill()
        server.process.communicate()
