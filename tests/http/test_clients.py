"""Other people's clients, unchanged, against the running service."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import resend
from pymongo.collection import Collection

from mailqueue.store import ids
from tests.conftest import Document
from tests.http_service import HttpService, Key

REPO = Path(__file__).parents[2]
NODE_PACKAGES = Path(sys.prefix) / "node/node_modules"  # tests/run.sh puts them there
LATER = "2040-01-31T09:00:00.000Z"

EMAIL: Any = {
    "from": "Ann <ann@example.com>",
    "to": ["bob@example.org"],
    "subject": "Your invoice",
    "html": "<p>Hello</p>",
    "attachments": [{"filename": "a.txt", "content": list(b"100 EUR")}],
    "tags": [{"name": "category", "value": "invoice"}],
}


def stored(emails: Collection[Document], email_id: str) -> Document:
    document = emails.find_one({"_id": ids.parse(email_id)})
    assert document
    return document


# Resend's SDK for Python -------------------------------------------------------------------------


@pytest.fixture
def python_sdk(service: HttpService, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resend, "api_url", service.url)
    monkeypatch.setattr(resend, "api_key", key.secret)


@pytest.mark.usefixtures("python_sdk")
def test_resends_sdk_for_python_sends_looks_changes_and_cancels(
    emails: Collection[Document],
) -> None:
    options: resend.Emails.SendOptions = {"idempotency_key": "invoice-1"}
    first, second = (resend.Emails.send(EMAIL, options) for _ in range(2))
    assert first["id"] == second["id"]
    email = stored(emails, first["id"])["email"]
    assert email["attachments"][0]["content"] == b"100 EUR"
    assert email["metadata"] == {"category": "invoice"}

    shown = resend.Emails.get(first["id"])
    assert (shown["subject"], shown["last_event"]) == ("Your invoice", "queued")
    listed = resend.Emails.list({"limit": 10})
    assert [each["id"] for each in listed["data"]] == [first["id"]]

    changed = resend.Emails.update({"id": first["id"], "scheduled_at": LATER})
    assert changed["id"] == first["id"]
    assert resend.Emails.get(first["id"])["last_event"] == "scheduled"
    resend.Emails.cancel(first["id"])
    assert stored(emails, first["id"])["status"] == "cancelled"


@pytest.mark.usefixtures("python_sdk")
def test_resends_sdk_for_python_sends_batches(emails: Collection[Document]) -> None:
    batch = [EMAIL | {"subject": str(n)} for n in range(3)]
    sent = resend.Batch.send(batch, {"idempotency_key": "batch-1"})
    subjects = [stored(emails, each["id"])["email"]["subject"] for each in sent["data"]]
    assert subjects == ["0", "1", "2"]
    mixed = resend.Batch.send([EMAIL, EMAIL | {"to": "nobody"}], {"batch_validation": "permissive"})
    assert (len(mixed["data"]), mixed["errors"][0]["index"]) == (1, 1)


@pytest.mark.usefixtures("python_sdk")
def test_resends_sdk_for_python_raises_its_own_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(resend.exceptions.ValidationError, match=r"^to\[0\]: is not a valid"):
        resend.Emails.send(EMAIL | {"to": ["nobody"]})
    resend.Emails.send(EMAIL, {"idempotency_key": "k"})
    with pytest.raises(resend.exceptions.ResendError) as conflict:
        resend.Emails.send(EMAIL | {"subject": "Other"}, {"idempotency_key": "k"})
    assert (conflict.value.code, conflict.value.error_type) == (409, "invalid_idempotent_request")
    monkeypatch.setattr(resend, "api_key", "mq_wrong")
    with pytest.raises(resend.exceptions.ResendError) as refusal:
        resend.Emails.send(EMAIL)
    assert (refusal.value.code, refusal.value.error_type) == (401, "invalid_api_key")


# Resend's SDK for Node ---------------------------------------------------------------------------


@pytest.fixture
def node(service: HttpService, key: Key, tmp_path: Path) -> Any:
    """Run a module that may import ``resend``; returns what it printed."""
    if not (shutil.which("node") and (NODE_PACKAGES / "resend").is_dir()):
        missing = "node, or its package resend, is not there (tests/run.sh gets the package)"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    (tmp_path / "node_modules").symlink_to(NODE_PACKAGES)

    def run(code: str, *arguments: str) -> str:
        (tmp_path / "main.mjs").write_text(code)
        ended = subprocess.run(
            ["node", "main.mjs", *arguments],
            cwd=tmp_path,
            env={**os.environ, "RESEND_BASE_URL": service.url, "RESEND_API_KEY": key.secret},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return run


NODE = """
import { Resend } from "resend";
const resend = new Resend();
const email = {
  from: "Ann <ann@example.com>", to: "bob@example.org", replyTo: "help@example.com",
  subject: "Your invoice", html: "<p>Hello</p>",
  attachments: [{ filename: "a.txt", content: Buffer.from("100 EUR"), contentType: "text/plain" }],
  tags: [{ name: "category", value: "invoice" }],
};
const key = { idempotencyKey: "invoice-1" };
const first = await resend.emails.send(email, key);
const second = await resend.emails.send(email, key);
const other = await resend.emails.send({ ...email, subject: "Other" }, key);
const shown = await resend.emails.get(first.data.id);
const batch = await resend.batch.send([email, { ...email, subject: "2" }]);
const mixed = await resend.batch.send([email, { ...email, to: "nobody" }],
                                      { batchValidation: "permissive" });
