"""What ``mypy --strict`` says of a user's program: right ones pass, a misspelt key is found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

PROGRAMS = {
    "config_right": """
        import json
        from mailqueue import Config
        from mailqueue.config import Retry, VendorConfig

        config = Config(
            mongodb={"uri": "mongodb://127.0.0.1:27017", "timeout": 5},
            beanstalkd={"servers": ["127.0.0.1:11300"]},
            vendors=[
                {"name": "a", "type": "sendgrid", "api_key": "${KEY}", "from": "ann@example.com"},
                {"name": "b", "type": "smtp", "host": "mail.example.com", "tls": "implicit"},
                VendorConfig("c", "pigeons:Pigeon", keys={"loft": "secret"}),
            ],
            retry=Retry(base=5),
            delivery={"on_unknown": "park"},
        )
        config.replace(retry={"cap": 60}, vendors=config.vendors)
        Config.from_mapping(json.loads("{}"))
    """,
    "config_wrong": """
        from mailqueue import Config
        from mailqueue.config import Delivery, Retry

        Config(rety={"base": 5})  # wrong
        Config(retry={"bse": 5})  # wrong
        Config(retry={"base": "5"})  # wrong
        Config(retry=Retry(bse=5))  # wrong
        Config(delivery=Delivery(on_unknown="prak"))  # wrong
        Config(mongodb="mongodb://127.0.0.1:27017")  # wrong
        Config(delivery={"on_unknown": "prak"})  # wrong
        Config(vendors=[{"name": "a", "type": "sendgrid", "api_kee": "x"}])  # wrong
        Config(vendors=[{"name": "a", "type": "smtp", "tls": "ssl"}])  # wrong
        Config(vendors=[{"type": "smtp", "host": "mail.example.com"}])  # wrong
        Config().replace(retry={"bse": 5})  # wrong
    """,
}


ERROR = re.compile(r"(\w+)\.py:(\d+): error: ")


def test_a_type_checker_finds_every_misspelt_key_and_wrong_type_and_nothing_else(
    tmp_path: Path,
) -> None:
    """One run over all programs, in a folder of a user's: mypy takes seconds to begin."""
    wrong = set()
    for name, program in PROGRAMS.items():
        lines = dedent(program).splitlines()
        (tmp_path / f"{name}.py").write_text("\n".join(lines), "utf-8")
        wrong |= {(name, n) for n, line in enumerate(lines, 1) if line.endswith("# wrong")}
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=.cache", "."]
    answer = subprocess.run(mypy, cwd=tmp_path, check=False, capture_output=True, text=True)
    found = {(name, int(line)) for name, line in ERROR.findall(answer.stdout)}
    assert found == wrong, answer.stdout + answer.stderr
