"""The tables in docs/ that are made from the code: ``python -m tests.tables`` writes each anew.

A table stands between two comments, ``<!-- NAME table -->`` and ``<!-- /NAME table -->``.
tests/structure/test_docs.py holds that the pages say what the code says.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median

from mailqueue.config.capacity import Capacity
from mailqueue.config.config import SECTIONS
from mailqueue.config.keys import Key
from mailqueue.config.queue import QUEUE_TYPES, TYPE
from mailqueue.config.rates import Rate
from mailqueue.config.section import keys_of
from mailqueue.config.services import ApiKeyConfig, Dashboard
from mailqueue.config.vendor_types import MIB, VENDOR_TYPES
from mailqueue.vendors.base import Vendor
from tests.bench import report
from tests.bench.contenders import CONTENDERS, POST
from tests.bench.report import TIMES

REPO = Path(__file__).parents[1]
TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    object: "object",
    list: "list of objects",
}


def config_table() -> str:
    """Every key with type, default and meaning, as a Markdown table."""
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows()]) + "\n"


def rows() -> Iterator[str]:
    for section, kind in SECTIONS.items():
        place = f"{section}[]" if section in ("vendors", "routes") else section
        for name, key in keys_of(kind).items():
            yield row(f"`{place}.{name}`", key)
        if section == "beanstalkd":
            yield from queue_rows()
        if section == "http":
            for name, key in keys_of(ApiKeyConfig).items():
                yield row(f"`{place}.keys[].{name}`", key)
            for name, key in keys_of(Dashboard).items():
                yield row(f"`{place}.dashboard.{name}`", key)
        if section == "vendors":
            for name, key in keys_of(Rate).items():
                yield row(f"`{place}.rate.{name}`", key)
            for type_, vendor in VENDOR_TYPES.items():
                for name, key in vendor.keys.items():
                    yield row(f"`{place}.{name}` of `{type_}`", key)


def queue_rows() -> Iterator[str]:
    yield row("`queue.type`", TYPE)
    for type_, kind in QUEUE_TYPES.items():
        for name, key in keys_of(kind).items():
            yield row(f"`queue.{name}` of `{type_}`", key)


def row(place: str, key: Key) -> str:
    kind = TYPES.get(key.type, "list of strings")
    return f"| {place} | {kind} | {default(key)} | {key.meaning} |"


def default(key: Key) -> str:
    if key.required:
        return "required"
    if callable(key.default):
        return str(key.default.__doc__)
    if key.default is None:
        return "none"
    if isinstance(key.default, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in key.default) + "]`"
    shown = str(key.default).lower() if key.type is bool else str(key.default)
    return f"`{shown}`"


def recipients(limit: Capacity) -> str:
    fields = (("to", limit.to), ("cc", limit.cc), ("bcc", limit.bcc))
    each = [f"{name} {most}" for name, most in fields if most is not None]
    return ", ".join(each) or at_most(limit.recipients)


def at_most(limit: int | None) -> str:
    return "any" if limit is None else str(limit)


def size(limit: Capacity) -> str:
    if limit.attachments_size is not None:
        return f"files {limit.attachments_size // 1_000_000} MB"
    return "any" if limit.size is None else f"{limit.size // MIB} MiB"


def bounce_address(limit: Capacity) -> str:
    if limit.by_plan is not None and limit.by_plan[1] == "bounce_address":
        return "by plan"
    return "any" if limit.null_sender else yes(limit.bounce_address)


def inline(limit: Capacity) -> str:
    return "images" if limit.inline_images_only else yes(limit.inline)


def headers(limit: Capacity) -> str:
    return "ASCII" if limit.ascii_headers else "yes" if limit.headers else "by plan"


def tags(limit: Capacity) -> str:
    return "no" if limit.tags == 0 else at_most(limit.tags)


def metadata(limit: Capacity) -> str:
    if limit.metadata is not None:
        return f"{limit.metadata} fields" if limit.metadata else "no"
    size = limit.metadata_size or limit.options_size
    return "any" if size is None else f"{size:,} bytes"


def yes(there: object) -> str:
    return "yes" if there else "no"


def key(vendor: type[Vendor]) -> str:
    life = vendor.key_life
    if life is None:
        return "no"
    return f"{life / 60:g} min" if life < 3600 else f"{life / 3600:g} h"


CAPABILITIES: Mapping[str, Callable[[Capacity, type[Vendor]], str]] = {
    "recipients": lambda limit, _: recipients(limit),
    "size": lambda limit, _: size(limit),
    "text only": lambda limit, _: yes(limit.text_only),
    "alternatives": lambda limit, _: yes(limit.alternatives),
    "inline files": lambda limit, _: inline(limit),
    "reply-to": lambda limit, _: at_most(limit.reply_to),
    "own headers": lambda limit, _: headers(limit),
    "keeps tags": lambda limit, _: tags(limit),
    "keeps metadata": lambda limit, _: metadata(limit),
    "non-ASCII mailboxes": lambda limit, _: yes(limit.unicode_mailboxes),
    "envelope": lambda limit, _: yes(limit.envelope_recipients),
    "bounce address": lambda limit, _: bounce_address(limit),
    "some recipients only": lambda limit, _: yes(limit.partial_recipients),
    "de-duplicates for": lambda _, vendor: key(vendor),
    "look-up": lambda _, vendor: yes(vendor.lookup),
    "sandbox": lambda _, vendor: yes(vendor.has_sandbox),
}


def vendor_table() -> str:
    """What each type of vendor can do, as a Markdown table."""
    lines = [f"| `type` | {' | '.join(CAPABILITIES)} |", "|---" * (len(CAPABILITIES) + 1) + "|"]
    for type_, kind in sorted(VENDOR_TYPES.items()):
        module, _, name = kind.path.partition(":")
        vendor: type[Vendor] = getattr(import_module(module), name)
        cells = (cell(kind.capacity, vendor) for cell in CAPABILITIES.values())
        lines.append(f"| `{type_}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# Benchmarks -------------------------------------------------------------------------------------

PUBLISHED = REPO / "tests/bench/published/results.json"
RATES = {
    "enqueue-1": "`send()`, 1 thread",
    "enqueue-32": "32 threads",
    "bulk": "many at once",
    "drain": "worked off, no vendor",
    "deliver-0ms-x8": f"vendor 0 ms {TIMES} 8",
    "deliver-50ms-x64": f"vendor 50 ms {TIMES} 64",
    "deliver-50ms-x64-2p": "the same, two processes",
}
TWICE = {  # two figures in one cell: the value, and one of what stands beside it
    "latency": ("idle, ms to the vendor, p50 (p99)", "p99"),
    "memory": ("MiB after the first (s to it)", "first"),
}


def benchmark_table() -> str:
    """The medians of what was measured, each contender's in a row."""
    cells: list[report.Cell] = json.loads(PUBLISHED.read_text("utf-8"))
    heads = ["e-mails/s", "kept when the call returns", *RATES.values()]
    heads += [head for head, _ in TWICE.values()]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    published = {(cell["contender"], cell["test"]) for cell in cells}
    for contender in CONTENDERS:
        if not any((contender.name, test) in published for test in RATES):
            continue
        name = contender.name
        first = f"**{name}**" if name == report.OURS else name
        lines.append([first, contender.durable, *figures(name, cells)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figures(name: str, cells: Sequence[report.Cell]) -> Iterator[str]:
    for test in RATES:
        rates = report.values(test, name, cells).values()
        yield f"{median(rates):,.0f}" if rates else ""
    for test, (_, beside) in TWICE.items():
        values = report.values(test, name, cells).values()
        digits = 1 if test == "latency" else 0
        second = report.extra(test, name, beside, cells)
        yield f"{median(values):.{digits}f} ({second})" if values else ""


def factor_table() -> str:
    """How many times as much as others mailqueue does, by what was measured."""
    cells: list[report.Cell] = json.loads(PUBLISHED.read_text("utf-8"))
    lines = [["measured", f"{TIMES} raw", "fastest other", TIMES, "fastest durable other", TIMES]]
    lines.append(["---", "---:", "---", "---:", "---", "---:"])
    for test, words in (RATES | {name: words for name, (words, _) in TWICE.items()}).items():
        others = [report.fastest_peer(test, cells, durable=durable) for durable in (False, True)]
        pairs = [(str(other), times(test, other, cells)) for other in others]
        row = [words, times(test, report.RAW, cells), *(cell for pair in pairs for cell in pair)]
        lines.append(row)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def post_table() -> str:
    """Servers that take an e-mail a POST, and ``AsyncProducer`` without one."""
    cells: list[report.Cell] = json.loads(PUBLISHED.read_text("utf-8"))
    return report.table(POST[0], cells).rpartition("\n\n")[2]


def times(test: str, other: str | None, cells: Sequence[report.Cell]) -> str:
    return report.factor(report.ratio(test, report.OURS, other or "", cells))


PAGES: Mapping[str, tuple[Path, Callable[[], str]]] = {
    "config": (REPO / "docs/configuration.md", config_table),
    "vendor": (REPO / "docs/vendors.md", vendor_table),
    "factor": (REPO / "docs/benchmarks.md", factor_table),
    "benchmark": (REPO / "docs/benchmarks.md", benchmark_table),
    "post": (REPO / "docs/benchmarks.md", post_table),
}


def marked(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} table -->\n).*(<!-- /{name} table -->)", re.DOTALL)


def with_table(text: str, name: str) -> str:
    """The page's text with its table as the code has it."""
    _, table = PAGES[name]
    return marked(name).sub(lambda marks: marks[1] + table() + marks[2], text)


def main() -> None:
    argparse.ArgumentParser(description="Write the documentation's tables anew.").parse_args()
    for name, (page, _) in PAGES.items():
        page.write_text(with_table(page.read_text("utf-8"), name), "utf-8")


if __name__ == "__main__":
    main()
