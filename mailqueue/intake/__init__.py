"""Events as a source: a program in any language puts a JSON object on a tube, and it is stored.

``event`` reads one event, ``intake`` stores what a tube brings, ``server`` is the process.
"""

from __future__ import annotations

from mailqueue.intake.server import run

__all__ = ["run"]
