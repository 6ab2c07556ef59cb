"""docs/operating.md against the code: each finding and alert has its section, for night time."""

from __future__ import annotations

import ast
import re
import shlex

from mailqueue.cli.arguments import parse
from mailqueue.monitoring.finding import PAGE, Slug
from tests.structure.test_structure import NODES
from tests.tables import REPO


def chapter() -> str:
    """What doctor finds, and after it what only alerts find."""
    _, _, rest = (REPO / PAGE).read_text("utf-8").partition("\n## What doctor finds\n")
    return rest.partition("\n## The log\n")[0]


def alerts() -> set[str]:
    """The sections that the alerts lead to."""
    rules = [file.read_text("utf-8") for file in (REPO / "examples").glob("monitoring/alerts.yml")]
    return set(re.findall(rf"runbook_url: {PAGE}#([\w-]+)$", "".join(rules), re.MULTILINE))


def test_every_finding_and_alert_has_its_section_and_every_section_is_reached() -> None:
    headings = re.findall(r"^### (.+)$", chapter(), re.MULTILINE)
    sections = [heading.lower().replace(" ", "-") for heading in headings]
    assert sorted(sections) == sorted({*Slug} | alerts())


def test_every_slug_is_one_of_a_finding() -> None:
    nodes = [node for nodes in NODES.values() for node in nodes if isinstance(node, ast.Call)]
    names = {
        argument.attr
        for node in nodes
        for argument in node.args
        if isinstance(argument, ast.Attribute) and ast.unparse(argument.value) == "Slug"
    }
    assert names == set(Slug.__members__)


def test_every_section_says_what_it_means_and_what_to_do() -> None:
    for section in chapter().split("\n### ")[1:]:
        assert "- **It means** " in section
        assert "- **Do** " in section


def test_every_command_of_a_section_is_one_that_there_is() -> None:
    placeholders = {"ID": "65f1c0ffee65f1c0ffee65f1", "REASON": "expired", "NAME": "ses"}
    commands = re.findall(r"`(mailqueue [^`]+)`", chapter())
    assert len(commands) > 20
    for command in commands:
        words = [placeholders.get(word, word) for word in shlex.split(command)[1:]]
        if words[0] != "release":  # "with the same option"
            assert parse(words).verb == words[0]
