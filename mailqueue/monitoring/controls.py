"""Holds and drains in sentences: who lets e-mails wait, since when, why, and how it ends. Pure."""

from __future__ import annotations

from datetime import datetime
from shlex import quote

from mailqueue.monitoring.sentence import Action
from mailqueue.monitoring.words import clock
from mailqueue.store.control import DRAIN, Control


def control_text(each: Control, now: datetime) -> str:
    """``Vendor ses is drained by ann@ops since 12:00:00 UTC: new key.``"""
    subjects = {"all": "Everything", "vendor": f"Vendor {each.name}", DRAIN: f"Vendor {each.name}"}
    subject = subjects.get(each.kind, f"Every e-mail of the {each.kind} {each.name}")
    return f"{subject} is {state_text(each, now)}."


def state_text(each: Control, now: datetime) -> str:
    """``drained by ann@ops since 12:00:00 UTC: new key``."""
    state = "drained" if each.kind == DRAIN else "held"
    since = "" if each.at is None else f" since {clock(each.at, now)}"
    why = f": {each.reason}" if each.reason else ""
    return f"{state} by {each.by or 'a person'}{since}{why}"


def end_of(each: Control) -> Action:
    """What an operator types to end it."""
    if each.kind == DRAIN:
        text = f"Give {each.name} e-mails again."
        return Action(f"mailqueue vendors undrain {each.name}", text)
    option = f"--{each.kind}" + (f" {quote(each.name)}" if each.name else "")
    return Action(f"mailqueue release {option}", "End the hold: what waits for it goes on.")
