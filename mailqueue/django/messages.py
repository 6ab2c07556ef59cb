"""A message of Django's, as ``Producer`` takes it.

Decides: which attribute of a ``django.core.mail.EmailMessage`` becomes which field. The message's
own attributes are read, not the MIME text that Django would make of them: so a file is not encoded
and decoded again, and an error names the field. Anymail's attributes have the same meaning here.

Assumes: nothing about the message; any attribute may be lazy, or of the wrong type.

Promises: what cannot be kept is ``InvalidEmail`` that names the attribute, and quotes nothing of
it. As in Django, a ``From``, ``To``, ``Cc`` or ``Reply-To`` among the headers is what is shown, and
the message's own addresses are then the envelope's. A text that is attached as a string is stored
as UTF-8.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from email.message import Message
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.encoding import force_str
from django.utils.functional import Promise

from mailqueue.errors import InvalidEmail
from mailqueue.message import Email, stdlib_message
from mailqueue.message.raw_headers import mailboxes
from mailqueue.producer.submission import SendCall

_BODIES = {"text/plain": "text", "text/html": "html"}
_SHOWN = {"from": "from", "to": "to", "cc": "cc", "reply-to": "reply_to"}
_PER_RECIPIENT = "is not supported: render each message in Django, and send one for each recipient"
_TRACKING = "is not supported: use vendor_options, or the vendor's own settings"
_UNSUPPORTED = {
    "esp_extra": "is not supported: use vendor_options, by the vendor's name in the configuration",
    "template_id": "is not supported: render the template in Django",
    **dict.fromkeys(
        ("merge_data", "merge_global_data", "merge_headers", "merge_metadata"), _PER_RECIPIENT
    ),
    **dict.fromkeys(("track_clicks", "track_opens"), _TRACKING),
}


def read(message: Any) -> SendCall:
    """The arguments of ``send()`` for a message. Raises ``InvalidEmail``.

    Beside Django's own attributes it may have Anymail's ``tags``, ``metadata``, ``send_at`` and
    ``envelope_sender``, and mailqueue's ``priority``, ``expires_at``, ``idempotency_key``,
    ``vendors`` and ``vendor_options``.
    """
    try:
        return _call(message)
    except InvalidEmail:
        raise
    except Exception as error:  # noqa: BLE001  # lazy texts, and the library, raise anything
        problem = f"cannot be read ({type(error).__name__}): is an attribute of the wrong type?"
        raise InvalidEmail("email", problem) from None


def _call(message: Any) -> SendCall:
    for name, problem in _UNSUPPORTED.items():
        if _extra(message, name) not in (None, "", [], {}):
            raise InvalidEmail(name, problem)
    priority = _extra(message, "priority")
    return {
        "email": Email.from_mapping(_mapping(message)),
        "priority": "normal" if priority is None else priority,
        "send_at": _moment(_extra(message, "send_at"), "send_at"),
        "expires_at": _moment(_extra(message, "expires_at"), "expires_at"),
        "idempotency_key": _extra(message, "idempotency_key"),
        "vendors": _extra(message, "vendors"),
    }


def _extra(message: Any, name: str) -> Any:
    """An attribute that Django's messages do not have themselves; None: it is not set."""
    value = _plain(getattr(message, name, None))
    unset = getattr(sys.modules.get("anymail.utils"), "UNSET", None)
    return None if value is unset else value


def _plain(value: Any) -> Any:
    """The value with its lazy texts made text."""
    if isinstance(value, Promise):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _moment(value: Any, field: str) -> Any:
    """A date, or seconds since 1970, as an aware datetime; anything else is refused later on."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, ValueError, OSError):
            raise InvalidEmail(field, "is not a time in seconds since 1970") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001  # made aware below
    elif isinstance(value, datetime) and timezone.is_naive(value) and settings.USE_TZ:
        problem = "is naive while USE_TZ is on, and is read in the current time zone"
        warnings.warn(f"{field} {problem}", RuntimeWarning, stacklevel=2)
    if isinstance(value, datetime) and timezone.is_naive(value):
        return timezone.make_aware(value)
    return value


# The e-mail --------------------------------------------------------------------------------------


def _mapping(message: Any) -> dict[str, Any]:
    headers = {str(name): force_str(value) for name, value in message.extra_headers.items()}
    shown = {name.lower(): headers.pop(name) for name in list(headers) if name.lower() in _SHOWN}
    mapping = {
        "from": shown.get("from", str(message.from_email)),
        **{_SHOWN[name]: _listed(header, name) for name, header in shown.items() if name != "from"},
        "subject": str(message.subject),
        "headers": headers,
        **{name: _extra(message, name) for name in ("tags", "metadata", "vendor_options")},
        **_bodies(message),
    }
    for field in ("to", "cc", "bcc", "reply_to"):
        mapping.setdefault(field, _people(getattr(message, field)))
    mapping["attachments"] = list(_files(message.attachments, mapping.get("html", "")))
    return mapping | {"envelope": _envelope(message, shown)}


def _people(values: Iterable[Any]) -> list[str]:
    """As Django, without empty ones."""
    return [str(value) for value in values if value]


def _listed(header: str, name: str) -> list[str]:
    return mailboxes(header, f"headers.{name.title()}")


def _envelope(message: Any, shown: Mapping[str, str]) -> dict[str, Any]:
    """Who is sent to, and who hears of bounces, where headers show others."""
    envelope: dict[str, Any] = {}
    sender = _extra(message, "envelope_sender")
    if sender is not None or "from" in shown:
        envelope["from"] = str(message.from_email) if sender is None else sender
    if not shown.keys().isdisjoint({"to", "cc"}):
        envelope["recipients"] = _people(message.recipients())
    return envelope


def _bodies(message: Any) -> dict[str, Any]:
    """Text, HTML, and other forms of both. As in Django, an empty body beside others is none."""
    alternatives = list(getattr(message, "alternatives", None) or ())
    forms = [(message.body, f"text/{message.content_subtype}"), *alternatives]
    bodies: dict[str, Any] = {}
    others = []
    for content, kind in forms if message.body else alternatives or forms:
        field = _BODIES.get(kind)
        if field is None or field in bodies:  # a second one is refused later on
            others.append({"content": force_str(content), "content_type": kind})
        else:
            bodies[field] = force_str(content)
    return (bodies or {"text": ""}) | {"alternatives": others}


def _files(attachments: Iterable[Any], html: str) -> Iterator[dict[str, Any]]:
    for n, attachment in enumerate(attachments):
        if isinstance(attachment, Message):  # a MIMEBase, or a MIMEPart
            yield stdlib_message.read_file(attachment, f"attachments[{n}]", html)
        else:
            yield _file(*attachment)


def _file(filename: Any = None, content: Any = None, kind: str | None = None) -> dict[str, Any]:
    name = None if filename is None else str(filename)
    if hasattr(content, "message"):  # a message of Django's
        content = content.message()
    if isinstance(content, Message):
        content = stdlib_message.message_bytes(content)
    elif isinstance(content, str | Promise):
        content = str(content).encode()
        if kind and kind.startswith("text/") and "charset=" not in kind:
            kind += "; charset=utf-8"
    return {"filename": name, "content": content, "content_type": kind}
