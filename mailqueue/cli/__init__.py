"""The operator's command line: ``mailqueue VERB`` and ``python -m mailqueue VERB``.

Decides: which function a verb is, and what goes where: a verb's report to standard output, as text
or with ``--json`` as one document; whatever went wrong to standard error, one line each.

Exit codes: 0 done, all is well · 1 something was found, not found, or left unchanged · 2 wrong
usage or configuration · 3 a server was not reached.

Promises: no traceback, because it might quote an e-mail.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from mailqueue import logs
from mailqueue.cli import (
    callbacks,
    control,
    doctor,
    emails,
    explain,
    forget,
    servers,
    suppress,
    system,
)
from mailqueue.cli.arguments import parse
from mailqueue.cli.context import (
    EXIT_FOUND,
    EXIT_INTERRUPTED,
    EXIT_NOT_REACHED,
    EXIT_OK,
    EXIT_USAGE,
    Context,
    Report,
    UsageError,
)
from mailqueue.cli.table import printable
from mailqueue.config import Config
from mailqueue.config import file as config_file
from mailqueue.errors import ConfigError, MissingExtra, Unavailable

VERBS: Mapping[str, Callable[[Context], Report]] = {
    "list": emails.select,
    "show": emails.show,
    "explain": explain.explain,
    "retry": emails.intervene,
    "mark-sent": emails.intervene,
    "cancel": emails.intervene,
    "hold": control.hold,
    "release": control.release,
    "vendors": system.vendors,
    "stats": system.stats,
    "doctor": doctor.doctor,
    "health": system.health,
    "sweep": system.sweep,
    "audit": system.check,
    "suppress": suppress.suppress,
    "forget": forget.forget,
    "key": servers.key,
    "http": servers.http,
    "intake": servers.intake,
    "smtp": servers.smtp,
    "responder": servers.responder,
    "metrics": servers.metrics,
    "callbacks": callbacks.callbacks,
    "sendmail": servers.sendmail,
}
WITHOUT_CONFIG = {"key"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command. Returns the exit code."""
    logging.getLogger("mailqueue").addHandler(logging.NullHandler())  # reports say it instead
    match list(sys.argv[1:] if arguments is None else arguments):
        # Its options are those of the command that it stands for.
        case ["sendmail", *options] | ["--config", _, "sendmail", *options] as everything:
            from mailqueue.smtp import sendmail

            place = everything[:2] if everything[0] == "--config" else []
            return sendmail.main([*place, *options])
    try:
        return _run(parse(arguments))
    except UsageError as error:
        return _fail(EXIT_USAGE, *str(error).splitlines())
    except ConfigError as error:
        return _fail(EXIT_USAGE, *error.problems)
    except MissingExtra as error:
        return _fail(EXIT_USAGE, str(error))
    except Unavailable as error:
        return _fail(EXIT_NOT_REACHED, f"{error} (see mailqueue doctor)")
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        # Python flushes standard output once more at its end, and would fail there again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  # a bug of ours: say where, but quote nothing
        text = f"{type(error).__name__} at {logs.place(error)}: a bug, please report it"
        return _fail(EXIT_FOUND, text)


def _run(options: argparse.Namespace) -> int:
    # Whoever asks for a log of what a verb changes gets it; a report says it otherwise.
    if options.log_format is not None or logs.VARIABLE in os.environ:
        logs.configure(options.log_format)
    file = config_file.place(options.config, os.environ)
    context = Context(
        options=options,
        config=_config(options.verb, file),
        file=file,
        environ=os.environ,
        confirm=_confirm if sys.stdin is not None and sys.stdin.isatty() else None,
        width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None,
        colours=_has_colours(),
    )
    try:
        report = VERBS[options.verb](context)
    finally:
        context.close()
    if options.json:
        sys.stdout.write(json.dumps(report.data, default=_json, indent=2) + "\n")
    else:
        sys.stdout.writelines(line + "\n" for line in report.lines)
    sys.stdout.flush()
    return _fail(report.code, *report.notes)


def _has_colours() -> bool:
    # https://no-color.org
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout.isatty()


def _config(verb: str, file: Path) -> Config:
    # Most verbs send nothing, and an operator's shell seldom has the secrets.
    return Config() if verb in WITHOUT_CONFIG else Config.load(file, secrets=False)


def _fail(code: int, *lines: str) -> int:
    sys.stderr.writelines(f"mailqueue: {printable(line)}\n" for line in lines)
    return code


def _confirm(question: str) -> bool:
    # Standard output may go to a file or to another program.
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _json(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
