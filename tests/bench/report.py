"""What the measurements say: a table and a chart per test.

::

    python tests/bench/report.py RESULTS.json [--plots FOLDER]

Decides: the order (the best first), what is compared with what, and how a number is written. A
factor is taken within a round, of what was measured within minutes, and is the median of those of
all rounds with the least and the greatest beside it.

May assume: cells as ``run`` writes them. Charts need matplotlib, which has an environment of its
own beside the peers'; with ``--plots`` this file goes on there.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

REPO = Path(__file__).resolve().parents[2]
VENV = Path(os.environ.get("MAILQUEUE_VENV", REPO / ".venv"))
sys.path.insert(0, str(REPO))

from tests.bench.contenders import ALL, CONTENDERS, OWN, POST, SMTP  # noqa: E402  # path set above

Cell = dict[str, Any]
Factor = tuple[float, float, float]  # median, least, greatest

OURS, ASYNC, RAW = "mailqueue", "AsyncProducer", "raw"
LOWER_IS_BETTER = {"ms", "MiB", "s"}
# Of these figures beside the value: its column, and how its numbers are read.
EXTRAS = {
    "p95": "p95",
    "p99": "p99",
    "first": "first e-mail after (s)",
    "used": "machine used (%)",
    "cpu": "CPU of the application (µs each)",
}
DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
BY_NAME = {contender.name: contender for contender in CONTENDERS}


# Figures -----------------------------------------------------------------------------------------


def values(test: str, name: str, cells: Sequence[Cell]) -> dict[int, float]:
    """By round."""
    return {
        cell["round"]: cell["value"]
        for cell in cells
        if cell["test"] == test and cell["contender"] == name
    }


def unit_of(test: str, cells: Sequence[Cell]) -> str:
    return next(str(cell["unit"]) for cell in cells if cell["test"] == test)


def ranked(test: str, cells: Sequence[Cell]) -> list[str]:
    """The names of those that were measured, the best first."""
    names = dict.fromkeys(cell["contender"] for cell in cells if cell["test"] == test)
    highest_first = unit_of(test, cells) not in LOWER_IS_BETTER
    return sorted(
        names, key=lambda name: median(values(test, name, cells).values()), reverse=highest_first
    )


def is_peer(name: str) -> bool:
    return name in BY_NAME and BY_NAME[name].peer


def is_durable(name: str) -> bool:
    """Whether a returned enqueue outlives the server's process."""
    return name in BY_NAME and not BY_NAME[name].durable.startswith("memory")


def fastest_peer(test: str, cells: Sequence[Cell], *, durable: bool = False) -> str | None:
    peers = filter(is_peer, ranked(test, cells))
    return next((name for name in peers if is_durable(name) or not durable), None)


def ratio(test: str, a: str, b: str, cells: Sequence[Cell]) -> Factor | None:
    """``a`` as a multiple of ``b``, of the rounds in which both were measured."""
    mine, other = values(test, a, cells), values(test, b, cells)
    factors = [mine[n] / other[n] for n in mine if other.get(n)]
    return (median(factors), min(factors), max(factors)) if factors else None


# Tables ------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def factor(found: Factor | None) -> str:
    if found is None:
        return DASH
    middle, least, greatest = map(number, found)
    return middle if least == greatest else f"{middle} ({least}{DASH}{greatest})"


def title(test: str) -> str:
    """The test in words."""
    kind, _, rest = test.partition("-")
    if kind == "enqueue":
        return f"Enqueue one at a time, {rest} caller{'s' * (rest != '1')}"
    if kind == "deliver":
        delay, concurrency, *processes = rest.split("-")
        number_of = processes[0].removesuffix("p") if processes else "1"
        return (
            f"Deliver to a vendor that takes {delay.replace('ms', ' ms')}, {number_of} process"
            f"{'es' * (number_of != '1')} with concurrency {concurrency.removeprefix('x')}"
        )
    if kind == "post":
        return f"Hand over by HTTP, one e-mail a POST, {rest} connections"
    if kind == "smtp":
        return f"Hand over by SMTP, one e-mail a connection, {rest} connections"
    if kind == "events":
        return f"A vendor's events over HTTP, {rest} in a signed request"
    words = {
        "bulk": "Enqueue many at once, 1 caller",
        "drain": "Work off a backlog without a vendor, 1 process",
        "latency": "From the enqueue to the vendor, worker idle",
        "memory": "Memory of a worker after its first e-mail, concurrency 16",
        "growth": f"Work off a backlog with {rest} e-mails in the store",
        "failover": "Rate after one of three vendors was killed",
    }
    return words.get(kind, test)


def references(test: str, cells: Sequence[Cell]) -> dict[str, str]:
    """What each contender is compared with, by column."""
    columns = {}
    if values(test, RAW, cells):
        columns[f"{TIMES} raw"] = RAW
    if values(test, ASYNC, cells):
        columns[f"{TIMES} {ASYNC}"] = ASYNC
    if peer := fastest_peer(test, cells):
        columns[f"{TIMES} fastest peer"] = peer
    durable = fastest_peer(test, cells, durable=True)
    if durable and test.partition("-")[0] in {"enqueue", "bulk", "post"}:
        columns[f"{TIMES} fastest durable peer"] = durable
    return columns


def extra(test: str, name: str, key: str, cells: Sequence[Cell]) -> str:
    found = [
        cell[key]
        for cell in cells
        if cell["test"] == test and cell["contender"] == name and key in cell
    ]
    return number(median(found)) if found else DASH


