"""The operator's command line: ``mailqueue VERB`` and ``python -m mailqueue VERB``.

Decides: the verbs and their options, and what goes where: the answer to standard output, as a table
or with ``--json`` as one document; whatever went wrong to standard error, one line each.

Exit codes: 0 all is well, or done · 1 something was found, not found, or left unchanged · 2 wrong
usage or configuration · 3 a server was not reached.

Promises: no traceback, which might quote an e-mail.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Never

from bson import ObjectId

from mailqueue.cli import emails, system
from mailqueue.cli.context import FOUND, NOT_REACHED, OK, USAGE, Answer, Context, Usage
from mailqueue.cli.table import printable
from mailqueue.config import Config
from mailqueue.config import file as config_file
from mailqueue.errors import ConfigError, Unavailable
from mailqueue.lifecycle.outcomes import Reason, Status
from mailqueue.store import audit
from mailqueue.store.interventions import Verb

INTERRUPTED = 130
VERBS: Mapping[str, Callable[[Context], Answer]] = {
    "list": emails.listed,
    "show": emails.show,
    "retry": emails.intervene,
    "mark-sent": emails.intervene,
    "cancel": emails.intervene,
    "vendors": system.vendors,
    "stats": system.stats,
    "doctor": system.examine,
    "sweep": system.sweep,
    "audit": system.check,
}
_HELP = {
    Verb.RETRY: "send failed or uncertain e-mails again",
    Verb.MARK_SENT: "note that failed or uncertain e-mails were sent",
    Verb.CANCEL: "cancel queued e-mails",
}
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command. Returns the exit code."""
    logging.getLogger("mailqueue").addHandler(logging.NullHandler())  # we say it ourselves
    try:
        return _run(_parser().parse_args(arguments))
    except Usage as problem:
        return _fail(USAGE, str(problem))
    except ConfigError as error:
        return _fail(USAGE, *error.problems)
    except Unavailable as error:
        return _fail(NOT_REACHED, f"{error}: see mailqueue doctor")
    except BrokenPipeError:  # whoever read our answer has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # a bug of ours: say where, but quote nothing
        return _fail(FOUND, f"{type(error).__name__} at {_place(error)}: please report this")


def _run(options: argparse.Namespace) -> int:
    file = config_file.place(options.config, os.environ)
    desk = Context(
        options=options,
        config=Config.load(file, secrets=False),
        file=file,
        environ=os.environ,
        confirm=_confirm if sys.stdin is not None and sys.stdin.isatty() else None,
    )
    try:
        answer = VERBS[options.verb](desk)
    finally:
        desk.close()
    if options.json:
        sys.stdout.write(json.dumps(answer.data, default=_json, indent=2) + "\n")
    else:
        sys.stdout.writelines(line + "\n" for line in answer.lines)
    sys.stdout.flush()
    return _fail(answer.code, *answer.said)


def _fail(code: int, *lines: str) -> int:
    sys.stderr.writelines(f"mailqueue: {printable(line)}\n" for line in lines)
    return code


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace is not None else None
    return f"{Path(code.co_filename).name}:{trace.tb_lineno}" if code and trace else "?"


def _confirm(question: str) -> bool:
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _json(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


# The options --------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        """One line, as everything else that goes wrong."""
        raise Usage(f"{message} (see {self.prog} --help)")


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d{1,9})([smhdw]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: 90s, 30m, 2h, 7d")
    return float(found[1]) * _UNITS[found[2]]


def _id(text: str) -> ObjectId:
    if re.fullmatch(r"[0-9a-fA-F]{24}", text) is None:
        raise argparse.ArgumentTypeError("an e-mail's id has 24 hexadecimal characters")
    return ObjectId(text)


def _number(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of e-mails")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mailqueue", description="Look after a queue of e-mails.")
    _common(parser, default=None)
    anywhere = _Parser(add_help=False)
    _common(anywhere, default=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, said: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, parents=[anywhere], help=said, description=said)

    listing = verb("list", "the e-mails that match, oldest first")
    _filters(listing)
    listing.add_argument("--limit", metavar="N", type=_number, default=100, help="default: 100")
    showing = verb("show", "one e-mail's record with its ledger")
    showing.add_argument("id", metavar="ID", type=_id)
    showing.add_argument(
        "--content",
        action="store_true",
        help="also addresses, subject, body, and what vendors said",
    )
    for name, said in _HELP.items():
        _intervention(verb(name, said))
    _vendors(verb("vendors", "the vendors' health; open one by hand"))
    verb("stats", "e-mails by status, the oldest due, the tube")
    verb("doctor", "what is amiss, and what to do about it")
    _dry_run(verb("sweep", "one round of the sweeper, now"))
    auditing = verb("audit", "whether every e-mail is in a legal state")
    auditing.add_argument(
        "--grace", metavar="AGE", type=_age, default=audit.GRACE, help="for a sweeper to come by"
    )
    return parser


def _common(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--config", metavar="FILE", default=default, help="default: $MAILQUEUE_CONFIG, config.json"
    )
    json_default = False if default is None else default
    parser.add_argument("--json", action="store_true", default=json_default, help="one document")


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--status", choices=[status.value for status in Status])
    parser.add_argument("--reason", choices=[reason.value for reason in Reason])
    parser.add_argument("--vendor", metavar="NAME", help="it was tried there")
    parser.add_argument("--older-than", metavar="AGE", type=_age, help="30m, 2h, 7d")


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _intervention(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", type=_id, nargs="*")
    _filters(parser)
    parser.add_argument("--limit", metavar="N", type=_number, help="the oldest N only")
    parser.add_argument("--yes", action="store_true", help="do not ask before changing several")
    _dry_run(parser)


def _vendors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "enable", metavar="enable NAME", nargs="*", help="make a vendor available by hand"
    )
    _dry_run(parser)
