"""The options of the command line and their help.

Decides: which verbs and options there are, and what ``--help`` says.

Promises: what cannot be carried out is a ``UsageError``, one line.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from textwrap import fill
from typing import Any, Never, TypeVar

from bson import ObjectId

from mailqueue import __version__, logs
from mailqueue.cli.context import UsageError
from mailqueue.cli.help import HELP, Help
from mailqueue.config import checks
from mailqueue.config.services import SCOPES, SUPPRESSION_REASONS
from mailqueue.errors import InvalidEmail
from mailqueue.lifecycle.outcomes import PRIORITIES, Reason, Status
from mailqueue.message import Address
from mailqueue.store import audit, callbacks, ids
from mailqueue.store.interventions import Verb
from mailqueue.store.stats import ALIVE

T = TypeVar("T")
WIDTH = 78  # of a paragraph in the help
LONGEST_AGE = 5200 * 7 * 86_400.0  # seconds; a date so long ago can still be written
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; raises ``UsageError``."""
    parser = _Parser(
        prog="mailqueue",
        description="Look after a queue of e-mails, and take e-mails in.\n\n"
        "What sends them is a process of its own: python -m mailqueue.consumer",
        epilog=_epilog("mailqueue doctor", "see the verb's own help: mailqueue VERB --help"),
    )
    _common(parser, default=None)
    parser.add_argument("--version", action="version", version=f"mailqueue {__version__}")
    # They may stand before the verb or behind it. What is absent behind it must not replace what
    # stands before it.
    anywhere = _Parser(add_help=False)
    _common(anywhere, default=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in HELP.items():
        verb = verbs.add_parser(
            name,
            parents=[anywhere],
            help=text.summary,
            description=_description(text),
            epilog=_epilog(text.example, text.exit_1),
        )
        _OPTIONS[name](verb)
    return parser.parse_args(arguments)


def _description(text: Help) -> str:
    summary = text.summary[0].upper() + text.summary[1:]  # capitalize() would make HTTP http
    return f"{summary}.\n\n{fill(text.details, WIDTH)}"


def _epilog(example: str, exit_1: str) -> str:
    codes = {0: "done, all is well", 1: exit_1, 2: "wrong usage or configuration"}
    codes |= {3: "a server was not reached"}
    # A verb that never ends with 1 has no line for it.
    lines = "".join(f"\n  {code}  {meaning}" for code, meaning in codes.items() if meaning)
    return f"example:\n  {example}\n\nexit codes:{lines}"


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> Never:
        """One line, as everything else that goes wrong."""
        raise UsageError(f"{message} (see {self.prog} --help)")


# Values -------------------------------------------------------------------------------------------


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9})([smhdw]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"invalid age {text!r} (examples: 90s, 30m, 2h, 7d)")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST_AGE:
        raise argparse.ArgumentTypeError(f"age {text!r} is too long (at most 5200w)")
    return seconds


def _until(text: str) -> datetime:
    now = datetime.now(UTC)
    try:
        if re.fullmatch(r"\d+[smhdw]", text):
            until = now + timedelta(seconds=_age(text))
        else:
            until = datetime.fromisoformat(text)
    except ValueError:
        until = now
    until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
    problem = "must be in the future, for example 2030-01-31 or 90d"
    return _checked(until, None if until > now else problem)


def _id(text: str) -> ObjectId:
    try:
        return ids.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except InvalidEmail as error:  # quoted, it could be found in a log
        raise argparse.ArgumentTypeError(error.problem) from None


def _name(text: str) -> str:
    """An unset variable of a script must not choose all e-mails."""
    return _checked(text, None if text else "must not be empty")


