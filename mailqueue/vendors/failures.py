"""One word for what happened to a connection, whichever client library wrapped it how often.

Decides: the ``code`` of a result that no answer of the vendor gives. Only the standard library's
exceptions at the bottom of the chain are looked at.

====================  =========================================================================
``deadline``          the attempt's deadline passed
``dns``               the vendor's host name was not resolved
``connect_refused``   the connection was refused
``connect_timeout``   no connection in time
``connect_failed``    no connection for another reason (no route, reset, closed)
``tls``               no verified TLS connection
``invalid_request``   what the configuration says cannot be put on the wire
``read_timeout``      no answer in time after the request went out
``connection_lost``   closed or reset after the request went out
``bad_answer``        the answer is not of the protocol, or far too long
====================  =========================================================================
"""

from __future__ import annotations

import http.client
import smtplib
import socket
import ssl
from collections.abc import Iterator

from mailqueue.vendors.deadline import Call, DeadlinePassed

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

_Table = tuple[tuple[tuple[type[BaseException], ...], str], ...]

# The first row that any exception of the chain belongs to. A certificate error is a ValueError too.
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
    ((ConnectionError, ssl.SSLError, http.client.IncompleteRead), CONNECTION_LOST),
    ((smtplib.SMTPServerDisconnected,), CONNECTION_LOST),
)


def code(error: BaseException, call: Call) -> str:
    """The word for this exception, out of the table above."""
    if call.expired:
        return DEADLINE
    table, other = (_ANSWERING, BAD_ANSWER) if call.written else (_CONNECTING, CONNECT_FAILED)
    chain = tuple(_causes(error))
    for kinds, word in table:
        if any(isinstance(cause, kinds) for cause in chain):
            return word
    return other


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
