"""Hears what becomes of e-mails: verifies each callback, and does its work once.

pip install standardwebhooks
CALLBACK_SECRET=whsec_... python examples/callback_receiver.py 8000

For https put it behind the web server that you have. Any framework will do: what counts is that the
signature is checked over the bytes of the body as they came.
"""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY = 1_000_000
webhook = Webhook(os.environ["CALLBACK_SECRET"])
seen: OrderedDict[str, None] = OrderedDict()  # an application keeps the ids in its database


def handle(event: dict[str, Any]) -> None:
    """The application's own work."""
    data = event["data"]
    about = data.get("recipient", "all recipients")
    print(event["type"], data["email_id"], about, flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(min(length, MAX_BODY))
        try:
            webhook.verify(body, dict(self.headers.items()))
        except WebhookVerificationError:
            self.answer(401)
            return
        # The same event may come again, with the same id: that it was not answered in time does
        # not mean that it was not heard.
        webhook_id = self.headers["webhook-id"]
        if webhook_id not in seen:
            handle(json.loads(body))
            seen[webhook_id] = None
            if len(seen) > 10_000:
                seen.popitem(last=False)
        self.answer(204)  # anything in 2xx ends it; 410 too, for good

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not a line for each request."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
