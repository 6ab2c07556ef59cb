"""What a vendor brings to the contract suite: one ``Case`` in a module of its own.

A new vendor joins by a file beside ``sendgrid.py`` with a ``CASE``, and a line in ``cases.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome
from tests.vendor_servers import Received, Reply

Person = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What a stub found in a request, in one form for all vendors."""

    sender: Person
    to: Sequence[Person] = ()
    cc: Sequence[Person] = ()
    bcc: Sequence[Person] = ()
    reply_to: Sequence[Person] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    attachments: Sequence[tuple[str, str, bytes]] = ()  # file name, type, content
    inline: Sequence[tuple[str, str, bytes]] = ()  # content id, type, content
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    email_id: str = ""
    message_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a vendor's table: an answer, and what it has to mean.

    ``email``: fields of the plain e-mail that are other than usual; ``options``: the vendor's.
    """

    reply: Reply
    outcome: Outcome
    retry_after: float | None = None
    message_id: str | None = None
    detail: str | None = None  # a part of it
    refused: Sequence[str] = ()
    pending: Sequence[str] = ()
    quota_held: bool = False
    sandbox: bool = False
    email: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.reply.status}-{self.detail or self.outcome}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A vendor, as the contract suite knows it.

    ``keys`` are its own keys in the configuration; ``secret`` may appear in no log. Requests go to
    ``path``; ``accepted`` is a yes to one, with this ``message_id``. ``parse`` reads a request back
    into what it carries, ``authorized`` says whether it has the credentials, and ``violations``
    what in it the published API description (in a folder) forbids. ``rows`` is the table in the
    adapter's docstring. ``told_by_status``: a 2xx means acceptance, whatever becomes of the body.
    ``narrowed``: fields of the rich e-mail as this vendor can carry them. ``own_message_id``: our
    Message-ID is sent. ``sandboxed`` is None where there is no sandbox; ``sandbox_options`` are
    the options without which there is none. ``sender_names``: the sender's display name is sent.
    ``dated`` are the headers (lower case) that hold a signature, which is of the moment.
    ``labels``: of tags and metadata, what the vendor has a private place for; ``exposed``: what it
    shows recipients when it may, under ``exposed_options``.
    """

    type: str
    keys: Mapping[str, Any]
    secret: str
    path: str
    accepted: Reply
    message_id: str
    parse: Callable[[Received], Carried]
    authorized: Callable[[Received], bool]
    rows: Sequence[Row]
    told_by_status: bool = False
    sandboxed: Callable[[Received], bool] | None
    sandbox_options: Mapping[str, Any] = field(default_factory=dict)
    narrowed: Mapping[str, Any] = field(default_factory=dict)
    own_message_id: bool = True
    sender_names: bool = True
    dated: Collection[str] = frozenset()
    labels: Collection[str] = frozenset({"tags", "metadata"})
    exposed: Collection[str] = frozenset()
    exposed_options: Mapping[str, Any] = field(default_factory=dict)
    violations: Callable[[Path, Received], list[str]]
    extra: tuple[Mapping[str, Any], Callable[[Received], bool]]  # vendor options, seen by the stub


@cache
def specification(file: Path, *, loader: str = "CSafeLoader") -> Any:
    """A document that a vendor published, JSON or YAML; read once per run, so not to be changed."""
    text = file.read_text("utf-8")
    if file.suffix == ".json":
        return json.loads(text)
    import yaml

    return yaml.load(text, Loader=getattr(yaml, loader, None) or getattr(yaml, loader[1:]))


def problems(schema: Any, request: Received) -> list[str]:
    """What is wrong with the request's JSON by a schema that ``closed`` gave."""
    from jsonschema import Draft202012Validator

    return [str(error.message) for error in Draft202012Validator(schema).iter_errors(request.json)]


def closed(schema: Any, document: Mapping[str, Any]) -> Any:
    """The schema with ``$ref`` and ``allOf`` resolved, and no property allowed that it lacks."""
    if isinstance(schema, list):
        return [closed(entry, document) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target: Any = document
        for key in schema["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        return closed({**target, **{k: v for k, v in schema.items() if k != "$ref"}}, document)
    merged = {k: v for k, v in schema.items() if k not in {"allOf", "example", "examples"}}
    for part in schema.get("allOf", ()):
        inner = closed(part, document)
        properties = {**merged.get("properties", {}), **inner.get("properties", {})}
        merged = {**inner, **merged, "properties": properties}
    result = {
        key: {n: closed(s, document) for n, s in value.items()}
        if key == "properties"
        else closed(value, document)
        for key, value in merged.items()
    }
    if "properties" in result and not isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = False
    return result
