"""Where AWS lends credentials: the endpoint of the container, else that of the machine.

Decides: which one is asked, and what its failure means. ``AWS_CONTAINER_CREDENTIALS_RELATIVE_URI``
or ``..._FULL_URI`` name the container's; where neither is set it is the machine's (EC2, IMDSv2).

Promises: all questions end by the deadline; a token is sent over https or to the few hosts for
which AWS's own SDK allows plain http; nothing of a URL, a key or a token is in an error.

==================================================  ========================================
no credentials, since                               outcome
==================================================  ========================================
no endpoint is named, and the machine's is not      misconfigured
there or is switched off
the endpoint says 4xx, or has no role               misconfigured
the container's URL or token cannot be used         misconfigured
no answer from the container's endpoint, 5xx, 429,  unavailable
an answer without credentials, no time left
==================================================  ========================================
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import quote, urlsplit

from mailqueue.record import Outcome
from mailqueue.vendors.aws import Credentials
from mailqueue.vendors.deadline import Call

TIMEOUT = 2.0  # to connect, and for each read

_CONTAINER = "http://169.254.170.2"
_MACHINE = "http://169.254.169.254"
_PLAIN_HTTP = {"169.254.170.2", "169.254.170.23", "fd00:ec2::23", "localhost"}
_ROLES = "/latest/meta-data/iam/security-credentials/"
_FIELDS = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")
_MAX_ANSWER = 64 * 1024


class NoCredentials(Exception):
    """Why nothing was lent; ``aws_role`` makes a value of it."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


@dataclass(frozen=True, slots=True, repr=False)
class Lent:
    """Credentials, and the moment (by the wall clock) at which they end."""

    credentials: Credentials
    ends_at: float


def fetch(environ: Mapping[str, str], deadline: float) -> Lent:
    """What the endpoint that the environment names has. Raises NoCredentials, nothing else."""
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = _CONTAINER + relative if relative else environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if url:
        return _read(_container(url, environ, deadline))
    return _read(_machine(environ, deadline))


def _container(url: str, environ: Mapping[str, str], deadline: float) -> bytes:
    if not _may_have_a_token(url):
        raise NoCredentials(Outcome.MISCONFIGURED, "the role endpoint is neither https nor local")
    token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    file = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    try:
        if file:  # it is renewed, so read each time
            token = Path(file).read_text("utf-8").strip()
    except (OSError, ValueError):
        detail = "the role's token file cannot be read"
        raise NoCredentials(Outcome.MISCONFIGURED, detail) from None
    return _ask("GET", url, {"Authorization": token} if token else {}, deadline)


def _machine(environ: Mapping[str, str], deadline: float) -> bytes:
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise NoCredentials(Outcome.MISCONFIGURED, "no keys and no role are configured")
    base = (environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _MACHINE).rstrip("/")
    lease = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    try:
        token = _ask("PUT", base + "/latest/api/token", lease, deadline)
    except NoCredentials as failed:
        if time.monotonic() >= deadline:  # then it may well be there
            raise
        detail = f"no keys are configured, and {failed}"
        raise NoCredentials(Outcome.MISCONFIGURED, detail) from None
    headers = {"X-aws-ec2-metadata-token": token.decode("latin-1").strip()}
    names = _ask("GET", base + _ROLES, headers, deadline).decode("latin-1").split()
    if not names:
        raise NoCredentials(Outcome.MISCONFIGURED, "the machine has no role")
    return _ask("GET", base + _ROLES + quote(names[0], safe=""), headers, deadline)


def _may_have_a_token(url: str) -> bool:
    """True for https, and for the plain http hosts that are this machine or its hypervisor."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "http":
            return host in _PLAIN_HTTP or ipaddress.ip_address(host).is_loopback
        return parts.scheme == "https" and bool(host)
    except ValueError:
        return False


def _ask(method: str, url: str, headers: Mapping[str, str], deadline: float) -> bytes:
    try:
        status, body = _exchange(method, url, headers, deadline)
    except (OSError, HTTPException, ValueError):  # ValueError: what cannot be put on the wire
        raise NoCredentials(Outcome.UNAVAILABLE, "the role endpoint did not answer") from None
    if status == 200:
        return body
    refused = 400 <= status < 500 and status != 429
    outcome = Outcome.MISCONFIGURED if refused else Outcome.UNAVAILABLE
    raise NoCredentials(outcome, f"the role endpoint answered {status}")


def _exchange(
    method: str, url: str, headers: Mapping[str, str], deadline: float
) -> tuple[int, bytes]:
    """One question, without proxies or redirects, under the deadline as a whole."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    with Call(deadline) as call:
        timeout = min(TIMEOUT, call.remaining)
        with closing(kind(parts.netloc, timeout=timeout)) as connection:
            connection.connect()
            call.attach(connection.sock)
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read(_MAX_ANSWER)


def _read(body: bytes) -> Lent:
    try:
        found = json.loads(body)
        values = [found[name] for name in _FIELDS]
        if not all(isinstance(value, str) and value for value in values):
            raise TypeError
        ends_at = datetime.fromisoformat(values.pop()).timestamp()
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
        detail = "the role endpoint's answer has no credentials"
        raise NoCredentials(Outcome.UNAVAILABLE, detail) from None
    return Lent(Credentials(*values), ends_at)
