"""A connection to an SMTP server that is ready for MAIL: connected, secured, logged in.

Decides: how a connection is opened, and what a reply is: lines of one code, at most 64 KiB. What
comes before a command is no reply, and ends the connection.

Promises: if TLS is configured, no connection is used without it, nor with a certificate that was
not verified; what the server sent before TLS is discarded. The deadline shuts the socket from the
first byte on, during the handshake too. EHLO has the configured ``helo``, else the host's full name
(looked up once per process, for a second at most), else its address.
"""

from __future__ import annotations

import hmac
import re
import select
import smtplib
import socket
import ssl
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache

from mailqueue.config import VendorConfig
from mailqueue.config.vendor_types import TLS_PORTS
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.vendors.wire import CONNECT_SECONDS, failures, smtp_replies
from mailqueue.vendors.wire.deadline import Call
from mailqueue.vendors.wire.host_places import Place
from mailqueue.vendors.wire.smtp_replies import CLOSING, NO_REPLY, Step

MAX_LINE = 8192
MAX_REPLY = 64 * 1024
LOOKUP_SECONDS = 1.0
GOODBYE_SECONDS = 1.0
_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?\r?\n", re.DOTALL)
_NO_EHLO = (500, 501, 502, 504)  # an old server may know HELO
_FULL_NAME = re.compile(r"(?!localhost\.)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")


class StepFailed(Exception):
    """A step of the dialogue failed; ``result`` is what it means for the e-mail."""

    def __init__(self, result: SendResult) -> None:
        super().__init__(result.code)
        self.result = result


