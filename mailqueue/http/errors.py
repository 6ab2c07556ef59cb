"""What goes wrong, as an answer: one JSON object in two vocabularies.

Decides: the status and name of each refusal. ``statusCode``, ``name``, ``message`` are Resend's,
which its SDKs read. ``type``, ``title``, ``status``, ``detail``, ``errors`` are those of RFC 9457;
an entry of ``errors`` has a JSON pointer (RFC 6901) into the request's body. The body is the same
for both; only who asks for ``application/problem+json`` gets that content type.

Promises: no answer quotes what was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailqueue.errors import InvalidEmail, StoreUnavailable

RETRY_AFTER = 2  # seconds; a store that is known to be away is tried again within one

TITLES: Mapping[str, str] = {
    "application_error": "The service failed",
    "conflict": "The e-mail is no longer in a state for this",
    "invalid_api_key": "There is no such API key",
    "invalid_idempotency_key": "The idempotency key is not valid",
    "invalid_idempotent_request": "The idempotency key was used for another e-mail",
    "method_not_allowed": "This address has no such method",
    "missing_api_key": "An API key is needed",
    "not_found": "There is nothing here",
    "rate_limit_exceeded": "Too many requests at a time",
    "request_timeout": "The request came too slowly",
    "request_too_large": "The request is too large",
    "restricted_api_key": "The API key is not for this",
    "service_unavailable": "The e-mail store does not answer",
    "unsupported_media_type": "The content is in another form than this call takes",
    "validation_error": "The request is not valid",
}
"""The names of all errors, each with its title."""

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of ``errors``: the place in the request's body, and what is wrong there."""

    pointer: str
    detail: str


class Problem(Exception):
    """A request that is refused, or could not be served."""

    def __init__(
        self,
        status: int,
        name: str,
        message: str,
        *,
        errors: Sequence[Entry] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.name, self.message = status, name, message
        self.errors = errors
        self.headers = headers

    def body(self) -> bytes:
        """The answer's body."""
        return json.dumps(
            {
                "statusCode": self.status,
                "name": self.name,
                "message": self.message,
                "type": f"urn:mailqueue:problem:{self.name}",
                "title": TITLES[self.name],
                "status": self.status,
                "detail": self.message,
                "errors": [{"pointer": e.pointer, "detail": e.detail} for e in self.errors],
            }
        ).encode()


def pointer(field: str) -> str:
    """The JSON pointer of a field as ``InvalidEmail`` names it: ``to[1]`` is ``/to/1``."""
    if field == "email":  # as a whole
        return ""
    if field == "send_at":
        return "/scheduled_at"
    steps = [name or number for name, number in _STEP.findall(field)]
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def invalid(error: InvalidEmail, place: str | None = None) -> Problem:
    """What is wrong with an e-mail. ``place``: its pointer, if it is not that of the field."""
    path = pointer(error.field) if place is None else place
    if error.index is not None:
        path = f"/{error.index}{path}"
    if error.field == "idempotency_key":  # alone it is valid
        return Problem(
            409,
            "invalid_idempotent_request",
            f"Idempotency-Key {error.problem}",
            errors=[Entry(path.removesuffix("/idempotency_key"), error.problem)],
        )
    return refused(path, error.problem)


def refused(path: str, problem: str) -> Problem:
    """One value of the request's body is not accepted."""
    message = f"{name_of(path) or 'the request'}: {problem}"
    return Problem(422, "validation_error", message, errors=[Entry(path, problem)])


def name_of(path: str) -> str:
    """A place as the rest of mailqueue writes it: ``/to/1`` is ``to[1]``."""
    return re.sub(r"(^|\.)(\d+)", r"[\2]", path.removeprefix("/").replace("/", "."))


def unavailable(_: StoreUnavailable) -> Problem:
    """MongoDB did not answer: nothing is promised, and the call may be repeated."""
    message = (
        "The e-mail store does not answer. Repeat the request, with the same Idempotency-Key"
        " if it sends an e-mail."
    )
    return Problem(503, "service_unavailable", message, headers=[retry_after()])


def retry_after(seconds: int = RETRY_AFTER) -> tuple[bytes, bytes]:
    """The header that says when to try again."""
    return b"retry-after", str(seconds).encode()


def not_found(message: str = "There is no such e-mail.") -> Problem:
    """Nothing is there, or nothing that this caller may see."""
    return Problem(404, "not_found", message)
