"""Breadth first through all states of a scenario, and what must hold in each and of all together.

Decides: what is wrong. In a state: copies, ends, probes. Of the graph: nothing is stuck, nothing
turns in a circle, and no vendor stays unavailable beyond its next probe while mail waits.

Promises: ``explore`` returns the shortest trace to what is wrong, or the number of states.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mailqueue.lifecycle.outcomes import Status
from mailqueue.routing.rotation import LAST_RESORT
from tests.model.changes import SENT
from tests.model.rules import Rules
from tests.model.states import VENDORS, Idle, Scenario, State, Work, canonical, ticks
from tests.model.world import World


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of exploring one scenario. ``wrong`` is empty when everything holds."""

    scenario: str
    states: int
    steps: int
    wrong: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.scenario}: {self.states} states, {self.steps} steps"
        return "\n".join([head, *([f"WRONG: {self.wrong}"] if self.wrong else []), *self.trace])


class Graph:
    """The states found so far, how each was reached first, and the steps between them."""

    def __init__(self) -> None:
        self.number: dict[State, int] = {}
        self.states: list[State] = []
        self.reached: list[int] = []
        self.edges: list[list[tuple[int, int, bool]]] = []  # to, ticks, normal

    def add(self, state: State, source: int) -> int:
        found = self.number.setdefault(state, len(self.states))
        if found == len(self.states):
            self.states.append(state)
            self.reached.append(source)
            self.edges.append([])
        return found

    def path(self, n: int) -> list[int]:
        """The states on the shortest way to state ``n``."""
        way = deque([n])
        while way[0] > 0:
            way.appendleft(self.reached[way[0]])
        return list(way)

    @property
    def steps(self) -> int:
        return sum(map(len, self.edges))


class Search:
    """One exploration: the world, and the graph of what was found in it."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario, self.world, self.graph = scenario, World(scenario, rules), Graph()
        self._emails_alike = not scenario.always and scenario.emails == 2
        self._vendors_alike = not scenario.always and not scenario.keyed
        self._numbers: dict[State, int] = {}  # also of states that are not canonical
        self._wrong: list[str] = []  # what is wrong in each state of the graph

    def _add(self, state: State, source: int) -> int:
        """The number of a state; only one that is new has to be looked at."""
        to = self._numbers.get(state)
        if to is None:
            to = self._numbers[state] = self.graph.add(self.canonical(state), source)
            if to == len(self._wrong):
                self._wrong.append(state_is_wrong(self.graph.states[to], self.scenario))
        return to

    def canonical(self, state: State) -> State:
        return canonical(state, self._emails_alike, self._vendors_alike)

    def run(self) -> Report:
        """Visit every reachable state; stop at the first thing wrong."""
        graph = self.graph
        self._add(self.scenario.start(), 0)
        n = 0
        while n < len(graph.states):
            found = self._visit(n)
            if found:
                return self._report(n, *found)
            n += 1
        wrong = _graph_is_wrong(graph, self.scenario)
        return self._report(*wrong) if wrong else self._report(0, "")

    def _visit(self, n: int) -> tuple[str, str] | None:
        state, idle = self.graph.states[n], True
        for step in self.world.steps(state):
            to = self._add(step.state, n)
            if what := step.wrong or self._wrong[to]:
                return what, step.label
            self.graph.edges[n].append((to, step.ticks, not step.fault))
            idle = idle and bool(step.fault)
        return ("stuck", "") if idle and not at_end(state) else None

    def _report(self, n: int, wrong: str, *last: str) -> Report:
        return Report(
            scenario=self.scenario.name,
            states=len(self.graph.states),
            steps=self.graph.steps,
            wrong=wrong,
            trace=(*self._trace(n), *filter(None, last)),
        )

    def _trace(self, n: int) -> list[str]:
        """The labels on the way to state ``n``, under names that do not change on the way."""
        state, labels = self.graph.states[0], []
        for at in self.graph.path(n)[1:]:
            wanted = self.graph.states[at]
            step = next(s for s in self.world.steps(state) if self.canonical(s.state) == wanted)
            state = step.state
            labels.append(step.label)
        return labels


def explore(scenario: Scenario, rules: Rules | None = None) -> Report:
    """Explore one scenario, by the product's rules unless others are given."""
    # The states stay to the end and have no cycles: the collector would look through them in vain.
    gc.disable()
    try:
        return Search(scenario, rules or Rules()).run()
    finally:
        gc.enable()


