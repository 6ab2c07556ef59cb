"""Installations to look at: one that is well, and one at three in the morning.

Documents as consumers and operators write them, at times that count from now. They are the same at
every call, but for these times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.message import Email
from mailqueue.message.message import content_hash
from mailqueue.routing.health import _to_document
from mailqueue.routing.rotation import Health
from mailqueue.store import document
from mailqueue.store.document import HELD, PRODUCTION
from mailqueue.store.stats import _NAMES

Document = dict[str, Any]

VENDORS: list[Document] = [
    {
        "name": "ses",
        "type": "ses",
        "region": "eu-central-1",
        "access_key_id": "AKIA",
        "secret_access_key": "x",
    },
    {
        "name": "mailgun-eu",
        "type": "mailgun",
        "api_key": "x",
        "domain": "mg.example.com",
        "rate": {"per_second": 50, "per_day": 100_000},
    },
    {"name": "smtp", "type": "smtp", "host": "127.0.0.1"},
]
"""As ``config.json`` has them."""


class Scene:
    """Writes into the collections beside ``emails``."""

    def __init__(self, emails: Collection[Document], now: datetime | None = None) -> None:
        self.emails = emails
        self._emails: list[Document] = []
        self._minutes: list[Document] = []
        now = datetime.now(UTC) if now is None else now
        self.now = now
        self._number = 0

    def ago(self, **span: float) -> datetime:
        """The time so long ago."""
        return self.now - timedelta(**span)

    def beside(self, suffix: str) -> Collection[Document]:
        """A collection beside that of e-mails."""
        return self.emails.database[f"{self.emails.name}.{suffix}"]

    def write(self) -> Scene:
        """Store e-mails and minutes, hundreds at once."""
        for documents, collection in (
            (self._emails, self.emails),
            (self._minutes, self.beside("stats")),
        ):
            if documents:
                collection.insert_many(documents)
                documents.clear()
        return self

    # E-mails -----------------------------------------------------------------------------------

    def email(
        self,
        at: datetime,
        *attempts: Mapping[str, Any],
        subject: str = "Your order",
        to: str = "ann@example.org",
        priority: str = "normal",
        tags: Sequence[str] = (),
        **fields: Any,
    ) -> ObjectId:
        """An e-mail that was stored ``at``; ``fields`` replace those of a new one."""
        self._number += 1
        email_id = ObjectId(sha256(str(self._number).encode()).hexdigest()[:24])
        mapping = Email(
            from_="Shop <shop@example.com>", to=[to], subject=subject, text="Thank you.", tags=tags
        ).to_mapping()
        stored = document.new(
            mapping,
            email_id=email_id,
            message_id=f"<{email_id}@example.com>",
            env=PRODUCTION,
            content_hash=content_hash(mapping),
            priority=PRIORITIES[priority],
            now=at,
            nonce=email_id,
        )
        lines = [{**line, "n": n, "token": n} for n, line in enumerate(attempts, 1)]
        ended = lines[-1]["ended_at"] if lines else at
        stored |= {"attempts": lines, "lease": {"token": len(lines)}, "updated_at": ended}
        if lines:
            stored |= {"clock_from": at, "counted": len(lines)}
        self._emails.append(stored | fields)
        return email_id

    def sent(
        self, at: datetime, vendor: str, *before: Mapping[str, Any], **fields: Any
    ) -> ObjectId:
        """One that a vendor took, a second later."""
        yes = attempt(at + timedelta(seconds=1), vendor, "accepted", "200", f"{vendor}-4bb2")
        facts = {"vendor": vendor, "vendor_message_id": yes["message_id"]}
        end = {"status": "sent", "sent_at": yes["ended_at"], "due_at": None}
        return self.email(at, *before, yes, **{**facts, **end, **fields})

    # Beside them -------------------------------------------------------------------------------

    def heartbeat(self, host: str, in_flight: int, seconds: float = 4) -> None:
        """A consumer that lives."""
        beat = {"at": self.ago(seconds=seconds), "in_flight": in_flight, "version": "0.1.0"}
        vendors = [vendor["name"] for vendor in VENDORS]
        entry = {"_id": f"{host}:4711:1", **beat, "env": PRODUCTION, "vendors": vendors}
        self.beside("stats").replace_one({"_id": entry["_id"]}, entry, upsert=True)

    def minute(self, back: int, vendor: str, **outcomes: int) -> None:
        """Attempts at a vendor in the minute that began so many minutes ago."""
        at = self.now.replace(second=0, microsecond=0) - timedelta(minutes=back)
        tallies = {
            name: {"seconds": 0.1 * n, "counts": {_NAMES[1]: n}} for name, n in outcomes.items()
        }
        entry = {"at": at, "env": PRODUCTION, "vendor": vendor, "outcomes": tallies}
        self._minutes.append(entry)

    def health(self, vendor: str, **fields: Any) -> None:
        """A vendor's health; times as datetimes."""
        times: Document = {
            n: v.timestamp() if isinstance(v, datetime) else v for n, v in fields.items()
        }
        entry = _to_document(Health(name=vendor, **times))
        self.beside("vendors").replace_one({"_id": vendor}, entry, upsert=True)

    def used(self, vendor: str, number: int) -> None:
        """So many e-mails of its day's budget."""
        until = self.now + timedelta(hours=20, minutes=47)  # at NIGHT a screenshot's midnight
        day = {"until": until, "used": number, "level": 0}
        entry = {"_id": f"rate:{vendor}", "tat": 0.0, "day": day}
        self.beside("vendors").replace_one({"_id": entry["_id"]}, entry, upsert=True)

    def control(self, kind: str, name: str, at: datetime, by: str, reason: str) -> None:
        """Something that an operator holds or drains."""
        entry = {"at": at, "by": by, "reason": reason}
        names = {"_id": f"{kind}:{name}" if name else kind, "kind": kind, "name": name}
        history = [{"verb": "begin", **entry}]
        self.beside("control").insert_one({**names, "active": True, **entry, "history": history})