def table(test: str, cells: Sequence[Cell]) -> str:
    """A Markdown table."""
    compared = references(test, cells)
    extras = [key for key in EXTRAS if any(c["test"] == test and key in c for c in cells)]
    heads = ["contender", "durable", "median", "min", "max", *(EXTRAS[key] for key in extras)]
    lines = [[*heads, *compared], ["---", "---", *["---:"] * (len(heads) + len(compared) - 2)]]
    for name in ranked(test, cells):
        found = values(test, name, cells).values()
        durable = BY_NAME[name].durable if name in BY_NAME else DASH
        figures = [number(value) for value in (median(found), min(found), max(found))]
        more = [extra(test, name, key, cells) for key in extras]
        factors = [factor(ratio(test, name, other, cells)) for other in compared.values()]
        shown = f"**{name}**" if name == OURS else name
        lines.append([shown, durable, *figures, *more, *factors])
    unit = unit_of(test, cells)
    better = "lower" if unit in LOWER_IS_BETTER else "higher"
    heading = f"### {title(test)} (`{test}`)\n\nIn {unit}; {better} is better.\n\n"
    return heading + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tests_in(cells: Sequence[Cell]) -> list[str]:
    """In the order of the table of contenders, what it does not name last."""
    order = {kind: at for at, kind in enumerate((*ALL, *OWN, *POST, *SMTP))}
    named = dict.fromkeys(str(cell["test"]) for cell in cells)
    return sorted(named, key=lambda test: order.get(test, order.get(test.partition("-")[0], 99)))


def tables(cells: Sequence[Cell]) -> str:
    return "\n".join(table(test, cells) for test in tests_in(cells))


# Charts ------------------------------------------------------------------------------------------

INK, FAINT = "#222222", "#d8d8d8"
FEWEST = 6  # rows that a chart has room for, so that a single bar is no wall
KINDS = {  # label: face, hatch
    "mailqueue": ("#1f5fa8", ""),
    "raw (servers without a queue library)": ("#a8a8a8", ""),
    "peer, durable enqueue": ("#eec07f", "////"),
    "peer, enqueue in memory": ("#f3d9ae", ""),
}


def kind_of(name: str) -> str:
    """The label in the legend."""
    our_fault, raw, durable, memory = KINDS
    if name.startswith(OURS) or name in {ASYNC, RAW}:
        return raw if name == RAW else our_fault
    return durable if is_durable(name) else memory


def plot(test: str, cells: Sequence[Cell], path: Path) -> None:
    """Bars of medians with whiskers from min to max, as a PNG of 900 by 500."""
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(9, 5), dpi=100)
    axes = figure.subplots()
    names = ranked(test, cells)
    _bars(axes, test, names, cells)
    _labels(axes, test, names, cells)
    _legend(axes, names, unit_of(test, cells))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, pil_kwargs={"optimize": True})


def _bars(axes: Any, test: str, names: Sequence[str], cells: Sequence[Cell]) -> None:
    for at, name in enumerate(names):
        found = values(test, name, cells).values()
        face, hatch = KINDS[kind_of(name)]
        middle = median(found)
        reach = [[middle - min(found)], [max(found) - middle]]
        axes.barh(
            at, middle, height=0.72, color=face, hatch=hatch, edgecolor="#8a6a38" if hatch else face
        )
        axes.errorbar(middle, at, xerr=reach, color=INK, elinewidth=0.8, capsize=2, capthick=0.8)
        axes.annotate(
            number(middle),
            (max(found), at),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            fontweight="bold" if name == OURS else "normal",
            color=INK,
        )


def _labels(axes: Any, test: str, names: Sequence[str], cells: Sequence[Cell]) -> None:
    unit = unit_of(test, cells)
    better = "lower" if unit in LOWER_IS_BETTER else "higher"
    axes.set_title(title(test), fontsize=11, loc="left", color=INK, pad=10)
    axes.set_xlabel(f"{unit} ({better} is better)", fontsize=9, color=INK)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(max(len(names), FEWEST) - 0.4, -0.6)  # the first on top
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == OURS else "normal")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5, color=FAINT)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _legend(axes: Any, names: Sequence[str], unit: str) -> None:
    """In the corner where the bars are short."""
    patch = importlib.import_module("matplotlib.patches").Patch
    present = {kind_of(name) for name in names}
    if len(present) < 2:
        return
    handles = [
        patch(facecolor=face, hatch=hatch, edgecolor="#8a6a38" if hatch else face, label=label)
        for label, (face, hatch) in KINDS.items()
        if label in present
    ]
    corner = "upper right" if unit in LOWER_IS_BETTER else "lower right"
    axes.legend(handles=handles, loc=corner, fontsize=8.5, framealpha=0.95, edgecolor=FAINT)


# Command line ------------------------------------------------------------------------------------


def go_on_with_matplotlib() -> None:
    """Run again by the Python that has it."""
    python = VENV / "bench" / "report" / "bin" / "python"
    if not python.exists():
        sys.exit(f"--plots needs matplotlib: python -m venv {python.parents[1]}, and install it")
    os.execv(python, [str(python), str(Path(__file__).resolve()), *sys.argv[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="tables and charts of measurements")
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="a PNG per test")
    options = parser.parse_args(arguments)
    if options.plots and importlib.util.find_spec("matplotlib") is None:
        go_on_with_matplotlib()
    cells: list[Cell] = json.loads(options.results.read_text())
    sys.stdout.write(tables(cells))
    if options.plots:
        for test in tests_in(cells):
            plot(test, cells, options.plots / f"{test}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
