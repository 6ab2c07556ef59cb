"""What an application loads that imports us."""

from __future__ import annotations

import json
import subprocess
import sys

IMPORT = """
import json, sys, time
before = set(sys.modules)  # as those that measure coverage, or a .pth file, have loaded
began = time.perf_counter()
import mailqueue
took = time.perf_counter() - began
print(json.dumps([took, sorted(set(sys.modules) - before)]))
"""


def test_an_application_that_imports_us_does_not_load_what_only_consumers_need() -> None:
    told = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True)
    seconds, names = json.loads(told.stdout)
    print(f"import mailqueue: {seconds * 1000:.0f} ms")  # noqa: T201  # pytest -s shows it
    assert "mailqueue.producer.producer" in names
    heavy = {"requests", "urllib3", "pymongo", "greenstalk", "smtplib", "tenacity", "botocore"}
    heavy |= {"email", "socket", "ssl"}
    ours = {
        "consumer",
        "devserver",
        "message.mime",
        "message.stdlib_message",
        "routing",
        "queue.tube",
        "store.store",
        "vendors.http",
        "vendors.wire",
    }
    assert not set(names) & (heavy | {f"mailqueue.{name}" for name in ours})
