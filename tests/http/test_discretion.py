"""What the HTTP service writes to its log: an id for each request, and nothing private."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from mailqueue.store import ids
from tests.http_service import HttpService, Key

PRIVATE = ("ann@", "bob@", "example.org", "secret-subject", "secret-body", "secret-file", "mq_")
EMAIL = {
    "from": "Ann <ann@example.org>",
    "to": "bob@example.org",
    "subject": "secret-subject",
    "text": "secret-body",
    "attachments": [{"filename": "secret-file", "content": ""}],
}


def test_no_line_has_an_address_a_subject_a_body_or_a_key(own: HttpService, key: Key) -> None:
    wrong = "mq_" + "w" * 43
    headers = {
        "Idempotency-Key": "bob@example.org",
        "X-Request-Id": "bob@example.org secret-subject",
        "User-Agent": "bob@example.org",
    }
    sent = own.ask("POST", "/emails", EMAIL, secret=key.secret, headers=headers)
    assert sent.status == 201
    own.ask(
        "POST",
        "/emails",
        EMAIL | {"subject": "secret-subject 2"},
        secret=key.secret,
        headers=headers,
    )
    own.ask(
        "POST", "/emails", EMAIL | {"to": "bob@example.org, bob@example.org"}, secret=key.secret
    )
    own.ask("POST", "/emails", EMAIL | {"bob@example.org": 1}, secret=key.secret)
    own.ask("POST", "/emails", b'{"bob@example.org', secret=key.secret)
    own.ask("POST", "/emails", EMAIL, secret=wrong)
    own.ask("GET", "/emails/bob@example.org?to=bob@example.org", secret=key.secret)
    own.ask("GET", "/bob@example.org", secret=key.secret)
    own.ask("GET", "/emails?to=bob@example.org", secret=key.secret)
    own.terminate()
    assert own.wait() == 0
    started, *everything = own.log.splitlines()
    assert started.endswith("INFO http.started mode=production auth=required")
    lines = [line for line in everything if " email.stored " not in line]
    assert len(lines) == 8  # the address that is not there has none
    assert [word for word in (*PRIVATE, key.secret, wrong) if word in own.log] == []
    email_id = ids.parse(sent.json["id"])
    assert re.search(
        rf"INFO request\.answered method=POST path=/emails status=201 ms=[\d.]+ id={email_id}"
        r" key=shop request_id=[0-9a-f]{16}$",
        lines[0],
    )
    (stored,) = [line for line in everything if line not in lines]
    assert stored.endswith(f" INFO email.stored id={email_id}")


def test_no_answer_quotes_what_was_sent(service: HttpService, key: Key) -> None:
    for changes in (
        {"to": "bob@example.org, bob@example.org"},
        {"bob@example.org": 1},
        {"headers": {"bob@example.org:": "x"}},
        {"subject": "secret-subject\n"},
        {"attachments": [{"filename": "secret-file", "content": "secret-body"}]},
        {"tags": [{"name": "bob@example.org", "value": "x\n"}]},
        {"priority": "secret-body"},
        {"scheduled_at": "secret-body"},
        {"template": {"id": "secret-body"}},
    ):
        answer = service.ask("POST", "/emails", EMAIL | changes, secret=key.secret)
        assert answer.status == 422
        assert [word for word in PRIVATE if word in answer.body.decode()] == []


def test_without_the_extra_the_command_says_what_to_install(
    tmp_path: Path,
) -> None:
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('starlette', 'uvicorn', 'httptools'))\n"
        "from mailqueue.cli import main\n"
        "sys.exit(main(['http', '--config', sys.argv[1]]))\n"
    )
    config = tmp_path / "config.json"
    config.write_text("{}")
    ended = subprocess.run(
        [sys.executable, "-c", code, str(config)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.endswith("is not installed: pip install 'mailqueue[http]'\n")


def test_the_service_is_not_loaded_by_who_does_not_serve() -> None:
    code = "import sys, mailqueue, mailqueue.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    names = set(loaded.stdout.split())
    assert not names & {"starlette", "uvicorn", "mailqueue.http", "mailqueue.aio"}
