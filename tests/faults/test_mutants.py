"""``python tests/mutants.py`` can be run at any time: each mutant still finds its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant, copy


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    copy(folder)
    return folder


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_that_a_mutant_changes_is_there(mutant: Mutant, original: Path) -> None:
    files = {edit.file: original / "mailqueue" / edit.file for edit in mutant.edits}
    before = {name: path.read_text() for name, path in files.items()}
    mutant.apply(original)
    for name, path in files.items():
        assert path.read_text() != before[name]
        compile(path.read_text(), name, "exec")
        path.write_text(before[name])
