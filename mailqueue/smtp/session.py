"""One conversation with a client: SMTP as RFC 5321 and RFC 6409 (submission) have it.

Decides: the commands, their order, and what each is answered. aiosmtpd has the frame (the stream,
the time-out, AUTH, HELP and the like). What it leaves open, or does otherwise, is here:

* A line ends in CR LF and nothing else, commands and messages alike (RFC 5321, 2.3.8). Who takes a
  bare LF for a line's end sees other messages than the next server does: SMTP smuggling.
* What a client sent together with STARTTLS is forgotten (RFC 3207, 4.2): somebody on the way may
  have put it there, before there was TLS.
* A browser on this host, which any page may have speak here, is sent away at its first line: what
  it sends as a form's content could be commands.
* Errors, and commands that lead to no message, are counted; a client with too many is sent away.
* A message is read in blocks, which are counted: memory is bounded, also by ``connections``.

Promises: 250 after a message means that it is stored durably, under the id that the reply names.
No line that a client sent, no address and no secret is logged or sent back.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from mailqueue.aio import AsyncProducer
from mailqueue.errors import InvalidEmail, Unavailable
from mailqueue.logs import event, place
from mailqueue.message import Address, Email, parsing
from mailqueue.service.keys import ApiKey, KeyRing
from mailqueue.smtp import replies, submission
from mailqueue.smtp.connections import LARGE, Connections, Memory
from mailqueue.smtp.envelope import Envelope, Refused, add_recipient, begin

logger = logging.getLogger(__name__)

MAX_ERRORS = 10  # replies 5xx since the last message
MAX_IDLE = 100  # commands that lead to no message, since the last one
IN_LOOP = 64 * 1024  # bytes; a larger message is read in another thread, so that the loop goes on

_MAX_LINE = 2048  # octets of a command (RFC 5321, 4.5.3.1.4, asks for 512 and more)
_BLOCK = 64 * 1024
_HANDSHAKE = 30.0  # seconds
_MEMORY_WAIT = 20.0  # seconds
_END = b"\r\n.\r\n"
_BEFORE_TLS = {"EHLO", "HELO", "NOOP", "RSET", "QUIT", "STARTTLS", "HELP"}
_IDLE = {"EHLO", "HELO", "NOOP", "RSET", "HELP", "VRFY", "EXPN"}
_HTTP = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"}
_HAS_CODE = re.compile(r"[245]\d\d [245]\.\d+\.\d+ ")


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for all conversations of a server.

    ``is_exposed``: others than this host may come, so a secret is taken over TLS only.
    """

    producer: AsyncProducer
    keys: KeyRing
    connections: Connections
    memory: Memory
    reader: Executor
    hostname: str
    max_bytes: int
    timeout: float
    is_exposed: bool
    tls: ssl.SSLContext | None = None
    is_implicit: bool = False


class _Leave(Exception):
    """The conversation ends with this reply."""


class Refusal(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: Any) -> None:
        transport.write(f"{replies.TOO_MANY_CONNECTIONS}\r\n".encode())
        transport.close()


# Its annotations say that most of what a session has may be None.
_Smtp: Any = SMTP


class _NoHooks:
    """A handler for aiosmtpd that has nothing; see ``Session.__dir__``."""

    def __dir__(self) -> tuple[str, ...]:
        return ()


def protocol(rules: Rules) -> asyncio.BaseProtocol:
    """What speaks with the next client."""
    return Session(rules) if rules.connections.admit() else Refusal()


