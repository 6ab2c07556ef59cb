"""One word for each way in which a connection fails.

Decides: the ``code`` and the outcome of an attempt that the vendor did not answer. It looks at the
standard library's exceptions in the chain, however often a client library wrapped them.

====================  =========================================================================
``deadline``          the attempt's deadline passed
``dns``               the vendor's host name was not resolved
``connect_refused``   the connection was refused
``connect_timeout``   no connection in time
``connect_failed``    no connection for another reason (no route, reset)
``tls``               no verified TLS connection
``proxy``             no way through the proxy; ``proxy-407`` names its answer
``invalid_request``   a value of the configuration cannot be put on the wire
``read_timeout``      no answer in time
``connection_lost``   closed or reset before the answer was complete
``bad_answer``        the answer is not of the protocol, or far too long
``early_answer``      a yes before the e-mail was sent completely: it proves nothing
====================  =========================================================================
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.vendors.wire.deadline import Call, DeadlinePassed
from mailqueue.vendors.wire.proxy import ProxyRefused

DEADLINE = "deadline"
DNS = "dns"
CONNECT_REFUSED = "connect_refused"
CONNECT_TIMEOUT = "connect_timeout"
CONNECT_FAILED = "connect_failed"
TLS = "tls"
INVALID_REQUEST = "invalid_request"
READ_TIMEOUT = "read_timeout"
CONNECTION_LOST = "connection_lost"
BAD_ANSWER = "bad_answer"
EARLY_ANSWER = "early_answer"

_Table = tuple[tuple[tuple[type[BaseException], ...], str], ...]

# The first row counts that has any exception of the chain. A certificate error is a ValueError too.
_CONNECTING: _Table = (
    ((DeadlinePassed,), DEADLINE),
    ((socket.gaierror,), DNS),
    ((ConnectionRefusedError,), CONNECT_REFUSED),
    ((ssl.SSLError,), TLS),
    ((TimeoutError,), CONNECT_TIMEOUT),
    ((ValueError,), INVALID_REQUEST),
)
_ANSWERING: _Table = (
    ((TimeoutError,), READ_TIMEOUT),
    ((ConnectionError, ssl.SSLError), CONNECTION_LOST),
    ((smtplib.SMTPServerDisconnected,), CONNECTION_LOST),
)


def code(error: BaseException, call: Call) -> str:
    """The word for this exception, out of the table above."""
    if call.has_expired:
        return DEADLINE
    if isinstance(error, ProxyRefused):
        return error.code
    chain = tuple(_causes(error))
    connected = call.written or any(isinstance(e, smtplib.SMTPServerDisconnected) for e in chain)
    table, other = (_ANSWERING, BAD_ANSWER) if connected else (_CONNECTING, CONNECT_FAILED)
    for kinds, word in table:
        if any(isinstance(cause, kinds) for cause in chain):
            return word
    return other


def result(code: str, written: bool, *, our_fault: bool = False) -> SendResult:
    """The result if no complete answer came: not sent if nothing was ``written``, else unknown."""
    outcome = Outcome.UNKNOWN if written else Outcome.UNAVAILABLE
    if code == INVALID_REQUEST:
        outcome = Outcome.MISCONFIGURED
    return SendResult(outcome=outcome, code=code, answered=False, our_fault=our_fault)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
