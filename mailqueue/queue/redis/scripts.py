"""The jobs of one tube in Redis: which keys there are, and the scripts that change them.

Decides: where a job is, and what moves it. ``connection`` carries the commands, ``receiver`` and
``broker`` say when. Pure.

Assumes: Redis 6.2 or newer. It runs one script at a time, so each of them is a single step for all
clients. A job may be doubled, early, late or lost.

Promises: the clock is the server's. All keys have one hash tag, so they are on one node of a
cluster. Whoever does not hold a job's reservation cannot end it. With the memory full (no more than
``maxmemory``), puts are refused, but jobs can be taken and ended: such a script begins with a write
that frees memory, and Redis then lets it finish.

The keys of the tube ``mailqueue``, each a sorted set::

    {mailqueue}:high:retry         member  6b09608f33974bc99bbf66b3     the e-mail's id
    {mailqueue}:high               score   1764261836123456             from when it may be taken,
    {mailqueue}:normal:retry                                            in microseconds
    {mailqueue}:normal
    {mailqueue}:bulk:retry
    {mailqueue}:bulk
    {mailqueue}:reserved           member  4:6b09608f33974bc99bbf66b3   by number, whose it was
                                   score   1764262016123456             when its time to run is over
    {mailqueue}:buried             member  4:6b09608f33974bc99bbf66b3
                                   score   1764261836123456             since when
    {mailqueue}:wake               a list: empty, or one token

A taken job is in ``reserved``, and its score there is the token of its reservation: a script that
ends the job does so only while the score is still that. So an end that comes late, when the time to
run is over and another has the job, changes nothing.

A job that is put while it is there already keeps the earlier of the two times. One that is put
while it is reserved is a second job, since its e-mail may have changed after the first was read.

Waiting. Who finds nothing waits for the list ``wake`` (``BLPOP``), at most until the next job is
due. Whoever puts a job leaves one token there, unless there is one; it wakes one client. Who takes
as many jobs as he may and leaves some leaves a token as well, so one wakes the next. Who finds
nothing removes it: it was for jobs that are gone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from mailqueue.lifecycle.outcomes import PRIORITIES, RETRY_PRIORITIES
from mailqueue.queue.broker import (
    LONGEST,
    STATES,
    Announcement,
    End,
    Holder,
    Job,
    email_id_of,
    turns,
)

Command = tuple[str | bytes | int, ...]

LEVELS = sorted({*PRIORITIES.values(), *RETRY_PRIORITIES.values()})
NAMES = [f"{name}{suffix}" for name in ("high", "normal", "bulk") for suffix in (":retry", "")]
LONGEST_WAIT = 1.0  # seconds between two looks; it bounds what a lost token costs
_MICROSECONDS = 1_000_000
_GIVE_BACK = "give back"

# KEYS: 1 to 6 the jobs by urgency, 7 reserved, 8 buried, 9 wake.
_BEGIN = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function wake()
  if redis.call('LLEN', KEYS[9]) == 0 then redis.call('RPUSH', KEYS[9], '') end
end
"""

# ARGV: of each job its level, its delay, its body.
_PUT = """
local soon = false
for i = 1, #ARGV, 3 do
  redis.call('ZADD', KEYS[tonumber(ARGV[i])], 'LT', now + ARGV[i + 1], ARGV[i + 2])
  soon = soon or tonumber(ARGV[i + 1]) <= 1000000
end
if soon then wake() end
return #ARGV / 3
"""

# ARGV: how many at most, the time to run. Returns the token, the microseconds until the next job is
# due (empty: there is none), and the jobs, the most urgent first.
_TAKE = """
local limit = tonumber(ARGV[1])
local ended = redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', now, 'LIMIT', 0, limit)
for _, member in ipairs(ended) do
  local level = tonumber(string.sub(member, 1, 1))
  redis.call('ZREM', KEYS[7], member)
  if level and level >= 1 and level <= 6 then
    redis.call('ZADD', KEYS[level], 'LT', now, string.sub(member, 3))
  end
end
local token = string.format('%.0f', now + ARGV[2])
local reply = {token, ''}
for level = 1, 6 do
  local room = limit + 2 - #reply
  if room > 0 then
    local jobs = redis.call('ZRANGEBYSCORE', KEYS[level], '-inf', now, 'LIMIT', 0, room)
    for _, body in ipairs(jobs) do
      redis.call('ZREM', KEYS[level], body)
      redis.call('ZADD', KEYS[7], token, level .. ':' .. body)
      reply[#reply + 1] = level .. ':' .. body
    end
  end
end
if #reply == 2 then
  redis.call('DEL', KEYS[9])
  local next = math.huge
  for key = 1, 7 do
    local first = redis.call('ZRANGE', KEYS[key], 0, 0, 'WITHSCORES')
    if first[2] then next = math.min(next, tonumber(first[2])) end
  end
  if next < math.huge then reply[2] = string.format('%.0f', next - now) end
elseif #reply == limit + 2 then
  for level = 1, 6 do
    if redis.call('ZCOUNT', KEYS[level], '-inf', now) > 0 then
      wake()
      break
    end
  end
end
return reply
"""