def attempt(
    at: datetime,
    vendor: str,
    outcome: str,
    code: str = "",
    message_id: str | None = None,
    *,
    ms: int = 180,
    detail: str = "",
    answered: bool = True,
) -> Document:
    """A line of a ledger; the attempt began ``at``."""
    call = {"vendor": vendor, "key": None, "probe": False, "started_at": at}
    answer = {"outcome": outcome, "code": code, "detail": detail, "message_id": message_id}
    rest = {"answered": answered, "refused": [], "pending": []}
    return {**call, "ended_at": at + timedelta(milliseconds=ms), **answer, **rest}


def traffic(back: int) -> int:
    """How many e-mails an installation sends in a minute: more or less, as they do."""
    return 90 + (back * 37) % 23 + (60 if back % 15 in (0, 1) else 0)


def healthy(emails: Collection[Document]) -> Scene:
    """All is well: four consumers, three vendors, e-mails that are sent as they come."""
    scene = Scene(emails)
    _traffic(scene, {"ses": 5, "mailgun-eu": 3, "smtp": 2})
    for n, in_flight in enumerate((14, 11, 0, 9), 1):
        scene.heartbeat(f"mail-{n}", in_flight, seconds=n + 1)
    for vendor in VENDORS:
        scene.health(vendor["name"])
    scene.used("mailgun-eu", 31_420)
    _sent(scene, 40)
    _failed_over(scene)
    for n in range(6):
        scene.email(scene.ago(seconds=n), subject="Your receipt", to=f"reader{n}@example.org")
    scene.email(
        scene.ago(minutes=9),
        subject="Our autumn list",
        priority="bulk",
        due_at=scene.now + timedelta(hours=5),
        send_at=scene.now + timedelta(hours=5),
    )
    return scene.write()


