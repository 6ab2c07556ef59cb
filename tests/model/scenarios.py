"""What is explored: small worlds, each with the faults whose interplay it is about."""

from __future__ import annotations

from dataclasses import replace

from tests.model.states import OUTAGE, POLICY, Scenario

UNKNOWN = ("unknown, taken", "unknown, not taken")
PARK = replace(POLICY, resend_unknown=False)

OUTAGE_ALONE = Scenario(name="outages without end, one e-mail", free=OUTAGE, emails=1)
OUTAGE_FLAPPING = Scenario(name="no connection, again and again", free=OUTAGE[:1], workers=1)
OUTAGE_PROBES = Scenario(
    name="both vendors fail once",
    faults={"any": 3, "answer": 3},
    answers=("refused connection",),
)
OUTAGE_TWO = Scenario(
    name="outages without end, two e-mails",
    free=("5xx",),
    faults={"any": 1, "answer": 1},
    answers=OUTAGE[:1],
    workers=1,
)
BUSY = Scenario(name="throttled for 0 s without end", free=("throttled for 0 s",))
UNSUITABLE = Scenario(
    name="one vendor does not take it, the other is down for long",
    always={(0, "A"): "unsuitable"},
    free=("refused connection",),
)
POISON = Scenario(
    name="one e-mail draws a 5xx everywhere",
    always={(0, "A"): "5xx", (0, "B"): "5xx"},
    faults={"any": 2, "answer": 2},
    answers=("refused connection",),
    endless=True,
)
POISON_ALONE = Scenario(
    name="one e-mail draws a 5xx everywhere, nothing else is wrong",
    always={(0, "A"): "5xx", (0, "B"): "5xx"},
    endless=True,
    well=True,
)
POISON_TWO = Scenario(
    name="5xx and no connection, two e-mails",
    faults={"any": 3, "answer": 3},
    answers=("refused connection", "5xx"),
)
POISON_THREE = Scenario(
    name="two of three e-mails draw a 5xx",
    faults={"any": 2, "answer": 2},
    answers=("5xx",),
    emails=3,
    workers=1,
)
REFUSES = Scenario(
    name="vendors that refuse everything for a while",
    free=("refuses all",),
    faults={"any": 1, "answer": 1},
    answers=("refused connection",),
    workers=1,
)
ANSWERS = Scenario(
    name="every answer, twice",
    faults={"any": 2, "answer": 2},
    answers=(*OUTAGE, *UNKNOWN, "misconfigured", "deferred", "unsuitable", "rejected"),
    may_fail=True,
)
CRASHES = Scenario(
    name="crashes, pauses, doubled and lost jobs",
    faults={"any": 3, "answer": 1, "crash": 2, "pause": 2, "tube": 2, "slow": 1, "cancel": 1},
    answers=("refused connection", "unknown, taken"),
)
PARKED = replace(CRASHES, name="the same, nothing is resent", policy=PARK)
STALE = Scenario(
    name="late answers and probes",
    faults={"any": 4, "answer": 3, "pause": 1},
    answers=("refused connection",),
)
KEYED = Scenario(
    name="a vendor that knows its keys",
    faults={"any": 4, "answer": 4},
    answers=("refused connection", "unknown, taken"),
    keyed=("A",),
)
KEY_FORGOTTEN = Scenario(
    name="the vendor forgets its keys while the consumers are away; nothing is resent",
    faults={"any": 6, "answer": 2, "crash": 1, "slow": 5},
    answers=UNKNOWN,
    keyed=("A",),
    emails=1,
    policy=PARK,
)

SCENARIOS = (
    OUTAGE_ALONE,
    OUTAGE_FLAPPING,
    OUTAGE_PROBES,
    OUTAGE_TWO,
    BUSY,
    UNSUITABLE,
    POISON,
    POISON_ALONE,
    POISON_TWO,
    POISON_THREE,
    REFUSES,
    ANSWERS,
    CRASHES,
    PARKED,
    STALE,
    KEYED,
    KEY_FORGOTTEN,
)

_ALL = {"answer": 2, "crash": 2, "pause": 2, "tube": 1, "slow": 1, "cancel": 1}
DEEP = (
    *SCENARIOS,
    replace(OUTAGE_FLAPPING, name="no connection, two workers", workers=2),
    replace(
        UNSUITABLE,
        name="one vendor does not take it, a crash, the other is down or throttled for long",
        free=("refused connection", "throttled until"),
        faults={"any": 1, "crash": 1},
    ),
    replace(ANSWERS, name="every answer, three times", faults={"any": 3, "answer": 3}),
    replace(CRASHES, name="four faults", faults={"any": 4, **_ALL}),
    replace(PARKED, name="four faults, nothing is resent", faults={"any": 4, **_ALL}),
    replace(STALE, name="late answers, probes and a crash", faults={**STALE.faults, "crash": 1}),
    replace(
        KEYED, name="four faults with keys", faults={"any": 4, **_ALL, "answer": 4, "pause": 0}
    ),
)
