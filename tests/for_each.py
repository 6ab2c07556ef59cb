"""Tests of pure functions over a table of cases: one test for the whole table.

Decides how such a table is run: every case, also after one that failed. ``pytest.mark.parametrize``
makes a test of each case, and a test costs a millisecond before it begins. It stays right where a
case has a fixture, starts something, or is worth a run of its own.

Promises that a failure names all cases that fail, and shows the first as pytest does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import pytest

Test = Callable[..., None]


def for_each(names: str, table: Iterable[Any]) -> Callable[[Test], Test]:
    """Call the test with every row of the table, as arguments of these names.

    Further arguments of the test are fixtures, or those of another ``for_each`` above this one.
    """
    arguments = [name.strip() for name in names.split(",")]
    rows = list(table) if len(arguments) > 1 else [(value,) for value in table]
    cases = [dict(zip(arguments, row, strict=True)) for row in rows]

    def decorate(test: Test) -> Test:
        @wraps(test)
        def run(**others: Any) -> None:
            failures = []
            for number, case in enumerate(cases):
                try:
                    test(**others, **case)
                except (Exception, pytest.fail.Exception) as failure:  # noqa: BLE001  # raised below
                    failures.append((number, failure))
            if failures:
                first = failures[0][1]
                first.add_note(f"{len(failures)} of {len(cases)} cases fail:")
                for number, each in failures:
                    first.add_note(f"  [{number}] {_shown(cases[number])}: {type(each).__name__}")
                raise first

        assert cases
        signature = inspect.signature(test)
        others = [each for name, each in signature.parameters.items() if name not in arguments]
        # By the signature pytest finds out which fixtures a test asks for.
        run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return run

    return decorate


def _shown(case: dict[str, Any]) -> str:
    """What tells the case from others; a value may be one that cannot be shown."""
    try:
        return f"{case!r:.300}"
    except Exception as error:  # noqa: BLE001  # a number too long for a text, a broken object
        return f"not to be shown ({type(error).__name__})"
