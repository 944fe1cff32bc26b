"""Where an edit of a live sequence puts each person under way: pure, the clock is a value.

Position travels by step id. Nothing that was begun is begun again, nothing that was ahead is left
out. The same answers are counted by ``sequence plan`` and written by ``sequence apply``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from schedules.definition import SendStep, Sequence, WaitStep
from schedules.expression import Needs
from schedules.expression.evaluate import Known
from schedules.kinds import Step, needs_of, successors
from schedules.stored import step_to_json
from tasks.sequence.engine import Facts, Position, Wait, plan

What: TypeAlias = Literal["kept", "moved", "retimed", "removed"]
AFTER_EDIT: Final = "edited"
"""Kind of the rule of a row whose mail is under way, though the edit leaves it no such step."""

HORIZON: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Stand:
    """Somebody under way, as the row has it.

    Attributes:
        due_at: None while a mail is live, and while they are held.
        held_from: due time of those who are held.
        passed: steps behind them, though an earlier edit put them ahead.
    """

    id: int
    subscriber_id: int
    version: int
    step_id: str | None
    started_at: datetime | None
    due_at: datetime | None
    held_from: datetime | None = None
    rule: Mapping[str, Any] | None = None
    zone: str | None = None
    entered_at: datetime | None = None
    passed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Landing:
    """Where they stand by the new version.

    Attributes:
        step_id: as before, or the step that they go on at.
        begun: that step has begun; what it began with stays.
        at: when it is due; None while a mail is live.
        rule: ``wait_rule`` of the row.
        leaves: the reason with which they leave now.
        lands: where it is counted: the step they go on at, None if they leave.
    """

    what: What
    step_id: str | None
    begun: bool
    at: datetime | None
    rule: Mapping[str, Any] | None = None
    leaves: str | None = None
    lands: str | None = None


@dataclass(slots=True)
class Edit:
    """A new version of a sequence, and the older ones that people go by.

    Args:
        old: version → definition.
        new: the definition that takes their place.
        ever: the id of every step that any version had; empty: those of ``old``.
    """

    old: Mapping[int, Sequence]
    new: Sequence
    ever: frozenset[str] = frozenset()
    _same: dict[tuple[int, str], bool] = field(default_factory=dict)
    _ahead: dict[tuple[Any, ...], tuple[str, ...]] = field(default_factory=dict)
    _survivor: dict[tuple[int, str], str | None] = field(default_factory=dict)
    _needs: dict[tuple[int, str], Needs | None] = field(default_factory=dict)
    _moved: dict[tuple[int, str, str], frozenset[str]] = field(default_factory=dict)
    _staying: Sequence = field(init=False)

    def __post_init__(self) -> None:
        # What an exit rule says is asked at the next hand-off, not here.
        self._staying = replace(self.new, exits=())

    def land(self, stand: Stand, now: datetime, known: Known | None = None) -> Landing:
        """Return where somebody stands by the new version.

        Args:
            stand: somebody who goes by one of the old versions.
            now: not before anything in `stand` began.
            known: what the step they stand in asks for (`needs`).
        """
        step_id, begun = stand.step_id, stand.started_at is not None
        at = stand.due_at or stand.held_from
        there = self.old[stand.version].step(step_id) if step_id is not None else None
        # The outcome of a mail that is begun is still to be read, wherever the way leads then.
        awaited = begun and (isinstance(there, SendStep) or _edited(stand.rule))
        if self.new.publish.enrolled == "drain":
            if awaited:
                rule = {"kind": AFTER_EDIT, "to": None, "reason": "drained", "fails": "next"}
                return Landing("removed", step_id, True, at, rule)
            return Landing("removed", step_id, begun, None, leaves="drained")
        if step_id is None:
            return Landing("kept", None, False, at, stand.rule, lands=self.new.first)
        if awaited and (there is None or self.new.step(step_id) is None):
            return self._after_mail(stand, there, at)
        if self.new.step(step_id) is None:
            to = self.survivor(stand.version, step_id)
            if to is None:
                return Landing("removed", step_id, begun, None, leaves="step_deleted")
            return Landing("moved", to, False, at, lands=to)
        if begun and isinstance(there, WaitStep) and not self.unchanged(stand.version, step_id):
            return self._retimed(stand, now, known)
        return Landing("kept", step_id, begun, at, stand.rule, lands=step_id)

    def needs(self, stand: Stand) -> Needs | None:
        """Return what `land` must know of somebody; None: nothing."""
        if stand.started_at is None or stand.step_id is None:
            return None
        key = stand.version, stand.step_id
        if key not in self._needs:
            step = self.new.step(stand.step_id)
            timed = isinstance(step, WaitStep) and not self.unchanged(*key)
            self._needs[key] = (needs_of(step) or None) if timed and step is not None else None
        return self._needs[key]

    def survivor(self, version: int, step_id: str) -> str | None:
        """Return the first step of the new version on the default way behind a deleted one."""
        key = version, step_id
        if key not in self._survivor:
            old = self.old[version]
            to = old.next_of(step_id) if old.step(step_id) is not None else None
            while to is not None and self.new.step(to) is None:
                to = old.next_of(to)
            self._survivor[key] = to
        return self._survivor[key]

    def unchanged(self, version: int, step_id: str) -> bool:
        """Tell whether a step says the same as before, wherever it leads."""
        key = version, step_id
        if key not in self._same:
            old = self.old[version]
            there, here = old.step(step_id), self.new.step(step_id)
            same = there is not None and here is not None and body(there) == body(here)
            if isinstance(here, WaitStep) and here.delay is None:
                same = same and old.timezone == self.new.timezone
            self._same[key] = same
        return self._same[key]

    def brought_forward(self, version: int, step_id: str, to: str) -> frozenset[str]:
        """Return the steps that the new version has ahead of ``to``, and the old one not of ``step_id``.

        Those of them that somebody has been through are not run again. What no version had before
        is not among them: nobody has been through that.
        """
        key = version, step_id, to
        if key not in self._moved:
            old = self.old[version]
            ever = self.ever or {step.id for each in self.old.values() for step in each.steps}
            ahead = (reached(self.new, to) | {to}) & ever
            self._moved[key] = frozenset(ahead - reached(old, step_id) - {step_id})
        return self._moved[key]

    def mails(self, landing: Landing, zone: str | None, now: datetime) -> tuple[str, ...]:
        """Return the steps whose mail comes within `HORIZON`, if every gate lets it pass.

        Branches are taken by their default way; behind a date of the subscriber's own nothing is
        counted.
        """
        until = now + HORIZON
        at = max(landing.at or now, now)
        if landing.lands is None or at > until:
            return ()
        at = at.replace(second=0, microsecond=0) if at > now else now
        key = landing.lands, landing.begun and landing.lands == landing.step_id, at, zone
        if key not in self._ahead:
            self._ahead[key] = tuple(step for step, _ in self._walk(*key, until))
        return self._ahead[key]

    def at_once(self, landing: Landing, zone: str | None, now: datetime) -> bool:
        """Tell whether a mail comes before anything is waited for."""
        if landing.lands is None:
            return False
        begun = landing.begun and landing.lands == landing.step_id
        return any(at <= now for _, at in self._walk(landing.lands, begun, now, zone, now))

    def _walk(
        self, step_id: str, begun: bool, at: datetime, zone: str | None, until: datetime
    ) -> Iterator[tuple[str, datetime]]:
        step = self.new.step(step_id)
        if begun and step is not None:
            step = self._step(step.next)
        while step is not None and at <= until:
            if isinstance(step, SendStep):
                yield step.id, at
            elif isinstance(step, WaitStep):
                begins = Position(0, 0, 1, step.id, None, at, zone=zone)
                rest = plan(self.new, begins, Facts(at, known=Known(at))).rest
                if not isinstance(rest, Wait) or rest.step_id != step.id:
                    return
                at = rest.until
            step = self._step(step.next)

    def _step(self, step_id: str | None) -> Step | None:
        return None if step_id is None else self.new.step(step_id)

    def _retimed(self, stand: Stand, now: datetime, known: Known | None) -> Landing:
        """The wait as if it had been the new one when it began; never due before now."""
        assert stand.started_at is not None and stand.step_id is not None
        begins = Position(
            stand.id, stand.subscriber_id, 1, stand.step_id, None, stand.started_at,
            zone=stand.zone, entered_at=stand.entered_at,
        )  # fmt: skip
        facts = Facts(stand.started_at, known=known or Known(stand.started_at))
        rest = plan(self._staying, begins, facts).rest
        step_id = stand.step_id
        if not isinstance(rest, Wait) or rest.step_id != step_id:
            # Nothing to wait for (a date that they do not have): the planner says so itself.
            return Landing("retimed", step_id, False, now, lands=step_id)
        at = max(rest.until, now)
        if at == (stand.due_at or stand.held_from):
            return Landing("kept", step_id, True, at, rest.rule, lands=step_id)
        return Landing("retimed", step_id, True, at, rest.rule, lands=step_id)

    def _after_mail(self, stand: Stand, there: Step | None, at: datetime | None) -> Landing:
        """A mail is under way in a step that is gone: where its end leads."""
        assert stand.step_id is not None
        fails: str | None = "next"
        if isinstance(there, SendStep):
            to = self.survivor(stand.version, stand.step_id)
            fails = there.on_fail
        else:
            rule = stand.rule or {}
            to, fails = rule.get("to"), str(rule.get("fails", "next"))
            if to is not None and self.new.step(to) is None:
                to = self.survivor(stand.version, to)
        if fails not in ("next", "exit") and self.new.step(fails) is None:
            fails = self.survivor(stand.version, fails) or "exit"
        rule = {"kind": AFTER_EDIT, "to": to, "reason": "step_deleted", "fails": fails}
        what: What = "removed" if to is None else "moved"
        return Landing(what, stand.step_id, True, at, rule, lands=to)


def body(step: Step) -> dict[str, Any]:
    """Return what a step does, without where it leads by default."""
    return {key: value for key, value in step_to_json(step).items() if key != "next"}


def reached(sequence: Sequence, step_id: str | None) -> set[str]:
    """Return the steps that a way leads to from a step; itself is not among them."""
    found: set[str] = set()
    open_ = [step_id] if step_id is not None else []
    while open_:
        step = sequence.step(open_.pop())
        more = set(successors(step)) - found if step is not None else set()
        found |= more
        open_ += more
    return found


def kind_of(step: Step) -> str:
    """Return the word of the file for what a step is."""
    return next(key for key in step_to_json(step) if key in KINDS)


KINDS: Final = ("send", "wait", "branch", "experiment", "update", "webhook", "exit")


def _edited(rule: Mapping[str, Any] | None) -> bool:
    return rule is not None and rule.get("kind") == AFTER_EDIT
