"""SMTP, over connections that stay open between e-mails. The step that failed decides the outcome.

Decides: how an e-mail goes to an SMTP server, and what its replies mean. Facts: RFC 5321, RFC 1047;
the words of replies as seen in the wild (``smtp_replies``).

===========================  ===================================================================
step                         outcome when it fails
===========================  ===================================================================
any, from the greeting on    421, a rate, too many connections: throttled; a spent quota, a
                             suspended account, 530, 534, 535, 538: misconfigured
connect, greeting, EHLO,     unavailable, also if our name in EHLO is refused: it is not about an
STARTTLS                     e-mail yet, so none may fail; STARTTLS not offered (stripped):
                             misconfigured; while other connections work: see ``smtp_pool``
AUTH                         454 throttled; 5xx misconfigured, 4xx unavailable
SIZE, SMTPUTF8               unsuitable, before MAIL
MAIL                         454 throttled; 5xx unsuitable (from here on also for our name in EHLO),
                             4xx deferred
RCPT, after an accepted one  too many recipients (x.5.3, or its words): the rest is ``pending``,
                             and goes in the next transaction at once (RFC 5321 4.5.3.1.10)
RCPT, one of several         the others are sent: ``refused`` if the reply is about the recipient,
                             and permanent; else ``pending``
RCPT, all                    454 throttled; 4xx and 552 deferred (552 is 452, RFC 5321 4.5.3.1.10);
                             all are about the recipient: rejected; else unsuitable
DATA, and the reply to it    454 throttled; 4xx deferred; 5xx unsuitable; about the only recipient,
                             by its enhanced code: rejected
no SMTP reply                unavailable; after the final dot: unknown
lost before the final dot    unavailable: surely not sent (RFC 1047)
lost after the final dot     unknown
===========================  ===================================================================

A 5xx is about the recipient with the enhanced code 5.1.1, 5.1.2, 5.1.3, 5.1.6, 5.1.10 or 5.2.x,
or with 550, 551, 553 or 556 without an enhanced code and without a word about relaying,
authentication, the sender or a policy. How words are read is in ``smtp_replies``.

Assumes: ``mime`` writes CRLF line ends and no Bcc.

Promises: the envelope holds exactly the recipients of the attempt. A connection of an earlier
e-mail is replaced if, up to the reply to MAIL, it proves to be dead, closed by the server (421) or
at its limit of e-mails. Only a 2xx after the final dot is ``accepted``, and only if the server sent
nothing before it was asked.
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
from mailqueue.vendors import base
from mailqueue.vendors.base import Attempt, Vendor
from mailqueue.vendors.payloads import base64_text
from mailqueue.vendors.wire import failures, smtp_pool, smtp_replies
from mailqueue.vendors.wire.deadline import Call, DeadlinePassed
from mailqueue.vendors.wire.smtp_connection import Connection, StepFailed
from mailqueue.vendors.wire.smtp_replies import CLOSING, Step

EARLY_SECONDS = 1.0  # to wait for the reply of a server that closed during the message
_EMAIL_OUTCOMES = {Outcome.REJECTED, Outcome.UNSUITABLE, Outcome.DEFERRED}
_RETRY_OUTCOMES = {Outcome.DEFERRED, Outcome.UNSUITABLE}
_BEST_FIRST = (  # what leaves the e-mail the most chances
    Outcome.MISCONFIGURED,
    Outcome.THROTTLED,
    Outcome.DEFERRED,
    Outcome.UNSUITABLE,
    Outcome.REJECTED,
)
# A line that begins with a dot gets another: a dot alone ends the message (RFC 5321, 4.5.2).
_LINE_START_DOT = re.compile(rb"^\.", re.MULTILINE)


@dataclass(slots=True, repr=False)
class _Envelope:
    """Sender, recipients and message, and what the server said about each recipient."""

    message_id: str
    sender: str
    recipients: Mapping[str, str]  # by the mailbox in RCPT: the address in the e-mail
    message: bytes
    unicode: bool
    refusals: dict[str, SendResult] = field(default_factory=dict)  # by address
    full: bool = False  # the server takes the other recipients in the next transaction

    @property
    def refused(self) -> tuple[str, ...]:
        """The recipients that no server would take."""
        results = self.refusals.items()
        return tuple(address for address, r in results if r.outcome is Outcome.REJECTED)

    @property
    def pending(self) -> tuple[str, ...]:
        """The recipients that may be accepted later, or by another vendor."""
        results = self.refusals.items()
        return tuple(address for address, r in results if r.outcome is not Outcome.REJECTED)


class Smtp(Vendor):
    """Own keys: ``host``, ``port``, ``username``, ``password``, ``tls``, ``helo``,
    ``client_cert``, ``client_key``, ``connections``.
    """

    def __init__(self, config: VendorConfig, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(config)
        self.clock = clock
        self._pool = smtp_pool.pool(config)
        self.secrets = _secrets(config)
        self._connection: Connection | None = None
        self._in_pool = False

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        """One SMTP transaction."""
        return base.refuse_injection(email, attempt) or self._send(email, attempt)

    def close(self) -> None:
        """Leave the connections to the other threads; the last one closes them."""
        if self._in_pool:
            self._in_pool = False
            self._pool.leave()

    def _send(self, email: Email, attempt: Attempt) -> SendResult:
        began = time.monotonic()
        try:
            envelope = self._envelope(email, attempt)
        except Exception as error:  # noqa: BLE001  # whatever it is, nothing was sent
            return base.result_of_our_exception(self, attempt, error)
        late = base.is_late(attempt, began)
        with Call(attempt.deadline) as call:
            try:
                result = self._transaction(envelope, call)
            except StepFailed as failure:
                result = self._after_refusal(failure.result)
            except smtp_pool.CONNECTION_ERRORS as error:
                result = failures.result(failures.code(error, call), call.written)
                result = replace(result, our_fault=late and result.code == failures.DEADLINE)
            except Exception as error:
                if call.written:
                    raise
                result = self._result_of_exception(attempt, error)
            finally:
                self._drop()
        return result

    def _result_of_exception(self, attempt: Attempt, error: Exception) -> SendResult:
        """A ValueError while there is no connection is due to the configuration."""
        if self._connection is None and isinstance(error, ValueError):
            return failures.result(failures.INVALID_REQUEST, written=False)
        return base.result_of_our_exception(self, attempt, error)

    def _envelope(self, email: Email, attempt: Attempt) -> _Envelope:
        sender = self.sender(email)
        message = self.mime(email, attempt)
        recipients = attempt.recipients
        if recipients is None:
            recipients = tuple(r.address for r in email.recipients)
        mailboxes: dict[str, str] = {}
        for recipient in recipients:  # one IDN may be there in two spellings
            mailboxes.setdefault(_mailbox(recipient), recipient)
        mail_from = (email.bounce_address or sender).ascii
        unicode = not all(map(str.isascii, (mail_from, *mailboxes)))
        unicode = unicode or not message.isascii()
        return _Envelope(attempt.message_id, mail_from, mailboxes, message, unicode)

    def _transaction(self, envelope: _Envelope, call: Call) -> SendResult:
        connection = self._begin(envelope, call)
        self._name_recipients(connection, envelope)
        result = self._send_message(connection, envelope, call)
        self._keep()
        return result

    def _begin(self, envelope: _Envelope, call: Call) -> Connection:
        """A connection on which MAIL was accepted."""
        # The server may have closed a connection that idled, which shows only at its first command.
        # Nothing of the e-mail was sent then, so another connection is tried; a fresh one decides.
        while True:
            connection = self._take_connection(call)
            options = _mail_options(connection, envelope)
            try:
                code, reply = connection.mail(envelope.sender, options)
            except smtplib.SMTPServerDisconnected:
                if connection.fresh or call.has_expired:
                    raise
                code, reply = CLOSING, b""
            if code == 250:
                return connection
            over = code == CLOSING or smtp_replies.takes_no_more_emails(reply)
            if connection.fresh or not over:
                raise StepFailed(smtp_replies.result(Step.SENDER, code, reply))
            self._drop()  # it ended after an earlier e-mail; nothing of this one was sent

    def _take_connection(self, call: Call) -> Connection:
        if not self._in_pool:
            self._in_pool = True
            self._pool.join()
        self._connection = self._pool.take(call, self.clock())
        return self._connection

    def _name_recipients(self, connection: Connection, envelope: _Envelope) -> None:
        """Name the recipients. Raises ``StepFailed`` if the server accepts none of them."""
        for number, (mailbox, recipient) in enumerate(envelope.recipients.items()):
            code, reply = connection.rcpt(mailbox)
            if 200 <= code < 300:
                continue
            refusal = smtp_replies.result(Step.RECIPIENT, code, reply)
            if refusal.outcome not in _EMAIL_OUTCOMES and not refusal.content_suspect:
                raise StepFailed(refusal)
            # A server that refuses the first recipient as one too many means something else.
            accepted_some = number > len(envelope.refusals)
            may_retry = accepted_some and refusal.outcome in _RETRY_OUTCOMES
            envelope.full = may_retry and smtp_replies.takes_no_more_recipients(reply)
            if envelope.full:
                rest = list(envelope.recipients.values())[number:]
                envelope.refusals |= dict.fromkeys(rest, refusal)
                break
            envelope.refusals[recipient] = refusal
        if len(envelope.refusals) == len(envelope.recipients):
            raise StepFailed(_result_of_refusals(envelope))

    def _send_message(self, connection: Connection, envelope: _Envelope, call: Call) -> SendResult:
        """Send the message. After the final dot only the reply says whether it was accepted."""
        code, reply = connection.docmd("DATA")
        if code == 354:
            code, reply = _transfer(connection, envelope.message, call)
            if 200 <= code < 300:
                return _result_of_acceptance(reply, envelope)
            if not 400 <= code < 600:
                raise StepFailed(failures.result(failures.BAD_ANSWER, call.written))
        alone = len(envelope.recipients) == 1
        result = smtp_replies.result(Step.MESSAGE, code, reply, alone=alone)
        # The whole e-mail is tried again, without those whom RCPT has refused for good.
        if result.outcome is Outcome.DEFERRED:
            result = replace(result, refused=envelope.refused)
        elif result.outcome is Outcome.REJECTED:
            result = replace(result, refused=tuple(envelope.recipients.values()))
        raise StepFailed(result)

    def _after_refusal(self, result: SendResult) -> SendResult:
        """Reset the connection for the next e-mail, or drop it; say if the refusal is our fault.

        It is if we have too many connections, or sent too many e-mails over this one.
        """
        if self._connection is None:
            return result
        throttled, reused = result.outcome is Outcome.THROTTLED, not self._connection.fresh
        if throttled and reused and smtp_replies.takes_no_more_emails(result.detail):
            return replace(result, our_fault=True)
        if throttled and smtp_replies.has_too_many_connections(result.detail):
            return replace(result, our_fault=self._pool.note_too_many())
        if result.outcome in _EMAIL_OUTCOMES:
            # RSET ends the transaction, so that the next e-mail can have the connection.
            with suppress(OSError, smtplib.SMTPException, StepFailed):
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
            self._pool.discard(connection)


def _secrets(config: VendorConfig) -> tuple[str, ...]:
    """Login and password, plain and as they go over the wire; the longest first."""
    user, password = config.keys.get("username"), config.keys.get("password")
    if not user or not password:
        return ()
    # A server may quote the command that it refuses: ``AUTH PLAIN`` and its base64.
    plain = (f"\0{user}\0{password}", user, password)
    base64 = (base64_text(secret.encode()) for secret in plain)
    return tuple(sorted((*plain, *base64), key=len, reverse=True))


def _mailbox(address: str) -> str:
    local, _, domain = Address("", address).ascii.rpartition("@")
    return f"{local}@{domain.lower()}"


def _mail_options(connection: Connection, envelope: _Envelope) -> list[str]:
    """The parameters of MAIL. Raises ``StepFailed`` if the server lacks what the e-mail needs."""
    features = connection.esmtp_features
    limit = features.get("size", "").strip()
    if limit.isdigit() and 0 < int(limit) < len(envelope.message):
        raise StepFailed(_unsuitable_result(base.SIZE, f"larger than {limit} bytes"))
    options = [f"SIZE={len(envelope.message)}"] if "size" in features else []
    if envelope.unicode:
        if "smtputf8" not in features:
            raise StepFailed(_unsuitable_result(base.SMTPUTF8, "non-ASCII mailbox"))
        options += ["SMTPUTF8", "BODY=8BITMIME"]
    return options


def _transfer(connection: Connection, message: bytes, call: Call) -> tuple[int, bytes]:
    sock = connection.sock
    if sock is None or call.has_expired:
        raise DeadlinePassed(failures.DEADLINE)
    if connection.has_unread:  # it would be read as the reply to the message
        refusal = _early_refusal(connection, call)
        connection.close()
        return refusal or (smtp_replies.NO_REPLY, b"")
    sock.settimeout(call.remaining)  # for the whole message
    end = b".\r\n" if message.endswith(b"\r\n") else b"\r\n.\r\n"
    try:
        sock.sendall(_LINE_START_DOT.sub(b"..", message) + end)
    except OSError as error:
        refusal = _early_refusal(connection, call)
        if refusal is None:
            raise smtplib.SMTPServerDisconnected("lost") from error
        return refusal
    call.written = True  # a write that fails does not send the final dot
    connection.limit(sock, call)
    return connection.getreply()


def _early_refusal(connection: Connection, call: Call) -> tuple[int, bytes] | None:
    """The reply of a server that refused the message before it had read all of it."""
    if connection.sock is not None and not call.has_expired:
        connection.sock.settimeout(EARLY_SECONDS)
        with suppress(smtplib.SMTPException):
            code, reply = connection.getreply()
            connection.close()
            return (code, reply) if 400 <= code < 600 else None
    return None


def _result_of_acceptance(reply: bytes, envelope: _Envelope) -> SendResult:
    return SendResult(
        outcome=Outcome.ACCEPTED,
        code=smtp_replies.reply_code(250),
        detail=reply.decode("utf-8", "replace"),
        message_id=envelope.message_id,
        retry_after=0.0 if envelope.full else None,
        refused=envelope.refused,
        pending=envelope.pending,
    )


def _result_of_refusals(envelope: _Envelope) -> SendResult:
    """The result if no recipient was accepted: the best of their outcomes."""
    refusals = envelope.refusals.values()
    result = min(refusals, key=lambda each: _BEST_FIRST.index(each.outcome))
    if result.outcome in (Outcome.REJECTED, Outcome.DEFERRED):
        return replace(result, refused=envelope.refused, pending=envelope.pending)
    return result


def _unsuitable_result(code: str, detail: str) -> SendResult:
    return SendResult(outcome=Outcome.UNSUITABLE, code=code, detail=detail)
