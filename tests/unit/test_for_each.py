"""A table of cases that is run as one test loses none of them."""

from __future__ import annotations

import inspect

import pytest

from tests.for_each import for_each


def test_every_case_is_run_and_all_that_fail_are_named() -> None:
    numbers = []

    @for_each("number", [1, 2, 3, 10**5000])
    def is_odd(number: int) -> None:
        numbers.append(number)
        assert number % 2, "even"

    with pytest.raises(AssertionError, match="even") as caught:
        is_odd()
    assert numbers == [1, 2, 3, 10**5000]
    assert caught.value.__notes__ == [
        "2 of 4 cases fail:",
        "  [1] {'number': 2}: AssertionError",
        "  [3] not to be shown (ValueError): AssertionError",
    ]


def test_an_exception_that_was_expected_and_did_not_come_is_a_failure() -> None:
    @for_each("text", ["1", "one"])
    def is_refused(text: str) -> None:
        with pytest.raises(ValueError):
            int(text)

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        is_refused()


def test_tables_above_each_other_give_every_pair_and_fixtures_are_handed_on() -> None:
    pairs = []

    @for_each("letter", "ab")
    @for_each("number, double", [(1, 2), (2, 4)])
    def pair(fixture: str, letter: str, number: int, double: int) -> None:
        pairs.append((fixture, letter, number, double))

    assert list(inspect.signature(pair).parameters) == ["fixture"]
    pair(fixture="f")
    assert pairs == [("f", "a", 1, 2), ("f", "a", 2, 4), ("f", "b", 1, 2), ("f", "b", 2, 4)]


def test_a_table_without_cases_and_a_row_of_another_length_are_mistakes() -> None:
    with pytest.raises(AssertionError):
        for_each("number", [])(lambda number: None)
    with pytest.raises(ValueError):
        for_each("number, double", [(1,)])
