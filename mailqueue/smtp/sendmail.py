"""``sendmail``: a message from standard input, for cron, PHP and whatever else calls that command.

Decides: the options. Those that say who sends, who gets it and where the message ends are heeded;
those of the original that mean nothing here (how to queue, how to report) are accepted and ignored,
since callers pass them; a mode that does something else than send is refused.

What a caller may leave out is filled in: a name without a domain (``root``) is one of this host,
the sender is the user who calls. The host's mail name is the first line of ``/etc/mailname``, else
its full name.

Exit codes are those of ``sysexits.h``: 0 stored durably · 64 wrong usage · 65 the message is not
accepted · 70 an error of ours · 75 not stored, try again · 78 wrong configuration.
"""

from __future__ import annotations

import getopt
import os
import pwd
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import BinaryIO

from mailqueue import logs
from mailqueue.config import Config
from mailqueue.errors import ConfigError, InvalidEmail, Unavailable
from mailqueue.message import Address, parsing
from mailqueue.message.addresses import split_list
from mailqueue.producer import Producer
from mailqueue.smtp import submission

EX_OK, EX_USAGE, EX_DATAERR, EX_SOFTWARE, EX_TEMPFAIL, EX_CONFIG = 0, 64, 65, 70, 75, 78
USAGE = """\
usage: mailqueue sendmail [--config FILE] [-t] [-i] [-f SENDER] [-F NAME] [RECIPIENT ...] < MESSAGE

  -t         to those in To, Cc and Bcc, too; Bcc is taken out
  -i, -oi    a line with a dot alone does not end the message
  -f SENDER  the sender, for bounces, and in From if the message has none
  -F NAME    the sender's name in From, if the message has none
  --config   the configuration (default: $MAILQUEUE_CONFIG, else ./config.json)
  --log-format
             logfmt or json: write a log to standard error (default:
             $MAILQUEUE_LOG_FORMAT, else no log)

exit codes:
  0   stored durably
  64  wrong usage
  65  the message is not accepted
  70  an error in mailqueue
  75  not stored, since the database does not answer: try again
  78  wrong configuration
"""
_OPTIONS = "A:B:C:F:GIL:N:O:R:UV:X:b:d:e:f:h:imno:p:q:r:stvx"
_LONG = ["config=", "log-format="]
_SENDS = {"", "m"}  # modes (-b) in which a message is sent
_MAILNAME = Path("/etc/mailname")


class UsageError(Exception):
    """The command line makes no sense."""


@dataclass(slots=True)
class _Command:
    """The command line. ``sender`` and ``name``: empty where it does not say."""

    config: str | None = None
    log_format: str | None = None
    recipients: Sequence[str] = ()
    from_headers: bool = False
    dot_is_text: bool = False
    sender: str = ""
    name: str = ""

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> _Command:
        command = cls()
        try:
            options, command.recipients = getopt.gnu_getopt(list(arguments), _OPTIONS, _LONG)
        except getopt.GetoptError as error:
            raise UsageError(error.msg) from None
        for option, value in options:
            command._heed(option, value)
        return command

    def _heed(self, option: str, value: str) -> None:
        match option:
            case "--config" if self.config is None:
                self.config = value
            case "--config":  # a script like examples/sendmail.sh has given it; callers may not
                raise UsageError("--config is given more than once")
            case "--log-format":
                self.log_format = value
            case "-t":
                self.from_headers = True
            case "-i":
                self.dot_is_text = True
            case "-o" if value == "i":
                self.dot_is_text = True
            case "-f" | "-r":
                self.sender = value
            case "-F":
                self.name = value
            case "-b" if value not in _SENDS:
                raise UsageError(f"-b{value} is not supported: this command only sends")
            case "-q" | "-I":
                raise UsageError(f"{option} is not supported: this command only sends")


