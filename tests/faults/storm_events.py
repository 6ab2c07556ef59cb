"""What the storm's vendors tell after their yes: a process of its own, which nobody kills.

::

    python -m tests.faults.storm_events ACCEPTED KEY URL SEED      until SIGTERM, then what it told

Decides: which events there are of each copy that a vendor took (``ACCEPTED`` is the vendors' own
log), and when they come: at once, late, doubled and in any order. As SendGrid does, it signs each
request with ``KEY`` and repeats it until it is answered with 200.

At the end it goes on until all is told, and prints the highest step of each e-mail, which vendors
told it, and how many requests it took.
"""

from __future__ import annotations

import base64
import heapq
import http.client
import json
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mailqueue.store.deliveries import STEPS

BATCH = 50
TIMEOUT = 3.0
ENDS = (
    *[("delivered",)] * 16,
    *[("deferred", "delivered")] * 2,
    ("bounced_soft",),
    ("delivered", "bounced_hard"),
)
WORDS = {
    "queued": {"event": "processed"},
    "delivered": {"event": "delivered"},
    "deferred": {"event": "deferred"},
    "bounced_soft": {"event": "bounce", "type": "blocked"},
    "bounced_hard": {"event": "bounce", "type": "bounce"},
    "opened": {"event": "open"},
}


class Vendors:
    """All vendors, as they tell their events."""

    def __init__(
        self, accepted: Path, key: ec.EllipticCurvePrivateKey, url: str, seed: int
    ) -> None:
        self._accepted, self._key = accepted, key
        self._rand = random.Random(seed)
        self._address = urlsplit(url)
        self._read = 0
        self._number = 0
        self._due: list[tuple[float, int, str, dict[str, Any]]] = []  # when, vendor, event
        self.steps = defaultdict[str, set[str]](set)
        self.told_by = defaultdict[str, set[str]](set)
        self.counts = Counter[str]()

    def run(self) -> None:
        """Tell everything; after SIGTERM only what is left."""
        ending: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
        while not ending or self._due:
            for vendor, email_id in self._new_copies():
                self._plan(vendor, email_id)
            if not self._tell():
                time.sleep(0.02)

    def _new_copies(self) -> Iterator[tuple[str, str]]:
        with self._accepted.open("rb") as log:
            log.seek(self._read)
            for line in log:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                vendor, email_id = line.decode().split()
                yield vendor, email_id

    def _plan(self, vendor: str, email_id: str) -> None:
        rand = self._rand
        steps = ["queued", *rand.choice(ENDS), *["opened"] * (rand.random() < 0.2)]
        self.steps[email_id].update(steps)
        self.told_by[email_id].add(vendor)
        self._number += 1
        for step in steps:
            event = {
                **WORDS[step],
                "sg_event_id": f"{self._number}-{step}",
                "timestamp": int(time.time()),
                "mailqueue_id": email_id,
            }
            for _ in range(1 + (rand.random() < 0.2)):
                self._put(vendor, event, rand.choice((0.0, rand.uniform(0, 3))))

    def _put(self, vendor: str, event: dict[str, Any], delay: float) -> None:
        self.counts["events"] += 1
        entry = (time.monotonic() + delay, self.counts["events"], vendor, event)
        heapq.heappush(self._due, entry)

    def _tell(self) -> bool:
        """Tell what is due of one vendor. False: nothing is."""
        batch: list[dict[str, Any]] = []
        vendor, later = "", []
        while self._due and self._due[0][0] <= time.monotonic() and len(batch) < BATCH:
            entry = heapq.heappop(self._due)
            vendor = vendor or entry[2]
            if entry[2] == vendor:
                batch.append(entry[3])
            else:
                later.append(entry)
        for entry in later:
            heapq.heappush(self._due, entry)
        if not batch:
            return False
        self._rand.shuffle(batch)
        self.counts["requests"] += 1
        if self._post(vendor, batch) != 200:
            self.counts["repeats"] += 1
            for event in batch:
                self._put(vendor, event, self._rand.uniform(0.1, 1))
        return True

    def _post(self, vendor: str, batch: list[dict[str, Any]]) -> int:
        body, stamp = json.dumps(batch).encode() + b"\r\n", str(int(time.time()))
        signature = self._key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        headers = {
            "Content-Type": "application/json",
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
        }
        host, port = self._address.hostname or "", self._address.port
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        try:
            connection.request("POST", f"/events/{vendor}", body, headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def report(self) -> dict[str, Any]:
        """What is to stand in the e-mails in the end."""
        steps = {
            email_id: max((s for s in all_ if s in STEPS), key=STEPS.index)
            for email_id, all_ in self.steps.items()
        }
        told_by = {email_id: sorted(vendors) for email_id, vendors in self.told_by.items()}
        return {"steps": steps, "told_by": told_by, "counts": self.counts}


if __name__ == "__main__":
    accepted, pem, url, seed = sys.argv[1:]
    key = load_pem_private_key(Path(pem).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    vendors = Vendors(Path(accepted), key, url, int(seed))
    vendors.run()
    print(json.dumps(vendors.report()))  # noqa: T201  # for the storm to read
