"""The type of a file by its name, and the other way round, is the same on every host."""

from __future__ import annotations

import mimetypes
from typing import Any

import pytest

from mailqueue.message import Email
from mailqueue.message.file_types import OCTETS, name_of, type_of, types_of
from tests.for_each import for_each

OFFICE = "application/vnd.openxmlformats-officedocument"


@for_each("name,kind", [
    ("a.docx", f"{OFFICE}.wordprocessingml.document"),
    ("a.xlsx", f"{OFFICE}.spreadsheetml.sheet"),
    ("a.pptx", f"{OFFICE}.presentationml.presentation"),
    ("a.odt", "application/vnd.oasis.opendocument.text"),
    ("a.ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("a.odp", "application/vnd.oasis.opendocument.presentation"),
    ("invite.ics", "text/calendar"), ("a.webp", "image/webp"), ("a.avif", "image/avif"),
    ("a.heic", "image/heic"), ("README.md", "text/markdown"), ("a.csv", "text/csv"),
    ("a.json", "application/json"), ("a.svg", "image/svg+xml"), ("A.PDF", "application/pdf"),
    ("a.zip", "application/zip"), ("a.tar.gz", "application/gzip"), ("a.mp4", "video/mp4"),
    ("a.7z", "application/x-7z-compressed"), ("a.mp3", "audio/mpeg"), ("a.eml", "message/rfc822"),
    ("a.vcf", "text/vcard"), ("a.log", "text/plain"), ("a.yaml", "application/yaml"),
    ("a.yml", "application/yaml"), ("a.jpg", "image/jpeg"), ("a.unheard", OCTETS), ("a", OCTETS),
    ("docx", OCTETS), ("", OCTETS), ("a.", OCTETS),
    (".docx", f"{OFFICE}.wordprocessingml.document"),
])  # fmt: skip
def test_a_name_tells_the_registered_type(name: str, kind: str) -> None:
    assert type_of(name) == kind
    assert not types_of(name) if kind == OCTETS else kind in types_of(name)


@for_each("kind,name", [
    ("text/calendar; method=REQUEST", "attachment.ics"), ("image/webp", "attachment.webp"),
    ("IMAGE/JPEG", "attachment.jpg"), ("application/xml", "attachment.xml"),
    ("text/x-vcard", "attachment.vcf"), ("x/y", "attachment.bin"), (OCTETS, "attachment.bin"),
    ("application/vnd.ms-excel.sheet.macroEnabled.12", "attachment.xlsm"),
])  # fmt: skip
def test_a_type_tells_the_usual_extension(kind: str, name: str) -> None:
    assert name_of(kind) == name


def test_the_hosts_own_lists_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise AssertionError("asked")

    monkeypatch.setattr(mimetypes, "init", fail)
    monkeypatch.setattr(mimetypes.MimeTypes, "guess_type", fail)
    whole = Email(
        from_="a@x.org",
        to="b@x.org",
        text="",
        attachments=[{"filename": "a.docx", "content": b""}],
    )
    assert whole.attachments[0].content_type.endswith("document")
