"""The documentation's blocks of code, run as they stand there; and every example has its test.

Scripts and servers have tests of their own: of these the options are looked up. Python code and the
operator's commands are run, one after the other, on what the code before them has stored.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pymongo.collection import Collection

from mailqueue import cli
from mailqueue.cli.arguments import parse
from mailqueue.consumer import Consumer
from mailqueue.errors import InvalidEmail
from mailqueue.message import Address, Email
from mailqueue.producer import Producer

REPO = Path(__file__).parents[2]
PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").glob("*.md"))]
KINDS = {"diff", "json", "log", "mermaid", "python", "sh", "text"}
# Other people's programs, which no test runs.
ELSEWHERE = {
    "aws",
    "cat",
    "cp",
    "export",
    "install",
    "mongosh",
    "/opt/mailqueue/bin/pip",
    "pip",
    "printf",
    "prometheus",
    "python3",
    "source",
    "swaks",
    "systemctl",
}
SERVERS = {
    "http",
    "intake",
    "metrics",
    "responder",
    "smtp",
}  # verbs that run until a signal; tests/process has them
BLOCK = re.compile(
    r"(?:<!-- run: (?P<name>\w+) -->\n)?```(?P<kind>\w+)\n(?P<code>.*?)```", re.DOTALL
)
BLOCKS = [block.groupdict() for page in PAGES for block in BLOCK.finditer(page.read_text("utf-8"))]
TESTED = {  # what is in examples/, and which test runs it
    "alerts.yml": "monitoring/test_alerts.py",
    "aws_lambda.yaml": "brokers/test_aws_lambda.py",
    "application.py": "integration/test_docs_code.py",
    "Dockerfile": "integration/test_deployment.py",
    "Dockerfile.dockerignore": "integration/test_deployment.py",
    "callback_receiver.mjs": "callbacks/test_receivers.py",
    "callback_receiver.py": "callbacks/test_receivers.py",
    "custom_vendor.py": "integration/test_custom_vendor.py",
    "django_settings.py": "integration/test_django.py",
    "docker-compose.yml": "integration/test_deployment.py",
    "event.mjs": "process/test_intake.py",
    "event.sh": "process/test_intake.py",
    "fastapi_app.py": "process/test_fastapi_app.py",
    "load_test.py": "integration/test_load_test.py",
    "node_resend.mjs": "http/test_clients.py",
    "grafana.json": "monitoring/test_prometheus.py",
    "prometheus.yml": "monitoring/test_prometheus.py",
    "mailqueue-consumer@.service": "integration/test_deployment.py",
    "mailqueue-http@.service": "integration/test_deployment.py",
    "mailqueue-intake@.service": "integration/test_deployment.py",
    "mailqueue-metrics@.service": "integration/test_deployment.py",
    "mailqueue-responder@.service": "integration/test_deployment.py",
    "mailqueue-smtp@.service": "integration/test_deployment.py",
    "nginx_dashboard.conf": "dashboard/test_proxy.py",
    "quickstart.py": "process/test_quickstart.py",
    "quickstart.sh": "process/test_quickstart.py",
    "sendmail.sh": "process/test_sendmail.py",
    "setup.sh": "process/test_quickstart.py",
}


@pytest.fixture
def place(
    config_mapping: dict[str, Any],
    emails: Collection[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with a ``config.json``, as the README's reader has one; outside production."""
    vendors = [{"name": "mailgun-eu", "type": "mailgun", "api_key": "x", "domain": "example.org"}]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**config_mapping, "vendors": vendors}))
    config.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAILQUEUE_ENV", raising=False)
    return tmp_path


def test_every_block_is_of_a_kind_that_some_test_knows() -> None:
    """Drawings are held against the code by tests/structure/test_docs.py."""
    assert {block["kind"] for block in BLOCKS} <= KINDS


def test_every_python_block_says_which_test_runs_it() -> None:
    assert [block["name"] for block in BLOCKS if block["kind"] == "python"] == [
        "producer",
        "asyncio",
        *("django", "mailers", "commit", "djangotest"),  # these in test_docs_applications
        "hook",
        "mapping",
        "envelope",
        *("outbox", "unittest", "failover"),
    ]


def test_the_mapping_with_its_type_is_a_legal_email() -> None:
    (block,) = [block for block in BLOCKS if block["name"] == "mapping"]
    names: dict[str, Any] = {}
    exec(block["code"], names)
    assert Email.of(names["email"]).recipients == (Address("Bob", "bob@example.org"),)


def test_the_mapping_with_an_envelope_goes_to_its_recipients_only() -> None:
    (block,) = [block for block in BLOCKS if block["name"] == "envelope"]
    names: dict[str, Any] = {}
    exec(block["code"], names)
    email = Email.of(names["notice"])
    assert [str(person) for person in email.recipients] == ["bob@example.org"]
    assert str(email.bounce_address) == "bounce+4711@example.com"


