"""Events: entries that other programs add to a stream of their own, ``<tube>.intake``.

Decides: by which key an event is known when it comes again, and what becomes of it.

Assumes: as ``beanstalkd.events``: an event may come again until it has ended. The stream is ours
alone; any program adds to it (``XADD mailqueue.intake * event '{"email": …}'``).

Promises: the same event has the same key, and two events have no key in common. Every failure is
``QueueUnavailable``. An event that is too large is not even fetched. What was read and ended is
removed from the stream, so that it takes no memory. Used by one thread at a time.

The group. All intakes are the consumer group ``mailqueue``, and in it one consumer, since it makes
no difference which of them reads an event. An event that was read and did not end within ``IDLE``
seconds is read again by any of them; so it is at once when it is given back. The consumer's name is
drawn at random when the group is made. It lives and dies with the stream, so it tells this stream
from one that is made after the data was lost.

The key of an event: the consumer's name, the entry's id, and a hash of the body. Ids only grow as
long as a stream lives. After a crash, a server that writes its log once a second may lack the
newest entries, and whoever adds entries may choose their ids; then only the body tells two apart.

Buried events go to the stream ``{<tube>.intake}.buried``, with all their fields and their first id.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any
from uuid import uuid4

from mailqueue.config.queue import Redis
from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.broker import INTAKE, End, Event
from mailqueue.queue.redis.connection import Connection
from mailqueue.queue.redis.scripts import Command

IDLE = 60  # seconds after which another intake reads an event that did not end
MAX_BYTES = 65_536

_BEGIN = """
local stream, group, name = KEYS[1], 'mailqueue', nil
local is_new = true
if redis.call('EXISTS', stream) == 1 then
  for _, each in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    if each[2] == group then is_new = false end
  end
end
if is_new then redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM') end
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  if string.sub(each[2], 1, 7) == 'intake-' then name = name or each[2] end
end
if not name then
  name = ARGV[1]
  redis.call('XGROUP', 'CREATECONSUMER', stream, group, name)
