"""What a configuration may hold, and how it is read from a file.

``config`` has every section and key with its default and its range, ``services`` those of HTTP,
SMTP and the suppression list, ``callbacks`` those of callbacks, ``queue`` those of each kind of
queue, ``rates`` those of a vendor's limits; ``section`` and ``keys`` turn them into checked values,
``checks`` says what is wrong with one. ``file`` reads JSON and replaces ``${NAME}``.
``vendor_types`` is the table of vendors: the own keys of each, and what it can carry.
``dicts`` repeats the keys for type checkers.
"""

from __future__ import annotations

from mailqueue.config.callbacks import Callbacks
from mailqueue.config.config import (
    Config,
    ConsumerConfig,
    Delivery,
    Failover,
    Limits,
    MongoDB,
    Retention,
    Retry,
    VendorConfig,
    is_production,
)
from mailqueue.config.queue import (
    Beanstalkd,
    Memory,
    MongoDBQueue,
    QueueSettings,
    Redis,
    Sqs,
)
from mailqueue.config.rates import Rate
from mailqueue.config.routes import Route
from mailqueue.config.services import ApiKeyConfig, Http, Smtp, Staging, Suppression

__all__ = [
    "ApiKeyConfig",
    "Beanstalkd",
    "Callbacks",
    "Config",
    "ConsumerConfig",
    "Delivery",
    "Failover",
    "Http",
    "Limits",
    "Memory",
    "MongoDB",
    "MongoDBQueue",
    "QueueSettings",
    "Rate",
    "Redis",
    "Retention",
    "Retry",
    "Route",
    "Smtp",
    "Sqs",
    "Staging",
    "Suppression",
    "VendorConfig",
    "is_production",
]
