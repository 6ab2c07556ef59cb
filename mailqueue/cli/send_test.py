"""``mailqueue doctor --send-test``: one real e-mail through each vendor, at once.

Decides: what is sent, and what a person reads of each answer.

Assumes: whoever asks wants to know within seconds whether key, sender and network work, also while
no consumer runs. So the e-mail goes straight to the vendors' adapters. It is not stored, and no
rate, hold or drain stops it.

Promises: the vendors' health hears nothing of it. On a staging installation nobody outside the list
gets it. The vendors' words are redacted, as those about stored e-mails are.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from threading import Thread
from typing import Any

from mailqueue import vendors
from mailqueue.cli.context import EXIT_FOUND, EXIT_OK, Context, Report, UsageError
from mailqueue.cli.progress import Progress
from mailqueue.cli.table import table
from mailqueue.consumer.sender import OVERDUE
from mailqueue.consumer.staging import Staging
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import NORMAL, Outcome, SendResult, Snapshot
from mailqueue.message import Email
from mailqueue.store import ids
from mailqueue.vendors import answers
from mailqueue.vendors.base import Attempt, Vendor
from mailqueue.vendors.simulated import Simulated

PATIENCE = 30.0  # seconds for all vendors, which are asked at the same time
GRACE = 1.0  # seconds beyond that, for a class of the user's own
_TODO: Mapping[str, str] = {
    "not_configured": "correct the configuration, or set the variable in this shell",
    "not_allowed": "staging: the address is not on the list, and there is no redirect_to",
    "held": "the vendor keeps e-mails back: its quota is spent, or the account is suspended",
    Outcome.REJECTED: "the vendor refuses this e-mail: look at recipient and sender (--from)",
    Outcome.UNSUITABLE: "the vendor does not take such an e-mail: look at the sender (--from)",
    Outcome.DEFERRED: "the recipient's server asks to wait: try again later",
    Outcome.THROTTLED: "the vendor is asked too often: try again in a minute",
    "not_reached": "look at DNS, firewall and proxy of this host, then at its status page",
    Outcome.UNAVAILABLE: "the vendor answers and does not work: look at its status page",
    Outcome.MISCONFIGURED: "mend the key, the account or the sender's domain, then try again",
    Outcome.UNKNOWN: "the e-mail may have left: look for it at the vendor and in the mailbox",
}

_NOTHING_LEFT = {
    "simulated": "no e-mail left",
    "sandbox": "the vendor checked it, and sent nothing",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one vendor. ``outcome``: one of ``_TODO``, or that all is well.

    The latter is ``accepted``; ``sandbox`` and ``simulated`` where no e-mail left.
    """

    vendor: str
    outcome: str
    code: str = ""
    detail: str = ""
    message_id: str | None = None
    seconds: float | None = None

    @property
    def is_good(self) -> bool:
        """Whether the vendor took the e-mail, or a simulation did."""
        return self.outcome not in _TODO


