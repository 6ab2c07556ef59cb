"""SMTP: one connection, kept open between e-mails; which step failed decides the outcome.

Decides: how an e-mail goes to an SMTP server, and what its replies mean.

===================================  ===========================================================
step                                 outcome when it fails
===================================  ===========================================================
connect, greeting, EHLO, STARTTLS    unavailable; STARTTLS not offered (stripped): misconfigured
AUTH                                 5xx misconfigured, 4xx unavailable, "too many" throttled
SIZE, SMTPUTF8                       unsuitable, before MAIL
MAIL                                 5xx unsuitable, 4xx deferred
RCPT, some                           goes on: ``refused`` (5xx), ``pending`` (4xx)
RCPT, all                            5xx rejected (5.7.x, a policy: unsuitable), else deferred
DATA, and the reply to it            5xx unsuitable, 4xx deferred
421 and 454 at AUTH and later        throttled
530, or "credits exceeded"           misconfigured
lost before the final dot            unavailable: surely not sent (RFC 1047)
lost after the final dot             unknown
===================================  ===========================================================

Assumes: ``mime`` writes CRLF line ends and no Bcc.

Promises: the envelope holds exactly the recipients asked for; a connection from an earlier e-mail
that is dead or closed by the server (421) before MAIL is answered is replaced once.
"""

from __future__ import annotations

import re
import smtplib
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mailqueue.config import VendorConfig
from mailqueue.headers import Address
from mailqueue.message import Email, mime
from mailqueue.record import Outcome, SendResult
from mailqueue.vendors import base, failures
from mailqueue.vendors.base import Attempt, Vendor
from mailqueue.vendors.deadline import Call, DeadlinePassed
from mailqueue.vendors.smtp_connection import Connection, Failed, failed, reply_code

_POLICY = re.compile(rb"\b5\.7\.\d")
_OF_THE_EMAIL = {Outcome.REJECTED, Outcome.UNSUITABLE, Outcome.DEFERRED}
_LINE_START_DOT = re.compile(rb"^\.", re.MULTILINE)


class _Stale(Exception):
    """A connection from an earlier e-mail is over; nothing of this one was sent."""


@dataclass(slots=True, repr=False)
class _Envelope:
    """Who sends what to whom, and what the server said about each recipient."""

    message_id: str
    sender: str
    recipients: Mapping[str, str]  # as the server is told -> as the e-mail has it first
    message: bytes
    unicode: bool
    refused: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    pending: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    @property
    def taken(self) -> bool:
        return len(self.refused) + len(self.pending) < len(self.recipients)