const listed = await resend.emails.list({ limit: 2 });
const changed = await resend.emails.update({ id: first.data.id, scheduledAt: "%s" });
const cancelled = await resend.emails.cancel(first.data.id);
const gone = await resend.emails.get("6b0985fc-7ed4-8000-8000-8454ccb93f60");
const bad = await resend.emails.send({ ...email, to: ["bob@example.org", "nobody"] });
const template = await resend.emails.send({ from: "a@example.com", to: "b@example.org",
                                            template: { id: "x" } });
const stranger = await new Resend("mq_wrong").emails.send(email);
console.log(JSON.stringify({ first, second, other, shown, batch, mixed, listed, changed, cancelled,
                             gone, bad, template, stranger }));
"""


def test_resends_sdk_for_node_does_all_that_it_can(node: Any, emails: Collection[Document]) -> None:
    said = json.loads(node(NODE % LATER))
    ok = {name: said[name]["data"] for name in said if said[name]["error"] is None}
    errors = {name: said[name]["error"] for name in said if said[name]["error"]}
    assert ok["first"] == ok["second"]
    email = stored(emails, ok["first"]["id"])
    assert email["status"] == "cancelled"
    assert email["email"]["attachments"][0]["content"] == b"100 EUR"
    assert email["email"]["metadata"] == {"category": "invoice"}
    assert email["email"]["reply_to"] == ["help@example.com"]
    assert ok["shown"]["tags"] == [{"name": "category", "value": "invoice"}]
    assert [len(ok[name]["data"]) for name in ("batch", "mixed", "listed")] == [2, 1, 2]
    assert (ok["mixed"]["errors"][0]["index"], ok["listed"]["has_more"]) == (1, True)
    assert ok["changed"]["id"] == ok["cancelled"]["id"] == ok["first"]["id"]
    assert {name: (e["statusCode"], e["name"]) for name, e in errors.items()} == {
        "other": (409, "invalid_idempotent_request"),
        "gone": (404, "not_found"),
        "bad": (422, "validation_error"),
        "template": (422, "validation_error"),
        "stranger": (401, "invalid_api_key"),
    }
    assert errors["bad"]["message"].startswith("to[1]: ")
    assert errors["bad"]["errors"][0]["pointer"] == "/to/1"


def test_the_example_for_node_sends_an_invoice_and_takes_back_a_reminder(node: Any) -> None:
    code = (REPO / "examples/node_resend.mjs").read_text("utf-8")
    said = node(code, "bob@example.org").splitlines()
    assert said[1:] == ["Your invoice is queued", "A reminder is canceled"]


# django-anymail's backend for Resend -------------------------------------------------------------

ANYMAIL = """
import sys
from datetime import datetime, timezone
import django
from django.conf import settings

