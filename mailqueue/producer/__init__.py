"""How an e-mail gets in: validate, store durably, announce."""

from __future__ import annotations

from mailqueue.producer.producer import Producer

__all__ = ["Producer"]
