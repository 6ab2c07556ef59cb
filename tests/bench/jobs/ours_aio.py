"""mailqueue from asyncio: the application of ``ours``, with ``AsyncProducer`` and uvloop."""

from __future__ import annotations

import sys

import ours
import uvloop
import work

from mailqueue import AsyncProducer
from mailqueue.config import Config


async def act(config: Config, role: str, *arguments: str) -> None:
    async with AsyncProducer(config) as producer:
        if role == "enqueue":
            await work.aenqueue(producer.send, int(arguments[0]), float(arguments[1]))
        elif role == "bulk":
            await work.abulk(producer.send_many, float(arguments[0]))


def main(role: str, *arguments: str) -> None:
    config = Config.from_mapping(ours.settings())
    if role == "prepare":
        ours.prepare(config)
    else:
        uvloop.run(act(config, role, *arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
