"""``value``: a frozen dataclass that is quickly made.

Decides: who keeps a value from being changed. The type checker does; at run time nothing would.
``dataclass(frozen=True)`` sets each field by a call, so that a value of ten fields takes five times
as long to make, and an e-mail makes a dozen on its way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Fields by keyword, compared and hashed by all of them; nobody changes one."""
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
