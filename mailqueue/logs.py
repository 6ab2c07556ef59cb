"""How a process of ours writes its log: one line per event, its facts as key=value.

Decides: the format. Library code only logs; a process that is ours (the consumer, the command
line) calls ``configure``. Event names are constants, facts hold no personal data.
"""

from __future__ import annotations

import logging
import sys


class Formatter(logging.Formatter):
    """``time level event key=value …``"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """The line without a traceback."""
        facts: dict[str, object] = getattr(record, "facts", {})
        said = " ".join(f"{name}={value!s}" for name, value in facts.items())
        return f"{super().formatMessage(record)} {said}".rstrip()


def configure(level: int = logging.INFO) -> None:
    """Log to standard error, unless the application has set up logging already."""
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger("mailqueue").setLevel(level)


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