def test_the_producers_code_stores_an_email_that_a_consumer_sends(
    place: Path, emails: Collection[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = [block for block in BLOCKS if block["name"] == "producer"]
    names: dict[str, Any] = {}
    exec(block["code"], names)
    with names["producer"] as producer:
        assert capsys.readouterr().out == "queued\n"
        assert Consumer("config.json", burst=True).run() == 0
        status = producer.status(names["email_id"])
        assert (status.status, status.simulated) == ("sent", True)
        exec(block["code"].replace("producer = Producer", "again = Producer"), names)
        names["again"].close()
    assert emails.count_documents({}) == 1


def test_the_hooks_code_hears_of_an_end(
    place: Path, emails: Collection[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = [block for block in BLOCKS if block["name"] == "hook"]
    with Producer("config.json") as producer:
        email_id = producer.send({"from": "a@example.com", "to": "b@example.org", "text": ""})
        exec(block["code"], {})
    words = capsys.readouterr().out.split()
    assert words[:6] == ["email.sent", email_id, "sent", "None", "mailgun-eu", "None"]


def test_the_lines_of_the_log_are_such_as_the_code_writes() -> None:
    (block,) = [block for block in BLOCKS if block["kind"] == "log"]
    table = (REPO / "docs/operating.md").read_text("utf-8")
    for line in block["code"].splitlines():
        _, _, level, event, *facts = line.split()
        assert f"| `{event}` | {level.lower()} |" in table
        assert all(re.fullmatch(r"\w+=\S+", fact) for fact in facts)


def test_the_tasks_of_the_asyncio_page_get_their_ids(
    place: Path, emails: Collection[dict[str, Any]]
) -> None:
    (block,) = [block for block in BLOCKS if block["name"] == "asyncio"]
    names: dict[str, Any] = {}
    exec(block["code"], names)
    assert {str(each) for each in emails.distinct("_id")} == set(names["ids"])
    assert len(names["ids"]) == 100


def test_the_examples_application_sends_once_for_a_key_and_with_its_order(
    place: Path, emails: Collection[dict[str, Any]]
) -> None:
    shop = emails.database.name + "_shop"
    code = (REPO / "examples/application.py").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(code.replace('["shop"]', f"[{shop!r}]"), names)
    orders = emails.database.client[shop]["orders"]
    with names["producer"] as producer:
        first = names["reset_password"]("ann@example.org", "4711")
        assert names["reset_password"]("ann@example.org", "4711") == first
        second = names["place_order"]("bob@example.org", "A lamp")
        with pytest.raises(InvalidEmail, match="to"):
            names["place_order"]("nobody", "A chair")
        assert Consumer("config.json", burst=True).run() == 0
        assert [producer.status(each).status for each in (first, second)] == ["sent", "sent"]
    assert [order["article"] for order in orders.find()] == ["A lamp"]
    assert emails.count_documents({}) == 2
    emails.database.client.drop_database(shop)


# Shell -------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """The commands of all shell blocks, without what is set for one command only."""
    lines = "".join(block["code"] for block in BLOCKS if block["kind"] == "sh").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    bare = [[word for word in words if not re.match(r"[A-Z_]+=", word)] for words in split if words]
    return [words for words in bare if words]


def of(*programs: str) -> list[list[str]]:
    return [words for words in commands() if words[0] in programs]


def test_every_command_is_one_that_some_test_knows() -> None:
    here = {"bash", "curl", "mailqueue", "python"}
    in_tests_of_their_own = {"redis-cli", "opentelemetry-instrument"}
    assert {words[0] for words in commands()} - ELSEWHERE <= here | in_tests_of_their_own


@pytest.mark.parametrize("command", of("mailqueue"), ids=" ".join)
def test_the_operators_commands_are_ones_that_there_are(place: Path, command: list[str]) -> None:
    """There is nothing to find, to retry or to open: exit code 1 at worst."""
    if command[1] in SERVERS:  # it would not return
        assert parse(command[1:]).verb == command[1]
    else:
        (place / "bounces.csv").write_text("ann@example.net\n")  # which a command imports
        assert cli.main(command[1:]) in {0, 1}


@pytest.mark.parametrize("command", of("bash", "cp"), ids=" ".join)
def test_the_scripts_and_files_of_commands_are_there(command: list[str]) -> None:
    """A line of bash has a test of its own."""
    assert command[1] == "-c" or os.access(REPO / command[1], os.R_OK)


@cache
def help_of(*program: str) -> str:
    """What ``--help`` prints; several commands are of one program."""
    return subprocess.run(
        [sys.executable, *program, "--help"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("command", of("python"), ids=" ".join)
def test_what_python_is_to_run_is_there_and_knows_the_options(command: list[str]) -> None:
    count = 2 if command[1] == "-m" else 1
    program, arguments = command[1 : 1 + count], command[1 + count :]
    shown = help_of(*program)
    for word in arguments:
        assert not word.startswith("--") or re.search(rf"(?<![\w-]){word}(?![\w-])", shown)
        assert not re.fullmatch(r"\w+/[\w/.]+", word) or (REPO / word).exists()


# Examples ----------------------------------------------------------------------------------------


def test_every_example_has_a_test() -> None:
    files = {file.name for file in (REPO / "examples").rglob("*") if file.suffix != ".pyc"}
    assert files - {"monitoring", "systemd", "__pycache__"} == TESTED.keys()
    assert all((REPO / "tests" / test).is_file() for test in TESTED.values())
