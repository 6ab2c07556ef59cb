"""The one family of exceptions.

Decides: how trouble is named to a caller. Everything that mailqueue raises on purpose is a
``MailQueueError``; a driver's exception stops in the module that owns the driver (except in a
caller's own MongoDB transaction, see ``Producer.send``).

========================  =======================================================================
``MailQueueError``        base of the others
``ConfigError``           the configuration cannot be used; names every key that is wrong
``InvalidEmail``          the e-mail is not accepted; names the field; nothing was stored
``MissingExtra``          an optional package is needed; names the extra to install
``Unavailable``           a server did not answer in time; base of the next two
``StoreUnavailable``      MongoDB; it says what is stored, and of what nobody knows
``QueueUnavailable``      the queue
``Unreadable``            a stored e-mail is damaged; caught inside, never raised to a caller
========================  =======================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module


class MailQueueError(Exception):
    """Base of every exception that mailqueue raises on purpose."""


class ConfigError(MailQueueError):
    """The configuration cannot be used.

    ``problems`` holds one line per problem, each beginning with the path of the key
    (``vendors[1].api_key: environment variable MAILGUN_API_KEY is not set``).
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class InvalidEmail(MailQueueError):
    """The e-mail is not accepted, and it is not stored.

    ``field`` names the part (``to[1]``, ``headers.X-Tag``, ``attachments[0].content``); ``problem``
    says what is wrong with it and what to do instead. Neither quotes an address, a subject or a
    body. ``index`` is the position in the list given to ``send_many``, None for ``send``.
    """

    def __init__(self, field: str, problem: str, index: int | None = None) -> None:
        self.field = field
        self.problem = problem
        self.index = index
        place = field if index is None else f"emails[{index}].{field}"
        super().__init__(f"{place}: {problem}")


class MissingExtra(MailQueueError):
    """An optional package is missing, which mailqueue's extra ``extra`` would install.

    ``reason`` says in a few words what needs it. pip knows the extras of the mailqueue that is
    installed, and fetches only what is missing.
    """

    def __init__(self, extra: str, package: str, reason: str) -> None:
        self.extra = extra
        remedy = f"pip install 'mailqueue[{extra}]'"
        super().__init__(f"{reason}, and {package} is not installed: {remedy}")

    @classmethod
    def unless(cls, extra: str, package: str, reason: str) -> None:
        """Raise it unless the package can be imported."""
        try:
            import_module(package.replace("-", "_"))
        except ImportError:
            raise cls(extra, package, reason) from None


class Unavailable(MailQueueError):
    """A server that mailqueue needs did not answer in time. Base of Store- and QueueUnavailable."""


class StoreUnavailable(Unavailable):
    """MongoDB did not answer within ``mongodb.timeout``.

    ``ids_stored``: the ids of e-mails that are stored durably. ``ids_unknown``: the ids of e-mails
    that may be stored or not. The call may be repeated with the same ``idempotency_key``; without a
    key an e-mail might then be sent twice.
    """

    def __init__(
        self,
        message: str,
        ids_stored: Sequence[str] = (),
        ids_unknown: Sequence[str] = (),
    ) -> None:
        self.ids_stored = tuple(ids_stored)
        self.ids_unknown = tuple(ids_unknown)
        super().__init__(message)


class QueueUnavailable(Unavailable):
    """The queue did not answer, or refuses; the text says which server's fault it is.

    A ``Producer`` never raises it: an e-mail is stored without a queue. ``Consumer.run`` raises
    it if no server answers at the start.
    """


class Unreadable(MailQueueError):
    """What is stored of an e-mail is damaged: it cannot be sent."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name; empty if none of ``names`` is similar."""
    from difflib import get_close_matches  # only a mistake needs it

    close = get_close_matches(name, names, 1)
    return f', did you mean "{close[0]}"?' if close else ""