def main(arguments: Sequence[str]) -> int:
    """Carry out the command. Returns the exit code; whatever is wrong is a line on stderr."""
    if "--help" in arguments:
        sys.stdout.write(USAGE)
        return EX_OK
    try:
        command = _Command.parse(arguments)
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("the message comes from standard input")
        if not command.recipients and not command.from_headers:
            raise UsageError("name a recipient, or give -t")
        if command.log_format is not None or logs.VARIABLE in os.environ:
            logs.configure(command.log_format)
        config = Config.load(command.config, secrets=False)
        _send(command, config, sys.stdin.buffer)
    except UsageError as error:
        return _fail(EX_USAGE, *map(str, error.args), USAGE.rstrip())
    except ConfigError as error:
        return _fail(EX_CONFIG, *error.problems)
    except InvalidEmail as error:
        return _fail(EX_DATAERR, str(error))
    except Unavailable as error:
        return _fail(EX_TEMPFAIL, f"not stored: {error}")
    except Exception as error:  # noqa: BLE001  # a bug of ours: say where, but quote nothing
        return _fail(EX_SOFTWARE, f"{type(error).__name__} at {logs.place(error)}: a bug")
    return EX_OK


def _fail(code: int, *lines: str) -> int:
    sys.stderr.writelines(f"sendmail: {line}\n" for line in lines)
    return code


def _send(command: _Command, config: Config, stdin: BinaryIO) -> None:
    limit = submission.max_bytes(config)
    raw = _read(stdin, limit, dot_is_text=command.dot_is_text)
    if len(raw) > limit:
        raise InvalidEmail("email", f"has more than {limit} bytes: limits.max_size allows no more")
    message = parsing.parse(raw)
    sender = _complete(message, command)
    recipients = list(_recipients(message, command))
    if not recipients:
        raise InvalidEmail("to", "names nobody: give a recipient")
    arguments = submission.read(message, sender, recipients, config.vendors)
    with closing(Producer(config)) as producer:
        producer.send(
            arguments.email,
            priority=arguments.priority,
            idempotency_key=arguments.idempotency_key,
            vendors=arguments.vendors,
        )


def _read(stdin: BinaryIO, limit: int, *, dot_is_text: bool) -> bytes:
    """The message, to its end or a little more than ``limit`` bytes."""
    if dot_is_text:
        return stdin.read(limit + 1)
    lines, size = [], 0
    while line := stdin.readline(limit + 1):
        if line.rstrip(b"\r\n") == b"." or size > limit:
            break
        lines.append(line)
        size += len(line)
    return b"".join(lines)


def _complete(message: Message, command: _Command) -> Address | None:
    """Qualify the names in the header fields, and add a From if there is none.

    Returns the sender of the envelope; None: nobody (``-f '<>'``).
    """
    for name in ("From", "To", "Cc", "Bcc", "Reply-To"):
        mailboxes = submission.header_mailboxes(message, name)
        if mailboxes and not all("@" in mailbox for mailbox in mailboxes):
            del message[name]
            message[name] = ", ".join(map(_qualified, mailboxes))
    bounces = command.sender.removeprefix("<").removesuffix(">")
    sender = Address.parse(_qualified(bounces), "sender") if bounces else None
    if not submission.header_mailboxes(message, "From"):
        user = sender or Address.parse(_qualified(_user_name()), "sender")
        del message["From"]
        message["From"] = str(Address.parse((command.name or user.name, user.address), "from"))
    if command.sender:
        return sender
    return Address.parse(submission.header_mailboxes(message, "From")[0], "from")


def _recipients(message: Message, command: _Command) -> Iterable[Address]:
    texts = [each for argument in command.recipients for each in split_list(argument)]
    if command.from_headers:
        for name in ("To", "Cc", "Bcc"):
            texts += submission.header_mailboxes(message, name)
    for n, text in enumerate(texts):
        yield Address.parse(_qualified(text), f"recipients[{n}]")


def _qualified(mailbox: str) -> str:
    """The mailbox with this host's mail name, if it has no domain: ``root``, ``Root <root>``."""
    if "@" in mailbox:
        return mailbox
    if mailbox.endswith(">"):
        return f"{mailbox[:-1]}@{_mail_name()}>"
    return f"{mailbox}@{_mail_name()}"


def _mail_name() -> str:
    try:
        name = _MAILNAME.read_text().split("\n", 1)[0].strip()
    except (OSError, UnicodeError):
        name = ""
    return name or socket.getfqdn()


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user may have no name
        return "nobody"