class Session(_Smtp):  # type: ignore[misc]  # see there
    """A conversation."""

    AuthLoginUsernameChallenge = "Username:"
    AuthLoginPasswordChallenge = "Password:"
    line_length_limit = _BLOCK  # of its reader, which holds up to twice as much

    envelope: Envelope
    session: Any
    _timeout_handle: asyncio.TimerHandle | None

    def __init__(self, rules: Rules) -> None:
        super().__init__(
            _NoHooks(),
            data_size_limit=rules.max_bytes,
            enable_SMTPUTF8=True,
            hostname=rules.hostname,
            tls_context=rules.tls,
            timeout=rules.timeout,
            auth_require_tls=rules.is_exposed,
            auth_exclude_mechanism=() if rules.keys else ("PLAIN", "LOGIN"),
            loop=asyncio.get_running_loop(),
        )
        self._auth_required = bool(rules.keys)  # as an argument it brings a warning on loopback
        self._rules = rules
        self._connections = rules.connections
        self._errors = self._idle = self._held = 0
        self.is_waiting = True

    def __dir__(self) -> Sequence[str]:
        # aiosmtpd looks at all attributes for those of commands, three times for each connection:
        # half of what a connection costs.
        return _COMMANDS

    # The connection ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.remove(self)
        super().connection_lost(error)

    def eof_received(self) -> bool:
        """The client says no more, but may still read what becomes of its message."""
        return bool(asyncio.StreamReaderProtocol.eof_received(self))

    def abort(self, reply: str = replies.TOO_MANY_CONNECTIONS) -> None:
        if self.transport is None:
            return
        if self._tls_protocol or not self._rules.is_implicit:
            self._writer.write(f"{reply}\r\n".encode())
        # Not close(): a client that reads nothing would keep the connection for ever.
        self.transport.abort()

    def finish(self) -> None:
        if self.is_waiting and not self.envelope.is_begun:
            self.abort(replies.STOPPING)

    def _reset_timeout(self, _: float | None = None) -> None:
        """One timer for the conversation, which is not set anew with every command."""
        self._deadline = self.loop.time() + self._rules.timeout
        if self._timeout_handle is None:
            self._timeout_handle = self.loop.call_at(self._deadline, self._timeout_cb)

    def _timeout_cb(self) -> None:
        now = self.loop.time()
        if self.is_waiting and now >= self._deadline:
            self.abort(replies.TIMEOUT)
        else:  # while the client waits for us, the time is ours: its message may be stored already
            again = self._deadline if self.is_waiting else now + self._rules.timeout
            self._timeout_handle = self.loop.call_at(again, self._timeout_cb)

    def _create_envelope(self) -> Envelope:
        return Envelope()

    async def _handle_client(self) -> None:
        try:
            if self._rules.is_implicit:
                await self._start_tls()
            await self._say(f"220 {self.hostname} ESMTP mailqueue")
            while True:
                if self._connections.is_stopping and not self.envelope.is_begun:
                    raise _Leave(replies.STOPPING)
                await self._obey(await self._heard(self._reader.readuntil(b"\n")))
        except _Leave as leave:
            await self._say(str(leave))
        except asyncio.LimitOverrunError:
            await self._say("500 5.5.2 Line too long")
        except (asyncio.IncompleteReadError, OSError):
            logger.debug("the client is gone")
        finally:
            self._writer.close()

    async def _heard(self, reading: Awaitable[bytes]) -> bytes:
        """What the client says next; it has ``timeout`` seconds for it."""
        octets = await reading
        self._connections.hear(self)
        self._reset_timeout()
        return octets

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Meanwhile the client waits for us; at all other times we wait for the client."""
        self.is_waiting = False
        try:
            yield
        finally:
            self.is_waiting = True
            self._connections.hear(self)
            self._reset_timeout()

    async def _obey(self, line: bytes) -> None:
        text = _text(line)
        if text is None:
            await self.push("500 5.5.2 Bad syntax: a line is UTF-8 and ends in CR LF")
            return
        verb, _, argument = text.partition(" ")
        verb = verb.upper()
        if verb in _HTTP:
            raise _Leave(replies.NO_HTTP)
        method: Callable[[str | None], Any] | None = self._smtp_methods.get(verb)
        if method is None:
            await self.push("500 5.5.1 Command not recognized")
        elif self._rules.is_exposed and not self._tls_protocol and verb not in _BEFORE_TLS:
            await self.push(replies.NEEDS_TLS)
        else:
            self._idle += verb in _IDLE
            if self._idle > MAX_IDLE:
                raise _Leave(replies.TOO_MANY_ERRORS)
            try:
                await method(argument.strip() or None)
            except Refused as refusal:
                await self.push(str(refusal))

    async def push(self, status: str | bytes) -> None:
        """Send a reply, with an enhanced code if it has none, and count the errors."""
        reply = status if isinstance(status, str) else status.decode()
        if reply[0] in "245" and not _HAS_CODE.match(reply):
            code = "5.5.1" if reply[0] == "5" else f"{reply[0]}.0.0"
            reply = f"{reply[:4]}{code} {reply[4:]}"
        self._errors += reply[0] == "5"
        await self._say(reply)
        if self._errors >= MAX_ERRORS:
            raise _Leave(replies.TOO_MANY_ERRORS)

    async def _say(self, *lines: str) -> None:
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode())
        await self._writer.drain()

    async def smtp_HELP(self, _: str | None) -> None:
        await self.push("214 2.0.0 See RFC 5321 and RFC 6409")

    async def smtp_VRFY(self, _: str | None) -> None:
        await self.push("252 2.1.5 Send a message to it")  # RFC 5321, 3.5.3

    # Greeting, TLS and AUTH --------------------------------------------------------------------

    async def smtp_HELO(self, name: str | None) -> None:
        await self._greet(name, extended=False)

    async def smtp_EHLO(self, name: str | None) -> None:
        await self._greet(name, extended=True)

    async def _greet(self, name: str | None, *, extended: bool) -> None:
        if name is None:
            await self.push("501 5.5.4 Syntax: EHLO hostname")
            return
        self._set_rset_state()
        self.session.host_name, self.session.extended_smtp = name, extended
        lines = [self.hostname, *(self._extensions() if extended else ())]
        await self._say(*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}")

    def _extensions(self) -> list[str]:
        rules = self._rules
        names = ["PIPELINING", f"SIZE {rules.max_bytes}", "8BITMIME", "SMTPUTF8"]
        if rules.tls and not self._tls_protocol:
            names.append("STARTTLS")
        if rules.keys and (self._tls_protocol or not rules.is_exposed):
            names.append("AUTH PLAIN LOGIN")
        return [*names, "ENHANCEDSTATUSCODES", "HELP"]

    async def smtp_STARTTLS(self, argument: str | None) -> None:
        if argument:
            await self.push("501 5.5.4 Syntax: STARTTLS")
        elif self._rules.tls is None or self._tls_protocol:
            await self.push("503 5.5.1 There is no TLS to start")
        else:
            await self.push("220 2.0.0 Ready to start TLS")
            await self._start_tls()

    async def _start_tls(self) -> None:
        # From here on the octets go to TLS. What is here already came in the clear, with the
        # command: nobody knows who sent it.
        self._reader._buffer.clear()
        await self._writer.start_tls(self._rules.tls, ssl_handshake_timeout=_HANDSHAKE)
        self.transport = self._reader._transport = self._writer.transport
        self._tls_protocol = True  # as aiosmtpd asks for it
        peer = self.session.peer
        self.session = self._create_session()
        self.session.peer = peer
        self._set_rset_state()

    async def smtp_AUTH(self, argument: str | None) -> None:
        if self.envelope.is_begun:
            await self.push("503 5.5.1 AUTH comes before MAIL")
            return
        mechanism, _, response = (argument or "").partition(" ")
        await super().smtp_AUTH(f"{mechanism.upper()} {response}".strip())

    def _authenticate(self, _: str, auth_data: LoginPassword) -> AuthResult:
        """The password is an API key; the user name may be any."""
        key = self._rules.keys.find(auth_data.password.decode("utf-8", "replace"))
        if key is None or not key.may("send"):
            facts = {"peer": self._peer, "key": key.name if key else ""}
            event(logger, logging.WARNING, "login.refused", **facts)
            return AuthResult(success=False, handled=False)
        return AuthResult(success=True, auth_data=key)

    @property
    def _key(self) -> ApiKey | None:
        key: ApiKey | None = self.session.auth_data
        return key

    @property
    def _peer(self) -> str:
        return str(self.session.peer[0]) if self.session.peer else ""

    # The envelope ------------------------------------------------------------------------------

    async def _is_too_early(self, verb: str) -> bool:
        """Whether something else must come first; then it is said."""
        return bool(await self.check_helo_needed() or await self.check_auth_needed(verb))

    async def smtp_MAIL(self, argument: str | None) -> None:
        if await self._is_too_early("MAIL"):
            return
        if self.envelope.is_begun:
            raise Refused("503 5.5.1 There is a sender already")
        envelope = begin(argument, self._rules.max_bytes)
        if envelope.sender and not self._may_send_from(envelope.sender):
            raise Refused(replies.NOT_YOURS.format(field="MAIL FROM"))
        self.envelope = envelope
        await self.push("250 2.1.0 Sender is fine")

    async def smtp_RCPT(self, argument: str | None) -> None:
        if await self._is_too_early("RCPT"):
            return
        add_recipient(argument, self.envelope)
        await self.push("250 2.1.5 Recipient is fine")

    def _may_send_from(self, sender: Address) -> bool:
        return self._key is None or self._key.may_send_from(sender.address)

    def _check_shown_senders(self, email: Email) -> None:
        """Raises ``Refused`` if a header field shows a sender that the key may not use."""
        if not self._may_send_from(email.from_):
            raise Refused(replies.NOT_YOURS.format(field="From"))
        for name, text in email.headers.items():
            if name.lower() == "sender" and not self._may_send_from(Address.parse(text, name)):
                raise Refused(replies.NOT_YOURS.format(field="Sender"))

    # The message -------------------------------------------------------------------------------

    async def smtp_DATA(self, argument: str | None) -> None:
        if await self._is_too_early("DATA"):
            return
        if argument:
            raise Refused("501 5.5.4 Syntax: DATA")
        if not self.envelope.recipients:
            raise Refused("503 5.5.1 RCPT comes first")
        try:
            await self._reserve(self.envelope.size)
            await self._say("354 End data with <CR><LF>.<CR><LF>")
            reply = await self._receive()
        finally:
            self._release()
            self._set_post_data_state()
        self._errors = self._idle = 0
        await self.push(reply)

    async def _receive(self) -> str:
        """Read the message and store it; returns the reply. Raises ``Refused``."""
        raw = await self._read_message()
        try:
            with self._busy():
                return await self._store(raw)
        except InvalidEmail as error:
            facts = {"field": error.field, "problem": error.problem}
            facts["key"] = self._key.name if self._key else ""
            event(logger, logging.INFO, "message.refused", **facts)
            raise Refused(replies.invalid(error)) from None
        except Unavailable:
            raise Refused(replies.NOT_STORED) from None
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001  # a bug of ours: say where, but quote nothing
            facts = {"error": type(error).__name__, "at": place(error)}
            event(logger, logging.ERROR, "message.failed", **facts)
            raise Refused(replies.FAILED) from None

    async def _read_message(self) -> bytearray:
        """The message without its end, dots as they came. Raises ``Refused``.

        One that is refused is read to its end all the same (RFC 5321, 4.1.1.4), and dropped.
        """
        # The end is a line with a dot; before the first line there is the command's CR LF.
        self._reader._buffer[:0] = b"\r\n"
        content = bytearray()
        refusal: Refused | None = None
        is_over, size = False, 0
        while not is_over:
            try:
                block = await self._heard(self._reader.readuntil(_END))
                is_over = True
            except asyncio.LimitOverrunError as overrun:
                block = await self._reader.readexactly(overrun.consumed)
            size += len(block)
            try:
                if refusal is None:
                    await self._reserve(size)
                    content += block
            except Refused as error:
                refusal = error
                content.clear()
                self._release()
        if refusal is not None:
            raise refusal
        del content[2 - len(_END) :], content[:2]
        return content

    async def _reserve(self, size: int) -> None:
        """Have memory for a message of this size, or raise ``Refused``.

        A message that is larger than most has the most that it may grow to: while it waits here
        for a part, the others would wait for what it holds.
        """
        if size > self._rules.max_bytes:
            raise Refused(replies.TOO_LARGE.format(size=self._rules.max_bytes))
        if size > LARGE:
            size = max(size, self.envelope.size or self._rules.max_bytes)
        missing = size - self._held
        if missing > 0:
            with self._busy():
                if not await self._rules.memory.reserve(missing, _MEMORY_WAIT):
                    raise Refused(replies.NO_MEMORY)
            self._held = size

    def _release(self) -> None:
        self._rules.memory.release(self._held)
        self._held = 0

    async def _store(self, raw: bytearray) -> str:
        call = await self._read(raw)
        self._check_shown_senders(call.email)
        key = call.idempotency_key
        if key is not None and self._key is not None:
            key = f"{self._key.name}:{key}"
        email_id = await self._rules.producer.send(
            call.email, priority=call.priority, idempotency_key=key, vendors=call.vendors
        )
        facts = {"key": self._key.name} if self._key else {}
        event(logger, logging.INFO, "message.stored", id=email_id, **facts)
        return replies.stored(email_id)

    async def _read(self, raw: bytearray) -> submission.SendArguments:
        envelope, vendors = self.envelope, self._rules.producer.config.vendors

        def read() -> submission.SendArguments:
            message = parsing.parse(submission.content(raw))
            return submission.read(message, envelope.sender, envelope.recipients, vendors)

        if len(raw) <= IN_LOOP:
            return read()
        # One at a time: what is made of a message takes several times its size.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._rules.reader, read)


_COMMANDS = [name for name in dir(Session) if name.startswith(("smtp_", "auth_"))]


def _text(line: bytes) -> str | None:
    """A command without its line end; None: it is none."""
    body = line[:-2]
    if len(line) > _MAX_LINE or line[-2:] != b"\r\n" or b"\r" in body or b"\0" in body:
        return None
    with suppress(UnicodeDecodeError):
        return body.decode()
    return None
