"""The verb ``explain``: one e-mail in sentences.

Decides: how the sentences stand on a terminal. What they say is decided in ``monitoring``.

Promises: as ``emails``. A page for a person is as wide as the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from textwrap import wrap

from mailqueue.cli.context import EXIT_FOUND, Context, Report
from mailqueue.cli.table import table
from mailqueue.events import EventStore
from mailqueue.monitoring import explanation
from mailqueue.monitoring.conditions import Conditions
from mailqueue.monitoring.explanation import Explanation
from mailqueue.monitoring.overview import look_at_queue
from mailqueue.monitoring.sentence import Sentence


def explain(context: Context) -> Report:
    """What happened to an e-mail, why, and what comes next."""
    options, config = context.options, context.config
    stored = context.store.find_whole(options.id)
    if stored is None:
        place = f"{config.mongodb.database}.{config.mongodb.collection}"
        text = f"{options.id}: there is no such e-mail in {place}. It was pruned, or is elsewhere"
        return Report(None, [], EXIT_FOUND, [text])
    result = explanation.explain(
        stored,
        config,
        Conditions.read(config, context.store, stored, lambda: look_at_queue(config)[1]),
        events=EventStore(config, context.store).of_email(options.id),
        content=options.content,
    )
    return Report(asdict(result), _lines(result, context.width))


def _lines(result: Explanation, width: int | None) -> list[str]:
    """For a person."""
    headline = f"{result.id}: {result.summary}"
    lines = [*(wrap(headline, width, break_on_hyphens=False) if width else [headline]), ""]
    lines += table(("TIME", "WHAT HAPPENED"), _rows(result.history), width)
    lines += ["", *table(("TIME", "WHAT COMES NEXT"), _rows(result.next), width)]
    if result.actions:
        rows = [(action.command, action.text) for action in result.actions]
        lines += ["", *table(("COMMAND", "WHAT IT DOES"), rows, width)]
    return lines


def _rows(sentences: Sequence[Sentence]) -> list[tuple[object, str]]:
    return [(sentence.at, sentence.text) for sentence in sentences]
