"""All kinds of queue."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.brokers.beanstalkd import BeanstalkdCase
from tests.brokers.case import Case
from tests.brokers.memory import MemoryCase
from tests.brokers.mongodb import MongoDBCase
from tests.brokers.redis import RedisCase
from tests.brokers.sqs import SqsCase

CASES: Sequence[Case] = (
    BeanstalkdCase(),
    MemoryCase(),
    MongoDBCase(),
    RedisCase(),
    SqsCase(),
)


def kinds(*promises: str) -> pytest.MarkDecorator:
    """Only the kinds that promise all of these; see ``Case``."""
    cases = [case for case in CASES if all(getattr(case, promise) for promise in promises)]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
