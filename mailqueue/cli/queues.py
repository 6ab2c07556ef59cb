"""What is wrong with the queue that the configuration names, and what to do about it.

Decides: what is looked at in each kind of queue.

Assumes: no e-mail is lost with the queue, it is only sent later. Events of other programs are.

Promises: nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mailqueue.cli.context import Context
from mailqueue.config import Beanstalkd, Memory, MongoDBQueue, Redis, Sqs
from mailqueue.config.checks import is_loopback
from mailqueue.errors import MissingExtra, QueueUnavailable
from mailqueue.monitoring.finding import Finding, Level, Slug
from mailqueue.monitoring.words import age, count
from mailqueue.queue.broker import INTAKE

if TYPE_CHECKING:
    from mailqueue.queue.redis.inspection import Facts
    from mailqueue.queue.sqs.inspection import Facts as SqsFacts


NOT_INSTALLED = "install it, or choose another queue.type"

Check = Callable[[Any, Context], Iterator[Finding]]  # of the settings of a kind


def examine(context: Context) -> Iterator[Finding]:
    """Look at the queue that is used, as far as it is outside MongoDB."""
    settings = context.config.broker
    if context.config.queue is not None and context.config.beanstalkd != Beanstalkd():
        todo = "remove it; or remove queue, if beanstalkd is to be used"
        text = "beanstalkd: does not count beside queue"
        yield Finding(Level.WARN, "config", text, todo, Slug.QUEUE_SETTINGS)
    yield from _OUTSIDE_MONGODB.get(type(settings), _nothing)(settings, context)


def examine_mongodb(context: Context) -> Iterator[Finding]:
    """Look at what stands in MongoDB where that is the queue. Raises ``StoreUnavailable``."""
    return _IN_MONGODB.get(type(context.config.broker), _nothing)(context.config.broker, context)


def _nothing(_: Any, __: Context) -> Iterator[Finding]:
    return iter(())


# beanstalkd ---------------------------------------------------------------------------------------


def _beanstalkd(settings: Beanstalkd, _: Context) -> Iterator[Finding]:
    from mailqueue.queue.beanstalkd import tube  # lazily, as each kind

    for server in settings.servers:
        try:
            connection = tube.Connection(server, settings.tube)
            try:
                numbers, jobs = connection.server_stats(), connection.stats()
                paused = connection.tube_stats().get("pause-time-left", 0)
            finally:
                connection.close()
            events = list(_events(server, settings.tube + INTAKE))
        except QueueUnavailable as error:
            todo = "start it; until then e-mails are stored, and sent when it is back"
            text = f"{server}: not reached ({error})"
            yield Finding(Level.FAIL, "beanstalkd", text, todo, Slug.QUEUE_UNAVAILABLE)
            continue
        ready = count(jobs["ready"], "job")
        yield Finding(Level.OK, "beanstalkd", f"{server}: reached, {ready} ready")
        yield from _weak(server, numbers, jobs)
        if paused:
            todo = "a beanstalkd client paused it: pause-tube with 0 seconds ends that"
            text = f"{server}: the tube is paused for {age(float(paused))}, no consumer gets a job"
            yield Finding(Level.WARN, "beanstalkd", text, todo, Slug.QUEUE_SETTINGS)
        yield from events


def _events(server: str, name: str) -> Iterator[Finding]:
    """What other programs have put there; nothing where none does. Raises ``QueueUnavailable``."""
    from mailqueue.queue.beanstalkd import tube  # lazily

    with closing(tube.Connection(server, name)) as connection:
        jobs, watching = connection.stats(), connection.tube_stats().get("current-watching", 0)
    if jobs["ready"] and watching in (0, 1):  # one of them is this connection
        text = f"{server}: {count(jobs['ready'], 'event')} on {name}, and nobody stores them"
        todo = "start one: mailqueue intake"
        yield Finding(Level.FAIL, "intake", text, todo, Slug.INTAKE)
    if jobs["buried"]:
        todo = "the log says why (event.buried); docs/intake.md says how to look at them and kick"
        text = f"{server}: {count(jobs['buried'], 'buried event')} on {name}"
        yield Finding(Level.WARN, "intake", text, todo, Slug.INTAKE)


def _weak(
    server: str, numbers: Mapping[str, int | str], jobs: Mapping[str, int]
) -> Iterator[Finding]:
    # beanstalkd says 0 where no binlog is active (its protocol.txt).
    if numbers.get("binlog-current-index") == 0:
        todo = "start it with -b DIR; without, a restart loses jobs and e-mails are sent later"
        text = f"{server}: has no binlog"
        yield Finding(Level.FAIL, "beanstalkd", text, todo, Slug.QUEUE_FORGETS)
    if numbers.get("draining") in ("true", True):
        text = f"{server}: is draining, it takes no new jobs"
        yield Finding(Level.WARN, "beanstalkd", text, "restart it", Slug.QUEUE_SETTINGS)
    if jobs["buried"]:
        todo = "peek-buried them: they are another program's, or their e-mail is damaged"
        text = f"{server}: {count(jobs['buried'], 'buried job')}"
        yield Finding(Level.WARN, "beanstalkd", text, todo, Slug.BURIED_JOBS)


# Redis --------------------------------------------------------------------------------------------


def _redis(settings: Redis, context: Context) -> Iterator[Finding]:
    try:
        from mailqueue.queue.redis.inspection import inspect  # lazily

        facts = inspect(settings, context.config.delivery.ttr)
    except MissingExtra as error:
        yield Finding(Level.FAIL, "redis", str(error), NOT_INSTALLED, Slug.QUEUE_UNAVAILABLE)
        return
    except QueueUnavailable as error:
        todo = "start it, or correct queue.url; until then e-mails are stored, and sent later"
        text = f"{settings.server}: not reached ({error})"
        yield Finding(Level.FAIL, "redis", text, todo, Slug.QUEUE_UNAVAILABLE)
        return
    ready = count(facts.jobs["ready"], "job")
    yield Finding(Level.OK, "redis", f"{settings.server}: reached, {ready} ready")
    yield from _weak_redis(settings.server, facts)
    if settings.is_open and not is_loopback(settings.host):
        todo = "the network can read the password and the events, and change jobs: use rediss://"
        text = f"{settings.server}: is reached without TLS"
        yield Finding(Level.WARN, "redis", text, todo, Slug.QUEUE_SETTINGS)
    yield from _redis_events(settings, facts)


def _weak_redis(server: str, facts: Facts) -> Iterator[Finding]:
    if facts.forgets:
        todo = "set appendonly yes: a restart loses jobs (e-mails are sent later), and events"
        text = f"{server}: keeps nothing over a restart"
        yield Finding(Level.FAIL, "redis", text, todo, Slug.QUEUE_FORGETS)
    if facts.evicts:
        todo = "set maxmemory-policy noeviction: what is evicted are all jobs of a class at once"
        text = f"{server}: may evict our keys when its memory is full ({facts.evicts})"
        yield Finding(Level.WARN, "redis", text, todo, Slug.QUEUE_SETTINGS)
    if facts.jobs["buried"]:
        todo = f"look at them with ZRANGE '{facts.buried_key}' 0 -1, then DEL: they are no e-mails"
        text = f"{server}: {count(facts.jobs['buried'], 'buried job')}"
        yield Finding(Level.WARN, "redis", text, todo, Slug.BURIED_JOBS)


def _redis_events(settings: Redis, facts: Facts) -> Iterator[Finding]:
    place = f"{settings.server}: "
    if facts.events["ready"] and not facts.has_intake:
        text = f"{place}{count(facts.events['ready'], 'event')} on {settings.tube + INTAKE}"
        text += ", and nobody stores them"
        todo = "start one: mailqueue intake"
        yield Finding(Level.FAIL, "intake", text, todo, Slug.INTAKE)
    if facts.events["buried"]:
        todo = "the log says why (event.buried); docs/intake.md says how to look at them"
        text = f"{place}{count(facts.events['buried'], 'buried event')} of {settings.tube + INTAKE}"
        yield Finding(Level.WARN, "intake", text, todo, Slug.INTAKE)


# SQS ----------------------------------------------------------------------------------------------

HOUR, DAY = 3600, 86_400
IN_FLIGHT = 100_000  # SQS gives no more than 120,000 to all receivers together
RECEIVES = 10  # of which each is trouble: MongoDB was away, or a process ended


def _sqs(settings: Sqs, _: Context) -> Iterator[Finding]:
    try:
        from mailqueue.queue.sqs.inspection import inspect  # lazily
    except MissingExtra as error:
        yield Finding(Level.FAIL, "sqs", str(error), NOT_INSTALLED, Slug.QUEUE_UNAVAILABLE)
        return
    for facts in inspect(settings):
        if facts.error:
            todo = "check credentials, queue.region, the URL and the right sqs:GetQueueAttributes;"
            todo += " until then e-mails are stored, and sent when it is reached again"
            text = f"{facts.use}: not reached ({facts.error})"
            yield Finding(Level.FAIL, "sqs", text, todo, Slug.QUEUE_UNAVAILABLE)
            continue
        ready = count(facts.ready, "message")
        yield Finding(Level.OK, "sqs", f"{facts.use}: reached, about {ready} ready")
        yield from _weak_sqs(facts)


def _weak_sqs(facts: SqsFacts) -> Iterator[Finding]:
    is_events = facts.use == "intake"
    if 0 < facts.max_receives < RECEIVES:
        todo = f"set maxReceiveCount to {RECEIVES} or more, or remove the redrive policy"
        what = "events go" if is_events else "jobs go"
        text = f"{facts.use}: {what} to the dead-letter queue after {facts.max_receives} receives,"
        text += " so an outage of MongoDB empties it"
        yield Finding(Level.WARN, "sqs", text, todo, Slug.QUEUE_SETTINGS)
    if is_events and not facts.max_receives:
        todo = "give it a dead-letter queue: an event that is refused is gone after its retention"
        text = f"{facts.use}: has no redrive policy"
        yield Finding(Level.WARN, "sqs", text, todo, Slug.QUEUE_SETTINGS)
    if facts.retention < (4 * DAY if is_events else HOUR):
        what = "events are lost" if is_events else "jobs are lost, and found again by the sweeper"
        text = f"{facts.use}: keeps messages for {age(facts.retention)} only, then {what}"
        todo = "raise its MessageRetentionPeriod"
        yield Finding(Level.WARN, "sqs", text, todo, Slug.QUEUE_SETTINGS)
    if facts.in_flight > IN_FLIGHT:
        text = f"{facts.use}: {facts.in_flight} messages in flight; above 120,000 nobody gets any"
        todo = "stop what receives and does not end them: another program, or too many consumers"
        yield Finding(Level.WARN, "sqs", text, todo, Slug.QUEUE_SETTINGS)


# MongoDB alone ------------------------------------------------------------------------------------


def _mongodb(settings: MongoDBQueue, context: Context) -> Iterator[Finding]:
    store = context.store
    yield Finding(Level.OK, "queue", "none: consumers find in MongoDB what is due")
    with store.operation():
        hello = store.client.admin.command("hello")
    if settings.change_stream and not {"setName", "msg"} & hello.keys():
        todo = "make it a replica set (one node is enough), or remove queue.change_stream"
        text = "this MongoDB has no change streams"
        yield Finding(Level.WARN, "queue", text, todo, Slug.QUEUE_SETTINGS)
    events = store.events().depth()
    if events["ready"]:
        text = f"{count(events['ready'], 'event')} in MongoDB that nobody has taken up"
        todo = "see that one runs: mailqueue intake"
        yield Finding(Level.WARN, "intake", text, todo, Slug.INTAKE)
    if events["buried"]:
        text = f"{count(events['buried'], 'buried event')} in MongoDB"
        todo = "each says why (buried.problem); docs/intake.md says how to look at them"
        yield Finding(Level.WARN, "intake", text, todo, Slug.INTAKE)


# In memory ----------------------------------------------------------------------------------------


def _memory(_: Memory, __: Context) -> Iterator[Finding]:
    todo = "choose another queue.type for all but tests and development"
    text = "memory: of one process, not shared with any other"
    yield Finding(Level.WARN, "queue", text, todo, Slug.QUEUE_SETTINGS)


_OUTSIDE_MONGODB: Mapping[type, Check] = {
    Beanstalkd: _beanstalkd,
    Redis: _redis,
    Sqs: _sqs,
    Memory: _memory,
}
_IN_MONGODB: Mapping[type, Check] = {MongoDBQueue: _mongodb}
