"""What a page gets and what it returns. Pure.

Promises: a ``Refusal`` quotes nothing of what was sent, except in ``back``, an address of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailqueue.dashboard.backend import Backend


@dataclass(frozen=True, slots=True)
class User:
    """Who asks: the name of an API key, or what a proxy says; empty where nobody needs one."""

    name: str
    may_see: bool = True
    may_act: bool = False


class Fields(dict[str, list[str]]):
    """What a form holds, or the query of an address: names may come several times."""

    def first(self, name: str) -> str:
        """The first value without blanks around it; empty if there is none."""
        return self.get(name, [""])[0].strip()

    def number(self, name: str) -> int | None:
        """The first value, if it is a number of at most nine digits."""
        text = self.first(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request, once it is known who asks. ``base``: the address of the dashboard.

    ``is_own``: whether a page of ours led here, or the user's own hand; another site did not.
    """

    backend: Backend
    user: User
    base: str
    path: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Fields = field(default_factory=Fields, repr=False)
    form: Fields = field(default_factory=Fields, repr=False)
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page of HTML. ``values``: what its template needs beside those of ``layout.html``.

    ``section``: the entry of the navigation that it belongs to.
    """

    template: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    section: str = ""
    status: int = 200


@dataclass(frozen=True, slots=True)
class Redirect:
    """Look there with GET. ``place``: the address below the dashboard's, ``/emails``."""

    place: str


@dataclass(frozen=True, slots=True)
class Raw:
    """A document as it is. ``headers`` replace those that all pages have."""

    body: bytes = field(repr=False)
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Page | Redirect | Raw
View = Callable[[PageRequest], Answer]


class Refusal(Exception):
    """A page that is not shown: why, and what to do. ``headers``: of the answer."""

    def __init__(
        self,
        status: int,
        title: str,
        text: str,
        *,
        back: tuple[str, str] | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(title)
        self.status, self.title, self.text = status, title, text
        self.back, self.headers = back, headers


def not_found(text: str = "There is nothing at this address.") -> Refusal:
    """There is no such page, or no such e-mail."""
    return Refusal(404, "Not found", text)
