"""The order of the packages, and what an application pays for ``import mailqueue``."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

import mailqueue
from tests.for_each import for_each

T = TypeVar("T")

PACKAGE = Path(mailqueue.__file__).parent

# The rooms of the house, one floor a row, the ground first. A room (a package, or one of the single
# modules at the top) imports from the floors below its own: not from above, not from a neighbour.
FLOORS = [
    "errors reentrancy",
    "logs",
    "outage tracing message lifecycle",
    "config",
    "vendors store queue service",
    "routing producer operations",
    "consumer devserver aio events",
    "monitoring",
    "dashboard",
    "http smtp intake callbacks testing django aws_lambda",
    "cli",
    "__init__ __main__",
]
HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}

# These import no other of their kind: an adapter is read, added and deleted by itself.
SHARED_BY_ADAPTERS = {
    *("__init__", "base", "http", "limits", "labels", "payloads", "values", "redaction", "answers"),
    *("aws", "events", "wire"),
}

LONGEST = 500  # lines of a module

# A participle says that something happened to a value, not what the value is.
NO_NAMES = {
    *("asked", "done", "found", "given", "gone", "got", "heard", "kept", "known", "left", "made"),
    *("said", "seen", "taken", "told"),
}
GOOD_ALL_THE_SAME = {
    "consumer.slots: done",  # as a future says it: the slot's work is over
    "lifecycle.outcomes: asked",  # a property, the vendors that were asked
}


# Every module by its name in the package; that of a folder ends in ``__init__``.
FILES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


class EachModule(Mapping[str, T]):
    """A value for each module, made when it is asked for: to collect tests parses nothing."""

    def __init__(self, make: Callable[[str], T]) -> None:
        self._make = cache(make)

    def __getitem__(self, name: str) -> T:
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(FILES)

    def __len__(self) -> int:
        return len(FILES)


ASKED_FOR = (ast.Import, ast.ImportFrom, ast.Call, ast.keyword)
MODULES = EachModule(lambda name: ast.parse(FILES[name].read_text()))
ALL_NODES = EachModule(lambda name: list(ast.walk(MODULES[name])))
NODES = EachModule(lambda name: [n for n in ALL_NODES[name] if isinstance(n, ASKED_FOR)])
IMPORTED = EachModule(lambda name: set(imported(MODULES[name])) - {""})
ADAPTERS = {
    name
    for name in FILES
    if name.startswith("vendors.") and name.split(".")[1] not in SHARED_BY_ADAPTERS
}


def room(name: str) -> str:
    """The package that a module stands in, or the module itself at the top."""
    return name.partition(".")[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of ours that ``tree`` imports, anywhere in it; not for type checkers only."""
    if isinstance(tree, ast.If) and last_name(tree.test) == "TYPE_CHECKING":
        return
    if isinstance(tree, ast.ImportFrom) and tree.module is not None:
        package, _, name = tree.module.partition(".")
        if package == "mailqueue":
            inside = [f"{name}.{alias.name}".lstrip(".") for alias in tree.names]
            yield from (i if i in FILES or room(i) == i in HEIGHT else name for i in inside)
    if isinstance(tree, ast.Import):
        ours = (a.name for a in tree.names if a.name.startswith("mailqueue."))
        yield from (name.removeprefix("mailqueue.") for name in ours)
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.expr):
            yield from imported(child)


def test_every_room_has_its_floor() -> None:
    assert set(map(room, FILES)) == set(HEIGHT)


