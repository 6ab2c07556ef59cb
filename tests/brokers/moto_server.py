"""moto's server for SQS, mended where only load and patience show it: ``-m`` with its arguments.

* Its threads change a queue without a lock: a message that is put while another is deleted can be
  lost, and two requests can be given the same one. Here one request at a time has the queues.
* A request that waits hears of new messages only. That one is visible again, or no longer delayed,
  it sees up to a second later; here it looks more often.
* For each message that it gives, it counts all messages of the queue several times.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from moto.core.utils import unix_time
from moto.server import main
from moto.sqs.models import Message, Queue, SQSBackend

LOOK_EVERY = 0.05  # seconds
# All that our clients ask for.
OPERATIONS = (
    *("create_queue", "delete_queue", "purge_queue", "get_queue_attributes"),
    *("set_queue_attributes", "send_message", "send_message_batch", "receive_message"),
    *("delete_message", "delete_message_batch"),
    *("change_message_visibility", "change_message_visibility_batch"),
)

_turn = threading.Condition()  # its lock may be taken again by who has it


def _one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def alone(*arguments: Any, **options: Any) -> Any:
        with _turn:
            return method(*arguments, **options)

    return alone


def _wait(queue: Queue, timeout: float) -> None:
    """Let others have their turn until something may have changed."""
    _turn.wait(min(timeout, LOOK_EVERY))


def _is_kept(backend: SQSBackend, queue_name: str, message: Message) -> bool:
    queue: Any = backend.get_queue(queue_name)  # its attributes are set by their names
    sent: Any = message.sent_timestamp  # None until it is sent
    return bool(sent / 1000 + queue.message_retention_period > unix_time())


def mend() -> None:
    """Have moto's classes do as said above."""
    for name in OPERATIONS:
        setattr(SQSBackend, name, _one_at_a_time(getattr(SQSBackend, name)))
    Queue.wait_for_messages = _wait  # type: ignore[assignment,method-assign]  # a method is replaced
    SQSBackend.is_message_valid_based_on_retention_period = _is_kept  # type: ignore[assignment,method-assign]  # the same


if __name__ == "__main__":
    mend()
    main()
