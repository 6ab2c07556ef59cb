"""How this package writes to a log: one line per event, which says its facts in itself.

Decides: the format. ``event`` writes ``server.away server=mongodb error=Timeout`` (logfmt: what is
not one plain word is quoted as JSON is), so that an application needs no formatter of ours to read
it; its handlers find the parts in the record's ``event`` and ``facts``. Library code only logs; a
process that is ours (the consumer, the command line) calls ``configure``. Event names are
constants, facts hold no personal data.
"""

from __future__ import annotations

import json
import logging
import sys


class Formatter(logging.Formatter):
    """``time level event key=value …``"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")


def configure(level: int = logging.INFO) -> None:
    """Log to standard error, unless the application has set up logging already."""
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger("mailqueue").setLevel(level)


def event(logger: logging.Logger, level: int, name: str, /, **facts: object) -> None:
    """Write a line; nothing is done where nobody listens to the level."""
    if logger.isEnabledFor(level):
        line = " ".join([name, *(f"{key}=%s" for key in facts)])  # one text for each kind of event
        extra = {"event": name, "facts": facts}
        logger.log(level, line, *map(_quoted, facts.values()), extra=extra, stacklevel=2)


def _quoted(fact: object) -> str:
    """The fact as one word on one line, whatever it holds."""
    text = str(fact)
    plain = text.isprintable()
    if plain and text and not any(mark in text for mark in ' "='):
        return text
    return json.dumps(text, ensure_ascii=not plain).replace("\x7f", "\\u007f")


def place(error: BaseException) -> str:
    """Where it was raised: file, line and function; a text of the error's may quote an e-mail."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "nowhere"
    code = trace.tb_frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}"


class Once:
    """Says for each thing, the first time that it is asked, that it is worth an ERROR.

    What comes again with every e-mail or every round is for DEBUG, so that the log stays readable.
    """

    REMEMBERED = 1000

    def __init__(self) -> None:
        self._said: set[tuple[object, ...]] = set()

    def level(self, *what: object) -> int:
        """The level for ``what``; when there is too much of it, nothing is new any more."""
        if what in self._said or len(self._said) >= self.REMEMBERED:
            return logging.DEBUG
        self._said.add(what)
        return logging.ERROR
