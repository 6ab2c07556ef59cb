"""The process ``mailqueue smtp``.

Decides: who may come at all. Without API keys only this host; from elsewhere only with a key, over
TLS. Bounds: connections as many as ``smtp.connections`` and as the system has file descriptors for.

Promises: on the signal to stop nobody new is admitted, and what was begun is finished: a message
that a client is sending, for up to ``GRACE`` seconds, and what is being stored. SIGHUP has it read
its certificate and its configuration anew.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path

from mailqueue.aio import AsyncProducer
from mailqueue.config import Config, Smtp, is_production
from mailqueue.config.reload import STORING, UNUSED, Source
from mailqueue.errors import ConfigError
from mailqueue.logs import event
from mailqueue.service import Service, is_loopback, listen, room_for, run_async, url
from mailqueue.service.keys import KeyRing
from mailqueue.service.server import BACKLOG
from mailqueue.smtp import submission
from mailqueue.smtp.connections import Connections, Memory
from mailqueue.smtp.session import Rules, protocol

logger = logging.getLogger(__name__)

GRACE = 30.0  # seconds
LIVE = {*STORING, "http.keys"}  # what a reload takes over, and what is not for this service
OTHERS = {*UNUSED, "http"}


def serve(config: Config, host: str | None, port: int | None, file: Path | None = None) -> int:
    """See ``mailqueue.smtp.serve``."""
    settings = config.smtp
    settings = replace(settings, host=host or settings.host)
    settings = replace(settings, port=settings.port if port is None else port)
    keys = KeyRing(config.http.keys)
    tls = _tls(settings)
    _check_exposure(settings, keys, tls)
    logging.getLogger("mail.log").disabled = True  # aiosmtpd's: it has addresses
    return run_async("mailqueue smtp", partial(_serve, config, settings, keys, tls, file))


def _tls(settings: Smtp) -> ssl.SSLContext | None:
    if settings.tls == "none" or settings.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate, settings.key_)
    except OSError as error:  # TLS errors are a kind of it
        reason = error.strerror or type(error).__name__
        raise ConfigError([f"smtp.certificate: cannot be used: {reason}"]) from None
    return context


def _renew(settings: Smtp, tls: ssl.SSLContext | None) -> None:
    """Show new clients the certificate that the file has now; the old one if it cannot be used."""
    try:
        if tls is not None and _tls(settings) is not None:  # as a whole, before a part is replaced
            tls.load_cert_chain(settings.certificate or "", settings.key_)
            event(logger, logging.INFO, "certificate.renewed")
    except ConfigError as error:
        event(logger, logging.ERROR, "certificate.not_renewed", problem=error)


def _reload(file: Path | None, settings: Smtp, tls: ssl.SSLContext | None, rules: Rules) -> None:
    """Read the certificate and the configuration again, for the clients from now on."""
    _renew(settings, tls)
    if file is None:
        return

    def check(config: Config) -> None:
        _check_exposure(settings, KeyRing(config.http.keys), tls)

    config = Source(file, LIVE, OTHERS).read(rules.producer.config, check)
    if config is not None:
        rules.keys.replace(config.http.keys)
        rules.producer.reload(config)


def _check_exposure(settings: Smtp, keys: KeyRing, tls: ssl.SSLContext | None) -> None:
    if is_loopback(settings.host):
        return
    problems = []
    if not keys:
        problems.append("http.keys: none, so smtp.host may be a loopback address only")
    if tls is None:
        problems.append("smtp.certificate: needed unless smtp.host is a loopback address")
    if problems:
        raise ConfigError(problems)


async def _serve(
    config: Config,
    settings: Smtp,
    keys: KeyRing,
    tls: ssl.SSLContext | None,
    file: Path | None,
    service: Service,
    stopping: asyncio.Event,
) -> None:
    listener = listen(settings.host, settings.port)
    connections = Connections(room_for(settings.connections))
    reader = ThreadPoolExecutor(1, "reader")
    max_bytes = submission.max_bytes(config)
    async with aclosing(AsyncProducer(config)) as producer:  # MongoDB need not be there yet
        rules = Rules(
            producer=producer,
            keys=keys,
            connections=connections,
            # The largest one fits in any case, beside the small ones.
            memory=Memory(max(settings.max_memory, 2 * max_bytes)),
            reader=reader,
            hostname=socket.gethostname(),
            max_bytes=max_bytes,
            timeout=settings.timeout,
            is_exposed=not is_loopback(settings.host),
            tls=tls,
            is_implicit=settings.tls == "implicit",
        )
        loop = asyncio.get_running_loop()
        server = await loop.create_server(partial(protocol, rules), sock=listener, backlog=BACKLOG)
        service.reload = partial(_reload, file, settings, tls, rules)
        _say_started(settings, keys, tls)
        service.ready(url("smtps" if rules.is_implicit else "smtp", listener))
        await stopping.wait()
        server.close()
        await connections.finish(GRACE)
    reader.shutdown()
    event(logger, logging.INFO, "smtp.stopped")


def _say_started(settings: Smtp, keys: KeyRing, tls: ssl.SSLContext | None) -> None:
    production = is_production()
    # Without keys everybody on this host may send.
    level = logging.INFO if production and keys else logging.WARNING
    event(
        logger,
        level,
        "smtp.started",
        mode="production" if production else "simulated",
        auth="required" if keys else "none: http.keys is empty, so this host only",
        tls=settings.tls if tls else "none",
    )