settings.configure(
    EMAIL_BACKEND="anymail.backends.resend.EmailBackend",
    ANYMAIL={"RESEND_API_URL": sys.argv[1], "RESEND_API_KEY": sys.argv[2]},
)
django.setup()
from anymail.exceptions import AnymailRequestsAPIError
from django.core.mail import EmailMultiAlternatives

message = EmailMultiAlternatives(
    "Your invoice", "Hello", "Ann <ann@example.com>", ["bob@example.org"],
    cc=["carl@example.org"], reply_to=["help@example.com"], headers={"X-Campaign": "7"},
)
message.attach_alternative("<p>Hello</p>", "text/html")
message.attach("a.txt", "100 EUR", "text/plain")
message.tags = ["invoice"]
message.metadata = {"order": "4711"}
message.send_at = datetime(2040, 1, 31, 9, tzinfo=timezone.utc)
message.send()
print(message.anymail_status.message_id)

batch = EmailMultiAlternatives("Hi", "Hello", "ann@example.com", ["a@example.org", "b@example.org"])
batch.merge_metadata = {"a@example.org": {"n": "1"}, "b@example.org": {"n": "2"}}
batch.send()
print(*batch.anymail_status.message_id)

try:
    EmailMultiAlternatives("Hi", "", "ann@example.com", ["bob@-.example.org"]).send()
except AnymailRequestsAPIError as error:
    print(error.status_code)
"""


def test_anymails_backend_for_resend_sends_single_messages_and_batches(
    service: HttpService, key: Key, emails: Collection[Document], tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ANYMAIL, service.url, key.secret],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    single, batch, status = ended.stdout.splitlines()
    email = stored(emails, single)["email"]
    assert email["cc"] == ["carl@example.org"]
    assert (email["text"], email["html"]) == ("Hello", "<p>Hello</p>")
    assert email["attachments"][0]["content"] == b"100 EUR"
    assert json.loads(email["headers"]["X-Metadata"]) == {"order": "4711"}
    assert stored(emails, single)["send_at"].year == 2040
    sent = [stored(emails, email_id)["email"]["to"] for email_id in batch.split()]
    assert sorted(sent) == [["a@example.org"], ["b@example.org"]]
    assert status == "422"


# curl --------------------------------------------------------------------------------------------


def curl(command: list[str]) -> tuple[int, Any]:
    """The status, and what came as JSON."""
    assert shutil.which("curl"), "curl is not installed"
    form = ["-s", "-w", "\n%{http_code}", "--max-time", "30"]
    ended = subprocess.run(
        [command[0], *form, *command[1:]], capture_output=True, text=True, check=True
    )
    body, _, status = ended.stdout.rpartition("\n")
    return int(status), json.loads(body)


def test_the_pages_command_for_curl_stores_an_e_mail(
    service: HttpService, key: Key, emails: Collection[Document]
) -> None:
    page = (REPO / "docs/http.md").read_text("utf-8")
    (line,) = re.findall(r"^curl .*$", page, re.MULTILINE)
    line = line.replace("http://127.0.0.1:8080", service.url).replace("$MAILQUEUE_KEY", key.secret)
    status, answer = curl(shlex.split(line))
    assert status == 201
    assert stored(emails, answer["id"])["email"]["subject"] == "Hi"


def test_curl_sends_a_large_file_after_asking_whether_it_may(
    service: HttpService, key: Key, emails: Collection[Document], tmp_path: Path
) -> None:
    """``Expect: 100-continue``: what is refused is not even sent."""
    body = tmp_path / "body.json"
    headers = ["-H", f"Authorization: Bearer {key.secret}", "-H", "Content-Type: application/json"]
    command = ["curl", f"{service.url}/emails", *headers, "--data-binary", f"@{body}"]
    text = "x" * (5 * 2**20)
    body.write_text(json.dumps(EMAIL | {"text": text}))
    status, answer = curl(command)
    assert status == 201
    assert stored(emails, answer["id"])["email"]["text"] == text
    body.write_text(json.dumps(EMAIL | {"text": text * 5}))
    status, answer = curl(command)
    assert (status, answer["name"]) == (413, "request_too_large")
