"""What an e-mail carries beside text and HTML: files, and other forms of its content.

Decides: what makes an attachment or an alternative valid, and the mapping of each.

Promises: a reader returns the value in its one normal form, or raises ``InvalidEmail`` naming the
field. A missing content type follows from the file's name, and a missing name from the type (see
``file_types``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailqueue.errors import InvalidEmail
from mailqueue.message.file_types import name_of, type_of
from mailqueue.message.headers import body_text, header_text, is_text
from mailqueue.message.parameters import charset

_NAME = r"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+"
_VALUE = rf'({_NAME}|"([ !#-\[\]-~]|\\[ -~])*")'
_CONTENT_TYPE = re.compile(
    rf"(?!multipart/){_NAME}/{_NAME}([ \t]*;[ \t]*{_NAME}={_VALUE})*", re.IGNORECASE | re.ASCII
)
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,250}")
_MAX_TYPE = 255  # characters
_ATTACHMENT_KEYS = frozenset({"filename", "content", "content_type", "content_id"})
_ALTERNATIVE_KEYS = frozenset({"content", "content_type"})


@dataclass(frozen=True, slots=True, repr=False)
class Attachment:
    """A file of an e-mail.

    ``content_type`` may be empty: it then follows from the extension of ``filename``. With a
    ``content_id`` the HTML shows the file: ``<img src="cid:...">``. Nothing is checked here; the
    ``Email`` that it becomes part of raises ``InvalidEmail``.
    """

    filename: str
    content: bytes
    content_type: str = ""
    content_id: str | None = None

    @classmethod
    def from_path(
        cls,
        path: str | os.PathLike[str],
        *,
        filename: str | None = None,
        content_type: str = "",
        content_id: str | None = None,
    ) -> Attachment:
        """A file of the disk, read now, under its own name unless ``filename`` is given.

        Raises ``InvalidEmail`` (field ``attachments.path``) if it cannot be read. It blocks: in
        asyncio, use ``await asyncio.to_thread(Attachment.from_path, path)``.
        """
        try:
            content = Path(path).read_bytes()
        except (OSError, ValueError) as error:  # not there, no permission, a folder; a NUL in it
            problem = f"the file cannot be read ({type(error).__name__})"
            raise InvalidEmail("attachments.path", problem) from None
        name = Path(path).name if filename is None else filename
        return cls(name, content, content_type, content_id)

    def __repr__(self) -> str:
        return f"Attachment({self.content_type or 'no type'}, {len(self.content)} bytes)"

    def to_mapping(self) -> dict[str, Any]:
        """As a mapping; without ``content_id`` if there is none."""
        mapping = {
            "filename": self.filename,
            "content": self.content,
            "content_type": self.content_type,
            "content_id": self.content_id,
        }
        return {key: value for key, value in mapping.items() if value is not None}


@dataclass(frozen=True, slots=True, repr=False)
class Alternative:
    """The e-mail in another form than plain text and HTML: an invitation, AMP, Markdown.

    ``content_type`` is a text type such as ``text/calendar; method=REQUEST``. Nothing is checked
    here; the ``Email`` that it becomes part of raises ``InvalidEmail``.
    """

    content: bytes
    content_type: str

    def __repr__(self) -> str:
        return f"Alternative({self.content_type}, {len(self.content)} bytes)"

    def to_mapping(self) -> dict[str, Any]:
        """As a mapping."""
        return {"content": self.content, "content_type": self.content_type}


def read_attachment(value: object, field: str) -> Attachment:
    """One attachment, checked, from an ``Attachment`` or a mapping."""
    mapping = value.to_mapping() if isinstance(value, Attachment) else value
    if not isinstance(mapping, Mapping) or mapping.keys() - _ATTACHMENT_KEYS:
        keys = ", ".join(sorted(_ATTACHMENT_KEYS))
        raise InvalidEmail(field, f"must be an Attachment or a mapping of {keys}")
    content = mapping.get("content")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise InvalidEmail(f"{field}.content", f"must be bytes, not {type(content).__name__}")
    texts = ((key, mapping.get(key)) for key in ("filename", "content_type", "content_id"))
    filename, content_type, content_id = (
        "" if text is None else header_text(text, f"{field}.{key}") for key, text in texts
    )
    filename = filename.strip()
    content_type = content_type or type_of(filename)
    if len(content_type) > _MAX_TYPE or not _CONTENT_TYPE.fullmatch(content_type):
        problem = "is not a valid content type: give one such as application/pdf (RFC 2045)"
        raise InvalidEmail(f"{field}.content_type", problem)
    content_id = content_id.removeprefix("<").removesuffix(">")  # as it stands in a header
    if content_id and not _CONTENT_ID.fullmatch(content_id):
        raise InvalidEmail(f"{field}.content_id", "must be printable ASCII without spaces")
    filename = filename or name_of(content_type)  # several vendors drop a file without a name
    return Attachment(filename, bytes(content), content_type, content_id or None)


def read_alternative(value: object, field: str) -> Alternative:
    """One alternative, checked, from an ``Alternative`` or a mapping."""
    mapping = value.to_mapping() if isinstance(value, Alternative) else value
    if not isinstance(mapping, Mapping) or mapping.keys() != _ALTERNATIVE_KEYS:
        raise InvalidEmail(field, "must be an Alternative or a mapping of content, content_type")
    content_type = _text_type(mapping["content_type"], f"{field}.content_type")
    content = mapping["content"]
    if is_text(content):
        content = body_text(content, f"{field}.content").encode()
        content_type = _as_utf8(content_type, f"{field}.content_type")
    if not isinstance(content, bytes | bytearray | memoryview):
        problem = f"must be a string or bytes, not {type(content).__name__}"
        raise InvalidEmail(f"{field}.content", problem)
    return Alternative(bytes(content), content_type)


def _text_type(value: object, field: str) -> str:
    """The type of an alternative: some text that has no field of its own."""
    content_type = header_text(value, field)
    is_type = len(content_type) <= _MAX_TYPE and _CONTENT_TYPE.fullmatch(content_type)
    media_type = content_type.partition(";")[0].strip().lower()
    if (
        not is_type
        or not media_type.startswith("text/")
        or media_type in ("text/plain", "text/html")
    ):
        problem = "must be a text type other than text/plain and text/html: use text or html there"
        raise InvalidEmail(field, problem)
    return content_type


def _as_utf8(content_type: str, field: str) -> str:
    """The type of a text that is stored as UTF-8."""
    name = charset(content_type)
    if not name:
        return f"{content_type}; charset=utf-8"
    if name != "utf-8":
        raise InvalidEmail(field, "must say charset=utf-8, or give the content as bytes")
    return content_type
