"""How this package writes to a log: one line for each event, with its facts in the line.

Decides: the format. ``event`` writes ``server.lost server=mongodb error=Timeout``: logfmt, where a
value that is not one plain word is quoted as in JSON. So an application needs no formatter of ours
to read it; its handlers find the parts in the record's ``event`` and ``facts``. Library code only
logs; a process of ours (the consumer) calls ``configure``. Event names are constants, a noun and
what happened to it; docs/operating.md lists them all. Facts hold no personal data.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import StringIO

_USUAL = re.compile(r"[!#-<>-~]+")  # ASCII without blank, quotation mark and equals sign


class Formatter(logging.Formatter):
    """``time level event key=value …``"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._second = 0, ""  # the last one, and how it is written

    def format(self, record: logging.LogRecord) -> str:
        """As the library does it, without its detours where there is no traceback."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        return f"{self.formatTime(record)} {record.levelname} {record.getMessage()}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # as the library names it
        """As the library writes it; what a second has in common is written once."""
        number, text = self._second
        if number != int(record.created):
            number = int(record.created)
            text = time.strftime(datefmt or self.default_time_format, time.localtime(number))
            self._second = number, text
        return f"{text},{int(record.msecs):03}"


def configure(level: int = logging.INFO) -> None:
    """Log to standard error, unless the application has set up logging already."""
    if logging.getLogger().handlers:
        return
    _leave_out_what_nobody_reads()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger("mailqueue").setLevel(level)


def _leave_out_what_nobody_reads() -> None:
    """To find out who logs takes half the time of a line (see "Optimization" in its HOWTO)."""
    logging._srcfile = None  # noqa: SLF001  # as the HOWTO says
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def event(logger: logging.Logger, level: int, name: str, /, **facts: object) -> None:
    """Write a line. It costs nothing if the logger's level is higher."""
    if logger.isEnabledFor(level):
        # Collectors of errors group records by ``msg``: it is the same for each kind of event.
        line = _line(name, *facts)
        extra = {"event": name, "facts": facts}
        logger.log(level, line, *map(_quote, facts.values()), extra=extra, stacklevel=2)


class _Buffer(StringIO):
    """What a block of ``written_together`` has to write."""


@contextmanager
def written_together() -> Iterator[None]:
    """What is logged in this block takes one write to standard error, at its end.

    For many lines: a write for each takes longer than all else. Only a handler that ``configure``
    has made is concerned.
    """
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler)
        and isinstance(handler.formatter, Formatter)
        # Another thread's block: its buffer must not be taken for the stream, and be put back last.
        and not isinstance(handler.stream, _Buffer)
    ]
    streams, buffers = [handler.stream for handler in handlers], [_Buffer() for _ in handlers]
    for handler, buffer in zip(handlers, buffers, strict=True):
        handler.setStream(buffer)
    try:
        yield
    finally:
        for handler, stream, buffer in zip(handlers, streams, buffers, strict=True):
            handler.setStream(stream)
            stream.write(buffer.getvalue())
            stream.flush()


@lru_cache(maxsize=1000)
def _line(name: str, *keys: str) -> str:
    return " ".join([name, *(f"{key}=%s" for key in keys)])


def _quote(fact: object) -> str:
    """The fact as one word on one line, whatever it holds."""
    text = str(fact)
    if _USUAL.fullmatch(text):
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
        self._logged: set[tuple[object, ...]] = set()

    def level(self, *what: object) -> int:
        """ERROR if ``what`` is new, else DEBUG."""
        if what in self._logged or len(self._logged) >= self.REMEMBERED:
            return logging.DEBUG
        self._logged.add(what)
        return logging.ERROR