def send_test(context: Context) -> Report:
    """Send one e-mail through each vendor, or through ``--vendor``; exit 1 if one did not go."""
    names = _chosen(context)
    finished: dict[str, Answer] = {}

    def ask(name: str) -> None:
        finished[name] = _answer(context, name)

    # Daemons: a class of the user's own that hangs must not hold up the end of the command.
    threads = [Thread(target=ask, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    end = time.monotonic() + _seconds(context) + GRACE
    with Progress("vendors asked", len(threads)) as progress:
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
            progress.advance(1)
    overdue = {name: Answer(name, Outcome.UNKNOWN, OVERDUE.code) for name in names}
    return _report(context, list({**overdue, **finished}.values()))


def _seconds(context: Context) -> float:
    return min(PATIENCE, context.config.delivery.deadline)


def _chosen(context: Context) -> list[str]:
    names = [vendor.name for vendor in context.config.vendors]
    only = context.options.vendor
    if not names or only not in (None, *names):
        configured = ", ".join(names) or "none"
        named = f"{only}: " if only else ""
        raise UsageError(f"doctor: {named}no such vendor is configured (configured: {configured})")
    return names if only is None else [only]


# One vendor, in its own thread --------------------------------------------------------------------


def _answer(context: Context, name: str) -> Answer:
    try:
        config = context.vendor(name, secrets=context.production)
        vendor = vendors.load(config, simulated=not context.production)
    except ConfigError as error:
        return Answer(name, "not_configured", detail="; ".join(error.problems))
    email = _allowed(context, _email(context, name))
    if email is None:
        return Answer(name, "not_allowed")
    began = time.monotonic()
    result = _send(vendor, email, began + _seconds(context))
    seconds = round(time.monotonic() - began, 3)
    with suppress(Exception):  # a class of the user's own
        vendor.close()
    word = _word(result, vendor)
    return Answer(name, word, result.code, result.detail, result.message_id, seconds)


def _email(context: Context, name: str) -> Email:
    """It says what it is: somebody may find it in a mailbox years later."""
    to = context.options.send_test
    at = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    text = (
        f"This is a test of the vendor {name}, sent at {at} from {socket.gethostname()}\n"
        "by the command: mailqueue doctor --send-test\n\n"
        "If you can read it, the way through this vendor works. Nothing has to be done.\n"
    )
    # Where a vendor has a ``from`` of its own, that stands in the e-mail instead.
    return Email(from_=context.options.sender or to, to=to, subject=f"Test of {name}", text=text)


def _allowed(context: Context, email: Email) -> Email | None:
    """The e-mail as a staging installation lets it go; None: to nobody."""
    if context.config.staging is None:
        return email
    return Staging(context.config.staging).apply(email, Snapshot(priority=NORMAL))[0]


def _send(vendor: Vendor, email: Email, deadline: float) -> SendResult:
    """The vendor's answer, as a consumer's sender would have it."""
    email_id = str(ids.new())
    attempt = Attempt(
        email_id=email_id,
        message_id=f"<{email_id}@{email.from_.ascii.rpartition('@')[2]}>",
        date=datetime.now(UTC),
        key=None if vendor.key_life is None else email_id,
        deadline=deadline,
    )
    try:
        if (problem := vendor.can_carry(email)) is not None:
            return SendResult(outcome=Outcome.UNSUITABLE, detail=problem)
        return answers.sanitize(vendor.send(email, attempt), email, vendor)
    except BaseException as error:  # noqa: BLE001  # whatever a class of the user's own raises
        return answers.from_exception(error)


def _word(result: SendResult, vendor: Vendor) -> str:
    if result.outcome is Outcome.UNAVAILABLE and not result.answered:
        return "not_reached"
    if result.outcome is not Outcome.ACCEPTED:
        return result.outcome
    if result.quota_held:
        return "held"
    if isinstance(vendor, Simulated):
        return "simulated"
    return "sandbox" if vendor.config.sandbox else result.outcome


# What is shown ------------------------------------------------------------------------------------


def _report(context: Context, rows: list[Answer]) -> Report:
    lines = table(("VENDOR", "RESULT", "TIME", "ANSWER"), list(_cells(rows)), context.width)
    good = all(row.is_good for row in rows)
    data: dict[str, Any] = {"ok": good, "simulated": not context.production}
    notes = []
    if not context.production:
        notes = ["simulation: no e-mail left. For a real test set MAILQUEUE_ENV=production"]
    elif context.config.staging is not None and context.config.staging.redirect_to is not None:
        notes = ["staging: to an address that is not on the list, it went to redirect_to instead"]
    data["send_test"] = [asdict(row) for row in rows]
    return Report(data, lines, EXIT_OK if good else EXIT_FOUND, notes)


def _cells(rows: list[Answer]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.2f} s"
        words = ": ".join(filter(None, (row.code, row.detail)))
        if row.outcome == Outcome.ACCEPTED and row.message_id:
            words = f"{words}; its id there: {row.message_id}"
        yield row.vendor, row.outcome, seconds, _NOTHING_LEFT.get(row.outcome, words)
        if todo := _TODO.get(row.outcome):
            yield "", "", "", f"-> {todo}"
