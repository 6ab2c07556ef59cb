"""What is said about an e-mail between the modules: statuses, outcomes, the case. Pure values.

Decides: the words. ``decide`` decides what follows from them, ``store`` how they are kept.

Promises: no value changes once it is made; durations are seconds; no address, subject or body in a
``code``, ``detail`` or ``reason``, nor in a repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from mailqueue.lifecycle.values import value

# Seconds until the first early probe: ``decide`` and ``rotation`` have to agree on it.
PROBE_STEP = 5.0
# A retry comes before what is new in its own class, never before a more urgent class.
RETRY_HIGH, RETRY_NORMAL, RETRY_BULK = 512, 32_768, 524_288
HIGH, NORMAL, BULK = 2048, 65_536, 1_048_576
PRIORITIES = {"high": HIGH, "normal": NORMAL, "bulk": BULK}
RETRY_PRIORITIES = {HIGH: RETRY_HIGH, NORMAL: RETRY_NORMAL, BULK: RETRY_BULK}

# A lost job shows in the number of jobs, unless doubled jobs of other e-mails make up for it. So an
# e-mail is announced again, whatever the tube holds, when it is so many seconds late: so many
# times.
OVERDUE = {HIGH: 60.0, NORMAL: 900.0, BULK: 900.0}
ANNOUNCEMENTS = 5


def overdue_after(priority: int) -> float:
    """Seconds past its time after which an e-mail is announced again, whatever the tube holds."""
    return OVERDUE.get(priority, OVERDUE[NORMAL])


def retry_priority(priority: int) -> int:
    """The priority of a retry; one that a person set by hand stays as it is."""
    return RETRY_PRIORITIES.get(priority, priority)


class Status(StrEnum):
    """Where an e-mail stands. ``queued`` and ``sending`` go on; the other four are ends.

    ``queued``: it waits for its time or for a vendor.
    ``sending``: a consumer has claimed it and makes an attempt.
    ``sent``: a vendor accepted it.
    ``failed``: it was not sent, and no copy left our hands.
    ``uncertain``: a copy may have left; a person decides.
    ``cancelled``: the application, a person or staging cancelled it; no copy left our hands.
    """

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    CANCELLED = "cancelled"

    final: bool

    def __init__(self, value: str) -> None:
        # ``final``: no worker will touch the e-mail again of its own accord.
        self.final = value not in ("queued", "sending")


class Outcome(StrEnum):
    """What came of one attempt at one vendor, and what follows.

    ``accepted``: the vendor took the e-mail.
    ``rejected``: no vendor would take it. The e-mail has failed.
    ``unsuitable``: this vendor cannot take it. The next vendor is asked.
    ``deferred``: the recipient's server asks us to wait. The e-mail waits.
    ``throttled``: we are too fast for the vendor. The next one is asked; this one rests.
    ``unavailable``: the vendor does not work. The next one is asked; this one rests.
    ``misconfigured``: our account or key is refused. As ``unavailable``.
    ``unknown``: the e-mail may have been taken or not. It is sent once more at most.
    """

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNSUITABLE = "unsuitable"
    DEFERRED = "deferred"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"
    UNKNOWN = "unknown"


class Reason(StrEnum):
    """Why an e-mail ended without a vendor's yes.

    ``rejected``: a vendor says that nobody can deliver it.
    ``refused_by_all``: every vendor found it unsuitable.
    ``exhausted``: it had ``retry.max_attempts`` attempts.
    ``gave_up``: ``retry.give_up_after`` has passed.
    ``expired``: its ``expires_at`` has passed.
    ``suppressed``: all its recipients are on the suppression list.
    ``not_allowed``: none of its recipients is on the list of a staging installation.
    ``unknown``: nobody knows whether a copy left.
    ``unreadable``: its document is damaged.
    ``cancelled``: the application or a person cancelled it.
    ``marked_sent``: a person says that it was sent.
    """

    REJECTED = "rejected"
    REFUSED_BY_ALL = "refused_by_all"
    EXHAUSTED = "exhausted"
    GAVE_UP = "gave_up"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    NOT_ALLOWED = "not_allowed"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"
    CANCELLED = "cancelled"
    MARKED_SENT = "marked_sent"


@value
class SendResult:
    """A vendor's answer, classified. Vendor trouble is this value, never an exception.

    ``code``: the vendor's word or number for it, as text; ``detail``: what the vendor said. Neither
    carries an address, a subject or a body.
    ``message_id``: the vendor's own id for the e-mail.
    ``retry_after``: seconds to wait that the vendor named itself. 0 with ``accepted``: the
    ``pending`` recipients only wait for a transaction of their own.
    ``refused``: recipients refused for good; ``pending``: recipients put off. With ``accepted`` all
    others were taken.
    ``quota_held``: accepted, but the vendor keeps it, since the account is suspended or its quota
    spent; the vendor gets no more for now.
    ``replay``: accepted, since the vendor has seen the key before (see ``resolve_replay``).
    ``answered``: False if no complete answer came (refused connection, DNS, TLS, time-out, reset).
    ``our_fault``: our side caused it; the vendor is not blamed.
    ``content_suspect``: what is in this e-mail may have drawn the answer (a firewall's page),
    whatever the outcome says of the vendor. An answered ``unavailable`` or ``unknown`` always may
    be such an answer.
    """

    outcome: Outcome
    code: str = ""
    detail: str = ""
    message_id: str | None = None
    retry_after: float | None = None
    refused: tuple[str, ...] = field(default=(), repr=False)
    pending: tuple[str, ...] = field(default=(), repr=False)
    quota_held: bool = False
    replay: bool = False
    answered: bool = True
    our_fault: bool = False
    content_suspect: bool = False

    @property
    def may_be_content(self) -> bool:
        """True when what is in the e-mail may have drawn this answer: a hint about the vendor."""
        # Without a complete answer the vendor has not judged the e-mail, so that is no hint. The
        # other outcomes say plainly whom they blame.
        failed = self.outcome in (Outcome.UNAVAILABLE, Outcome.UNKNOWN)
        return self.content_suspect or (failed and self.answered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Which vendors have been asked. ``n`` rounds with an attempt are over (the back-off's step).

    ``tried`` is emptied when a round ends. ``refused`` are the vendors that do not take this
    e-mail (``unsuitable``); they are not asked again, so that the e-mail can wait for the others.
    """

    n: int = 0
    tried: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The e-mail stays with a vendor that de-duplicates by ``key``, for ``remaining`` seconds."""

    vendor: str
    key: str
    remaining: float
    repeats: int = 0


@value
class Snapshot:
    """An e-mail as a decision sees it. Durations are seconds.

    ``age`` counts from when a consumer first had it, due, or from an operator's retry.
    ``hint_vendors`` gave this e-mail an answer that is only a hint (``Suspension.is_hint``),
    ``unknown_vendors`` are those at which the outcome of an attempt is unknown.
    ``pending`` is None until a vendor took the e-mail for some recipients only.
    ``route``: the vendors that it may go to; None: all.
    """

    priority: int
    age: float = 0.0
    expires_in: float | None = None
    counted: int = 0
    unknowns: int = 0
    round: Round = Round()
    pin: Pin | None = None
    pending: tuple[str, ...] | None = field(default=None, repr=False)
    refused: tuple[str, ...] = field(default=(), repr=False)
    hint_vendors: frozenset[str] = frozenset()
    unknown_vendors: frozenset[str] = frozenset()
    route: tuple[str, ...] | None = None

    @property
    def in_doubt(self) -> bool:
        """True when the e-mail itself may be why it was not taken before."""
        # It may draw the same answer from a vendor that is well. Its failure there tells nothing,
        # so neither a hint nor a probe should come from it.
        return bool(self.hint_vendors or self.round.refused)


@value
class CurrentAttempt:
    """The attempt that is decided about. Durations are seconds.

    ``key`` is its idempotency key (None: the vendor knows none), surely known for ``key_life``
    since its first use, which was ``key_age`` ago. ``lookup``: the vendor can be asked whether it
    has the e-mail.
    """

    vendor: str
    key: str | None = None
    key_life: float = 0.0
    key_age: float = 0.0
    lookup: bool = False


@value
class Case:
    """What a decision is taken on: the e-mail, its attempt, and when which vendor may be asked.

    ``attempt`` None: no vendor was asked. ``waits`` has every configured vendor that can carry the
    e-mail, with the seconds until it may be asked (0: now). The attempt's own vendor is one of
    them; if it is missing, its wait follows from its answer.
    """

    email: Snapshot
    attempt: CurrentAttempt | None = None
    waits: Mapping[str, float] = field(default_factory=dict)

    @property
    def asked(self) -> tuple[str, ...]:
        """The vendor of the attempt, if there was one."""
        return () if self.attempt is None else (self.attempt.vendor,)

    @property
    def refused_by_all(self) -> bool:
        """True when every vendor found the e-mail unsuitable."""
        return self.waits.keys() <= set(self.email.round.refused)

    def with_email(self, **changes: Any) -> Case:
        """The same case, the e-mail with these fields changed."""
        return replace(self, email=replace(self.email, **changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers that decide (durations in seconds): the configuration's, then those we chose."""

    max_attempts: int = 25
    give_up_after: float = 259_200.0
    base: float = 30.0  # the back-off between rounds: the first,
    cap: float = 3600.0  # and the longest
    resend_unknown: bool = True
    unavailable_for: float = 600.0  # how long a vendor is that failed
    max_wait: float = 3600.0  # the longest time that is taken from a vendor's answer

    least_pause: float = 1.0  # the shortest such time
    silent_throttle: float = 60.0  # instead of it, where a vendor throttles and names none
    probe_base: float = PROBE_STEP  # until the first early probe
    lookup_after: float = 30.0  # until a vendor may know what became of an unknown outcome
    pin_base: float = 5.0  # the back-off between repeats under a key: the first
    pin_life: float = 900.0  # no repeats under a key after that


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """What is held against a vendor: unavailable for ``seconds``.

    ``retry_after`` are the seconds that the vendor named itself. ``is_hint``: the content of the
    e-mail may have drawn the answer, so one e-mail alone suspends no vendor. ``in_doubt``: the
    e-mail has drawn such an answer before, or was refused, so its hint counts for nothing.
    """

    seconds: float
    reason: str
    retry_after: float | None = None
    is_hint: bool = False
    in_doubt: bool = False


@value
class Decision:
    """What follows. ``delay`` in seconds; ``priority`` is the job's (smaller is more urgent)."""

    status: Status
    priority: int
    reason: str | None = None
    delay: float = 0.0
    round: Round = Round()
    pin: Pin | None = None
    pending: tuple[str, ...] | None = field(default=None, repr=False)
    refused: tuple[str, ...] = field(default=(), repr=False)
    unknowns: int = 0
    counted: int = 0
