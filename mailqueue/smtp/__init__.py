"""The way in for whatever speaks SMTP, or calls ``sendmail``.

``submission`` is the file to read: what a message becomes. ``server`` is the process ``mailqueue
smtp``, ``session`` one conversation of it; ``envelope`` reads MAIL and RCPT, ``replies`` has the
answers, and ``connections`` says who may stay when many come. ``sendmail`` is the command of that
name. The server needs the extra ``smtp``; ``sendmail`` needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailqueue.errors import MissingExtra

if TYPE_CHECKING:
    from pathlib import Path

    from mailqueue.config import Config


def serve(
    config: Config, host: str | None = None, port: int | None = None, file: Path | None = None
) -> int:
    """Serve until SIGTERM or SIGINT, as ``mailqueue smtp`` does; returns the exit code.

    ``host``, ``port``: instead of those of the configuration. ``file``: where it was read from; at
    SIGHUP it is read again. For the main thread. MongoDB need not
    be there: messages are answered with 451 until it is. Raises ``ConfigError`` (the port is in
    use, say) and ``MissingExtra``.
    """
    MissingExtra.unless("smtp", "aiosmtpd", "the SMTP service needs it")
    from mailqueue.smtp.server import serve as serve_until_signal

    return serve_until_signal(config, host, port, file)
