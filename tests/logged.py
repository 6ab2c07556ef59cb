"""What was written to the log, as its records tell it."""

from __future__ import annotations

import logging


def event(record: logging.LogRecord) -> str:
    """The name of the event, or the whole text if it is no record of ours."""
    return str(vars(record).get("event", record.getMessage()))
