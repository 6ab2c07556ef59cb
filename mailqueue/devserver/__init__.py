"""A private MongoDB and beanstalkd for development and tests, gone when their process ends.

``devserver`` is what to read: ``Mongod``, ``Beanstalkd`` and both together, ``devservers()``.
``process`` finds a server's program, starts it on a free port and ends it. Run
``python -m mailqueue.devserver`` to have both until you press Ctrl-C. No data survives.
"""

from __future__ import annotations

from mailqueue.devserver.devserver import Beanstalkd, DevServers, Mongod, devservers

__all__ = ["Beanstalkd", "DevServers", "Mongod", "devservers"]
