"""How this package writes to a log: one line for each event, with its facts in the line.

Decides: the format. ``event`` writes ``server.lost server=mongodb error=Timeout``: logfmt, where a
value that is not one plain word is quoted as in JSON. So an application needs no formatter of ours
to read it; its handlers find the parts in the record's ``event`` and ``facts``. Library code only
logs; a process of ours (the consumer) calls ``configure``, and writes JSON instead where it is
asked for. Event names are constants, a noun and what happened to it; docs/operating.md lists them
all. Facts hold no personal data.

Promises: no thread of a process of ours waits for standard error, whoever reads it (``Lines``).
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO, TypeAlias

from mailqueue.errors import ConfigError

logger = logging.getLogger(__name__)

FORMATS = ("logfmt", "json")
VARIABLE = "MAILQUEUE_LOG_FORMAT"
MAX_WAITING = 10_000  # lines; further ones are dropped
TOGETHER = 1000  # lines in one write
GATHER = 0.005  # seconds for more lines, so that one write does for many
FLUSH = 2.0  # seconds that the end of a process waits for its last lines
_NUMBERS = (int, float)
_USUAL = re.compile(r"[!#-<>-~]+")  # ASCII without blank, quotation mark and equals sign
_USUAL_WORDS = re.compile(r"(?: [a-z_]+=[!#-<>-~]+)+")
Facts: TypeAlias = Mapping[str, object]
# An event that waits to be written: when, and its level, logger, name and facts. No class of its
# own: there is one for each e-mail.
Line: TypeAlias = tuple[float, int, str, str, Facts]


class Formatter(logging.Formatter):
    """``time level event key=value …``: the time is this host's."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._second = 0, ""  # the last one, and how it is written
        self._last = (0.0, 0), ""  # the same of the last line's time and level

    def format(self, record: logging.LogRecord) -> str:
        """As the library does it, without its detours where there is no traceback."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        return f"{self._time(record.created)} {record.levelname} {record.getMessage()}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802  # as the library has it
        """As the library writes it."""
        return self._time(record.created)

    def line(self, line: Line) -> str:
        """An event, as it would be written of its record."""
        created, level, _, name, facts = line
        words = "".join([f" {key}={fact!s}" for key, fact in facts.items()])
        # One look at all of them; a fact that holds " key=" is found by the number of signs.
        if not _USUAL_WORDS.fullmatch(words) or words.count("=") != len(facts):
            words = "".join([f" {key}={_quote(fact)}" for key, fact in facts.items()])
        return f"{self._head(created, level)} {name}{words}"

    def _head(self, created: float, level: int) -> str:
        """What lines of one write have in common is made once."""
        if self._last[0] != (created, level):
            name = logging.getLevelName(level)
            self._last = (created, level), f"{self._time(created)} {name}"
        return self._last[1]

    def _time(self, created: float) -> str:
        """What a second has in common is written once."""
        number, text = self._second
        if number != int(created):
            number = int(created)
            text = time.strftime(self.default_time_format, time.localtime(number))
            self._second = number, text
        return f"{text},{int(created % 1 * 1000):03}"


class JsonFormatter(Formatter):
    """An object a line: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``event``, the facts.

    Numbers stay numbers. What is no event of ours has a ``message``. Of an exception there is its
    ``error``, the type, and ``at``, the place: its text may quote an e-mail.
    """

    _encode = json.JSONEncoder(default=str, allow_nan=False, separators=(",", ":")).encode

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the record holds."""
        name, facts = getattr(record, "event", None), getattr(record, "facts", None)
        if isinstance(name, str) and isinstance(facts, Mapping):
            return self.line((record.created, record.levelno, record.name, name, facts))
        more: dict[str, object] = {"message": record.getMessage()}
        if record.exc_info and (error := record.exc_info[1]) is not None:
            more |= {"error": type(error).__name__, "at": place(error)}
        return self._object(record.created, record.levelno, record.name, more)

    def line(self, line: Line) -> str:
        """An event."""
        created, level, logger, name, facts = line
        return self._object(created, level, logger, {"event": name, **facts})

    def _object(self, created: float, level: int, logger: str, what: Facts) -> str:
        at = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
        head = {"time": at.replace("+00:00", "Z"), "level": logging.getLevelName(level)}
        everything = {**head, "logger": logger, **what}
        try:
            return self._encode(everything)
        except ValueError:  # a number that JSON does not have
            return self._encode({name: str(value) for name, value in everything.items()})


