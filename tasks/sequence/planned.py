"""What a plan is made from and made of: values between the store and the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from schedules.expression.evaluate import Known
from tasks.sequence.decisions import Decision

Outcome: TypeAlias = Literal[
    "sent", "sent_assumed", "failed", "suppressed", "capped", "held_out", "late", "expired",
    "cancelled",
]  # fmt: skip
NonSendState: TypeAlias = Literal["suppressed", "capped", "held_out", "late"]


@dataclass(frozen=True, slots=True)
class Position:
    """One due enrollment, as it was read under its row lock.

    Attributes:
        step_id: where it stands; None before the first step.
        started_at: None until the step began: for a send its message exists, for a wait it is waited.
        due_at: when the planner was to look; lateness counts from here.
        rule: ``wait_rule`` of the row, as a `Wait` or `Postpone` left it.
        outcome: terminal state of the step's message, None while that is live or is none.
        zone: the subscriber's own word for it, valid or not.
        entered_at: when they came in; `exit` rules count from it.
        passed: steps that are not run again, though an edit has put them ahead.
    """

    enrollment_id: int
    subscriber_id: int
    entry_no: int
    step_id: str | None
    started_at: datetime | None
    due_at: datetime
    rule: Mapping[str, Any] | None = None
    outcome: Outcome | None = None
    outcome_reason: str | None = None
    hard_bounce: bool = False
    zone: str | None = None
    entered_at: datetime | None = None
    passed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Words:
    """What came of asking for the words of a mail: its slots, or why there are none.

    `reason` is ``model``, or a short word that can be counted: ``not_ready``, ``budget``, ….
    `arms`: the arms that they were made for, by experiment.
    """

    slots: Mapping[str, str] | None
    reason: str = "model"
    arms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """The slots of a frequency cap that are taken.

    Attributes:
        went: when mails went that may count, also long ago.
        under_way: mails that were handed over and may still go.
        rivals: enrollments of the same subscriber that are due too, and come first.
    """

    went: tuple[datetime, ...] = ()
    under_way: int = 0
    rivals: int = 0


NOTHING_TAKEN: Final = Taken()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is on record of an experiment.

    Attributes:
        arm: somebody's; None: they are new to it.
        stopped: arms that nobody comes into any more.
        chosen: the arm that everybody comes into.
        weights: in place of the file's, where the fleet moves them.
    """

    arm: str | None = None
    stopped: frozenset[str] = frozenset()
    chosen: str | None = None
    weights: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Assigned:
    """Somebody new in an arm: with which chance, and the weights of the arms that there were."""

    step_id: str
    arm: str
    propensity: float
    shares: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds at this moment.

    Attributes:
        now: the clock of Postgres.
        paused: the sequence is.
        stopped: why a stop forbids mail.
        opted_in: to the sequence's topic; None where nobody asked.
        happened: those events of its `exit` rules that were recorded after the entry.
        known: what its expressions ask for; None where they ask for nothing.
        words: of its personalized sends, by step, as far as they were asked for.
        taken: the slots of its cap that are.
        pauses: spans in which its time stood still, in order; none where a pause does not stop it.
        awaited: those of its waits whose event has come.
        trials: what is on record of its experiments, by step.
        snoozed_until: until when the subscriber wants no marketing mail.
        slot: when the next mail of the whole sequence may go, where it has a throttle; None: any time.
    """

    now: datetime
    paused: bool = False
    stopped: str | None = None
    opted_in: bool | None = True
    happened: frozenset[str] = frozenset()
    known: Known | None = None
    words: Mapping[str, Words] = field(default_factory=dict)
    taken: Taken = Taken()
    pauses: tuple[tuple[datetime, datetime], ...] = ()
    awaited: frozenset[str] = frozenset()
    trials: Mapping[str, Standing] = field(default_factory=dict)
    snoozed_until: datetime | None = None
    slot: datetime | None = None


@dataclass(frozen=True, slots=True)
class NonSend:
    """A message that is terminal from the start."""

    step_id: str
    template: str
    state: NonSendState
    reason: str


@dataclass(frozen=True, slots=True)
class Update:
    """What is written to the subscriber: attributes that are set, topics in or out."""

    step_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    topics: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """A webhook to be put into the outbox, once a step and entry."""

    step_id: str
    to: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HandOff:
    """A message to be sent: ``run_at`` now; the enrollment begins the step, ``due_at`` NULL.

    ``allowed`` are the half-open spans of the row's multirange, within ``expires_at``; ``words`` is
    None where the step asks for none.
    """

    step_id: str
    template: str
    due_at: datetime
    expires_at: datetime
    allowed: tuple[tuple[datetime, datetime], ...]
    words: Words | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """The enrollment begins this wait: ``due_at`` = ``until``, ``rule`` beside it."""

    step_id: str
    until: datetime
    rule: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Postpone:
    """The send has not begun and comes later: ``due_at`` = ``until``, ``rule`` beside it."""

    step_id: str
    until: datetime
    rule: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Park:
    """Held: ``due_at`` infinity, ``parked_from`` = ``due_at``; a send has not begun, a wait has its ``rule``."""

    step_id: str
    reason: str
    due_at: datetime
    rule: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Await:
    """The step's message is live (again): ``due_at`` NULL, its end hands the enrollment back."""

    step_id: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The enrollment ends."""

    step_id: str | None
    reason: str


Rest: TypeAlias = HandOff | Wait | Postpone | Park | Await | Exit


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write: the refused mails in order, where the enrollment rests, and why.

    An `update` ends the walk: what comes behind it is planned from what then stands there.
    """

    rest: Rest
    non_sends: tuple[NonSend, ...] = ()
    decisions: tuple[Decision, ...] = ()
    update: Update | None = None
    calls: tuple[Call, ...] = ()
    assigned: tuple[Assigned, ...] = ()
