"""How an e-mail gets out: reserve its job, claim it, send it, write down what came of it."""

from __future__ import annotations

from mailqueue.consumer.consumer import Consumer, build_sweeper

__all__ = ["Consumer", "build_sweeper"]
