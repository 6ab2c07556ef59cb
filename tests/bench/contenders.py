"""Who takes part: each contender's script, what it is installed with, and what it keeps.

``durable`` says what a returned enqueue survives; it stands in the tables, so that nobody compares
a promise with a memory. ``pace`` is a guess (jobs drained per second), from which the backlog of a
measurement is made long enough.
"""

from __future__ import annotations

from dataclasses import dataclass

ENQUEUE = ("enqueue-1", "enqueue-8", "enqueue-32", "enqueue-64", "bulk")
DRAIN = ("drain",)
DELIVER = (
    *("deliver-0ms-x8", "deliver-50ms-x32", "deliver-50ms-x64"),
    *("deliver-0ms-x8-2p", "deliver-50ms-x64-2p"),
)
IDLE = ("latency", "memory")
OWN = ("growth", "failover")
POST = ("post-64",)
SMTP = ("smtp-32",)
QUEUES = (*DRAIN, "latency", "deliver-0ms-x8", "deliver-0ms-x8-2p")  # where queues differ
ALL = (*ENQUEUE, *DRAIN, *DELIVER, *IDLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """``server``: a name in ``servers.SERVERS``. ``tests``: those it takes part in.

    ``listens``: it is handed e-mails by HTTP, not in the application's own process.
    ``processes``: how many share the port then.
    """

    name: str
    script: str
    packages: tuple[str, ...]
    server: str
    durable: str
    posts: str
    pace: int
    tests: tuple[str, ...] = ALL
    peer: bool = True
    drain_at: int = 8
    listens: bool = True
    processes: int = 1


JOURNALED = "journal of a majority"
ARQ = ("arq>=0.26", "redis[hiredis]", "uvloop", "aiohttp")
SAQ = ("saq[redis,hiredis]>=0.24", "orjson", "uvloop", "aiohttp")
TASKIQ = ("taskiq[orjson]>=0.11", "taskiq-redis>=1.1", "redis[hiredis]", "uvloop", "aiohttp")
CELERY = ("celery[redis]>=5.5", "redis[hiredis]", "requests")
DRAMATIQ = ("dramatiq[redis,rabbitmq]>=1.18", "redis[hiredis]", "requests")
RQ = ("rq>=2.4", "redis[hiredis]", "requests")
HUEY = ("huey>=2.5", "redis[hiredis]", "requests")
FASTAPI = ("fastapi>=0.115", "uvicorn[standard]>=0.30")
CONTENDERS: tuple[Contender, ...] = (
    Contender(
        name="mailqueue",
        script="ours.py",
        packages=(),
        server="mongodb+beanstalkd",
        durable=JOURNALED,
        posts="its own transport",
        pace=6_500,
        drain_at=64,
        tests=(*ALL, *OWN, *POST, *SMTP),
        peer=False,
    ),
    Contender(
        name="AsyncProducer",
        script="ours_aio.py",
        packages=(),
        server="mongodb+beanstalkd",
        durable=JOURNALED,
        posts="its own transport",
        pace=6_500,
        tests=(*ENQUEUE, *POST),
        peer=False,
        listens=False,
    ),
    Contender(
        name="mailqueue 2p",
        script="ours.py",
        packages=(),
        server="mongodb+beanstalkd",
        durable=JOURNALED,
        posts="its own transport",
        pace=0,
        tests=POST,
        peer=False,
        processes=2,
    ),
    Contender(
        name="mailqueue events",
        script="ours_events.py",
        packages=(),
        server="mongodb+beanstalkd",
        durable=JOURNALED,
        posts="its own transport",
        pace=0,
        tests=("events-100",),
        peer=False,
    ),
    # SQS would be a simulation of it, and a queue in memory has no second process.
    Contender(
        name="mailqueue redis",
        script="ours.py",
        packages=(),
        server="mongodb+redis",
        durable=JOURNALED,
        posts="its own transport",
        pace=6_500,
        drain_at=64,
        tests=QUEUES,
        peer=False,
    ),
    Contender(
        name="mailqueue mongodb",
        script="ours.py",
        packages=(),
        server="mongodb",
        durable=JOURNALED,
        posts="its own transport",
        pace=6_500,
        drain_at=64,
        tests=QUEUES,
        peer=False,
    ),
    Contender(
        name="raw",
        script="raw.py",
        packages=(),
        server="mongodb+beanstalkd",
        durable=JOURNALED,
        posts="http.client",
        pace=10_000,
        peer=False,
    ),
    Contender(
        name="postfix",
        script="",
        packages=(),
        server="postfix",
        durable="queue file, fsync",
        posts="its own transport",
        pace=0,
        tests=SMTP,
    ),
    # arq has no notification: its worker polls (every 5 ms here), which is its latency.
    Contender(
        name="arq",
        script="peer_arq.py",
        packages=ARQ,
        server="redis",
        durable="memory",
        posts="aiohttp",
        pace=2_200,
    ),
    Contender(
        name="arq-aof",
        script="peer_arq.py",
        packages=ARQ,
        server="redis-aof",
        durable="AOF, fsync always",
        posts="aiohttp",
        pace=1_100,
        tests=(*ENQUEUE, *DRAIN, "latency"),
    ),
    # SAQ's sweeper can run a job twice when jobs that are done are kept; see its script.
    Contender(
        name="saq",
        script="peer_saq.py",
        packages=SAQ,
        server="redis",
        durable="memory",
        posts="aiohttp",
        pace=2_600,
    ),
    Contender(
        name="saq-aof",
        script="peer_saq.py",
        packages=SAQ,
        server="redis-aof",
        durable="AOF, fsync always",
        posts="aiohttp",
        pace=2_200,
        tests=(*ENQUEUE, *DRAIN, "latency"),
    ),
    # With its stream broker: acknowledged when done. The list broker would lose e-mail.
    Contender(
        name="taskiq",
        script="peer_taskiq.py",
        packages=TASKIQ,
        server="redis",
        durable="memory",
        posts="aiohttp",
        pace=3_400,
    ),
    Contender(
        name="taskiq-aof",
        script="peer_taskiq.py",
        packages=TASKIQ,
        server="redis-aof",
        durable="AOF, fsync always",
        posts="aiohttp",
        pace=3_400,
        tests=(*ENQUEUE, *DRAIN, "latency"),
    ),
    Contender(
        name="procrastinate",
        script="peer_procrastinate.py",
        packages=("procrastinate>=3.5", "psycopg[binary,pool]", "uvloop", "aiohttp"),
        server="postgresql",
        durable="synchronous commit",
        posts="aiohttp",
        pace=600,
    ),
    # A lock file lets one process of a machine send at a time, so none of the tests with two.
    Contender(
        name="post_office",
        script="peer_post_office.py",
        packages=("django-post_office>=3.10", "psycopg[binary]", "requests"),
        server="postgresql",
        durable="synchronous commit",
        posts="requests",
        pace=6_500,
        tests=tuple(test for test in ALL if not test.endswith("-2p")),
    ),
    Contender(
        name="celery-redis",
        script="peer_celery.py",
        packages=CELERY,
        server="redis",
        durable="memory",
        posts="requests",
        pace=1_050,
    ),
    Contender(
        name="celery-redis-aof",
        script="peer_celery.py",
        packages=CELERY,
        server="redis-aof",
        durable="AOF, fsync always",
        posts="requests",
        pace=700,
        tests=(*ENQUEUE, *DRAIN, "latency"),
    ),
    Contender(
        name="celery-rabbitmq",
        script="peer_celery.py",
        packages=CELERY,
        server="rabbitmq",
        durable="publisher confirms, durable queue",
        posts="requests",
        pace=3_100,
    ),
    # Polls Redis (every 20 ms here), which is its latency; RabbitMQ notifies it.
    Contender(
        name="dramatiq-redis",
        script="peer_dramatiq.py",
        packages=DRAMATIQ,
        server="redis",
        durable="memory",
        posts="requests",
        pace=4_200,
    ),
    Contender(
        name="dramatiq-redis-aof",
        script="peer_dramatiq.py",
        packages=DRAMATIQ,
        server="redis-aof",
        durable="AOF, fsync always",
        posts="requests",
        pace=4_200,
        tests=(*ENQUEUE, *DRAIN, "latency"),
    ),
    Contender(
        name="dramatiq-rabbitmq",
        script="peer_dramatiq.py",
        packages=DRAMATIQ,
        server="rabbitmq",
        durable="publisher confirms, durable queue",
        posts="requests",
        pace=4_700,
    ),
    # Its worker does one job at a time: it cannot send 8 or 64 e-mails at once, as DELIVER would.
    Contender(
        name="rq",
        script="peer_rq.py",
        packages=RQ,
        server="redis",
        durable="memory",
        posts="requests",
        pace=300,
        tests=(*ENQUEUE, *DRAIN, *IDLE),
    ),
    Contender(
        name="rq-aof",
        script="peer_rq.py",
        packages=RQ,
        server="redis-aof",
        durable="AOF, fsync always",
        posts="requests",
        pace=140,
        tests=(*ENQUEUE, *DRAIN, "latency"),
    ),
    # At most once: a worker that dies loses the e-mails it is at; see its script.
    Contender(
        name="huey",
        script="peer_huey.py",
        packages=HUEY,
        server="redis",
        durable="memory",
        posts="requests",
        pace=3_500,
    ),
    Contender(
        name="huey-aof",
        script="peer_huey.py",
        packages=HUEY,
        server="redis-aof",
        durable="AOF, fsync always",
        posts="requests",
        pace=3_000,
        tests=(*ENQUEUE, *DRAIN, "latency"),
    ),
    # What a team builds that has no such server: FastAPI, one process, in front of its queue.
    *(
        Contender(
            name=f"fastapi-{name}",
            script=script,
            packages=(*packages, *FASTAPI),
            server=server,
            durable=durable,
            posts="",
            pace=1,
            tests=POST,
        )
        for name, script, packages, server, durable in (
            ("arq", "web_arq.py", ARQ, "redis", "memory"),
            ("arq-aof", "web_arq.py", ARQ, "redis-aof", "AOF, fsync always"),
            ("celery-redis", "web_celery.py", CELERY, "redis", "memory"),
            ("celery-redis-aof", "web_celery.py", CELERY, "redis-aof", "AOF, fsync always"),
            (
                "celery-rabbitmq",
                "web_celery.py",
                CELERY,
                "rabbitmq",
                "publisher confirms, durable queue",
            ),
        )
    ),
)
