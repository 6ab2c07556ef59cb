"""FastAPI that enqueues to Celery: roles ``prepare``, ``serve PORT`` and ``stored`` of ``work``.

``apply_async`` blocks, so its endpoint is no coroutine: FastAPI runs it in one of 40 threads.
"""

from __future__ import annotations

import sys

import peer_celery
import web
import work
from fastapi import FastAPI

app = FastAPI()


@app.post("/emails", status_code=201)
def send(mail: web.Mail) -> dict[str, str]:
    return {"id": peer_celery.send.apply_async((mail.to_mapping(),)).id}


def stored() -> None:
    with peer_celery.app.connection_for_write() as connection, connection.channel() as channel:
        if work.BROKER.startswith("amqp"):
            count = channel.queue_declare(peer_celery.QUEUE, passive=True).message_count
        else:
            count = channel.client.llen(peer_celery.QUEUE)
    work.tell(count=count)


def main(role: str, *arguments: str) -> None:
    if role == "serve":
        web.serve(app, int(arguments[0]))
    elif role == "stored":
        stored()
    else:
        peer_celery.main(role, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
