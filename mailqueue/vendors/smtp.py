"""SMTP: connections that are kept open between e-mails; which step failed decides the outcome.

Decides: how an e-mail goes to an SMTP server, and what its replies mean.

===========================  ===================================================================
step                         outcome when it fails
===========================  ===================================================================
any, from the greeting on    421, a rate, too many connections: throttled; a spent quota, a
                             suspended account, 530, 534, 535, 538: misconfigured
connect, greeting, EHLO,     unavailable, also where our name in EHLO is refused: no e-mail was
STARTTLS                     named yet, so none is ended; STARTTLS not offered (stripped):
                             misconfigured; while other connections work: see ``smtp_pool``
AUTH                         454 throttled; 5xx misconfigured, 4xx unavailable
SIZE, SMTPUTF8               unsuitable, before MAIL
MAIL                         454 throttled; 5xx unsuitable (here and later also: the name in EHLO),
                             4xx deferred
RCPT, after some were taken  too many recipients (x.5.3, or its words): the rest is ``pending``,
                             and goes in the next transaction at once (RFC 5321 4.5.3.1.10)
RCPT, one of several         goes on: ``refused`` if the reply speaks of the recipient, for good;
                             ``pending`` for now, or if it is this server that will not
RCPT, all                    454 throttled; 4xx and 552 deferred (552 is 452, RFC 5321 4.5.3.1.10);
                             all speak of the recipient: rejected; else unsuitable
DATA, and the reply to it    454 throttled; 4xx deferred; 5xx unsuitable; of the only recipient, by
                             its enhanced code: rejected
no SMTP reply                unavailable; after the final dot: unknown
lost before the final dot    unavailable: surely not sent (RFC 1047)
lost after the final dot     unknown
===========================  ===================================================================

A 5xx speaks of the recipient with the enhanced code 5.1.1, 5.1.2, 5.1.3, 5.1.6, 5.1.10 or 5.2.x,
or with 550, 551, 553 or 556 without an enhanced code and without a word of relaying,
authentication, the sender or a policy. How words are read is in ``smtp_replies``.

Assumes: ``mime`` writes CRLF line ends and no Bcc.

Promises: the envelope holds exactly the recipients asked for; a connection from an earlier e-mail
that is dead or closed by the server (421), or has had its share of e-mails, before MAIL is answered
is replaced. Accepted is only
what was answered with 2xx after the final dot, by a server that had said nothing ahead of it.
"""

from __future__ import annotations

import re
import smtplib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Email
from mailqueue.message.message import mime
from mailqueue.vendors import base
from mailqueue.vendors.base import Attempt, Vendor
from mailqueue.vendors.payloads import base64_text, created_at
from mailqueue.vendors.wire import failures, smtp_pool, smtp_replies
from mailqueue.vendors.wire.deadline import Call, DeadlinePassed
from mailqueue.vendors.wire.smtp_connection import Connection, Failed
from mailqueue.vendors.wire.smtp_replies import CLOSING, Step

EARLY_SECONDS = 1.0
_OF_THE_EMAIL = {Outcome.REJECTED, Outcome.UNSUITABLE, Outcome.DEFERRED}
_NOT_NOW = {Outcome.DEFERRED, Outcome.UNSUITABLE}
_HOPE = (
    Outcome.MISCONFIGURED,
    Outcome.THROTTLED,
    Outcome.DEFERRED,
    Outcome.UNSUITABLE,
    Outcome.REJECTED,
)
_LINE_START_DOT = re.compile(rb"^\.", re.MULTILINE)


@dataclass(slots=True, repr=False)
class _Envelope:
    """Who sends what to whom, and what the server said about each recipient."""

    message_id: str
    sender: str
    recipients: Mapping[str, str]  # as the server is told -> as the e-mail has it first
    message: bytes
    unicode: bool
    said: dict[str, SendResult] = field(default_factory=dict)  # of those not taken
    full: bool = False  # whether no more were taken in this transaction, but will be in the next

    @property
    def taken(self) -> int:
        return len(self.recipients) - len(self.said)

    @property
    def refused(self) -> tuple[str, ...]:
        """Whom no server would take."""
        return tuple(r for r, said in self.said.items() if said.outcome is Outcome.REJECTED)

    @property
    def pending(self) -> tuple[str, ...]:
        """Who may be taken later, or by another."""
        return tuple(r for r, said in self.said.items() if said.outcome is not Outcome.REJECTED)


