"""docs/architecture.md against the code: packages, imports, threads, files that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.structure.test_structure import IMPORTED, MODULES, PACKAGE, room

PAGE = (Path(__file__).parents[2] / "docs/architecture.md").read_text("utf-8")
PACKAGES = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}


def first_column(name: str) -> list[str]:
    (table,) = re.findall(rf"<!-- {name} table -->\n(.*?)<!-- /", PAGE, re.DOTALL)
    rows = table.splitlines()[2:]
    return [code for row in rows for code in re.findall(r"`(\w+)`", row.split("|")[1])]


def imports() -> dict[str, set[str]]:
    """The packages that each package imports."""
    found: dict[str, set[str]] = {package: set() for package in PACKAGES}
    for name, asked in IMPORTED.items():
        if room(name) in PACKAGES:
            found[room(name)] |= {room(other) for other in asked} & PACKAGES - {room(name)}
    return found


def below(package: str, graph: dict[str, set[str]]) -> set[str]:
    """What a package reaches, at any number of steps."""
    return graph[package].union(*(below(other, graph) for other in graph[package]))


def test_the_drawing_shows_every_import_that_does_not_follow_from_others() -> None:
    graph = imports()
    needed = {
        (package, other)
        for package, others in graph.items()
        for other in others
        if not any(other in below(between, graph) for between in others)
    }
    drawing = PAGE.split("```mermaid\nflowchart TD\n")[1].split("```")[0]
    assert set(re.findall(r"(\w+) --> (\w+)", drawing)) == needed
    assert set(re.findall(r"\w+", drawing)) == PACKAGES


def test_every_package_has_a_line() -> None:
    assert sorted(first_column("package")) == sorted(PACKAGES)


def test_the_threads_are_those_that_a_consumer_starts() -> None:
    calls = [node for node in ast.walk(MODULES["consumer.consumer"]) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "self._start"]
    started = {found[0] for name in names if (found := re.match(r"f?'\w+", name))}
    assert {re.sub(r"f?'", "", name) for name in started} == set(first_column("thread"))


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", PAGE)
    assert named
    places = (PACKAGE, PACKAGE.parent)
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_every_class_and_method_that_the_page_names_is_there() -> None:
    classes = {
        node.name: {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        for tree in MODULES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    named = re.findall(r"`([A-Z]\w+)(?:\.(\w+))?`", PAGE)
    assert named
    for name, method in named:
        assert method in {"", *classes.get(name, ())}, (name, method)
        assert name in classes, name