class Connection(smtplib.SMTP):
    """smtplib's connection, whose failures name the step. ``fresh``: it carried no e-mail yet."""

    def __init__(
        self, config: VendorConfig, tls: ssl.SSLContext, call: Call, place: Place | None = None
    ) -> None:
        self._config = config
        self._place = place
        self._tls = tls
        self._call = call
        self._received = bytearray()
        self.fresh = True
        self.used_at = 0.0
        keys = config.keys
        self._kind: str = keys.get("tls") or "starttls"
        timeout = min(CONNECT_SECONDS, config.timeout, call.remaining)
        port = keys.get("port") or TLS_PORTS[self._kind]
        try:
            super().__init__(keys["host"], port, local_hostname="", timeout=timeout)
        except smtplib.SMTPConnectError as error:
            reply = error.smtp_error
            raise _step_failed(Step.CONNECT, error.smtp_code, _octets(reply)) from None
        self.local_hostname = keys.get("helo") or host_name() or self._literal

    def close(self) -> None:
        """Close it, and let another process of the host open one."""
        super().close()
        if self._place is not None:
            self._place.release()

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """The hook by which smtplib makes its socket."""
        sock = socket.create_connection((host, port), timeout)
        self._call.attach(sock)
        address = sock.getsockname()[0].partition("%")[0]
        self._literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
        if self._kind == "implicit":
            sock = self._tls.wrap_socket(sock, server_hostname=host)
        self.limit(sock, self._call)
        return sock

    def limit(self, sock: socket.socket, call: Call) -> None:
        """Let no read take longer than the configured ``timeout``, nor than the time left."""
        sock.settimeout(min(self._config.timeout, call.remaining))

    def prepare(self) -> None:
        """EHLO, STARTTLS and AUTH, as far as configured. Raises ``StepFailed``."""
        self._hello()
        if self._kind == "starttls":
            self._start_tls()
        if self._config.keys.get("username"):
            self._log_in()

    def take_over(self, call: Call) -> bool:
        """Serve another e-mail under its own deadline; False: the server has closed it."""
        try:
            if self.sock is None or self.has_unread:
                return False
            call.attach(self.sock)
            self.limit(self.sock, call)
        except (OSError, ValueError):  # of a descriptor that is closed
            return False
        self.fresh = False
        self._call = call
        return True

    def say_goodbye(self) -> bool:
        """QUIT and close; False: the server did not answer."""
        has_answer = False
        with suppress(OSError, smtplib.SMTPException, StepFailed):
            if self.sock is not None:
                self.sock.settimeout(GOODBYE_SECONDS)
            self.docmd("QUIT")
            has_answer = True
        self.close()
        return has_answer

    # Replies -----------------------------------------------------------------------------------

    @property
    def has_unread(self) -> bool:
        """Whether something came that no command asked for, or the end of the connection."""
        sock = self.sock
        if self._received or sock is None:
            return True
        return (isinstance(sock, ssl.SSLSocket) and bool(sock.pending())) or _is_readable(sock)

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Send a command. Unread bytes end the connection: they would be read as its reply."""
        if self._received:
            code, reply = self.getreply()
            self.close()
            raise _step_failed(Step.CONNECT, code if code == CLOSING else NO_REPLY, reply)
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        """Code and text of a reply. Anything else is ``NO_REPLY``, and closes the connection."""
        code, texts, size = b"", list[bytes](), 0
        for line in self._lines():
            size += len(line)
            match = _LINE.fullmatch(line) if size <= MAX_REPLY else None
            if match is None or (code and match[1] != code):
                break
            code = match[1]
            texts.append((match[3] or b"").strip())
            if match[2] != b"-":
                return int(code), b"\n".join(texts)
        self.close()
        return NO_REPLY, b"not an SMTP reply"

    def _lines(self) -> Iterator[bytes]:
        """The lines as they come, up to one that is too long."""
        received = self._received
        while len(received) <= MAX_LINE or b"\n" in received:
            line, end, rest = received.partition(b"\n")
            if end:
                received[:] = rest
                yield bytes(line + end)
            else:
                received += self._read()

    def _read(self) -> bytes:
        try:
            octets: bytes = self.sock.recv(4096) if self.sock is not None else b""
        except OSError as error:
            self.close()
            raise smtplib.SMTPServerDisconnected("lost") from error
        if not octets:
            self.close()
            raise smtplib.SMTPServerDisconnected("closed")
        return octets

    # Steps -------------------------------------------------------------------------------------

    def _hello(self) -> None:
        code, reply = self.ehlo()
        if 200 <= code < 300:
            return
        failure = _step_failed(Step.CONNECT, code, reply)
        if code not in _NO_EHLO:
            raise failure
        try:
            code, reply = self.helo()
        except smtplib.SMTPServerDisconnected:
            raise failure from None  # the reply to EHLO says more
        if not 200 <= code < 300:
            raise _step_failed(Step.CONNECT, code, reply)

    def _start_tls(self) -> None:
        if not self.has_extn("starttls"):
            raise _misconfiguration(failures.TLS, "STARTTLS not offered")
        code, reply = self.docmd("STARTTLS")
        if code != 220 or self.sock is None:
            raise _step_failed(Step.CONNECT, code, reply)
        self._received.clear()  # a third party may have put it there, to be read as part of TLS
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._config.keys["host"])
        self.esmtp_features = {}
        self.does_esmtp = False
        self._hello()

    def _log_in(self) -> None:
        if not self.has_extn("auth"):
            raise _misconfiguration("smtp-auth", "AUTH not offered")
        offered = self.esmtp_features["auth"].upper().split()
        failure = _misconfiguration("smtp-auth", "no usable login")
        for mechanism, answers in self._logins().items():
            if mechanism not in offered:
                continue
            code, reply = self._authenticate(mechanism, answers)
            if code in (235, 503):  # 503: we are logged in already
                return
            failure = _step_failed(Step.LOGIN, code, reply)
            if failure.result.outcome is not Outcome.MISCONFIGURED:
                break
        raise failure

    def _logins(self) -> dict[str, tuple[_Answer, ...]]:
        """The answers to the challenges of each mechanism, the best first. UTF-8 (RFC 4616)."""
        keys = self._config.keys
        user: bytes = keys["username"].encode()
        password: bytes = keys["password"].encode()

        def digest(challenge: bytes) -> bytes:
            return user + b" " + hmac.new(password, challenge, "md5").hexdigest().encode()

        plain = b"\0" + user + b"\0" + password
        logins: dict[str, tuple[_Answer, ...]] = {}
        with suppress(ValueError):  # FIPS forbids MD5
            digest(b"")
            logins["CRAM-MD5"] = (digest,)
        logins["PLAIN"] = (lambda _: plain,)
        logins["LOGIN"] = (lambda _: user, lambda _: password)
        return logins

    def _authenticate(self, mechanism: str, answers: tuple[_Answer, ...]) -> tuple[int, bytes]:
        if mechanism == "PLAIN":  # in one step
            code, reply = self.docmd("AUTH", f"PLAIN {_base64(answers[0](b''))}")
        else:
            code, reply = self.docmd("AUTH", mechanism)
        for answer in answers:
            if code != 334:
                break
            try:
                challenge = b64decode(reply)
            except ValueError:
                return self.docmd("*")
            code, reply = self.docmd(_base64(answer(challenge)))
        return code, reply


_Answer = Callable[[bytes], bytes]


@lru_cache(maxsize=1)
def _host_names() -> list[str]:
    """The host's own name, and the resolver's name for it, which is added once it is known."""
    names = [socket.gethostname()]
    if "." not in names[0]:
        lookup = threading.Thread(target=lambda: names.append(socket.getfqdn()), daemon=True)
        lookup.start()
        lookup.join(LOOKUP_SECONDS)  # DNS may hang
    return names


_lookup_lock = threading.Lock()


def host_name() -> str | None:
    """The full name of this host; None: it has none, or the resolver does not answer in time."""
    with _lookup_lock:
        names = _host_names()
    return next((name for name in names if _FULL_NAME.fullmatch(name)), None)


def _is_readable(sock: socket.socket) -> bool:
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])


def _base64(octets: bytes) -> str:
    return b64encode(octets).decode("ascii")


def _octets(reply: bytes | str) -> bytes:
    return reply.encode() if isinstance(reply, str) else reply


def _step_failed(step: Step, code: int, reply: bytes) -> StepFailed:
    return StepFailed(smtp_replies.result(step, code, reply))


def _misconfiguration(code: str, detail: str) -> StepFailed:
    return StepFailed(_result(Outcome.MISCONFIGURED, code, detail))


def _result(outcome: Outcome, code: str, detail: str) -> SendResult:
    return SendResult(outcome=outcome, code=code, detail=detail)