def at_end(state: State) -> bool:
    """Nothing is left to do."""
    return all(e.final and not e.jobs for e in state.emails) and all(
        isinstance(w, Idle) for w in state.works
    )


def state_is_wrong(state: State, scenario: Scenario) -> str:
    """What the promise forbids in any state."""
    most = 2 if scenario.policy.resend_unknown else 1
    for email in state.emails:
        if email.copies > min(most, 1 + email.resent):
            return f"{email.copies} copies, {email.resent} resent"
        if email.status in (Status.FAILED, Status.CANCELLED) and email.copies:
            return f"{email.status}, but a copy left our hands"
        if email.status == SENT and not email.copies:
            return "sent, but nobody took it"
    for name, door in zip(VENDORS, state.doors, strict=True):
        holders = [w for w in state.works if isinstance(w, Work) and w.vendor == name]
        held = any(w.probe == "held" for w in holders)
        if door.probe > 0 and not door.orphan and not held:
            return "a probe's slot is held for nobody"
        if scenario.well and not door.available:
            return "a vendor that is well is unavailable"
    return ""


def _graph_is_wrong(graph: Graph, scenario: Scenario) -> tuple[int, str] | None:
    """Circles, then how long a vendor can stay unavailable when nothing more goes wrong."""
    hot = _circle(graph, lambda passed, _: passed == 0)
    if hot is not None:
        return hot, "a hot loop: turns in a circle and no time passes"
    if scenario.endless:
        return None
    normal = _circle(graph, lambda _, normal: normal)
    if normal is not None:
        return normal, "turns in a circle though nothing goes wrong"
    return _unavailable_too_long(graph, scenario)


def _circle(graph: Graph, keep: Callable[[int, bool], bool]) -> int | None:
    """A state on a circle of the steps to ``keep``, or None."""
    order = _order(graph, keep)
    if len(order) == len(graph.states):
        return None
    left = set(range(len(graph.states))) - set(order)
    n = min(left)  # has a predecessor among those left: walk back into the circle
    before = {
        to: source
        for source in left
        for to, passed, normal in graph.edges[source]
        if keep(passed, normal) and to in left
    }
    seen: set[int] = set()
    while n not in seen:
        seen.add(n)
        n = before[n]
    return n


def _order(graph: Graph, keep: Callable[[int, bool], bool]) -> list[int]:
    """A topological order of the states that are on no circle nor behind one."""
    into = [0] * len(graph.states)
    for edges in graph.edges:
        for to, passed, normal in edges:
            into[to] += keep(passed, normal)
    order = [n for n, count in enumerate(into) if not count]
    for n in order:
        for to, passed, normal in graph.edges[n]:
            if keep(passed, normal):
                into[to] -= 1
                if not into[to]:
                    order.append(to)
    return order


def _unavailable_too_long(graph: Graph, scenario: Scenario) -> tuple[int, str] | None:
    """From every state, whatever the schedule: vendors are available in time if mail waits."""
    longest = [0] * len(graph.states)
    for n in reversed(_order(graph, lambda _, normal: normal)):
        state = graph.states[n]
        if not _mail_waits_for_a_vendor(state) or _somebody_sleeps(state):
            continue
        longest[n] = max((t + longest[to] for to, t, normal in graph.edges[n] if normal), default=0)
        if longest[n] > _patience(state, scenario):
            return n, f"a vendor may stay unavailable for {longest[n]} ticks: {state}"
    return None


def _mail_waits_for_a_vendor(state: State) -> bool:
    missing = any(not door.available for door in state.doors)
    return missing and any(not email.final for email in state.emails)


def _somebody_sleeps(state: State) -> bool:
    """Who is paused may hold the only claim for as long as it likes."""
    return any(isinstance(w, Work) and w.paused for w in state.works)


def _patience(state: State, scenario: Scenario) -> int:
    """Ticks until the last of: the next probe, a dead prober's slot or lease, the mail's own wait.

    The probe's e-mail may have asked the vendor in this round already: then its back-off too; and
    it may be in doubt: then what it leaves to others.
    """
    doors = [max(d.until, d.probe, d.resort) for d in state.doors]
    mail = [max(e.due, e.lease, *e.jobs, 0) for e in state.emails if not e.final]
    return max(*doors, *mail) + ticks(scenario.policy.cap + LAST_RESORT) + 1
