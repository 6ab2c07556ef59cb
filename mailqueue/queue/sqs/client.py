"""Amazon SQS as it is asked: its clients, and one queue's requests of up to ten messages.

Decides: which client a call uses, how long it may take, and that nothing is tried twice, except
over a connection that the service had closed. Credentials come from boto3's chain and nowhere else.

Assumes: clients are thread-safe, and sessions are not (boto3's guide), so each client has its own.
A signal handler may call in the middle of a call, and a process may fork: each depth and each
process has its own clients, so that neither waits for a lock that nobody gives back.

Promises: every failure is ``QueueUnavailable`` with the service's code or the error's class, and
without account, URL or key. What a batch did only in part is told as what it did not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mailqueue import reentrancy
from mailqueue.config.queue import Sqs
from mailqueue.errors import MissingExtra, QueueUnavailable

try:
    import boto3.session
    from botocore.config import Config as ClientConfig
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError
    from botocore.parsers import ResponseParserError
except ImportError:
    raise MissingExtra("sqs", "boto3", 'queue.type is "sqs"') from None

BATCH = 10  # messages in a request, as the service has it
# Seconds. Who announces waits no longer than for one of each.
CONNECT_TIMEOUT, READ_TIMEOUT = 2, 5
CONNECTIONS = 50  # that a client keeps; more threads than that open new ones

Message: TypeAlias = Mapping[str, Any]
Entry: TypeAlias = dict[str, Any]


class Clients:
    """The clients of one region; any thread may call."""

    def __init__(self, settings: Sqs) -> None:
        self._settings = settings
        self._clients: dict[tuple[int, int, int], Any] = {}

    def call(self, operation: str, wait: int = 0, **parameters: Any) -> Mapping[str, Any]:
        """One request, which the service may answer up to ``wait`` seconds later than others."""
        try:
            method = getattr(self._client(wait), operation)
            try:
                reply: Mapping[str, Any] = method(**parameters)
            except ConnectionClosedError:  # perhaps long ago: it was idle
                reply = method(**parameters)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "no code")
            raise QueueUnavailable(f"sqs: {code}") from error
        # The last two are of a ``credential_process``: it is not there, or says what is no JSON.
        except (BotoCoreError, ResponseParserError, OSError, ValueError) as error:
            raise QueueUnavailable(f"sqs: {type(error).__name__}") from error
        return reply

    def _client(self, wait: int) -> Any:
        key = os.getpid(), reentrancy.depth(), wait
        if key not in self._clients:
            # No lock, as anywhere in a producer: of two threads one makes a client for nothing.
            self._clients.setdefault(key, self._new(READ_TIMEOUT + wait))
        return self._clients[key]

    def _new(self, read_timeout: int) -> Any:
        return boto3.session.Session().client(
            "sqs",
            region_name=self._settings.region,
            endpoint_url=self._settings.endpoint_url,
            config=ClientConfig(
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=read_timeout,
                retries={"total_max_attempts": 1},
                max_pool_connections=CONNECTIONS,
            ),
        )

    def close(self) -> None:
        """Close this process's clients; those of its parent stay, whose connections they are."""
        for key in list(self._clients):  # one step: another thread may add one
            if key[0] == os.getpid():
                self._clients.pop(key).close()


class Queue:
    """One queue; any thread may call. Every method raises ``QueueUnavailable``."""

    def __init__(self, clients: Clients, url: str) -> None:
        self._clients, self._url = clients, url

    def send(self, entries: Sequence[Entry]) -> set[int]:
        """Put messages; returns the places of those that the service did not take."""
        return self._batches("send_message_batch", entries)

    def receive(self, limit: int, visibility: int, wait: int = 0) -> Sequence[Message]:
        """Up to ``limit`` messages, hidden from others for ``visibility`` seconds.

        Where there are none, it waits up to ``wait`` seconds for one.
        """
        reply = self._clients.call(
            "receive_message",
            wait,
            QueueUrl=self._url,
            MaxNumberOfMessages=min(BATCH, limit),
            VisibilityTimeout=visibility,
            WaitTimeSeconds=wait,
        )
        messages: Sequence[Message] = reply.get("Messages", ())
        return messages

    def delete(self, receipts: Sequence[str]) -> set[int]:
        """End messages; returns the places of those that are still there."""
        entries = [{"ReceiptHandle": receipt} for receipt in receipts]
        return self._batches("delete_message_batch", entries)

    def hide(self, receipts: Sequence[str], seconds: int) -> set[int]:
        """Show messages again in ``seconds``; returns the places of those that it failed for."""
        entries = [{"ReceiptHandle": r, "VisibilityTimeout": seconds} for r in receipts]
        return self._batches("change_message_visibility_batch", entries)

    def attributes(self, *names: str) -> Mapping[str, str]:
        """What the service says of the queue."""
        reply = self._clients.call(
            "get_queue_attributes", QueueUrl=self._url, AttributeNames=list(names)
        )
        attributes: Mapping[str, str] = reply.get("Attributes", {})
        return attributes

    def _batches(self, operation: str, entries: Sequence[Entry]) -> set[int]:
        failed: set[int] = set()
        for start in range(0, len(entries), BATCH):
            page = entries[start : start + BATCH]
            named = [{"Id": str(start + i), **entry} for i, entry in enumerate(page)]
            reply = self._clients.call(operation, QueueUrl=self._url, Entries=named)
            failed.update(int(each["Id"]) for each in reply.get("Failed", ()))
        return failed
