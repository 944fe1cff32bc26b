"""Whether somebody who asks comes into a sequence: pure, with the clock as a value.

The first rule that refuses decides, and is what `explain` says later.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from schedules.entry import Entry
from schedules.expression.evaluate import Stale

LOOK_AGAIN: Final = timedelta(seconds=30)
"""How often somebody is looked at who waits for what no clock says: a score, or an exit."""

Reason: TypeAlias = Literal[
    "too_old", "definition", "where", "stopped", "suppressed", "filter", "stale_score", "no_dedupe_key",
    "duplicate", "older_event", "already_entered", "active", "queued", "max_entries", "cooldown", "draining",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asking:
    """Somebody who asks, and what is known of them at this moment.

    Attributes:
        now: the clock of Postgres.
        asked_at: since when they do.
        occurred_at: when the event happened that asks for them; None where none does.
        where: whether it is an event that is meant.
        passes: the answer of the filter; stale where a score is missing or too old.
        key: what `dedupe_key` gave; None: nothing.
        taken: somebody entered under that key.
        stopped, suppressed: why they get no mail.
        entries: how often they were in; `active` now; `ended_at` last.
        triggered_at: when the event happened that let them in last.
        queued: they wait already for the end of their present entry, by an earlier request.
        waits: this request waits for that, or for what follows on it.
        draining: the sequence takes nobody new.
    """

    now: datetime
    asked_at: datetime
    occurred_at: datetime | None = None
    where: bool = True
    passes: bool | Stale = True
    key: str | None = None
    taken: bool = False
    stopped: str | None = None
    suppressed: str | None = None
    entries: int = 0
    active: bool = False
    ended_at: datetime | None = None
    triggered_at: datetime | None = None
    queued: bool = False
    waits: bool = False
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Enter:
    """They come in; `restart`: their present entry ends for it."""

    restart: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """They do not come in; `until`: from when on they might."""

    reason: Reason
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """They are looked at again then; `why` is what they wait for."""

    why: Literal["active", "cooldown", "stale_score"]
    look_at: datetime


Verdict: TypeAlias = Enter | Refuse | Hold


def judge(entry: Entry, asking: Asking) -> Verdict:
    """Say of somebody who asks whether they come in now, later, or not, and why."""
    verdict = _judge(entry, asking)
    # The last rule, so that it counts those alone whom all the others would let in.
    if asking.draining and not isinstance(verdict, Refuse):
        return Refuse("draining")
    return verdict


def _judge(entry: Entry, asking: Asking) -> Verdict:
    if not asking.where:
        return Refuse("where")
    if asking.stopped:
        return Refuse("stopped")
    if asking.suppressed:
        return Refuse("suppressed")
    if isinstance(asking.passes, Stale):
        stale = entry.on_stale_score
        if isinstance(stale, timedelta) and asking.now < asking.asked_at + stale:
            until = asking.asked_at + stale
            return Hold("stale_score", min(asking.now + LOOK_AGAIN, until))
        if stale != "enter":
            return Refuse("stale_score")
    elif not asking.passes:
        return Refuse("filter")
    if entry.dedupe_key is not None:
        if asking.key is None:
            return Refuse("no_dedupe_key")
        if asking.taken:
            return Refuse("duplicate")
    return _again(entry, asking)


def _again(entry: Entry, asking: Asking) -> Verdict:
    """R7: whether somebody who is in, or was, comes in again."""
    again = entry.reentry
    if not asking.entries:
        return Enter()
    if again.policy == "never":
        return Refuse("already_entered")
    # An event that comes late says nothing new of somebody whom a later one has let in.
    if (
        asking.occurred_at is not None
        and asking.triggered_at is not None
        and asking.occurred_at < asking.triggered_at
        and again.policy == "after_exit"
    ):
        return Refuse("older_event")
    if again.max_entries is not None and asking.entries >= again.max_entries:
        return Refuse("max_entries")
    if asking.active and again.policy == "after_exit":
        if again.while_active == "restart":
            return Enter(restart=True)
        if again.while_active == "ignore":
            return Refuse("active")
        if asking.queued:
            return Refuse("queued")
        return Hold("active", asking.now + LOOK_AGAIN)
    if again.cooldown is not None and asking.ended_at is not None:
        until = asking.ended_at + again.cooldown
        if asking.now < until:
            return Hold("cooldown", until) if asking.waits else Refuse("cooldown", until)
    return Enter()


_REFUSED: Final[dict[str, str]] = {
    "too_old": "the event was {age} old when it came, and may be {max_age} at most",
    "definition": "the segment {segment} was defined anew; they did nothing to join it",
    "where": "the event is not one that is meant: {rule}",
    "stopped": "stopped ({why})",
    "suppressed": "the address is suppressed ({why})",
    "filter": "the filter does not hold: {rule}",
    "stale_score": "the filter needs a score or segment that is missing or too old: {rule}",
    "no_dedupe_key": "there is no value for the dedupe key: {rule}",
    "duplicate": "the dedupe key {key} has entered before",
    "older_event": "a later event had let them in already",
    "already_entered": "is in it, or was, and nobody enters twice (reentry: never)",
    "active": "is in it still (while_active: ignore)",
    "queued": "waits already for the end of the present entry (while_active: queue_one)",
    "max_entries": "has entered {n} times, which is the most there is (max_entries)",
    "draining": "the sequence takes nobody new since {since} ({why})",
    "cooldown": "left it too short a time ago; may enter again from {until} (cooldown)",
}
_WAITS: Final[dict[str, str]] = {
    "active": "for the end of the present entry (while_active: queue_one)",
    "cooldown": "for the end of the cooldown, at {until}",
    "stale_score": "for a fresh score or segment; looked at again at {until}",
}


class _Said(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "unknown"


def why_not(reason: str, detail: dict[str, str]) -> str:
    """Return why somebody did not come in, in plain words; never raises."""
    line = _REFUSED.get(reason)
    return reason.replace("_", " ") if line is None else line.format_map(_Said(detail))


def waits_for(why: str, until: str) -> str:
    """Return what somebody waits for, in plain words; never raises."""
    return _WAITS.get(why, why.replace("_", " ")).format_map(_Said(until=until))
