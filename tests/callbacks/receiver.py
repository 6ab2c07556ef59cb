"""A receiver of callbacks, on loopback: it verifies each as an application would, and keeps it."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections import Counter
from types import TracebackType
from typing import Any

from standardwebhooks import Webhook

from tests.vendor_servers import HttpServer, Received, Reply, Wire

SECRET = "whsec_" + b64encode(bytes(range(24))).decode()
OTHER_SECRET = "whsec_" + b64encode(bytes(range(32))).decode()


class Receiver(HttpServer):
    """``replies`` one after the other, then ``reply``; ``events`` are those it received, by id.

    ``hold()``: answers wait until ``let_go()``.
    """

    def __init__(self, *replies: Reply, secret: str = SECRET) -> None:
        super().__init__(self._behave)
        self.reply, self.replies = Reply(200), list(replies)
        self.ids: list[str] = []
        self.events: dict[str, Any] = {}
        self.under_way = self.most_under_way = 0
        self._webhook = Webhook(secret)
        self._lock = threading.Lock()
        self._gate = threading.Event()
        self._gate.set()

    @property
    def types(self) -> Counter[str]:
        """The events by their types, each once."""
        return Counter(event["type"] for event in list(self.events.values()))

    def hold(self) -> None:
        self._gate.clear()

    def let_go(self) -> None:
        self._gate.set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.let_go()
        super().__exit__(kind, error, trace)

    def _behave(self, wire: Wire, request: Received) -> None:
        self._webhook.verify(request.body, dict(request.headers))
        id_ = request.headers["webhook-id"]
        body = json.loads(request.body)
        with self._lock:
            assert self.events.setdefault(id_, body) == body, "a repeat says something else"
            self.ids.append(id_)
            reply = self.replies.pop(0) if self.replies else self.reply
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        self._gate.wait()
        with self._lock:
            self.under_way -= 1
        reply(wire, request)
