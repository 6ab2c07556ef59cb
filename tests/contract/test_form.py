"""Mailgun's form: nobody who writes a part of an e-mail writes a field of it."""

from __future__ import annotations

import tracemalloc
from email import message_from_bytes, policy
from email.message import EmailMessage
from hashlib import sha256
from typing import Any

import pytest

from mailqueue.message import Email, mime
from mailqueue.vendors import mailgun
from mailqueue.vendors.http import Request
from mailqueue.vendors.mailgun import form
from tests.contract.conftest import EMAIL_ID, MESSAGE_ID, Attempts, Vendors
from tests.contract.mailgun import CASE

PLAIN = {"from": "a@example.org", "to": ["b@example.org"], "subject": "s"}


def _fields(body: bytes, content_type: str) -> list[tuple[str, bytes, EmailMessage]]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    whole = message_from_bytes(head + body, policy=policy.HTTP)
    assert not whole.defects
    parts = [part for part in whole.iter_parts() if isinstance(part, EmailMessage)]
    return [
        (
            str(part.get_param("name", header="content-disposition")),
            bytes(part.get_payload(decode=True)),
            part,
        )
        for part in parts
    ]


def _build(vendor: Vendors, attempt: Attempts, **fields: Any) -> Request:
    made = vendor("mailgun", base_url="http://127.0.0.1:1", keys=CASE.keys)
    request: Request = made.build(Email.from_mapping({**PLAIN, **fields}), attempt())
    return request


def _injected(boundary: str) -> str:
    part = f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="bcc"\r\n\r\nevil@example.com'
    return f"Hello{part}\r\n--{boundary}--\r\n"


def _guesses() -> list[str]:
    """What one who has seen a Message-ID could try."""
    seeds = (f"{EMAIL_ID} {MESSAGE_ID}", EMAIL_ID, MESSAGE_ID, "", "text")
    chain = [sha256(seed.encode()).hexdigest() for seed in seeds]
    for _ in range(3):
        chain += [sha256(guess.encode()).hexdigest() for guess in chain[-len(seeds) :]]
    return [*chain, *(guess[:32] for guess in chain)]


def test_a_text_with_guessed_boundaries_adds_no_field(vendor: Vendors, attempt: Attempts) -> None:
    text = "".join(map(_injected, _guesses()))
    request = _build(vendor, attempt, text=text)
    found = _fields(request.body, request.headers["Content-Type"])
    names = [name for name, _, _ in found]
    assert names == ["from", "to", "subject", "text", "h:Message-Id", "v:mailqueue_id"]
    assert found[3][1].decode() == text


def test_a_text_with_the_boundary_that_another_text_got_adds_no_field(
    vendor: Vendors, attempt: Attempts
) -> None:
    seen = ""
    for _ in range(5):
        text = _injected(seen)
        request = _build(vendor, attempt, text=text)
        boundary = request.headers["Content-Type"].partition("boundary=")[2]
        assert boundary != seen
        assert boundary not in text
        seen = boundary


def test_every_part_of_the_content_changes_the_boundary() -> None:
    parts: list[mailgun.Part] = [("a", "1"), ("b", ("f", b"2", "x/y"))]
    others: list[list[mailgun.Part]] = [
        [("a", "1 "), parts[1]],
        [parts[0], ("b", ("f", b"3", "x/y"))],
        [parts[0], ("b", ("g", b"2", "x/y"))],
        [("a", "1"), *parts],
    ]
    types = [form(each)[1] for each in (parts, *others)]
    assert len(set(types)) == len(types)
    assert form(parts) == form(list(parts))


def test_a_boundary_that_stands_in_a_part_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Weak:
        """A digest that can be foretold: it counts how often another one was asked for."""

        def __init__(self, _: bytes) -> None:
            self.number = 1

        def update(self, data: bytes) -> None:
            self.number += data == b"another"

        def hexdigest(self) -> str:
            return f"boundary{self.number}"

    monkeypatch.setattr(mime, "sha256", Weak)
    parts: list[mailgun.Part] = [("text", _injected("boundary1"))]
    body, content_type = form([*parts, ("file", ("f", b"boundary2", "x/y"))])
    assert content_type == "multipart/form-data; boundary=boundary3"
    assert [name for name, _, _ in _fields(body, content_type)] == ["text", "file"]


HOSTILE = 'a"; name="bcc"\r\nX: y\r\n\r\nz'


def test_names_of_fields_and_files_end_where_they_end() -> None:
    body, content_type = form([(HOSTILE, "1"), ("file", (HOSTILE, b"2", "text/plain"))])
    (one, first, _), (two, second, part) = _fields(body, content_type)
    assert (one, first) == ("a%22; name=%22bcc%22%0D%0AX: y%0D%0A%0D%0Az", b"1")
    assert (two, second) == ("file", b"2")
    assert part.get_param("filename", header="content-disposition") == one
    assert part.get_content_type() == "text/plain"


def test_metadata_names_and_file_names_with_quotes_stay_names(
    vendor: Vendors, attempt: Attempts
) -> None:
    file = {"filename": 'x"; name="bcc', "content": b"x", "content_type": "text/plain"}
    metadata = {'k"; filename="y': "v"}
    request = _build(vendor, attempt, text="t", metadata=metadata, attachments=[file])
    found = _fields(request.body, request.headers["Content-Type"])
    assert "bcc" not in [name for name, _, _ in found]
    assert "v:k%22; filename=%22y" in [name for name, _, _ in found]
    assert all(part.get_filename() is None for name, _, part in found if name != "attachment")


def test_a_large_file_is_not_copied_over_and_over() -> None:
    content = bytes(8 * 2**20)
    tracemalloc.start()
    try:
        form([("attachment", ("f", content, "x/y"))])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(content)
