"""What a vendor brings to the suite of its events: one ``EventsCase`` in a module of its own.

A new vendor joins by a file beside ``sendgrid.py`` with a ``CASE``, and a line in ``cases.py``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mailqueue.config import Config
from mailqueue.vendors import events
from mailqueue.vendors.events.source import EventRequest, EventSource, EventType

NOW = datetime(2026, 5, 28, 20, 30, tzinfo=UTC)
EMAIL_ID = "68f0c0ffee0000000000a001"
ANN = "ann@example.net"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One event as the vendor writes it, and what it has to mean.

    ``more`` are further attributes of the ``VendorEvent`` that it becomes.
    """

    event: Mapping[str, Any]
    type: EventType
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.type}-{json.dumps(self.event)[:60]}"


@dataclass(frozen=True, kw_only=True)
class EventsCase:
    """A vendor's webhook, as the suite knows it.

    ``config``: the vendor's entry in the configuration without ``events``. ``settings``, ``other``
    and ``both`` are ``events`` with one secret, with another one, and with both of them.
    ``request`` wraps a body in a request that is authentic under ``settings``; ``body`` writes
    events as the vendor does. ``forgeries`` are changes of an authentic request, by name, each of
    which must be refused. ``batch``: a body may hold several events. ``vectors`` are published
    requests (settings, request), all authentic. ``prepare`` gives a reader what it would ask other
    servers for.
    """

    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    other: Mapping[str, Any]
    both: Mapping[str, Any]
    request: Callable[[bytes], EventRequest]
    samples: Sequence[Sample]
    body: Callable[[Sequence[Any]], bytes]
    forgeries: Mapping[str, Callable[[EventRequest], EventRequest]]
    batch: bool = False
    vectors: Sequence[tuple[Mapping[str, Any], EventRequest]] = ()
    away_status: int = 503
    prepare: Callable[[EventSource], object] = lambda _: None

    def source(self, settings: Mapping[str, Any] | None = None) -> EventSource:
        """The reader under these settings (usual: ``settings``)."""
        entry = {**self.config, "events": dict(self.settings if settings is None else settings)}
        source = events.load(Config.from_mapping({"vendors": [entry]}).vendors[0])
        assert source is not None
        self.prepare(source)
        return source

    def authentic(self, *samples: Any) -> EventRequest:
        """An authentic request with these events."""
        return self.request(self.body(samples))


def request(body: bytes, headers: Mapping[str, str] | None = None) -> EventRequest:
    """A POST as it came."""
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    return EventRequest(method="POST", headers=lower, body=body, now=NOW)


def without(name: str) -> Callable[[EventRequest], EventRequest]:
    """The request without this header."""
    return lambda original: changed(original, headers=_less(original.headers, name))


def _less(headers: Mapping[str, str], name: str) -> dict[str, str]:
    assert name in headers
    return {key: value for key, value in headers.items() if key != name}


def with_header(name: str, value: str) -> Callable[[EventRequest], EventRequest]:
    """The request with another value of this header."""
    return lambda original: changed(original, headers={**original.headers, name: value})


def changed(original: EventRequest, **fields: Any) -> EventRequest:
    """The request with these attributes instead."""
    names = ("method", "headers", "body", "now")
    return EventRequest(**{name: getattr(original, name) for name in names} | fields)


# Vendors that sign nothing -----------------------------------------------------------------------

PLAIN = {"basic_auth": "user:invented-word"}
PLAIN_OTHER = {"basic_auth": "user:another-word", "secret": "another-word"}
PLAIN_BOTH = {"basic_auth": "user:invented-word", "secrets": ["another-word", "third-word"]}


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def plain(body: bytes) -> EventRequest:
    """A request with the credentials of ``PLAIN``."""
    return request(body, {"Authorization": basic("user:invented-word")})


PLAIN_FORGERIES = {
    "no credentials": without("authorization"),
    "another user": with_header("authorization", basic("root:invented-word")),
    "another password": with_header("authorization", basic("user:invented-wordy")),
    "no base64": with_header("authorization", "Basic ?"),
    "not ASCII": with_header("authorization", "Basic \xe4\udcff"),
    "an empty token": with_header("authorization", "Bearer "),
    "the password as a token": with_header("authorization", "Bearer invented-word"),
}
