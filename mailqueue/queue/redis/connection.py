"""One connection to a Redis server, by redis-py.

Decides: what is said of a server that refuses, and when a connection is thrown away: after any
trouble.

Assumes: one thread at a time uses a connection. redis-py's own connection (``redis.Connection``) is
used as it is, without its pool and its clients: these have locks, which a signal handler could find
held by the call that it interrupts.

Promises: every failure is ``QueueUnavailable``, whose text has no key, password or body in it. A
server that says nothing for ``queue.timeout`` seconds is given up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import redis
from redis.connection import parse_url

from mailqueue.config.queue import Redis
from mailqueue.errors import QueueUnavailable
from mailqueue.queue.redis.scripts import LONGEST_WAIT, Command

OLDEST = (6, 2)  # has ZADD LT, XAUTOCLAIM, and BLPOP with fractions of a second

# What the first word of a refusal means to a person.
_REFUSALS = {
    "AuthenticationError": "wants another user or password",
    "AuthenticationWrongNumberOfArgsError": "wants another user or password",
    "NoPermissionError": "does not allow this user a command or a key (ACL)",
    "ReadOnlyError": "is a replica, which takes no writes",
    "OutOfMemoryError": "has reached its maxmemory",
    "BusyLoadingError": "is loading its data",
    "MISCONF": "cannot write its data to disk, and takes no writes",
    "WRONGTYPE": "has something else under a name of ours",
    "MOVED": "is a node of a cluster that has other keys",
    "MovedError": "is a node of a cluster that has other keys",
    "CLUSTERDOWN": "is a node of a cluster that is down",
    "ClusterDownError": "is a node of a cluster that is down",
    "CROSSSLOT": "wants all keys in one slot",
    "NOREPLICAS": "has too few replicas for writes",
    "BUSY": "is busy with a script",
    "InvalidResponse": "is no Redis server: it speaks another protocol",
}


class Connection:
    """Connected, or ``broken``. ``owed``: replies that are still to be read.

    ``longest_wait``: seconds that a command may ask the server to wait.
    """

    def __init__(self, settings: Redis) -> None:
        arguments = parse_url(settings.url)  # type: ignore[no-untyped-call]  # redis-py's own
        kind = arguments.pop("connection_class", redis.Connection)
        if kind is redis.SSLConnection:
            arguments |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        seconds = settings.timeout
        arguments |= {"socket_timeout": seconds, "socket_connect_timeout": seconds, "protocol": 2}
        self._wire = kind(**arguments)
        # For a command that waits: its reply must come before the server counts as away.
        self.longest_wait = min(LONGEST_WAIT, seconds / 2)
        self.broken = False
        self._timed_out = False
        self.refused = False  # the server's answer was no
        self.owed = 0
        with self._exchange():
            self._wire.connect()
        self._check()

    def ask(self, *command: str | bytes | int) -> Any:
        """Send one command and wait for its reply."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and wait for all replies."""
        self.send(*commands)
        return [self.read() for _ in commands]

    def send(self, *commands: Command) -> None:
        """Send commands in one write; ``read`` gets a reply for each."""
        with self._exchange():
            self._wire.send_packed_command(self._wire.pack_commands(commands))
            self.owed += len(commands)

    def read(self) -> Any:
        """The next reply that is owed."""
        with self._exchange():
            reply = self._wire.read_response(disable_decoding=True)
            self.owed -= 1
            return reply

    def can_read(self) -> bool:
        """Whether a reply, or the end of the connection, is there."""
        with self._exchange():
            return bool(self._wire.can_read(0))

    def facts(self, section: str) -> dict[str, str]:
        """What the server says of itself; nothing where it may not."""
        with self._exchange(), suppress(redis.exceptions.NoPermissionError):
            self._wire.send_command("INFO", section)
            text = self._wire.read_response(disable_decoding=True).decode("utf-8", "replace")
            return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {}

    def _check(self) -> None:
        """Whether it is a server that we can use."""
        version = self.facts("server").get("redis_version", "")
        numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
        if numbers and numbers < OLDEST:
            self.close()
            needed = ".".join(map(str, OLDEST))
            raise QueueUnavailable(f"redis: version {version}, and {needed} or newer is needed")
        if self.facts("replication").get("role") == "slave":
            self.close()
            raise QueueUnavailable(f"redis: {_REFUSALS['ReadOnlyError']}")

    @property
    def was_lost(self) -> bool:
        """Whether it broke, and another may work: no server that hangs, or says no."""
        return self.broken and not (self._timed_out or self.refused)

    def close(self) -> None:
        """Close; harmless when repeated."""
        self.broken = True
        self._wire.disconnect()

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        if self.broken:
            raise QueueUnavailable("redis: the connection is closed")
        try:
            yield
        except (redis.RedisError, OSError, ValueError) as error:
            self._timed_out = isinstance(error, redis.TimeoutError | TimeoutError)
            self.refused = isinstance(error, redis.ResponseError)
            self.close()
            raise QueueUnavailable(f"redis: {_problem(error)}") from error
        except BaseException:  # the thread was interrupted, perhaps in the middle of a reply
            self.close()
            raise


def _problem(error: Exception) -> str:
    """What is wrong, in words of ours: the server's may quote keys."""
    below = error.__context__ if isinstance(error.__context__, OSError) else error
    kind, text = type(error).__name__, str(error)
    word = text.partition(" ")[0]
    if "ACL failure in script" in text or "executing the script can't" in text:  # 7 and 6
        return _REFUSALS["NoPermissionError"]
    if "DB index is out of range" in text:
        return "has no database of that number"
    return _REFUSALS.get(kind) or _REFUSALS.get(word) or type(below).__name__
