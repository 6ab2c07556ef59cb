"""Hearing at once that an e-mail is queued, by a change stream.

Decides: when a stream is opened. One that was not read for a second is closed: what it would tell
is old, and the server would look through all that was written since.

Assumes: whoever waits looks at what is due all the same, now and then: a stream may miss anything,
and does not tell that an e-mail's time has come.

Promises: what keeps a stream from working is said once, and raises nothing. One thread waits.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import pymongo
from pymongo.change_stream import CollectionChangeStream
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from mailqueue.lifecycle.outcomes import Status
from mailqueue.logs import event

logger = logging.getLogger(__name__)

FRESH = 1.0  # seconds
AWAIT = 0.5  # seconds that the server waits for a change
ANSWER = 5.0  # seconds for the rest of a call
_QUEUED: list[dict[str, Any]] = [
    {
        "$match": {
            "$or": [
                {"operationType": "insert"},
                {"updateDescription.updatedFields.status": Status.QUEUED.value},
            ]
        }
    },
    {"$project": {"_id": 1}},
]


class Changes:
    """The changes of the collection of e-mails. ``available``: there is a stream, or may be."""

    def __init__(self, emails: Collection[dict[str, Any]]) -> None:
        self._emails = emails
        self._stream: CollectionChangeStream[dict[str, Any]] | None = None
        self._read_at = 0.0
        self.available = True

    def wait(self) -> bool:
        """Until an e-mail is queued, or for half a second; False: it was not waited.

        The first call, and one after a while, only opens the stream: what was queued before that
        is to be looked for.
        """
        if not self.available:
            return False
        try:
            with pymongo.timeout(ANSWER):
                return self._wait()
        except PyMongoError as error:  # MongoDB is away, say: the next look tells
            logger.debug("the change stream broke")
            if self._stream is None and isinstance(error, OperationFailure) and not error.timeout:
                self._give_up(error)
        self.close()
        return False

    def _give_up(self, error: OperationFailure) -> None:
        """The server opens no stream: it is no replica set (40573), or the user may not (13).

        One that was open may break for good (killed, or what it reads next is gone from the oplog);
        another one is opened then.
        """
        self.available = False
        facts = {"error": type(error).__name__, "code": error.code}
        event(logger, logging.WARNING, "queue.not_watched", **facts)

    def _wait(self) -> bool:
        stream, unread = self._stream, time.monotonic() - self._read_at
        # One whose collection was dropped (to be restored, say) ends, and nothing waits at it.
        if stream is None or not stream.alive or unread > FRESH:
            self.close()
            await_ms = round(AWAIT * 1000)
            self._stream = self._emails.watch(_QUEUED, max_await_time_ms=await_ms)
        else:
            stream.try_next()
        self._read_at = time.monotonic()
        return True

    def close(self) -> None:
        """Close the stream."""
        if self._stream is not None:
            with suppress(PyMongoError):
                self._stream.close()
            self._stream = None
