"""The replies that say what became of a message, with their enhanced codes (RFC 3463).

Decides: 250 means stored. 4xx: nothing is promised and the client should try again. 5xx: it should
not. Promises: no reply quotes what was sent.
"""

from __future__ import annotations

from mailqueue.errors import InvalidEmail

NOT_STORED = "451 4.3.0 Not stored, since the database does not answer: try again later"
FAILED = "451 4.3.0 Not stored, because of an error here: try again later"
NO_MEMORY = "452 4.3.1 Too many messages at a time: try again later"
TOO_MANY_CONNECTIONS = "421 4.3.2 Too many connections: try again later"
STOPPING = "421 4.3.2 The service is stopping: try again later"
TIMEOUT = "421 4.4.2 Nothing heard for too long"
TOO_MANY_ERRORS = "421 4.7.0 Too many errors"
NO_HTTP = "421 4.7.0 This is SMTP, not HTTP"
NOT_YOURS = "550 5.7.1 {field}: this API key may not send from there"
BARE_LINE_END = "550 5.5.2 A line of the message ends in a bare CR or LF (RFC 5321, 2.3.8)"
TOO_LARGE = "552 5.3.4 The message is larger than {size} bytes"
NEEDS_TLS = "530 5.7.0 Must issue a STARTTLS command first"
NEEDS_AUTH = "530 5.7.0 Authentication required"
NOT_AN_ADDRESS = "553 5.1.3 Not a valid address"
NEEDS_SMTPUTF8 = "553 5.6.7 An address outside ASCII needs SMTPUTF8"

_LENGTH = 500  # octets of a reply; 512 with its code's end (RFC 5321, 4.5.3.1.5)


def stored(email_id: str) -> str:
    return f"250 2.0.0 Stored as {email_id}"


def invalid(error: InvalidEmail) -> str:
    """The reply to a message that is not accepted; it names the field."""
    code = "552 5.3.4" if "limits.max_size" in error.problem else "550 5.6.0"
    text = f"{code} {error.field}: {error.problem}"
    return text.encode("ascii", "replace").decode()[:_LENGTH]
