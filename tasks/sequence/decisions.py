"""What the planner decided about an enrollment, and how it is said in one plain line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "handed_off", "not_sent", "went_on", "waiting", "zone_fallback", "postponed", "parked", "exited",
    "put_off", "branched", "updated", "no_date", "date_past", "retried", "settled", "evident",
    "quarantined", "worded", "moved", "edited", "passed", "retimed", "waited", "timed_out", "called",
    "reopened", "assigned", "left", "snoozed", "bounced", "complained", "reachable",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the decision log.

    Attributes:
        kind: what was decided.
        step_id: the step it is about; None only where a sequence has no step of that name any more.
        reason: a short word that can be counted, never free text.
        detail: JSON values for the words of the line: instants as ISO text, spans in seconds.
    """

    kind: Kind
    step_id: str | None
    reason: str
    detail: Mapping[str, Any] = field(default_factory=dict)


_LINES: Final[dict[str, str]] = {
    "handed_off": "{step}: the mail was handed over, to be sent by {expires_at} at the latest",
    "not_sent": "{step}: no mail ({state}), because of {reason}",
    "went_on": "{step}: the mail ended {reason}, so the way goes on",
    "waiting": "{step}: waits until {until}",
    "zone_fallback": "{step}: the zone of the subscriber is {reason}, so {used} is used",
    "postponed": "{step}: moved to {until}, because of {reason}",
    "retried": "{step}: an operator put the failed mail back into its queue",
    "settled": "{step}: an operator settled the doubt: {reason}",
    "quarantined": "{step}: held in doubt: the database was restored, and does not know what went out",
    "evident": "{step}: word came from outside about the doubt: {reason}",
    "put_off": "{step}: could not be planned ({why}); it is looked at again in five minutes",
    "parked": "{step}: held, because of {reason}; it was due {due_at}",
    "branched": "{step}: goes on to {to}, because {said}",
    "updated": "{step}: changed {names}",
    "no_date": "{step}: {attribute} holds no date ({reason}), so {then}",
    "date_past": "{step}: {until} is past already, so the way goes on",
    "worded": "{step}: {said}",
    "moved": "{step}: version {version} has no such step; {then}",
    "edited": "{step}: version {version} changed the wait: it ends {until}, what was waited is counted",
    "passed": "{step}: was passed before an edit moved it, so it is not run again",
    "reopened": "{step}: version {version} has steps behind the end, so the way goes on here",
    "retimed": "{step}: the zone is {zone} now, so it waits until {until}",
    "waited": "{step}: {event} came, so the way goes on",
    "timed_out": "{step}: {event} did not come in time, so the way goes on",
    "called": "{step}: a call to {to} was put into the outbox",
    "assigned": "{step}: arm {arm} of the experiment ({said})",
    "left": "{step}: the reader of message {message} said no to {what} ({how})",
    "snoozed": "{step}: the reader of message {message} asked for a pause {what} ({how})",
    "bounced": "{step}: message {message} came back: {what} ({how})",
    "complained": "{step}: the reader of message {message} called it spam ({how})",
    "reachable": "{step}: message {message} arrived, so marketing may go to them again",
    "exited": "left the sequence at {step}: {reason}",
}


class _Said(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "unknown"


def _readable(value: Any) -> Any:
    """An instant as the rest of the line has it; anything else as it is."""
    if not isinstance(value, str) or len(value) < 16 or value[10:11] != "T":
        return value
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        return value
    if instant.tzinfo is None:
        return f"{instant:%Y-%m-%d %H:%M:%S}"
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def sentence(kind: str, step_id: str | None, reason: str | None, detail: Mapping[str, Any]) -> str:
    """Return the line of ``explain`` for a decision as it was stored; never raises.

    A kind that another release wrote is named with its reason.
    """
    words = _Said({name: _readable(value) for name, value in detail.items()})
    words["step"] = step_id or "the start"
    words["reason"] = (reason or "no reason given").replace("_", " ")
    line = _LINES.get(kind, "{step}: " + kind.replace("{", "").replace("}", "") + " ({reason})")
    said = line.format_map(words)
    if kind in ("waiting", "retimed") and "wall" in detail:
        said += f", which is {words['wall']} in {words['zone']}"
    if detail.get("because"):
        said += f" ({detail['because']})"
    if "most" in detail:
        said += f" ({words['taken']} of {words['most']} are taken)"
    if "late_s" in detail:
        said += f" ({detail['late_s']} s late)"
    return said