def test_a_room_imports_only_from_the_floors_below_its_own() -> None:
    found = {
        name: {other for other in map(room, asked) if HEIGHT[other] >= HEIGHT[room(name)]}
        - {room(name)}
        for name, asked in IMPORTED.items()
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_an_adapter_imports_no_other() -> None:
    assert {name: IMPORTED[name] & ADAPTERS for name in ADAPTERS if IMPORTED[name] & ADAPTERS} == {}


def test_no_two_modules_import_each_other() -> None:
    """Within a room too: whoever reads one of them need not read the other first."""
    left = {name: {_module(other) for other in asked} - {name} for name, asked in IMPORTED.items()}
    while leaves := {name for name, others in left.items() if not others & set(left)}:
        left = {name: others for name, others in left.items() if name not in leaves}
    assert left == {}


def _module(name: str) -> str:
    return name if name in FILES else f"{name}.__init__"


def test_a_module_says_what_it_is_and_can_be_read_at_one_sitting() -> None:
    silent = [name for name, tree in MODULES.items() if not ast.get_docstring(tree)]
    lengths = {name: tree.body[-1].end_lineno or 0 for name, tree in MODULES.items()}
    assert silent == []
    assert {name: lines for name, lines in lengths.items() if lines >= LONGEST} == {}


def test_only_the_tube_speaks_to_beanstalkd() -> None:
    users = {name for name in FILES if "greenstalk" in imports_of(name)}
    assert users == {"queue.beanstalkd.tube"}


def test_only_one_module_speaks_to_redis() -> None:
    users = {name for name in FILES if "redis" in imports_of(name)}
    assert users == {"queue.redis.connection", "queue.redis.__init__"}  # which looks for it


def test_only_one_module_speaks_to_sqs() -> None:
    assert {name for name in FILES if "boto3" in imports_of(name)} == {"queue.sqs.client"}


def test_every_store_knows_the_callbacks_that_it_has_to_note() -> None:
    calls = [n for nodes in NODES.values() for n in nodes if isinstance(n, ast.Call)]
    made = [call for call in calls if last_name(call.func) == "Store"]
    assert made
    assert all("callbacks" in {keyword.arg for keyword in call.keywords} for call in made)


def test_a_vendors_words_are_redacted_in_one_place_only() -> None:
    users = {name for name, asked in IMPORTED.items() if "vendors.redaction" in asked}
    assert users == {"vendors.answers"}


def test_what_is_logged_is_an_event_with_its_facts_in_the_line() -> None:
    """But for sentences at DEBUG."""
    levels = {"log", "info", "warning", "error", "exception", "critical"}
    found = set()
    for name in FILES.keys() - {"logs"}:
        calls = [node for node in NODES[name] if isinstance(node, ast.Call)]
        found |= {
            name for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in levels
        }
        found |= {name for c in calls if "extra" in {k.arg for k in c.keywords}}
    assert not found, "they call logs.event"


def test_no_fact_has_a_name_that_a_line_of_json_needs() -> None:
    calls = [n for nodes in NODES.values() for n in nodes if isinstance(n, ast.Call)]
    events = [call for call in calls if ast.unparse(call.func) in ("event", "logs.event")]
    names = {keyword.arg for call in events for keyword in call.keywords}
    assert len(events) > 50
    assert names & {"time", "logger", "event", "message"} == set()


def test_the_drivers_own_ids_are_nobodys_identity() -> None:
    """They count up from a number that two forked children may share."""
    makers = set()
    for name, nodes in NODES.items():
        for node in nodes:
            if isinstance(node, ast.Call) and last_name(node.func) == "ObjectId":
                makers |= set() if node.args else {name}
            if isinstance(node, ast.keyword) and node.arg == "default_factory":
                makers |= {name} if last_name(node.value) == "ObjectId" else set()
    assert makers == set()


def last_name(node: ast.expr) -> str | None:
    return getattr(node, "attr", None) or getattr(node, "id", None)


def test_functions_parameters_and_locals_have_no_participle_for_a_name() -> None:
    found = {
        f"{module}: {name}"
        for module, nodes in ALL_NODES.items()
        for name in {_name_in(node) for node in nodes} & NO_NAMES
    }
    assert found == GOOD_ALL_THE_SAME


def _name_in(node: ast.AST) -> str | None:
    """The name that a definition, a parameter or an assignment gives, without underscores."""
    if isinstance(node, ast.Name):
        return node.id.strip("_") if isinstance(node.ctx, ast.Store) else None
    if isinstance(node, ast.arg):
        return node.arg.strip("_")
    return node.name.strip("_") if isinstance(node, ast.FunctionDef) else None


def test_every_exception_of_ours_is_raised_somewhere() -> None:
    classes = [node for node in MODULES["errors"].body if isinstance(node, ast.ClassDef)]
    bases = {last_name(base) for made in classes for base in made.bases}
    calls = [n for nodes in NODES.values() for n in nodes if isinstance(n, ast.Call)]
    assert {made.name for made in classes} - bases <= {last_name(call.func) for call in calls}


def test_no_table_of_the_host_decides_about_types_of_files() -> None:
    assert not [name for name in FILES if "mimetypes" in imports_of(name)]


def imports_of(name: str) -> set[str]:
    """The first names of all that the module imports."""
    found = set()
    for node in NODES[name]:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@for_each(
    "name",
    [
        *("lifecycle.outcomes", "lifecycle.decide", "routing.rotation"),
        *("store.document", "store.ledger", "store.transitions"),
    ],
)
def test_what_is_pure_imports_nothing_that_reaches_out(name: str) -> None:
    assert imports_of(name) <= {
        *("__future__", "bson", "collections", "dataclasses", "datetime", "enum", "functools"),
        *("mailqueue", "math", "typing"),
    }


def test_the_consumer_is_there_for_who_asks() -> None:
    assert mailqueue.Consumer.__module__ == "mailqueue.consumer.consumer"
    with pytest.raises(AttributeError, match="no attribute 'Sonsumer'"):
        mailqueue.Sonsumer  # type: ignore[attr-defined]  # noqa: B018  # the test asks for it
