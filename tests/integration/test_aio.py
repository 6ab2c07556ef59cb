"""``AsyncProducer`` against real servers: what its tasks are told, and what is stored then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from mailqueue import AsyncProducer, InvalidEmail
from mailqueue.config import Config
from mailqueue.queue.tube import depth
from tests.stage import letter

Document = dict[str, Any]
pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


async def test_an_id_is_returned_when_the_email_is_stored(
    config: Config, emails: Collection[Document]
) -> None:
    async with AsyncProducer(config) as producer:
        email_id = await producer.send(letter(1))
        stored = emails.find_one({"_id": ObjectId(email_id)})
    assert stored is not None
    assert stored["email"]["to"] == ["reader1@example.org"]


async def test_many_tasks_get_the_ids_of_their_own_emails(
    config: Config, emails: Collection[Document]
) -> None:
    async with AsyncProducer(config) as producer:
        ids = await asyncio.gather(*(producer.send(letter(n)) for n in range(500)))
    recipients = {str(d["_id"]): d["email"]["to"] for d in emails.find()}
    assert [recipients[email_id] for email_id in ids] == [
        [f"reader{n}@example.org"] for n in range(500)
    ]
    assert depth(config.beanstalkd)["ready"] == 500


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
