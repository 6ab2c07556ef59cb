"""What the command line makes of rows for a person: aligned, folded, or as lists of fields."""

from __future__ import annotations

from mailqueue.cli.table import fields, table
from mailqueue.monitoring.words import age, count

HEAD = ("ID", "N", "TEXT")
ROWS = [("a", 5, "one two three four five six seven"), ("bcd", 50, "eight")]


def test_columns_are_aligned_and_numbers_stand_to_the_right() -> None:
    assert table(HEAD, ROWS) == [
        "ID    N  TEXT",
        "a     5  one two three four five six seven",
        "bcd  50  eight",
    ]


def test_a_column_without_any_value_is_left_out() -> None:
    assert table(HEAD, [("a", None, "x"), ("b", "", "y")]) == ["ID  TEXT", "a   x", "b   y"]
    assert table(HEAD, [(None, None, "")]) == []
    assert table((), [()]) == []
    assert table(HEAD, []) == ["ID  N  TEXT"]


def test_the_last_column_is_folded_where_the_terminal_is_narrow() -> None:
    assert table(HEAD, ROWS, width=30) == [
        "ID    N  TEXT",
        "a     5  one two three four",
        "         five six seven",
        "bcd  50  eight",
    ]


def test_a_row_becomes_a_list_of_fields_where_folding_does_not_help() -> None:
    assert table(HEAD, ROWS, width=25) == [
        "ID    a",
        "N     5",
        "TEXT  one two three four five six seven",
        "",
        "ID    bcd",
        "N     50",
        "TEXT  eight",
    ]


def test_a_field_without_a_value_is_left_out_and_no_text_plays_tricks() -> None:
    values = {"a": None, "b": "", "c": [], "d": 0, "e": False, "long": "\x1b[2J", "l": ["x", "y"]}
    assert fields(values) == ["d     0", "e     no", "long  ?[2J", "l     x, y"]


def test_numbers_have_their_nouns_and_ages_their_units() -> None:
    assert (count(1, "e-mail"), count(2, "e-mail"), count(0, "e-mail")) == (
        *("1 e-mail", "2 e-mails", "0 e-mails"),
    )
    assert [age(seconds) for seconds in (5.9, 60, 7200, 200_000)] == ["5s", "1m", "2h", "2d"]


def test_a_mapping_is_written_for_people() -> None:
    assert fields({"delivery_marks.0": {"opened": True, "clicked": True}}) == [
        "delivery_marks.0  opened=yes, clicked=yes"
    ]
