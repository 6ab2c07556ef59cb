"""A stage with a responder's settings, and receivers on loopback."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
import trustme

from tests.callbacks.receiver import SECRET, Receiver
from tests.stage import Stage


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def told(stage: Stage) -> Stage:
    """A stage whose application may be called back on loopback."""
    stage.settings["callbacks"] = {"secrets": [SECRET], "allow": ["127.0.0.1"]}
    return stage


@pytest.fixture
def authority() -> trustme.CA:
    """A certificate authority that nobody trusts but who is told to."""
    return trustme.CA()


@pytest.fixture
def untrusted(authority: trustme.CA) -> ssl.SSLContext:
    """TLS of a receiver at 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context