def trouble(emails: Collection[Document]) -> Scene:
    """A vendor is unavailable for hours, another is drained, e-mails wait, some are uncertain."""
    scene = Scene(emails)
    _traffic(scene, {"ses": 5, "mailgun-eu": 3, "smtp": 2}, until=48)
    for back in range(48):
        scene.minute(back, "ses", misconfigured=1 + back % 2)
        scene.minute(back, "smtp", accepted=18 + back * 7 % 9, unavailable=(back * 5) % 4)
    scene.heartbeat("mail-1", 22, seconds=3)
    scene.heartbeat("mail-2", 19, seconds=8)
    down = {"unavailable_until": scene.now + timedelta(minutes=7), "probe_at": scene.now}
    scene.health(
        "ses", generation=9, reason="misconfigured 403", since=scene.ago(hours=2, minutes=5), **down
    )
    scene.health("mailgun-eu")
    scene.health("smtp")
    scene.used("mailgun-eu", 97_310)
    reason = "bounces rise, waiting for their support"
    scene.control("drain", "mailgun-eu", scene.ago(hours=3, minutes=10), "ann", reason)
    scene.control("tag", "newsletter", scene.ago(days=1, hours=4), "bob", "wrong price in the lead")
    _sent(scene, 30)
    _failed_over(scene)
    _waiting(scene)
    _ended_badly(scene)
    return scene.write()


def crowded(emails: Collection[Document]) -> Scene:
    """What has no end: names and reasons without a blank, dozens of consumers, large numbers."""
    scene = Scene(emails)
    scene.control("tag", "x" * 200, scene.ago(days=400), "y" * 100, "z" * 500)
    scene.control("all", "", scene.ago(days=1), "ann", "<script>alert(1)</script>")
    for n in range(40):
        scene.heartbeat(f"mail-{n}.{'long-' * 10}name.example.com", 512)
    for back in range(60):
        scene.minute(back, "ses", accepted=1_234_567, unavailable=1_000_000 - back)
    scene.health("ses", reason="w" * 80, since=scene.ago(days=900), unavailable_until=scene.now)
    return scene.write()


def _traffic(scene: Scene, shares: Mapping[str, int], until: int = 0) -> None:
    for back in range(until, 60):
        for vendor, share in shares.items():
            failed = {"temporary": 1} if (back * share) % 19 == 4 else {}
            scene.minute(back, vendor, accepted=traffic(back) * share // 10, **failed)


def _sent(scene: Scene, number: int) -> None:
    vendors = ["ses", "mailgun-eu", "ses", "smtp"]
    subjects = ("Your order", "Your invoice", "Welcome", "Your password was changed")
    for n in range(number):
        scene.sent(
            scene.ago(minutes=3.5 + n * 0.7),
            vendors[n % 4],
            subject=subjects[n % 4],
            to=f"customer{n}@example.org",
            priority=("high", "normal", "normal", "bulk")[n % 4],
        )


def _failed_over(scene: Scene) -> None:
    at = scene.ago(minutes=2, seconds=20)
    no = attempt(at, "ses", "unavailable", "503", ms=240, detail="Service Unavailable")
    scene.sent(at, "mailgun-eu", no, subject="Your tickets", to="carol@example.org")


def _waiting(scene: Scene) -> None:
    for n in range(140):
        scene.email(
            scene.ago(minutes=21.5 - n / 8),
            subject="Your order",
            to=f"customer{n}@example.org",
            priority=("high", "normal", "bulk")[n % 3],
        )
    for n in range(60):
        held: Document = {"due_at": HELD, "hold": "tag:newsletter", "tags": ["newsletter"]}
        scene.email(
            scene.ago(hours=28, minutes=n),
            subject="Our autumn list",
            priority="bulk",
            to=f"reader{n}@example.org",
            **held,
        )


def _ended_badly(scene: Scene) -> None:
    for n in range(7):
        at = scene.ago(minutes=4.5 + n * 3)
        no = attempt(at, "smtp", "rejected", "550 5.1.1", detail="User unknown")
        scene.email(at, no, to=f"gone{n}@example.org", status="failed", reason="rejected")
    for n in range(3):
        at = scene.ago(minutes=56 + n, seconds=30)
        lost = [
            attempt(
                at + timedelta(minutes=k),
                "smtp",
                "unknown",
                "",
                answered=False,
                detail="connection lost",
            )
            for k in (0, 1)
        ]
        scene.email(
            at,
            *lost,
            subject="Your invoice",
            to=f"customer{n}@example.org",
            status="uncertain",
            reason="unknown",
            unknowns=2,
        )