def _number(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise argparse.ArgumentTypeError(f"invalid number {text!r} (at least 1)")
    return int(text)


def _key_name(text: str) -> str:
    return _checked(text, checks.vendor_name(text))


def _scope(text: str) -> list[str]:
    scopes = text.split(",")
    return _checked(scopes, checks.several_of(*SCOPES)(scopes))


def _sender(text: str) -> str:
    return _checked(text, checks.senders([text]))


def _host(text: str) -> str:
    return _checked(text, checks.host(text))


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    return _checked(number, checks.between(0, 65_535)(number))


def _checked(value: T, problem: str | None) -> T:
    """The value, which goes into a configuration, if it is valid there."""
    if problem is not None:
        raise argparse.ArgumentTypeError(problem)
    return value


# Options ------------------------------------------------------------------------------------------


def _common(parser: argparse.ArgumentParser, default: Any) -> None:
    config = "the configuration (default: $MAILQUEUE_CONFIG, else ./config.json)"
    parser.add_argument("--config", metavar="FILE", default=default, help=config)
    json_default = False if default is None else default
    text = "print one JSON document, with all details"
    parser.add_argument("--json", action="store_true", default=json_default, help=text)
    text = f"write the log to standard error as {' or '.join(logs.FORMATS)} (default:"
    text += f" ${logs.VARIABLE}, else logfmt for a server, and no log for other verbs)"
    choices = logs.FORMATS
    parser.add_argument("--log-format", metavar="F", choices=choices, default=default, help=text)


def _show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", type=_id, help="the e-mail's id, as send() returned it")
    text = "also addresses, subject, body and the vendors' words"
    parser.add_argument("--content", action="store_true", help=text)


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", type=_id, help="the e-mail's id, as send() returned it")
    parser.add_argument("--content", action="store_true", help="also the vendors' words")


def _list(parser: argparse.ArgumentParser) -> None:
    _filters(parser)
    text = f"with a callback that is {', '.join(callbacks.STATES)}"
    parser.add_argument("--callback", metavar="STATE", choices=callbacks.STATES, help=text)
    text = "show the newest first; of e-mails of a status that is an end, the last to end"
    parser.add_argument("--newest", action="store_true", help=text)
    text = "show at most N e-mails (default: 100)"
    parser.add_argument("--limit", metavar="N", type=_number, default=100, help=text)


def _intervention(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", type=_id, nargs="*", help="ids of e-mails")
    _filters(parser)
    text = "change only the oldest N of them"
    parser.add_argument("--limit", metavar="N", type=_number, help=text)
    # For scripts: without a terminal there is nobody to ask, and the verb refuses.
    text = "do not ask before several e-mails are changed"
    parser.add_argument("--yes", action="store_true", help=text)
    _dry_run(parser)


def _filters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("filters", "e-mails that match all of them").add_argument
    for name, values in (("status", Status), ("reason", Reason)):
        choices = [value.value for value in values]
        add(f"--{name}", metavar=name.upper(), choices=choices, help=", ".join(choices))
    add("--vendor", metavar="NAME", type=_name, help="tried at this vendor")
    add("--to", metavar="ADDRESS", type=_address, help="to this address, also as Cc or Bcc")
    add("--tag", metavar="TAG", type=_name, help="with this tag")
    text = "stored at least so long ago (examples: 90s, 30m, 2h, 7d)"
    add("--older-than", metavar="AGE", type=_age, help=text)


def _vendors(parser: argparse.ArgumentParser) -> None:
    text = "enable, drain or undrain NAME: for all consumers, now"
    # Two words that are only there together: ``system.vendors`` checks them.
    parser.add_argument("action", metavar="ACTION NAME", nargs="*", help=text)
    _reason_why(parser)
    _dry_run(parser)


def _hold(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="all e-mails")
    chosen.add_argument("--tag", metavar="TAG", type=_name, help="those with this tag")
    text = f"those of this class: {', '.join(PRIORITIES)}"
    names = list(PRIORITIES)
    chosen.add_argument("--priority", metavar="CLASS", choices=names, help=text)
    text = "those whose turn it is at this vendor; others do not get them (see vendors drain)"
    chosen.add_argument("--vendor", metavar="NAME", type=_name, help=text)
    _reason_why(parser)
    _dry_run(parser)


def _reason_why(parser: argparse.ArgumentParser) -> None:
    text = "why, for those who look later"
    parser.add_argument("--reason", metavar="TEXT", help=text)


def _doctor(parser: argparse.ArgumentParser) -> None:
    text = "instead, send one real e-mail to this address through each vendor, at once"
    parser.add_argument("--send-test", metavar="ADDRESS", type=_address, help=text)
    parser.add_argument("--vendor", metavar="NAME", type=_name, help="only through this vendor")
    text = "its sender (default: the vendor's from, else the same address)"
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", type=_address, help=text)


def _audit(parser: argparse.ArgumentParser) -> None:
    text = f"how long an e-mail may wait for a sweeper (default: {audit.GRACE:.0f}s)"
    parser.add_argument("--grace", metavar="AGE", type=_age, default=audit.GRACE, help=text)


def _key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("new", choices=["new"], help="make one")
    parser.add_argument("name", metavar="NAME", type=_key_name, help="says in logs who it was")
    text = f"what it is for, separated by commas: {', '.join(SCOPES)} (default: send,read)"
    parser.add_argument("--scope", type=_scope, default=["send", "read"], help=text)
    text = "a sender that it may use: an address or *@DOMAIN; may be repeated (default: all)"
    parser.add_argument(
        "--from", dest="senders", metavar="SENDER", type=_sender, action="append", help=text
    )


def _suppress(parser: argparse.ArgumentParser) -> None:
    anywhere = _Parser(add_help=False)
    _common(anywhere, default=argparse.SUPPRESS)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (text, add_options) in _SUPPRESS_ACTIONS.items():
        action = actions.add_parser(name, parents=[anywhere], help=text, description=text)
        add_options(action)


def _forget(parser: argparse.ArgumentParser) -> None:
    text = "an address; -: one a line on standard input"
    parser.add_argument("addresses", metavar="ADDRESS", nargs="+", help=text)
    parser.add_argument("--yes", action="store_true", help="do not ask, on a terminal")
    _dry_run(parser)


def _suppress_add(parser: argparse.ArgumentParser) -> None:
    _addresses(parser, "+")
    _reason(parser, "manual", "why (default: manual)")
    text = "a date, or how long from now on (30d): it holds no longer then (default: for ever)"
    parser.add_argument("--until", metavar="TIME", type=_until, help=text)
    _dry_run(parser)


def _suppress_remove(parser: argparse.ArgumentParser) -> None:
    _addresses(parser, "+")
    _dry_run(parser)


def _suppress_list(parser: argparse.ArgumentParser) -> None:
    _addresses(parser, "*")
    _reason(parser, None, "only those with this reason")
    text = "show at most N entries (default: 100)"
    parser.add_argument("--limit", metavar="N", type=_number, default=100, help=text)


def _suppress_import(parser: argparse.ArgumentParser) -> None:
    text = "CSV with a first line that names its columns (address, reason, source, at, until), or "
    text += "one address a line; -: standard input"
    parser.add_argument("file", metavar="FILE", help=text)
    _reason(parser, None, "for all, instead of what the file says (default there: manual)")
    _dry_run(parser)


def _suppress_export(parser: argparse.ArgumentParser) -> None:
    text = "the CSV file to write (default: -, standard output)"
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help=text)


def _addresses(parser: argparse.ArgumentParser, number: str) -> None:
    text = "an address, or @DOMAIN"
    parser.add_argument("addresses", metavar="ADDRESS", nargs=number, help=text)


def _reason(parser: argparse.ArgumentParser, default: str | None, text: str) -> None:
    choices = SUPPRESSION_REASONS
    text = f"{text}: {', '.join(choices)}"
    parser.add_argument("--reason", metavar="REASON", choices=choices, default=default, help=text)


_SUPPRESS_ACTIONS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "add": ("enter addresses", _suppress_add),
    "remove": ("remove addresses, whoever reported them", _suppress_remove),
    "list": ("show the entries, or those that concern these addresses", _suppress_list),
    "import": ("enter the addresses of a file; none if a line is wrong", _suppress_import),
    "export": ("write all entries as CSV, which import reads", _suppress_export),
}


