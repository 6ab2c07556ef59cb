"""All kinds of queue."""

from __future__ import annotations

from collections.abc import Sequence

from tests.brokers.beanstalkd import BeanstalkdCase
from tests.brokers.case import Case
from tests.brokers.memory import MemoryCase
from tests.brokers.redis import RedisCase
from tests.brokers.sqs import SqsCase

CASES: Sequence[Case] = (BeanstalkdCase(), MemoryCase(), RedisCase(), SqsCase())