class Smtp(Vendor):
    """Own keys: ``host``, ``port``, ``username``, ``password``, ``tls``."""

    def __init__(self, config: VendorConfig, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(config)
        self.tls = ssl.create_default_context()
        self.clock = clock
        self._connection: Connection | None = None
        self._used_at = 0.0

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        """One SMTP transaction."""
        result = base.refuse_injection(email, attempt) or self._send(email, attempt)
        login = (self.config.keys.get("username"), self.config.keys.get("password"))
        return base.discreet(result, email, tuple(filter(None, login)))

    def close(self) -> None:
        """Say goodbye, if the server still listens."""
        if self._connection is not None:
            with suppress(OSError, smtplib.SMTPException):
                self._connection.quit()
        self._drop()

    def _send(self, email: Email, attempt: Attempt) -> SendResult:
        began = time.monotonic()
        try:
            envelope = self._envelope(email, attempt)
        except Exception as error:  # noqa: BLE001  # whatever it is, nothing left our hands
            return base.unsent(self, attempt, error)
        late = base.late(attempt, began)
        with Call(attempt.deadline) as call:
            try:
                return self._transaction(envelope, call)
            except Failed as step:
                self._recover(step.result)
                return step.result
            except (OSError, smtplib.SMTPException, ValueError) as error:
                self._drop()
                result = failures.result(failures.code(error, call), call.written)
                return replace(result, ours=late and result.code == failures.DEADLINE)

    def _envelope(self, email: Email, attempt: Attempt) -> _Envelope:
        sender = self.sender(email)
        message = mime(
            email,
            message_id=attempt.message_id,
            date=base.created_at(attempt.email_id),
            email_id=attempt.email_id,
            sender=sender,
        )
        recipients = attempt.recipients
        if recipients is None:
            recipients = tuple(r.address for r in email.recipients)
        mailboxes: dict[str, str] = {}
        for recipient in recipients:  # one IDN may be there in two spellings
            mailboxes.setdefault(_mailbox(recipient), recipient)
        unicode = not all(map(str.isascii, (sender.ascii, *mailboxes)))
        unicode = unicode or not message.isascii()
        return _Envelope(attempt.message_id, sender.ascii, mailboxes, message, unicode)

    def _transaction(self, envelope: _Envelope, call: Call) -> SendResult:
        try:
            connection = self._begin(envelope, call)
        except _Stale:
            self._drop()
            connection = self._begin(envelope, call)
        self._rcpt(connection, envelope)
        result = self._data(connection, envelope, call)
        self._used_at = self.clock()
        return result

    def _begin(self, envelope: _Envelope, call: Call) -> Connection:
        """A connection on which MAIL was accepted."""
        connection = self._ready(call)
        options = _mail_options(connection, envelope)
        try:
            code, reply = connection.mail(envelope.sender, options)
        except smtplib.SMTPServerDisconnected:
            if connection.fresh or call.expired:
                raise
            raise _Stale from None
        if code == 421 and not connection.fresh:
            raise _Stale
        if code != 250:
            raise Failed(failed(code, reply, Outcome.UNSUITABLE))
        return connection

    def _ready(self, call: Call) -> Connection:
        """The open connection while it can be trusted, else a new one."""
        if self.clock() - self._used_at > base.IDLE_SECONDS:
            self._drop()
        if self._connection is not None and self._connection.sock is not None:
            self._connection.take_over(self._connection.sock, call)
            return self._connection
        connection = Connection(self.config, self.tls, call)
        try:
            connection.prepare()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._used_at = self.clock()
        return connection

    def _rcpt(self, connection: Connection, envelope: _Envelope) -> None:
        """Name the recipients; goes on if the server took any of them."""
        for mailbox, recipient in envelope.recipients.items():
            code, reply = connection.rcpt(mailbox)
            if code in (421, 454) or not 200 <= code < 600:
                raise Failed(failed(code, reply, Outcome.REJECTED))
            if code >= 300:
                said = envelope.refused if code >= 500 else envelope.pending
                said[recipient] = (code, reply)
        if not envelope.taken:
            raise Failed(_nobody(envelope))

    def _data(self, connection: Connection, envelope: _Envelope, call: Call) -> SendResult:
        """The message. After the final dot only the reply tells whether it was taken."""
        code, reply = connection.docmd("DATA")
        if code == 354:
            code, reply = _transfer(connection, envelope.message, call)
            if 200 <= code < 300:
                return _accepted(reply, envelope)
            if not 400 <= code < 600:
                self._drop()
                return failures.result(failures.BAD_ANSWER, call.written)
        result = failed(code, reply, Outcome.UNSUITABLE)
        if result.outcome is Outcome.DEFERRED:
            result = replace(result, refused=tuple(envelope.refused))
        raise Failed(result)

    def _recover(self, result: SendResult) -> None:
        """Make the connection fit for the next e-mail, or give it up."""
        code = -1
        if self._connection is not None and result.outcome in _OF_THE_EMAIL:
            with suppress(OSError, smtplib.SMTPException):
                code, _ = self._connection.rset()
        if code == 250:
            self._used_at = self.clock()
        else:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _mailbox(address: str) -> str:
    local, _, domain = Address("", address).ascii.rpartition("@")
    return f"{local}@{domain.lower()}"


def _mail_options(connection: Connection, envelope: _Envelope) -> list[str]:
    """What MAIL has to say beside the sender; refuses what the server did not offer."""
    features = connection.esmtp_features
    limit = features.get("size", "").strip()
    if limit.isdigit() and 0 < int(limit) < len(envelope.message):
        raise Failed(_unsuitable(base.SIZE, f"larger than {limit} bytes"))
    options = [f"SIZE={len(envelope.message)}"] if "size" in features else []
    if envelope.unicode:
        if "smtputf8" not in features:
            raise Failed(_unsuitable(base.SMTPUTF8, "non-ASCII mailbox"))
        options += ["SMTPUTF8", "BODY=8BITMIME"]
    return options


def _transfer(connection: Connection, message: bytes, call: Call) -> tuple[int, bytes]:
    sock = connection.sock
    if sock is None or call.expired:
        raise DeadlinePassed(failures.DEADLINE)
    sock.settimeout(call.remaining)  # counts for the whole of it
    end = b".\r\n" if message.endswith(b"\r\n") else b"\r\n.\r\n"
    connection.send(_LINE_START_DOT.sub(b"..", message) + end)
    call.written = True  # had the write failed, the final dot would not have gone out
    connection.limit(sock, call)
    return connection.getreply()


def _accepted(reply: bytes, envelope: _Envelope) -> SendResult:
    return SendResult(
        outcome=Outcome.ACCEPTED,
        code=reply_code(250),
        detail=reply.decode("utf-8", "replace"),
        message_id=envelope.message_id,
        refused=tuple(envelope.refused),
        pending=tuple(envelope.pending),
    )


def _nobody(envelope: _Envelope) -> SendResult:
    """No recipient was taken."""
    refused, pending = envelope.refused, envelope.pending
    code, reply = next(iter((pending or refused).values()))
    result = failed(code, reply, Outcome.REJECTED)
    if result.outcome is Outcome.REJECTED and all(_POLICY.search(r) for _, r in refused.values()):
        return replace(result, outcome=Outcome.UNSUITABLE)
    if result.outcome in (Outcome.REJECTED, Outcome.DEFERRED):
        return replace(result, refused=tuple(refused), pending=tuple(pending))
    return result


def _unsuitable(code: str, detail: str) -> SendResult:
    return SendResult(outcome=Outcome.UNSUITABLE, code=code, detail=detail)
