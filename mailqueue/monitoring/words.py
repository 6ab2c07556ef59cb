"""Numbers and spans as a person reads them. Pure."""

from __future__ import annotations

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))


def age(seconds: float) -> str:
    """About how long: ``12s``, ``5m``, ``3h``, ``4d``."""
    for unit, length in _UNITS:
        if abs(seconds) >= length:
            return f"{int(seconds / length)}{unit}"
    return f"{int(seconds)}s"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 e-mail``, ``2 e-mails``."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"
