"""An operator's shell: ``mailqueue`` in this process, with a configuration file of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailqueue import cli

Document = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Console:
    """Runs commands. ``file``: its configuration."""

    def __init__(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = file
        self._capsys = capsys

    def configure(self, mapping: Document) -> None:
        self.file.write_text(json.dumps(mapping))
        self.file.chmod(0o600)

    def __call__(self, *arguments: str) -> Said:
        self._capsys.readouterr()
        code = cli.main(["--config", str(self.file), *arguments])
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        return Said(code, captured.out, captured.err)

    def data(self, *arguments: str) -> Any:
        return self(*arguments, "--json").data