class Lines(logging.Handler):
    """Writes to a stream in a thread of its own, so that no other one waits for whoever reads it.

    A consumer whose lines nobody takes would otherwise lose its leases. ``MAX_WAITING`` lines wait;
    what comes beyond is dropped, and so is what cannot be written (a disk is full, say).
    ``log.dropped`` says how many lines once some can be written again.
    """

    def __init__(self, stream: TextIO | None, formatter: Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._formatter, self._stream = formatter, stream
        try:
            # Not through the stream, whose lock an end of the process must not find taken.
            self._file = -1 if stream is None else stream.fileno()
        except (OSError, ValueError):
            self._file = -1
        self._start()
        os.register_at_fork(after_in_child=self._start)  # threads stay behind

    def _start(self) -> None:
        self._waiting: deque[Line | str | threading.Event] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_woken = False
        self._dropped = 0
        self._counting = threading.RLock()  # a signal handler may come in between
        self._cut = b""  # the rest of a line that could not be written
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record in a moment."""
        try:
            self.put([self.format(record)])
        except Exception as error:  # noqa: BLE001  # a mistake of whoever logged
            # The library's way quotes the arguments, in many lines, and waits for the reader.
            facts = {"source": record.name, "error": type(error).__name__}
            event(logger, logging.ERROR, "log.failed", **facts)

    def put(self, lines: Sequence[Line | str]) -> None:
        """Write lines in a moment. Any thread may call, and any signal handler."""
        if len(self._waiting) >= MAX_WAITING:
            self._drop(len(lines))
            return
        self._waiting.extend(lines)
        # The thread takes this back before it looks at what waits. So it sees these lines now, or
        # is woken for them.
        if not self._is_woken:
            self._is_woken = True
            self._wake.put(None)

    def _drop(self, lines: int) -> None:
        with self._counting:
            self._dropped += lines

    def flush(self) -> None:
        """Wait until all that was put is written, for ``FLUSH`` seconds at most."""
        if self._thread.is_alive():
            written = threading.Event()
            self._waiting.append(written)
            self._wake.put(None)
            written.wait(FLUSH)

    def _write_all(self) -> None:
        while True:
            items, dropped = self._gather(), 0
            # Not by ``put``: there may be no room for it, and then nobody would hear how many.
            if self._dropped:
                with self._counting:
                    dropped, self._dropped = self._dropped, 0
                facts = {"lines": dropped}
                items += _lines(logger, logging.WARNING, "log.dropped", [facts])
            if lost := self._write("".join(map(self._text, items))):
                # The last line of these told of what was dropped before.
                self._drop(lost - bool(dropped) + dropped)
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()

    def _gather(self) -> list[Line | str | threading.Event]:
        """Wait for something, and a moment for more."""
        if not self._waiting:
            self._wake.get()
        if self._waiting and not isinstance(self._waiting[0], threading.Event):
            time.sleep(GATHER)
        with suppress(queue.Empty):
            while True:
                self._wake.get_nowait()
        self._is_woken = False
        return [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]

    def _text(self, item: Line | str | threading.Event) -> str:
        if isinstance(item, threading.Event):
            return ""
        if isinstance(item, str):
            return f"{item}\n"
        try:
            return f"{self._formatter.line(item)}\n"
        except Exception as error:  # noqa: BLE001  # a fact without a text must not end the thread
            facts = {"error": type(error).__name__}
            return f"{self._formatter.line((*item[:4], facts))}\n"

    def _write(self, text: str) -> int:
        """Returns how many lines are lost, since they cannot be written."""
        if self._stream is None or not text:
            return 0
        if self._file < 0:
            with suppress(OSError, ValueError):  # it is the application's own
                self._stream.write(text)
                self._stream.flush()
            return 0
        octets = self._cut + text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        try:
            while octets:
                try:
                    octets = octets[os.write(self._file, octets) :]
                except BlockingIOError:  # another process has made it so
                    time.sleep(10 * GATHER)
        except OSError:
            pass
        # The first line of the rest may have been begun: without its end, the next would be none.
        self._cut = octets[: octets.find(b"\n") + 1]
        return octets.count(b"\n", len(self._cut))


def format_of(name: str | None) -> Formatter:
    """The formatter with this name; None: the one that the environment names, or logfmt.

    Raises ``ConfigError``.
    """
    chosen = os.environ.get(VARIABLE) or "logfmt" if name is None else name
    if chosen not in FORMATS:
        place = VARIABLE if name is None else "--log-format"
        raise ConfigError([f"{place}: must be {' or '.join(FORMATS)}"])
    return JsonFormatter() if chosen == "json" else Formatter()


def configure(name: str | None = None, level: int = logging.INFO) -> None:
    """Log to standard error, unless the application has set up logging already.

    ``name``: the format, as ``format_of`` has it. Raises ``ConfigError``.
    """
    formatter = format_of(name)
    if _ROOT.handlers:
        return
    _leave_out_what_nobody_reads()
    _ROOT.addHandler(Lines(sys.stderr, formatter))
    logging.getLogger("mailqueue").setLevel(level)


def _leave_out_what_nobody_reads() -> None:
    """To find out who logs takes half the time of a line (see "Optimization" in its HOWTO)."""
    logging._srcfile = None  # noqa: SLF001  # as the HOWTO says
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


_ROOT = logging.getLogger()
_CALL_HANDLERS = logging.Logger.callHandlers


def event(logger: logging.Logger, level: int, name: str, /, **facts: object) -> None:
    """Write a line. It costs nothing if the logger's level is higher."""
    if logger.isEnabledFor(level):
        if (lines := _only_listener(logger)) is not None:
            lines.put(_lines(logger, level, name, [facts]))
            return
        # Collectors of errors group records by ``msg``: it is the same for each kind of event.
        line = _line(name, *facts)
        extra = {"event": name, "facts": facts}
        logger.log(level, line, *map(_quote, facts.values()), extra=extra, stacklevel=2)


def event_each(logger: logging.Logger, level: int, name: str, each: Sequence[Facts]) -> None:
    """Write a line for each of these facts: for less than one after the other."""
    if not each or not logger.isEnabledFor(level):
        return
    if (lines := _only_listener(logger)) is not None:
        lines.put(_lines(logger, level, name, each))
        return
    for facts in each:
        event(logger, level, name, **facts)


def _lines(logger: logging.Logger, level: int, name: str, each: Sequence[Facts]) -> list[Line]:
    now, source = time.time(), logger.name
    return [(now, level, source, name, facts) for facts in each]


def _only_listener(logger: logging.Logger) -> Lines | None:
    """Our own handler, if nobody else hears this logger.

    Then nobody needs a record, which takes five times as long as all else.
    """
    handlers = _ROOT.handlers
    if len(handlers) != 1 or type(lines := handlers[0]) is not Lines:
        return None
    # Filters of an application's, and collectors of errors, which replace the method.
    if logger.filters or lines.filters or logging.Logger.callHandlers is not _CALL_HANDLERS:
        return None
    each: logging.Logger | None = logger
    while each is not None and each is not _ROOT:
        if not each.propagate or (each.handlers and not all(map(_is_deaf, each.handlers))):
            return None
        each = each.parent
    return lines if each is _ROOT else None


def _is_deaf(handler: logging.Handler) -> bool:
    return type(handler) is logging.NullHandler


@lru_cache(maxsize=1000)
def _line(name: str, *keys: str) -> str:
    return " ".join([name, *(f"{key}=%s" for key in keys)])


def _quote(fact: object) -> str:
    """The fact as one word on one line, whatever it holds."""
    text = str(fact)
    if type(fact) in _NUMBERS or _USUAL.fullmatch(text):
        return text
    plain = text.isprintable()
    if plain and text and not any(mark in text for mark in ' "='):
        return text
    return json.dumps(text, ensure_ascii=not plain).replace("\x7f", "\\u007f")


def place(error: BaseException) -> str:
    """Where it was raised: ``file:line function``. Its text is left out: it may quote an e-mail."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "nowhere"
    code = trace.tb_frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}"


class Once:
    """The level for what may come again with every e-mail: ERROR the first time, then DEBUG.

    It remembers ``REMEMBERED`` different things; once it is full, all others are for DEBUG.
    """

    REMEMBERED = 1000

    def __init__(self) -> None:
        self._logged: dict[tuple[object, ...], object] = {}

    def level(self, *what: object) -> int:
        """ERROR if ``what`` is new, else DEBUG."""
        if what in self._logged or len(self._logged) >= self.REMEMBERED:
            return logging.DEBUG
        mine = object()  # of threads that see the same at once, one logs it
        return logging.ERROR if self._logged.setdefault(what, mine) is mine else logging.DEBUG