class Smtp(Vendor):
    """Own keys: ``host``, ``port``, ``username``, ``password``, ``tls``, ``helo``,
    ``client_cert``, ``client_key``, ``connections``.
    """

    def __init__(self, config: VendorConfig, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(config)
        self.clock = clock
        self._pool = smtp_pool.pool(config)
        self.tls = self._pool.tls
        self.secrets = _secrets(config)
        self._connection: Connection | None = None
        self._in_pool = False

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        """One SMTP transaction."""
        return base.refuse_injection(email, attempt) or self._send(email, attempt)

    def close(self) -> None:
        """Leave the connections to the other threads; the last one says goodbye."""
        if self._in_pool:
            self._in_pool = False
            self._pool.leave()

    def _send(self, email: Email, attempt: Attempt) -> SendResult:
        began = time.monotonic()
        try:
            envelope = self._envelope(email, attempt)
        except Exception as error:  # noqa: BLE001  # whatever it is, nothing left our hands
            return base.raised_before_sending(self, attempt, error)
        late = base.is_late(attempt, began)
        with Call(attempt.deadline) as call:
            try:
                result = self._transaction(envelope, call)
            except Failed as step:
                result = self._judged(step.result)
            except smtp_pool.TROUBLE as error:
                result = failures.result(failures.code(error, call), call.written)
                result = replace(result, our_fault=late and result.code == failures.DEADLINE)
            except Exception as error:
                if call.written:
                    raise
                result = self._unsent(attempt, error)
            finally:
                self._drop()
        return result

    def _unsent(self, attempt: Attempt, error: Exception) -> SendResult:
        """Before there is a connection, what cannot be said to a socket is the configuration's."""
        if self._connection is None and isinstance(error, ValueError):
            return failures.result(failures.INVALID_REQUEST, written=False)
        return base.raised_before_sending(self, attempt, error)

    def _envelope(self, email: Email, attempt: Attempt) -> _Envelope:
        sender = self.sender(email)
        message = mime(
            email,
            message_id=attempt.message_id,
            date=attempt.date or created_at(attempt.email_id),
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
        connection = self._begin(envelope, call)
        self._rcpt(connection, envelope)
        result = self._data(connection, envelope, call)
        self._keep()
        return result

    def _begin(self, envelope: _Envelope, call: Call) -> Connection:
        """A connection on which MAIL was accepted."""
        while True:
            connection = self._taken(call)
            options = _mail_options(connection, envelope)
            try:
                code, reply = connection.mail(envelope.sender, options)
            except smtplib.SMTPServerDisconnected:
                if connection.fresh or call.expired:
                    raise
                code, reply = CLOSING, b""
            if code == 250:
                return connection
            over = code == CLOSING or smtp_replies.used_up(reply)
            if connection.fresh or not over:
                raise Failed(smtp_replies.result(Step.SENDER, code, reply))
            self._drop()  # over since an earlier e-mail; nothing of this one was sent

    def _taken(self, call: Call) -> Connection:
        if not self._in_pool:
            self._in_pool = True
            self._pool.join()
        self._connection = self._pool.take(call, self.clock())
        return self._connection

    def _rcpt(self, connection: Connection, envelope: _Envelope) -> None:
        """Name the recipients; goes on if the server took any of them."""
        for number, (mailbox, recipient) in enumerate(envelope.recipients.items()):
            code, reply = connection.rcpt(mailbox)
            if 200 <= code < 300:
                continue
            said = smtp_replies.result(Step.RECIPIENT, code, reply)
            if said.outcome not in _OF_THE_EMAIL and not said.content_suspect:
                raise Failed(said)
            some = number > len(envelope.said)
            envelope.full = some and said.outcome in _NOT_NOW and smtp_replies.enough(reply)
            if envelope.full:
                rest = list(envelope.recipients.values())[number:]
                envelope.said |= dict.fromkeys(rest, said)
                break
            envelope.said[recipient] = said
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
                raise Failed(failures.result(failures.BAD_ANSWER, call.written))
        alone = len(envelope.recipients) == 1
        result = smtp_replies.result(Step.MESSAGE, code, reply, alone=alone)
        if result.outcome is Outcome.DEFERRED:
            result = replace(result, refused=envelope.refused)
        elif result.outcome is Outcome.REJECTED:
            result = replace(result, refused=tuple(envelope.recipients.values()))
        raise Failed(result)

    def _judged(self, result: SendResult) -> SendResult:
        """Make the connection fit for the next e-mail, or give it up.

        A crowd is our own doing, and so is a connection that carried too many e-mails before.
        """
        if self._connection is None:
            return result
        throttled = result.outcome is Outcome.THROTTLED
        if throttled and not self._connection.fresh and smtp_replies.used_up(result.detail):
            return replace(result, our_fault=True)
        if throttled and smtp_replies.crowded(result.detail):
            return replace(result, our_fault=self._pool.crowded())
        if result.outcome in _OF_THE_EMAIL:
            with suppress(OSError, smtplib.SMTPException, Failed):
                if self._connection.rset()[0] == 250:
                    self._keep()
        return result

    def _keep(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give(connection, self.clock())

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.lost(connection)


def _secrets(config: VendorConfig) -> tuple[str, ...]:
    """What must not be told, as it is and as it goes over the wire; what holds another first."""
    user, password = config.keys.get("username"), config.keys.get("password")
    if not user or not password:
        return ()
    plain = (f"\0{user}\0{password}", user, password)
    packed = (base64_text(secret.encode()) for secret in plain)
    return tuple(sorted((*plain, *packed), key=len, reverse=True))


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
    if connection.unread:  # it would be taken for the answer to the message
        connection.close()
        return smtp_replies.NO_REPLY, b""
    sock.settimeout(call.remaining)  # counts for the whole of it
    end = b".\r\n" if message.endswith(b"\r\n") else b"\r\n.\r\n"
    try:
        sock.sendall(_LINE_START_DOT.sub(b"..", message) + end)
    except OSError as error:
        answer = _early_answer(connection, call)
        if answer is None:
            raise smtplib.SMTPServerDisconnected("lost") from error
        return answer
    call.written = True  # had the write failed, the final dot would not have gone out
    connection.limit(sock, call)
    return connection.getreply()


def _early_answer(connection: Connection, call: Call) -> tuple[int, bytes] | None:
    """The refusal of a server that did not read the message to its end."""
    if connection.sock is not None and not call.expired:
        connection.sock.settimeout(EARLY_SECONDS)
        with suppress(smtplib.SMTPException):
            code, reply = connection.getreply()
            connection.close()
            return (code, reply) if 400 <= code < 600 else None
    return None


def _accepted(reply: bytes, envelope: _Envelope) -> SendResult:
    return SendResult(
        outcome=Outcome.ACCEPTED,
        code=smtp_replies.reply_code(250),
        detail=reply.decode("utf-8", "replace"),
        message_id=envelope.message_id,
        retry_after=0.0 if envelope.full else None,
        refused=envelope.refused,
        pending=envelope.pending,
    )


def _nobody(envelope: _Envelope) -> SendResult:
    """No recipient was taken: what leaves most hope counts."""
    said = envelope.said.values()
    result = min(said, key=lambda each: _HOPE.index(each.outcome))
    if result.outcome in (Outcome.REJECTED, Outcome.DEFERRED):
        return replace(result, refused=envelope.refused, pending=envelope.pending)
    return result


def _unsuitable(code: str, detail: str) -> SendResult:
    return SendResult(outcome=Outcome.UNSUITABLE, code=code, detail=detail)
