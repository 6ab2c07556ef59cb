"""What a configuration may hold, and how it is read from a file."""

from __future__ import annotations

from mailqueue.config.config import (
    Beanstalkd,
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

__all__ = [
    "Beanstalkd",
    "Config",
    "ConsumerConfig",
    "Delivery",
    "Failover",
    "Limits",
    "MongoDB",
    "Retention",
    "Retry",
    "VendorConfig",
    "is_production",
]
