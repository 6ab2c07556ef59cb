"""A private MongoDB and beanstalkd for development and tests, gone when their process ends."""

from __future__ import annotations

from mailqueue.devserver.devserver import Beanstalkd, DevServers, Mongod, devservers

__all__ = ["Beanstalkd", "DevServers", "Mongod", "devservers"]
