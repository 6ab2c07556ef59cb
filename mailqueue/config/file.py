"""A configuration file: JSON whose strings may refer to the environment.

Decides: how a file is read (duplicate keys are an error), and what ``${NAME}`` in a string means:
the environment variable, else the content of the file NAME in $CREDENTIALS_DIRECTORY (systemd's
LoadCredential). ``$${`` stands for a plain ``${``.
Promises: a ConfigError names the file and the place in it, and never quotes a value.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailqueue.config.keys import Problems
from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import ConfigError

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
# The secrets of events are for the HTTP service alone, those of callbacks for the responder. Each
# sees to it that it has them; no other process needs them, so they may be unset there.
_OF_ONE_SERVICE = re.compile(r"vendors\[\d+\]\.events\.|callbacks\.secrets\[")


def place(path: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path:
    """The file at ``path``, else at $MAILQUEUE_CONFIG, else ./config.json."""
    if isinstance(path, Mapping):
        raise TypeError("a mapping goes through Config.from_mapping(...)")
    return Path(path or environ.get("MAILQUEUE_CONFIG") or "config.json")


def read(file: Path) -> Mapping[str, Any]:
    """The JSON object in the file; raises ConfigError, which names the file."""
    duplicates: list[str] = []

    # Python's parser keeps the last of two keys of one name, and drops the other without a word.
    def note_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in pairs)
        duplicates.extend(name for name, count in counts.items() if count > 1)
        return dict(pairs)

    try:
        content = json.loads(file.read_text("utf-8-sig"), object_pairs_hook=note_duplicates)
    except OSError as error:
        is_absent = isinstance(error, FileNotFoundError)
        hint = " (name another with --config or $MAILQUEUE_CONFIG)" if is_absent else ""
        raise ConfigError([f"{file}: {error.strerror}{hint}"]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigError([f"{file}: {where}: {error.msg}"]) from None
    except (ValueError, RecursionError):
        raise ConfigError([f"{file}: not JSON in UTF-8"]) from None
    if not isinstance(content, dict):
        raise ConfigError([f"{file}: must hold a JSON object"])
    if duplicates:
        raise ConfigError([f'{file}: duplicate key "{name}"' for name in duplicates])
    return content


def spells_out_secrets(mapping: Mapping[str, Any], shared: Container[str]) -> bool:
    """Whether a valid file holds a secret itself instead of naming an environment variable.

    ``shared`` are the keys that every vendor has. For a type of the user's own, any other key may
    be a secret.
    """
    urls = [mapping.get("mongodb", {}).get("uri", ""), (mapping.get("queue") or {}).get("url", "")]
    secrets = [
        *(url for url in urls if "@" in url),
        *mapping.get("callbacks", {}).get("secrets", ()),
    ]
    for entry in mapping.get("vendors", ()):
        row = VENDOR_TYPES.get(entry["type"])
        own = [name for name in entry if name not in shared]
        secrets += [entry[name] for name in own if row is None or row.keys[name].secret]
    return any(isinstance(value, str) and value and "${" not in value for value in secrets)


@dataclass(frozen=True, slots=True)
class Environment:
    """Replaces ``${NAME}`` in the strings of a mapping.

    ``secrets`` False: a variable that a vendor's entry needs may be missing; its value is empty.
    """

    variables: Mapping[str, str]
    problems: Problems
    secrets: bool

    def resolve(self, value: Any, path: str = "") -> Any:
        """The value with every reference replaced; problems are added under ``path``."""
        if isinstance(value, str):
            return self._text(value, path)
        if isinstance(value, Mapping):
            stem = path and path + "."
            return {name: self.resolve(inner, f"{stem}{name}") for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.resolve(inner, f"{path}[{i}]") for i, inner in enumerate(value)]
        return value

    def _text(self, text: str, path: str) -> str:
        unset: list[str] = []

        def value_of(match: re.Match[str]) -> str:
            if match[0] == "${":
                self.problems.add(path, "malformed reference: write ${NAME}, or $${ for a plain ${")
            if match[1] is None:
                return "${"
            value = self._look_up(match[1])
            unset.extend([match[1]] if value is None else [])
            return value or ""

        value = _REFERENCE.sub(value_of, text)
        # A producer runs without the vendors' secrets: an unset one is then an empty value.
        is_needed = self.secrets or not path.startswith("vendors[")
        if unset and is_needed and not _OF_ONE_SERVICE.match(path):
            self.problems.add(path, f"environment variable {', '.join(unset)} is not set")
        return "" if unset else value

    def _look_up(self, name: str) -> str | None:
        folder = self.variables.get("CREDENTIALS_DIRECTORY")
        if name in self.variables or not folder:
            return self.variables.get(name)
        try:
            return Path(folder, name).read_text("utf-8").rstrip("\r\n")
        except (OSError, ValueError):
            return None