end
"""

# KEYS: the stream. ARGV: a name for a new consumer, how many at most, milliseconds until an event
# is read again, from where to look for those, the longest body. Returns the consumer's name, where
# to look the next time, the id after which new events come, and of each event its id and its body.
_READ = """
local events = {}
local again = redis.call('XAUTOCLAIM', stream, group, name, ARGV[3], ARGV[4], 'COUNT', ARGV[2])
for _, entry in ipairs(again[2]) do
  if entry and entry[2] then events[#events + 1] = entry end
end
local room = ARGV[2] - #events
if room > 0 then
  local new = redis.call('XREADGROUP', 'GROUP', group, name, 'COUNT', room, 'STREAMS', stream, '>')
  for _, entry in ipairs(new and new[1][2] or {}) do events[#events + 1] = entry end
end
local reply = {name, again[1], ''}
local facts = redis.call('XINFO', 'STREAM', stream)
for i = 1, #facts, 2 do
  if facts[i] == 'last-generated-id' then reply[3] = facts[i + 1] end
end
for _, entry in ipairs(events) do
  local body = ''
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'event' then body = entry[2][i + 1] end
  end
  if #body > tonumber(ARGV[5]) then body = '' end
  reply[#reply + 1] = entry[1]
  reply[#reply + 1] = body
end
return reply
"""

# ARGV: a name for a new consumer, milliseconds after which an event is read again, ids.
_GIVE_BACK = """
for i = 3, #ARGV do
  redis.call('XCLAIM', stream, group, name, 0, ARGV[i], 'IDLE', ARGV[2], 'JUSTID')
end
return #ARGV - 2
"""

# KEYS: the stream, that of the buried. ARGV: "delete" or "bury", ids.
_END = """
for i = 2, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  redis.call('XACK', KEYS[1], 'mailqueue', ARGV[i])
  if entry and ARGV[1] == 'bury' then
    redis.call('XADD', KEYS[2], '*', 'id', ARGV[i], unpack(entry[2], 1, math.min(#entry[2], 1000)))
  end
  redis.call('XDEL', KEYS[1], ARGV[i])
end
return #ARGV - 1
"""

# KEYS: as above. Returns how many are ready, reserved, buried, and the seconds since an intake
# looked (empty: none ever did).
_DEPTH = """
local all, reserved, idle = redis.call('XLEN', KEYS[1]), 0, ''
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    if group[2] == 'mailqueue' then
      reserved = group[6]
      for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'mailqueue')) do
        if idle == '' or each[6] < idle then idle = each[6] end
      end
    end
  end
end
return {all - reserved, reserved, redis.call('XLEN', KEYS[2]), tostring(idle)}
"""


def _new_name() -> str:
    return f"intake-{uuid4().hex}"


def stream_names(settings: Redis) -> tuple[str, str]:
    """The stream of events, and that of the buried ones; both are on one node of a cluster."""
    stream = settings.tube + INTAKE
    return stream, "{" + stream + "}.buried"


class EventStream:
    """The events of one server. One thread reserves and ends them."""

    def __init__(self, settings: Redis, outage: Outage | None = None) -> None:
        self.name = settings.server
        self._settings = settings
        self._stream, self._buried = stream_names(settings)
        self.place = f"stream {self._stream} of {self.name}"
        self._outage = outage or Outage(f"redis {settings.server}")
        self._connection: Connection | None = None
        self._look_from: str | bytes = "0-0"  # for events to be read again
        self._reserved: set[str] = set()

    def reserve(self, timeout: int, limit: int = 1) -> list[Event]:
        """Wait up to ``timeout`` whole seconds for an event; with it come up to ``limit`` in all.

        An empty list: there was none. Raises ``QueueUnavailable``; the outage is logged once, and
        so is its end.
        """
        with self._outage.listen():
            return self._reserve(timeout, limit)

    def _reserve(self, timeout: int, limit: int) -> list[Event]:
        until = time.monotonic() + timeout
        while True:
            connection = self._open()
            events, last_id = self._read(connection, limit)
            rest = until - time.monotonic()
            if events or rest <= 0:
                return events
            wait = max(1, round(1000 * min(rest, connection.longest_wait)))  # 0 would be for ever
            connection.ask("XREAD", "COUNT", 1, "BLOCK", wait, "STREAMS", self._stream, last_id)

    def _read(self, connection: Connection, limit: int) -> tuple[list[Event], bytes]:
        arguments: Command = (_new_name(), limit, IDLE * 1000, self._look_from, MAX_BYTES)
        reply = connection.ask("EVAL", _BEGIN + _READ, 1, self._stream, *arguments)
        consumer, self._look_from, last_id, *parts = reply
        bodies = zip(parts[::2], parts[1::2], strict=True)
        events = [self._event(consumer, id_, body) for id_, body in bodies]
        self._reserved.update(event.handle for event in events)
        return events, last_id

    @staticmethod
    def _event(consumer: bytes, id_: bytes, body: bytes) -> Event:
        name = id_.decode("ascii")
        digest = sha256(body).hexdigest()[:32]
        key = f"intake:{consumer.decode()[7:]}:{name}:{digest}"
        return Event(name, body, key, handle=name)

    def end(self, events: Sequence[Event], how: End) -> None:
        """End events that were reserved here; one that cannot be ended comes again."""
        ids = [event.handle for event in events]
        if ids:
            keys = (self._stream, self._buried)
            with suppress(QueueUnavailable), self._outage.listen():
                self._open().ask("EVAL", _END, 2, *keys, how.word, *ids)
            self._reserved.difference_update(ids)

    def give_back(self) -> None:
        """Let anybody have at once what is reserved here."""
        ids, self._reserved = sorted(self._reserved), set()
        if ids:
            arguments: Command = (self._stream, _new_name(), IDLE * 1000, *ids)
            with suppress(QueueUnavailable), self._outage.listen():
                self._open().ask("EVAL", _BEGIN + _GIVE_BACK, 1, *arguments)

    def close(self) -> None:
        """Give back what is reserved here, and close."""
        self.give_back()
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> Connection:
        if self._connection is None or self._connection.broken:
            self._connection = Connection(self._settings)
        return self._connection


def depth(settings: Redis) -> dict[str, int]:
    """Events by state; raises ``QueueUnavailable``."""
    connection = Connection(settings)
    try:
        ready, reserved, buried, _ = _facts(connection, settings)
    finally:
        connection.close()
    return {"ready": ready, "reserved": reserved, "delayed": 0, "buried": buried}


def seconds_without_intake(connection: Connection, settings: Redis) -> float | None:
    """Since when no intake has looked for events; None: none ever has."""
    *_, idle = _facts(connection, settings)
    return int(idle) / 1000 if idle else None


def _facts(connection: Connection, settings: Redis) -> Any:
    return connection.ask("EVAL", _DEPTH, 2, *stream_names(settings))
