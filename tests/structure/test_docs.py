"""The documentation: its tables are those of the code, and its links lead somewhere.

Their code is run by tests/integration/test_docs_code.py.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from mailqueue.cli import VERBS
from mailqueue.cli.help import HELP
from mailqueue.config.config import READABLE_BY_ALL, SECTIONS
from mailqueue.config.queue import QUEUE_TYPES
from mailqueue.config.section import keys_of
from mailqueue.config.services import Http, Smtp
from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.lifecycle.decide import Decider, suspension
from mailqueue.lifecycle.outcomes import (
    NORMAL,
    Case,
    CurrentAttempt,
    Outcome,
    Policy,
    Reason,
    SendResult,
    Snapshot,
    Status,
)
from mailqueue.message.fields import READERS
from mailqueue.monitoring import server
from mailqueue.smtp import replies
from tests import tables
from tests.bench import report
from tests.for_each import for_each
from tests.structure.test_structure import ALL_NODES, NODES, last_name
from tests.tables import REPO

README = REPO / "README.md"
OPERATING = "docs/operating.md"
PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").glob("*.md"))]
LINKED = [*PAGES, REPO / "tests/bench/LOG.md"]
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
CHECKED = {  # written by hand; by the tests below, and in tests/integration
    *(
        "callback",
        "clock",
        "edge",
        "email",
        "event",
        "field",
        "reply",
        "package",
        "rate",
        "thread",
        "guard",
        "health",
        "index",
        "limit",
        "outcome",
        "span",
    ),
    *("priority", "reason", "process", "queue", "verb", "webhook"),
    *("metric", "alert"),  # by tests/process/test_metrics.py, and tests/monitoring
    *("call", "status"),  # by tests/http/test_description.py
    *("attribute", "anymail", "postoffice", "celery"),  # in test_docs_applications
}
EXTRAS = {"redis", "sqs"}  # of queues, named as these
WRITERS = {"event", "event_each", "_lines"}  # of lines of the log
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@for_each("name", tables.PAGES)
def test_a_table_in_the_documentation_is_that_of_the_code(name: str) -> None:
    """If one is not: python -m tests.tables"""
    text = tables.PAGES[name][0].read_text("utf-8")
    assert tables.marked(name).search(text)
    assert tables.with_table(text, name) == text


def test_every_key_has_a_meaning_that_fits_in_a_table() -> None:
    own = [key for vendor in VENDOR_TYPES.values() for key in vendor.keys.values()]
    for key in [key for section in SECTIONS.values() for key in keys_of(section).values()] + own:
        assert key.meaning
        assert "|" not in key.meaning
        assert "\n" not in key.meaning


# Tables ------------------------------------------------------------------------------------------


@for_each("page", PAGES)
def test_every_table_has_a_name_that_says_what_holds_it(page: Path) -> None:
    """Made from the code, held against it by a test below, or measured: then with its date."""
    text = page.read_text("utf-8")
    names = re.findall(r"<!-- (\w+) table -->\n\|(?:.+\n)+?<!-- /\1 table -->", text)
    assert set(names) <= tables.PAGES.keys() | CHECKED | {"measured"}
    assert len(names) == len(re.findall(r"^\|[-| :]+\|$", text, re.MULTILINE))


def first_column(page: str, name: str) -> list[str]:
    return column(page, name, 1)


def column(page: str, name: str, number: int) -> list[str]:
    """The code in one cell of each row of a table that is written by hand."""
    return [code for cell in column_cells(page, name, number) for code in cell]


def column_cells(page: str, name: str, number: int) -> list[list[str]]:
    """The same, by row."""
    return [re.findall(r"`([^`]+)`", cell) for cell in column_texts(page, name, number)]


def column_texts(page: str, name: str, number: int) -> list[str]:
    """All that stands in each cell."""
    found = tables.marked(name).search((REPO / page).read_text("utf-8"))
    assert found
    return [row.split("|")[number].strip() for row in found[0].splitlines()[3:-1]]


def test_the_keys_of_an_email_are_those_that_send_takes() -> None:
    assert first_column("docs/sending.md", "email") == list(READERS)


def test_the_attributes_of_a_span_are_those_that_a_tracer_sets() -> None:
    names = re.compile(r"(messaging|mailqueue|error)\.[a-z_.]+")
    texts = [n.value for n in ALL_NODES["tracing"] if isinstance(n, ast.Constant)]
    attributes = {text for text in texts if isinstance(text, str) and names.fullmatch(text)}
    documented = [name for cell in column_cells("docs/tracing.md", "span", 1) for name in cell]
    assert sorted(documented) == sorted(attributes - {"mailqueue.traceparent"})


def test_each_kind_of_queue_has_a_line_and_says_which_extra_it_needs() -> None:
    cells = column_cells("README.md", "queue", 2)
    names = first_column("README.md", "queue")
    assert sorted(names) == sorted(QUEUE_TYPES)
    for name, words in zip(names, cells, strict=True):
        assert words == ([name] if name in EXTRAS else [])


def test_each_vendor_whose_events_are_read_has_a_line_with_its_settings() -> None:
    readers = {name: row.events for name, row in VENDOR_TYPES.items() if row.events}
    assert first_column("docs/events.md", "webhook") == sorted(readers)
    for name, code in zip(
        sorted(readers), column_cells("docs/events.md", "webhook", 2), strict=True
    ):
        keys = {word for word in code if re.fullmatch("[a-z_]+", word)}
        assert keys <= readers[name].keys.keys(), name


def test_the_outcomes_of_an_attempt_are_those_of_the_code() -> None:
    assert first_column("docs/lifecycle.md", "outcome") == list(Outcome)


def test_the_reasons_of_an_end_are_those_of_the_code() -> None:
    assert first_column("docs/lifecycle.md", "reason") == list(Reason)
    assert set(column("docs/lifecycle.md", "reason", 2)) <= set(Status)


@for_each("outcome", Outcome)
def test_what_follows_an_outcome_is_what_the_page_says(outcome: Outcome) -> None:
    """Of the vendor the seconds; of the e-mail the status, where it is an end."""
    found = tables.marked("outcome").search(lifecycle_page())
    assert found
    (row,) = re.findall(rf"^\| `{outcome}` \|.*$", found[0], re.MULTILINE)
    _, _, _, email, vendor, *_ = row.split("|")
    result = SendResult(outcome=outcome)
    held = suspension(result, Policy())
    seconds = re.findall(r"(\d+) s\b", vendor)
    assert seconds == ([f"{held.seconds:g}"] if held else [])
    case = Case(
        email=Snapshot(priority=NORMAL),
        attempt=CurrentAttempt(vendor="a"),
        waits={"b": 0.0},
    )
    decision = Decider(Policy(), lambda: 0.5).decide(case, result)
    assert decision.status.final == email.strip().startswith("`")
    assert not decision.status.final or f"`{decision.status}`" in email


def test_the_replies_over_smtp_are_those_of_the_code() -> None:
    source = Path(replies.__file__).read_text("utf-8")
    codes = set(re.findall(r"\b[245]\d\d [245]\.\d\.\d\b", source))
    wrong_key = {"535 5.7.8"}  # is aiosmtpd's own
    assert set(first_column("docs/smtp.md", "reply")) == codes | wrong_key


def lifecycle_page() -> str:
    return (REPO / "docs/lifecycle.md").read_text("utf-8")


def test_the_operators_verbs_are_those_of_the_command_line() -> None:
    verbs = [code.split()[0] for code in first_column(OPERATING, "verb")]
    assert sorted(verbs) == sorted([*VERBS, "vendors"])  # once to look, once to change


def test_the_processes_are_those_that_have_a_unit_with_their_ports_and_extras() -> None:
    names = [code.split(".")[-1].split()[-1] for code in first_column(OPERATING, "process")]
    units = [file.name for file in (REPO / "examples/systemd").iterdir()]
    assert sorted(f"mailqueue-{name}@.service" for name in names) == sorted(units)
    ports = dict(zip(names, column_texts(OPERATING, "process", 3), strict=True))
    assert {name: int(port) for name, port in ports.items() if port} == {
        "http": Http().port,
        "smtp": Smtp().port,
        "metrics": server.PORT,
    }
    needed = column(OPERATING, "process", 5)
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert set(needed) <= extras["optional-dependencies"].keys()


def test_what_exit_code_1_means_is_what_the_help_of_the_verb_says() -> None:
    found = tables.marked("verb").search((REPO / OPERATING).read_text("utf-8"))
    assert found
    rows = [row.split("|") for row in found[0].splitlines()[3:-1]]
    meanings = {
        (verb, row[3].strip()) for row in rows for verb in re.findall(r"`([a-z-]+)", row[1])
    }
    assert {(verb, text.exit_1) for verb, text in HELP.items() if text.exit_1} <= meanings


def test_the_events_of_the_log_are_those_that_the_code_writes() -> None:
    """By ``event(...)``, as ``partial(event, ...)``, or by what makes lines."""
    calls = [node for nodes in NODES.values() for node in nodes if isinstance(node, ast.Call)]
    names = {
        str(each.value)
        for call in calls
        if {last_name(each) for each in (call.func, *call.args[:1])} & WRITERS
        for each in call.args
        if isinstance(each, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", str(each.value))
    }
    assert first_column(OPERATING, "event") == sorted({*names, READABLE_BY_ALL})


# The README --------------------------------------------------------------------------------------


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 140


def test_the_readme_names_every_vendor() -> None:
    (line,) = re.findall(r"^\*\*Vendors\*\*: (.+)$", README.read_text("utf-8"), re.MULTILINE)
    names = re.sub(r"amazon ", "", line.lower())
    assert [type_ for type_ in VENDOR_TYPES if not re.search(rf"\b{type_}\b", names)] == []


def test_the_figures_in_the_readme_are_the_published_ones() -> None:
    """Two where mailqueue is first, and one where it is not."""
    text = README.read_text("utf-8")
    cells = json.loads(tables.PUBLISHED.read_text("utf-8"))
    assert (
        _figures(text, "With a vendor"),
        _figures(text, "With 32 callers"),
        _figures(text, r"\*\*A single caller"),
    ) == (
        [_rate("deliver-50ms-x64", cells), _factor("deliver-50ms-x64", "taskiq", cells)],
        [_rate("enqueue-32", cells), _factor("enqueue-32", "raw", cells)],
        [_rate("enqueue-1", cells), _factor("enqueue-1", "huey-aof", cells)],
    )


def _figures(text: str, start: str) -> list[str]:
    (line,) = re.findall(rf"^- {start}.*$", text, re.MULTILINE)
    return re.findall(r"[\d,.]*\d(?= e-mails/s|/s| \N{MULTIPLICATION SIGN})", line)


def _rate(test: str, cells: Sequence[report.Cell]) -> str:
    return f"{median(report.values(test, report.OURS, cells).values()):,.0f}"


def _factor(test: str, other: str, cells: Sequence[report.Cell]) -> str:
    ratio = report.ratio(test, report.OURS, other, cells)
    assert ratio
    return f"{ratio[0]:.2f}"


# Links -------------------------------------------------------------------------------------------


def anchors(page: Path) -> Iterator[str]:
    """The names by which GitHub links to the page's headings."""
    for heading in HEADING.findall(page.read_text("utf-8")):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_links(page: Path) -> Iterator[str]:
    for path, anchor in LINK.findall(page.read_text("utf-8")):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in set(anchors(target))):
            yield f"{path}#{anchor}" if anchor else path


def test_the_readme_leads_to_every_page() -> None:
    linked = {(REPO / path).resolve() for path, _ in LINK.findall(README.read_text("utf-8"))}
    assert {page.resolve() for page in PAGES} - {README} <= linked


@for_each("page", LINKED)
def test_every_link_in_the_documentation_leads_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


CODE = [file for folder in ("mailqueue", "tests") for file in (REPO / folder).rglob("*.py")]
EXAMPLES = [file for file in (REPO / "examples").rglob("*") if file.is_file()]
TEXTS = [file for file in (*CODE, *EXAMPLES) if file.suffix != ".pyc"]


def test_every_page_that_the_code_names_is_there() -> None:
    named = {
        found
        for file in TEXTS
        for found in re.findall(r"(docs/\w+\.md)(?:#([\w-]+\w))?", file.read_text("utf-8"))
    }
    assert named
    for path, anchor in named:
        assert not anchor or anchor in set(anchors(REPO / path)), (path, anchor)
        assert (REPO / path).exists(), path
