"""A connection to an SMTP server that is ready for MAIL: connected, secured, logged in.

Decides: how a connection is opened, and what a reply means at each step (the table in ``smtp``).

Promises: no connection is used without TLS where TLS is configured, nor with a certificate that
was not verified; the deadline shuts the socket from the first byte on, during the handshake too.
"""

from __future__ import annotations

import smtplib
import socket
import ssl

from mailqueue.config import VendorConfig
from mailqueue.record import Outcome, SendResult
from mailqueue.vendors import failures, smtp_replies
from mailqueue.vendors.base import CONNECT_SECONDS
from mailqueue.vendors.deadline import Call
from mailqueue.vendors.smtp_replies import Step

PORTS = {"starttls": 587, "implicit": 465, "none": 25}


class Failed(Exception):
    """A step failed; ``result`` says what that means."""

    def __init__(self, result: SendResult) -> None:
        super().__init__(result.code)
        self.result = result


class Connection(smtplib.SMTP):
    """smtplib's, with the steps that it hides told apart. ``fresh``: no e-mail went over it yet."""

    def __init__(self, config: VendorConfig, tls: ssl.SSLContext, call: Call) -> None:
        self._config = config
        self._tls = tls
        self._call = call
        self.fresh = True
        keys = config.keys
        self._kind: str = keys.get("tls") or "starttls"
        timeout = min(CONNECT_SECONDS, config.timeout, call.remaining)
        port = keys.get("port") or PORTS[self._kind]
        try:
            super().__init__(keys["host"], port, local_hostname="", timeout=timeout)
        except smtplib.SMTPConnectError as error:
            raise Failed(_refused(Step.CONNECT, error)) from None
        # EHLO by our own address: a host's name would have to be looked up, which can hang.
        self.local_hostname = self._literal

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """smtplib's seam for a socket of one's own."""
        sock = socket.create_connection((host, port), timeout)
        self._call.attach(sock)
        address = sock.getsockname()[0]
        self._literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
        if self._kind == "implicit":
            sock = self._tls.wrap_socket(sock, server_hostname=host)
        self.limit(sock, self._call)
        return sock

    def limit(self, sock: socket.socket, call: Call) -> None:
        """No single read may take longer than the configured time, nor than what is left."""
        sock.settimeout(min(self._config.timeout, call.remaining))

    def prepare(self) -> None:
        """EHLO, STARTTLS and AUTH, as far as configured."""
        try:
            self._secure()
        except smtplib.SMTPResponseException as error:
            raise Failed(_refused(Step.CONNECT, error)) from None
        if self._config.keys.get("username"):
            self._log_in()

    def _secure(self) -> None:
        self.ehlo_or_helo_if_needed()
        if self._kind == "starttls":
            if not self.has_extn("starttls"):
                raise Failed(_result(Outcome.MISCONFIGURED, failures.TLS, "STARTTLS not offered"))
            self.starttls(context=self._tls)
            self.ehlo_or_helo_if_needed()

    def take_over(self, sock: socket.socket, call: Call) -> None:
        """Serve another e-mail under its own deadline."""
        self.fresh = False
        call.attach(sock)
        self.limit(sock, call)

    def _log_in(self) -> None:
        keys = self._config.keys
        try:
            self.login(keys["username"], keys["password"])
        except smtplib.SMTPNotSupportedError:
            raise Failed(_result(Outcome.MISCONFIGURED, "smtp-auth", "AUTH not offered")) from None
        except smtplib.SMTPAuthenticationError as error:
            raise Failed(_refused(Step.LOGIN, error)) from None
        except smtplib.SMTPServerDisconnected:
            raise
        except (smtplib.SMTPException, UnicodeError):  # no mechanism in common; not ASCII
            raise Failed(_result(Outcome.MISCONFIGURED, "smtp-auth", "no usable login")) from None


def _result(outcome: Outcome, code: str, detail: str) -> SendResult:
    return SendResult(outcome=outcome, code=code, detail=detail)


def _refused(step: Step, error: smtplib.SMTPResponseException) -> SendResult:
    reply = error.smtp_error
    return smtp_replies.result(
        step, error.smtp_code, reply.encode() if isinstance(reply, str) else reply
    )