# ARGV: of each job its member of "reserved", its token, how it ends, and the delay. Returns how
# many were still reserved.
_END = """
local ended, soon = 0, false
for i = 1, #ARGV, 4 do
  local member, how, delay = ARGV[i], ARGV[i + 2], tonumber(ARGV[i + 3])
  local score = redis.call('ZSCORE', KEYS[7], member)
  if score and tonumber(score) == tonumber(ARGV[i + 1]) then
    ended = ended + 1
    redis.call('ZREM', KEYS[7], member)
    if how == 'bury' then
      redis.call('ZADD', KEYS[8], now, member)
    elseif how == 'give back' then
      redis.call('ZADD', KEYS[tonumber(string.sub(member, 1, 1))], 0, string.sub(member, 3))
      soon = true
    elseif how ~= 'delete' then
      redis.call('ZADD', KEYS[tonumber(how)], 'LT', now + delay, string.sub(member, 3))
      soon = soon or delay <= 1000000
    end
  end
end
if soon then wake() end
return ended
"""

# Returns how many are ready, reserved, delayed, buried. Whose time to run is over is ready.
_DEPTH = """
local ready, all = redis.call('ZCOUNT', KEYS[7], '-inf', now), 0
local reserved = redis.call('ZCARD', KEYS[7]) - ready
for level = 1, 6 do
  local due = redis.call('ZCOUNT', KEYS[level], '-inf', now)
  ready, all = ready + due, all + redis.call('ZCARD', KEYS[level]) - due
end
return {ready, reserved, all, redis.call('ZCARD', KEYS[8])}
"""


class Tube:
    """The commands over one tube's keys, and what their replies say."""

    def __init__(self, name: str, ttr: int) -> None:
        tag = "{" + name + "}"
        self.name = name
        self.wake, self.buried = f"{tag}:wake", f"{tag}:buried"
        self._keys = [f"{tag}:{key}" for key in (*NAMES, "reserved", "buried", "wake")]
        self._ttr = ttr * _MICROSECONDS
        self._turns = turns()

    def put(self, announcements: Iterable[Announcement]) -> Command:
        """Put jobs."""
        arguments: list[str | int] = []
        for each in announcements:
            body = each.email_id.binary.hex()
            arguments += (_level(each.priority), _microseconds(each.delay), body)
        return self._script(_PUT, arguments)

    def take(self, limit: int) -> Command:
        """Reserve up to ``limit`` jobs; ``jobs`` reads the reply."""
        return self._script(_TAKE, (limit, self._ttr))

    def jobs(self, reply: Sequence[bytes], holder: Holder) -> tuple[list[Job], float]:
        """What was taken; if nothing, in how many seconds to look again at the latest."""
        token, wait, *members = reply
        seconds = int(wait) / _MICROSECONDS if wait else LONGEST_WAIT
        jobs = [self._job(member, token, holder) for member in members]
        return jobs, min(LONGEST_WAIT, max(0.001, seconds))

    def _job(self, member: bytes, token: bytes, holder: Holder) -> Job:
        body = member[2:]
        email_id = email_id_of(body.decode("latin-1"))
        return Job(email_id, next(self._turns), holder, (member, token), body)

    def end(self, ends: Mapping[Job, End]) -> Command:
        """End jobs; those that are not reserved any more as they were are left alone."""
        arguments: list[str | bytes | int] = []
        for job, end in ends.items():
            how = _level(end.priority) if end.word == "release" else end.word
            arguments += (*job.handle, how, _microseconds(end.delay))
        return self._script(_END, arguments)

    def give_back(self, jobs: Iterable[Job]) -> Command:
        """Have jobs ready at once, before the others of their level."""
        ended = [part for job in jobs for part in (*job.handle, _GIVE_BACK, 0)]
        return self._script(_END, ended)

    def depth(self) -> Command:
        """Count; ``counts`` reads the reply."""
        return self._script(_DEPTH, ())

    @staticmethod
    def counts(reply: Sequence[int]) -> dict[str, int]:
        """The number of jobs by state."""
        return dict(zip(STATES, reply, strict=True))

    def _script(self, text: str, arguments: Iterable[str | bytes | int]) -> Command:
        """The text goes with each command, so that no server lacks it (``SCRIPT FLUSH``)."""
        return ("EVAL", _BEGIN + text, len(self._keys), *self._keys, *arguments)


def _level(priority: int) -> int:
    """1 to 6; a priority that a person set by hand has the level of the next less urgent one."""
    return 1 + bisect_left(LEVELS[:-1], priority)


def _microseconds(delay: float) -> int:
    return round(min(float(LONGEST), max(0.0, delay)) * _MICROSECONDS)