def _callbacks(parser: argparse.ArgumentParser) -> None:
    anywhere = _Parser(add_help=False)
    _common(anywhere, default=argparse.SUPPRESS)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "show the callbacks in one state"
    action = actions.add_parser("list", parents=[anywhere], help=text, description=text)
    text = f"{', '.join(callbacks.STATES)} (default: failed)"
    action.add_argument("--state", choices=callbacks.STATES, default=callbacks.FAILED, help=text)
    text = "show at most N callbacks (default: 100)"
    action.add_argument("--limit", metavar="N", type=_number, default=100, help=text)
    text = "have callbacks posted again at once, for three more days"
    action = actions.add_parser("retry", parents=[anywhere], help=text, description=text)
    action.add_argument("ids", metavar="ID", type=_id, nargs="*", help="ids of e-mails")
    text = f"those of all e-mails that are {', '.join(callbacks.ENDED)}"
    action.add_argument("--state", choices=callbacks.ENDED, help=text)
    text = "do not ask before those of several e-mails are posted again"
    action.add_argument("--yes", action="store_true", help=text)
    _dry_run(action)


def _server(parser: argparse.ArgumentParser) -> None:
    text = "address to listen at, instead of that of the configuration"
    parser.add_argument("--host", type=_host, help=text)
    text = "port to listen on, instead of that of the configuration; 0: any, which is printed"
    parser.add_argument("--port", type=_port, help=text)


def _health(parser: argparse.ArgumentParser) -> None:
    text = "how old its sign of life may be (default: 60s); consumers give one every ten seconds"
    parser.add_argument("--max-age", metavar="AGE", type=_age, default=ALIVE, help=text)
    text = "be content with a consumer on any host, instead of this one"
    parser.add_argument("--anywhere", action="store_true", help=text)


def _metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", type=_host, help="address to listen at (default: 127.0.0.1)")
    text = "port to listen on (default: 9464); 0: any, which is printed"
    parser.add_argument("--port", type=_port, help=text)


def _http(parser: argparse.ArgumentParser) -> None:
    _server(parser)
    text = "also serve the web pages for operators, under /dashboard"
    parser.add_argument("--dashboard", action="store_true", help=text)


def _dry_run(parser: argparse.ArgumentParser) -> None:
    text = "change nothing, only show what would be done"
    parser.add_argument("--dry-run", action="store_true", help=text)


def _nothing(_: argparse.ArgumentParser) -> None:
    """No options of its own."""


_OPTIONS: Mapping[str, Callable[[argparse.ArgumentParser], None]] = {
    "list": _list,
    "show": _show,
    "explain": _explain,
    **dict.fromkeys((verb.value for verb in Verb), _intervention),
    "hold": _hold,
    "release": _hold,
    "vendors": _vendors,
    "callbacks": _callbacks,
    "responder": _nothing,
    "metrics": _metrics,
    "health": _health,
    "stats": _nothing,
    "doctor": _doctor,
    "sweep": _dry_run,
    "audit": _audit,
    "suppress": _suppress,
    "forget": _forget,
    "key": _key,
    "http": _http,
    "intake": _nothing,
    "smtp": _server,
    "sendmail": _nothing,
}
