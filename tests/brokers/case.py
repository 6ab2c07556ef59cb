"""What a kind of queue brings to the suite of all queues: one ``Case`` in a module of its own.

A new kind joins by a file beside ``beanstalkd.py`` with a case, and a line in ``cases.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest

from mailqueue.config import Config
from mailqueue.queue.broker import LONGEST, Announcement
from tests.servers import Breakable


class Case:
    """One kind of queue, as the suite knows it.

    ``name`` tells cases of the same ``type`` apart. What it promises, beside what each kind does:
    ``has_classes``: high before normal before bulk; ``has_retries``: within each, retries first.
    ``max_delay``: seconds that a job may be put off. ``outlives_kill``: jobs are there when the
    server was killed and started again. ``has_events``: other programs can put events.
    ``has_depth``: it counts its jobs. ``has_foreign``: other programs can put jobs among ours.
    ``has_server``: a server of its own, which may be away. ``has_callbacks``: it tells of callbacks
    that are due. ``has_announcements``: to announce is to do something. ``is_shared``: other
    processes have the same jobs. ``many``: jobs with which it is as quick as with few; ``some``:
    what several threads may have at a time. Fewer, where the server of the tests is a slow one.
    ``environ``: variables that a process needs to reach the server.
    """

    name: ClassVar[str]
    type: ClassVar[str]
    has_classes: ClassVar[bool] = True
    has_retries: ClassVar[bool] = True
    max_delay: ClassVar[float] = float(LONGEST)
    outlives_kill: ClassVar[bool] = True
    has_events: ClassVar[bool] = True
    has_depth: ClassVar[bool] = True
    has_foreign: ClassVar[bool] = True
    has_server: ClassVar[bool] = True
    has_callbacks: ClassVar[bool] = True
    has_announcements: ClassVar[bool] = True
    is_shared: ClassVar[bool] = True
    many: ClassVar[int] = 30_000  # more than MongoDB's queue ever looks at
    environ: ClassVar[Mapping[str, str]] = {}
    some: ClassVar[int] = 320

    def start(self) -> Breakable | None:
        """A private server that runs now; None: nothing can be away, or MongoDB is the server."""
        return None

    def section(self, address: str, name: str) -> Mapping[str, Any]:
        """``queue`` of a configuration: the server at ``address``, and names that are ``name``'s.

        ``address`` may be that of a proxy. There is none where no server is started.
        """
        raise NotImplementedError

    def options(self, config: Config, stack: ExitStack) -> Mapping[str, Any]:
        """What ``open_broker`` needs besides the configuration, where it receives."""
        return {}

    def create(self, config: Config) -> None:
        """Make what must be there before the first job. Nothing, where it makes itself."""

    def remove(self, config: Config) -> None:
        """Remove what ``create`` made; names are of one test only, so jobs may stay."""

    def lose_jobs(self, config: Config) -> None:
        """Lose every job that is not reserved, as any queue may."""
        raise NotImplementedError

    def lose_data(self, server: Breakable) -> None:
        """Kill the server, and start it without the jobs that it had."""
        server.lose_data()

    def restart(self, server: Breakable, *, keep: bool) -> None:
        """Start a killed server again, with its jobs if it has kept them, or without."""
        if keep:
            server.start()
        else:
            self.lose_data(server)

    def store(self, config: Config, announcements: Sequence[Announcement]) -> None:
        """Store the e-mails of these, where the queue itself looks at them."""

    def hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let what was reserved and did not end come again within some seconds."""

    def lose_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let who asks a server that hangs give up within some seconds, as the product does."""

    def put(self, config: Config, body: bytes, suffix: str = "") -> None:
        """Put a job as another program does, with a client of its own."""
        raise NotImplementedError
