"""The verbs for the ways in: the servers, and new API keys.

Decides: what a person is told about a key. A secret is shown once, and stored nowhere. A server's
package is imported when it is started: it may need an extra that is not installed.
"""

from __future__ import annotations

import json
from typing import Any

from mailqueue import logs
from mailqueue.cli.context import Context, Report, UsageError
from mailqueue.errors import MissingExtra
from mailqueue.queue import refuse_memory
from mailqueue.service import keys


def intake(context: Context) -> Report:
    """Store the events of other programs, until a signal."""
    from mailqueue.intake import run

    refuse_memory(context.config)
    logs.configure()
    return Report(None, [], run(context.config, context.file))


def key(context: Context) -> Report:
    """A new secret, and the entry of ``http.keys`` that lets it in."""
    options, secret = context.options, keys.new_secret()
    entry: dict[str, Any] = {"name": options.name, "sha256": keys.digest_of(secret)}
    entry |= {"scope": options.scope}
    if options.senders:
        entry["from"] = options.senders
    note = "the first line is the secret, shown only now; the second belongs into http.keys"
    return Report({"secret": secret, "entry": entry}, [secret, json.dumps(entry)], notes=[note])


def http(context: Context) -> Report:
    """Serve until a signal."""
    from mailqueue.http import serve

    logs.configure()
    options = context.options
    code = serve(
        context.config, options.host, options.port, context.file, dashboard=options.dashboard
    )
    return Report(None, [], code)


def responder(context: Context) -> Report:
    """Post callbacks, until a signal."""
    from mailqueue.callbacks import run

    logs.configure()
    return Report(None, [], run(context.config, context.file))


def metrics(context: Context) -> Report:
    """Serve metrics until a signal."""
    MissingExtra.unless("metrics", "prometheus-client", "the metrics are Prometheus'")
    from mailqueue.monitoring import server

    logs.configure()
    options = context.options
    code = server.serve(
        context.config,
        server.HOST if options.host is None else options.host,
        server.PORT if options.port is None else options.port,
        context.file,
    )
    return Report(None, [], code)


def smtp(context: Context) -> Report:
    """Serve until a signal."""
    from mailqueue.smtp import serve

    logs.configure()
    code = serve(context.config, context.options.host, context.options.port, context.file)
    return Report(None, [], code)


def sendmail(_: Context) -> Report:
    """Only behind options of ours: otherwise ``cli.main`` hands the command line on, as it is."""
    raise UsageError("sendmail has options of its own: mailqueue sendmail --help")
