"""Pages as HTML: templates, and how times and spans are written.

Decides: what every template may use. ``{{ at | moment }}`` is a time as a person reads it, with the
exact one on hover; it counts from the page's ``now``.

Promises: whatever a value holds is text in the page (autoescape), never markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))
_NOTHING = Markup('<span class="none">-</span>')


def span(seconds: float) -> str:
    """About how long: ``12 s``, ``5 min``, ``3 h``, ``4 d``."""
    for unit, length in _UNITS:
        if abs(seconds) >= length:
            return f"{int(abs(seconds) / length)} {unit}"
    return f"{int(abs(seconds))} s"


def exact(at: datetime) -> str:
    """A time to the second, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@pass_context
def moment(context: Context, at: Any) -> Markup:
    """``4 min ago`` or ``in 4 min``, with the exact time on hover."""
    if not isinstance(at, datetime):
        return _NOTHING
    seconds = (context["now"] - at).total_seconds()
    words = (
        "now"
        if abs(seconds) < 1
        else f"{span(seconds)} ago"
        if seconds > 0
        else f"in {span(seconds)}"
    )
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.astimezone(UTC).isoformat(timespec="milliseconds"), exact(at), words
    )


@pass_context
def clock(context: Context, at: datetime) -> str:
    """The time of day; with the date where it is another day than now."""
    form = "%H:%M:%S UTC" if at.date() == context["now"].date() else "%Y-%m-%d %H:%M:%S UTC"
    return at.astimezone(UTC).strftime(form)


def number(value: int) -> str:
    """With a comma after each thousand."""
    return f"{value:,}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mailqueue.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"moment": moment, "exact": exact, "clock": clock}
    environment.filters |= {"span": span, "number": number}
    return environment


@cache
def style() -> bytes:
    """The style sheet of all pages."""
    return files("mailqueue.dashboard").joinpath("style.css").read_bytes()


@cache
def style_version() -> str:
    """Another one for another style sheet: browsers keep the file by its address."""
    return sha256(style()).hexdigest()[:12]


def render(template: str, values: Mapping[str, Any]) -> bytes:
    """The page as UTF-8. ``values`` have what ``layout.html`` asks for."""
    now = {"now": datetime.now(UTC), "style_version": style_version()}
    return _environment().get_template(template).render(now | dict(values)).encode()
