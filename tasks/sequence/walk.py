"""One walk of an enrollment through its sequence: where it is, and what was decided on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from schedules.definition import Sequence
from schedules.expression.evaluate import Known
from schedules.limits import UNLIMITED, Limits
from schedules.localtime import is_zone, local
from tasks.sequence.decisions import Decision, Kind
from tasks.sequence.planned import Assigned, Call, Exit, Facts, NonSend, Position, Rest, Update


@dataclass(slots=True)
class Walk:
    """What the rules of steps read, and where they say what they decided.

    Attributes:
        due_at: from where lateness counts.
        spread: a late mail may be spread; not twice.
    """

    sequence: Sequence
    position: Position
    facts: Facts
    lifetime: timedelta
    due_at: datetime
    spread: bool
    non_sends: list[NonSend] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    update: Update | None = None
    calls: list[Call] = field(default_factory=list)
    assigned: list[Assigned] = field(default_factory=list)

    def say(self, kind: Kind, step_id: str | None, reason: str, **detail: Any) -> None:
        """Write a line of the decision log."""
        self.decisions.append(Decision(kind, step_id, reason, detail))

    def onward(self, step_id: str, target: str | None) -> str | Rest:
        """Go on to ``target``, or leave where the way ends."""
        return target if target is not None else self.leave(step_id, "completed")

    def leave(self, step_id: str | None, reason: str, **detail: Any) -> Exit:
        """End the enrollment."""
        self.say("exited", step_id, reason, **detail)
        return Exit(step_id, reason)

    @property
    def limits(self) -> Limits:
        """What limits mails here; a transactional sequence passes them."""
        return self.sequence.limits if self.sequence.class_ == "marketing" else UNLIMITED

    def zone(self, step_id: str) -> str:
        """Return the subscriber's zone, else the fallback, which is counted once a walk."""
        zone = self.position.zone
        if zone is not None and is_zone(zone):
            return zone
        used = self.sequence.timezone.fallback
        if not any(decision.kind == "zone_fallback" for decision in self.decisions):
            known = {"zone": zone[:64] if zone else None, "used": used}
            self.say("zone_fallback", step_id, "unknown" if zone else "missing", **known)
        return used

    def wall(self, zone: str) -> datetime:
        """Return what clocks there show now."""
        return local(self.facts.now, zone)

    @property
    def known(self) -> Known:
        """What expressions are evaluated with.

        Raises:
            ValueError: nothing was fetched for them.
        """
        if self.facts.known is None:
            raise ValueError(
                f"sequence {self.sequence.key!r} asks for facts that were not fetched: expected"
                " what Sequence.needs names; fetch it before planning"
            )
        return self.facts.known
