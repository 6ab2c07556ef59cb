"""``mailqueue suppress``: the list from the command line, for people, scripts and files."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.producer import Producer
from tests.console import Console
from tests.integration.bench import Bench

Document = dict[str, Any]
ANN, BOB = "ann@example.net", "bob@example.net"
MANY = 100_000
WRONG = [
    ("reason,source\nbounced,ses\n", "several columns"),
    (f"address,reason\n{ANN},tired\n", "line 2: reason must be one of"),
    (f"address,until\n{ANN},soon\n", "line 2: until must be a date"),
    (f"address,source\n{ANN},a b\n", "line 2: source must"),
    (f"{ANN}\n\nnobody\n@example.org\n@\n", "line 3: address: is not"),
    (f'{ANN}\n"{BOB}\n', "is no line of a CSV file"),
]


@pytest.fixture
def console(console: Console, config_mapping: Document) -> Console:
    console.configure({**config_mapping, "suppression": {}})
    return console


@pytest.fixture
def entries(config: Config, mongo_client: MongoClient[Document]) -> Collection[Document]:
    """The list as it is stored."""
    return mongo_client[config.mongodb.database][f"{config.mongodb.collection}.suppressed"]


def names(entries: Collection[Document]) -> list[str]:
    return [document["_id"] for document in entries.find().sort("_id", 1)]


def test_what_a_person_adds_is_listed_until_it_is_removed(
    console: Console, entries: Collection[Document]
) -> None:
    answer = console("suppress", "add", "Ann <Ann@Example.NET>", "@example.org")
    assert (answer.code, answer.out, answer.err) == (0, "2 addresses added as manual\n", "")
    lines = console("suppress", "list").out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["ADDRESS", "REASON", "SOURCE"],
        ["@example.org", "manual", "manual"],
        [ANN, "manual", "manual"],
    ]
    assert console("suppress", "remove", ANN, "@Example.org").code == 0
    assert names(entries) == []
    assert console("suppress", "list").out == "the list is empty\n"


def test_an_address_is_also_found_by_its_domain(console: Console) -> None:
    console("suppress", "add", "@example.net")
    answer = console("suppress", "list", ANN)
    assert (answer.code, answer.out.splitlines()[1].split()[0]) == (0, "@example.net")
    answer = console("suppress", "list", "ann@mail.example.net")
    assert (answer.code, answer.err) == (1, "mailqueue: the address is not on the list\n")


def test_what_is_not_there_is_said_by_its_place(
    console: Console, entries: Collection[Document]
) -> None:
    console("suppress", "add", ANN)
    answer = console("suppress", "remove", BOB, ANN, "--json")
    assert (answer.code, answer.data) == (1, {"dry_run": False, "removed": 1})
    assert answer.err == "mailqueue: address 1 is not on the list\n"
    assert names(entries) == []


@pytest.mark.parametrize("verb", ["add", "remove", "list"])
def test_a_wrong_address_is_named_by_its_place_and_nothing_is_done(
    console: Console, entries: Collection[Document], verb: str
) -> None:
    answer = console("suppress", verb, ANN, "nobody", "@")
    assert (answer.code, answer.out) == (2, "")
    assert [line[:20] for line in answer.err.splitlines()] == [
        "mailqueue: address 2",
        "mailqueue: address 3",
    ]
    assert "nobody" not in answer.err
    assert names(entries) == []


def test_a_dry_run_changes_nothing(
    console: Console, entries: Collection[Document], tmp_path: Path
) -> None:
    (tmp_path / "one.csv").write_text(ANN)
    assert "would be added" in console("suppress", "add", ANN, "--dry-run").out
    assert (
        "would be imported"
        in console("suppress", "import", str(tmp_path / "one.csv"), "--dry-run").out
    )
    assert names(entries) == []
    console("suppress", "add", ANN)
    assert "would be removed" in console("suppress", "remove", ANN, "--dry-run").out
    assert names(entries) == [ANN]


def test_an_entry_may_have_an_end(console: Console, entries: Collection[Document]) -> None:
    console("suppress", "add", ANN, "--until", "2100-01-31", "--reason", "bounced")
    console("suppress", "add", BOB, "--until", "90d")
    ends = {document["_id"]: document["until"] for document in entries.find()}
    assert ends[ANN] == datetime(2100, 1, 31, tzinfo=UTC)
    assert ends[BOB] > datetime.now(UTC) + timedelta(days=89)
    for past in ("2020-01-01", "soon", "0d"):
        assert console("suppress", "add", ANN, "--until", past).code == 2


def test_a_list_that_stops_nobody_says_so(console: Console, config_mapping: Document) -> None:
    answer = console("suppress", "add", ANN, "--reason", "unsubscribed")
    assert (answer.code, "not in suppression.apply" in answer.err) == (0, True)
    console.configure(config_mapping)
    assert "no section suppression" in console("suppress", "add", ANN).err
    assert "no section suppression" in console("suppress", "list").err


def test_the_table_of_the_list_has_80_columns(console: Console) -> None:
    console("suppress", "add", ANN, "--until", "90d")
    head, row = console("suppress", "list").out.splitlines()
    assert head.split() == ["ADDRESS", "REASON", "SOURCE", "AT", "UNTIL"]
    assert len(row) <= 80


def test_only_so_many_are_listed(console: Console) -> None:
    console("suppress", "add", *(f"r{n}@example.org" for n in range(5)))
    answer = console("suppress", "list", "--limit", "2", "--json")
    assert [each["address"] for each in answer.data["suppressed"]] == [
        "r0@example.org",
        "r1@example.org",
    ]
    assert answer.data["more"]
    assert "only 2 are shown" in answer.err


def test_show_counts_who_was_left_out_and_names_nobody_unless_asked(
    console: Console, config: Config
) -> None:
    console("suppress", "add", ANN)
    bench = Bench(config.replace(suppression={}))
    with Producer(config) as producer:
        email_id = producer.send({"from": "a@example.com", "to": [ANN, BOB], "text": "Hello"})
    bench.work()
    bench.close()
    for arguments in ([], ["--json"]):
        answer = console("show", email_id, *arguments)
        assert (answer.code, "example.net" in answer.out) == (0, False)
    (line,) = console.data("show", email_id)["attempts"]
    assert (line["suppressed_recipients"], line["refused_recipients"]) == (1, 1)
    assert ANN in console("show", email_id, "--content").out


# Files --------------------------------------------------------------------------------------------


def test_what_is_exported_is_imported_as_it_was(
    console: Console, entries: Collection[Document], tmp_path: Path
) -> None:
    at = datetime(2026, 5, 28, 20, 26, 41, 123_000, tzinfo=UTC)
    report = {"reason": "bounced", "source": "ses", "at": at, "until": None}
    other = {**report, "reason": "complained", "source": "postmark", "until": at}
    documents = [
        {"_id": '"a, b"@example.net', **report},
        {"_id": ANN, **report, "others": [other]},
        {"_id": "zoë@example.net", **other},
    ]
    entries.insert_many(documents)
    file = tmp_path / "list.csv"
    assert console("suppress", "export", str(file)).out == "3 addresses exported\n"
    assert file.stat().st_mode & 0o077 == 0
    assert console("suppress", "export").out == file.read_text("utf-8")
    assert len(console.data("suppress", "export")["suppressed"]) == 3
    entries.delete_many({})
    for _ in range(2):
        assert console("suppress", "import", str(file)).code == 0
        assert list(entries.find().sort("_id", 1)) == documents


def test_a_vendors_own_download_is_imported(
    console: Console, entries: Collection[Document], tmp_path: Path
) -> None:
    file = tmp_path / "bounces.csv"
    text = f"\ufeffstatus,reason,Email,created\r\n5.1.1,550 no such user,{ANN},1700000000\r\n"
    file.write_text(text, "utf-8", newline="")
    assert console("suppress", "import", str(file)).code == 2
    assert console("suppress", "import", str(file), "--reason", "bounced").code == 0
    (document,) = entries.find()
    assert (document["_id"], document["reason"], document["source"]) == (ANN, "bounced", "manual")


@pytest.mark.parametrize("text, problem", WRONG)
def test_a_wrong_line_is_named_and_nothing_is_imported(
    console: Console, entries: Collection[Document], tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "list.csv").write_text(text)
    answer = console("suppress", "import", str(tmp_path / "list.csv"))
    assert (answer.code, answer.out) == (2, "")
    assert problem in answer.err
    assert "example" not in answer.err.replace("for example", "").replace("example.org", "")
    assert names(entries) == []


def test_of_many_wrong_lines_the_first_are_named(console: Console, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("nobody\n" * 1000)
    lines = console("suppress", "import", str(tmp_path / "list.csv")).err.splitlines()
    assert (len(lines), lines[-1]) == (22, "mailqueue: 980 more lines")


@pytest.mark.parametrize("file", ["nowhere.csv", "."])
def test_a_file_that_cannot_be_read_is_named(console: Console, tmp_path: Path, file: str) -> None:
    answer = console("suppress", "import", str(tmp_path / file))
    assert (answer.code, str(tmp_path) in answer.err) == (2, True)


def test_bytes_that_are_no_text_are_refused(console: Console, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"ann@example.net\n\xff\xfe@example.net\n")
    answer = console("suppress", "import", str(tmp_path / "list.csv"))
    assert (answer.code, "line 2" in answer.err) == (2, True)


def test_a_hundred_thousand_addresses_go_in_and_out(
    console: Console, entries: Collection[Document], tmp_path: Path
) -> None:
    file = tmp_path / "many.txt"
    file.write_text("".join(f"Reader{n}@Example{n % 50}.ORG\n" for n in range(MANY)))
    answer = console("suppress", "import", str(file), "--reason", "bounced")
    assert (answer.code, answer.out, answer.err) == (0, "100,000 addresses imported\n", "")
    assert entries.estimated_document_count() == MANY
    rows = list(csv.DictReader(io.StringIO(console("suppress", "export").out)))
    assert len(rows) == MANY
    assert {row["reason"] for row in rows} == {"bounced"}
    assert "reader99999@example49.org" in {row["address"] for row in rows}
