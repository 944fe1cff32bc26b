"""What happens next to an enrollment, and what to do if it does not: one sentence, from values."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

from tasks.moves import put_off

PATIENCE: Final = dt.timedelta(seconds=30)
"""Ticks and canaries come every few seconds; one older than this is worth a look by a person."""

DOCTOR: Final = "run `dripfleet doctor`"


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where an enrollment stands, and whether those who move it are there.

    Attributes:
        now: the clock of Postgres.
        held_from: when it was due while it is held; then `due_at` is None.
        stopped: why the subscriber may get nothing, None if they may.
        scanned_at: when the planner last ended a scan.
        send_seen_at: when a send worker last answered its canary.
        message: the live message, with id, state, reason, run_at, watch_at, parked_from, armed_at,
            attempts, last_code, maybe_delivered, doubt_policy; `run_at` and `watch_at` None for infinity.
    """

    now: dt.datetime
    active: bool
    step_id: str | None = None
    end_reason: str | None = None
    due_at: dt.datetime | None = None
    held_from: dt.datetime | None = None
    stopped: str | None = None
    paused_at: dt.datetime | None = None
    pause_reason: str | None = None
    stream: str = "marketing"
    stream_paused_at: dt.datetime | None = None
    stream_pause_reason: str | None = None
    scanned_at: dt.datetime | None = None
    send_seen_at: dt.datetime | None = None
    message: Any = None


def next_line(outlook: Outlook) -> str:
    """Return the sentence, without a full stop."""
    if not outlook.active:
        return f"nothing more: {(outlook.end_reason or 'ended').replace('_', ' ')}"
    if outlook.message is not None:
        return _message(outlook, outlook.message)
    here = f"at {outlook.step_id}" if outlook.step_id else "before its first step"
    if outlook.held_from is not None:
        return _held(outlook, f"{here}, due since {stamp(outlook.held_from)}")
    if outlook.due_at is None:
        return (
            f"stands still {here} with no mail under way, which must not be: run `dripfleet verify`"
        )
    stop = f"; the next mail is refused then ({outlook.stopped})" if outlook.stopped else ""
    if outlook.due_at > outlook.now:
        pause = "" if outlook.paused_at is None else f"; but the {_pause(outlook)}"
        return (
            f"waits until {stamp(outlook.due_at)} (in {span(outlook.due_at - outlook.now)}),"
            f" {here}{pause or stop}"
        )
    late = span(outlook.now - outlook.due_at)
    return f"due now, for {late}, {here}; {_planner(outlook)}{stop}"


def _planner(outlook: Outlook) -> str:
    if outlook.scanned_at is None:
        return f"the planner has not looked yet, and never did: is beat running? {DOCTOR}"
    ago = outlook.now - outlook.scanned_at
    if ago > PATIENCE:
        return f"the planner last looked {span(ago)} ago: is beat running? {DOCTOR}"
    return f"the planner looked {span(ago)} ago and is on its way through what is due"


def _held(outlook: Outlook, where: str) -> str:
    if outlook.paused_at is None:
        return (
            f"held {where}, by a pause that is over; the reaper wakes it within 30 s: if not,"
            f" is the fleet running? {DOCTOR}"
        )
    return f"held: {_pause(outlook)}; {where}; `dripfleet sequence resume` lets it go on"


def _pause(outlook: Outlook) -> str:
    assert outlook.paused_at is not None
    return f"sequence is paused since {stamp(outlook.paused_at)} ({outlook.pause_reason})"


def _message(outlook: Outlook, message: Any) -> str:
    name = f"message {message.id}"
    if message.state == "working":
        return (
            f"{name} is being made ready by a send worker, whose lease runs until {_until(message)}"
        )
    if message.state == "armed":
        return f"{name} is being handed to the relay, since {stamp(message.armed_at)}; its reply is awaited"
    if message.state == "in_doubt":
        if message.watch_at is None:
            return f"{name} is in doubt, a copy may be out, and it is held until an operator settles it"
        return (
            f"{name} is in doubt, a copy may be out; settled by the policy of its stream"
            f" ({message.doubt_policy}) at {_until(message)}, or by evidence before"
        )
    if message.parked_from is not None or (message.run_at is None):
        since = stamp(message.parked_from) if message.parked_from else "an unknown time"
        return _held(outlook, f"{name}, due since {since}")
    again = f" again, after a reply of {message.last_code}" if message.last_code else ""
    if message.run_at > outlook.now:
        wait = span(message.run_at - outlook.now)
        why = put_off.WORDS.get(message.reason)
        because = f": {why}" if why else ""
        return f"{name} is tried{again} at {stamp(message.run_at)} (in {wait}){because}"
    if outlook.paused_at is not None:
        return _held(outlook, f"{name}, due since {stamp(message.run_at)}")
    if outlook.stream_paused_at is not None:
        return (
            f"held: stream {outlook.stream} is paused since {stamp(outlook.stream_paused_at)}"
            f" ({outlook.stream_pause_reason}); {name}, due since {stamp(message.run_at)}"
        )
    due = f"{name} is due{again}, for {span(outlook.now - message.run_at)}"
    if outlook.send_seen_at is None:
        return f"{due}; no send worker was ever seen: is one running? {DOCTOR}"
    # Canaries are asked for only where a pool has been silent, every half minute.
    if outlook.now - outlook.send_seen_at > 3 * PATIENCE:
        ago = span(outlook.now - outlook.send_seen_at)
        return f"{due}; a send worker was last seen {ago} ago: is one running? {DOCTOR}"
    return f"{due}; send workers are there, and it is its turn soon"


def _until(message: Any) -> str:
    return "no set time" if message.watch_at is None else stamp(message.watch_at)


def stamp(at: dt.datetime) -> str:
    """Return an instant as operators read it: ``2026-03-08 07:00:00 UTC``."""
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(length: dt.timedelta) -> str:
    """Return a length of time in its two largest units: ``2 h 5 min``; never a negative one."""
    seconds = max(int(length.total_seconds()), 0)
    if seconds < 60:
        return f"{seconds} s"
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    first = next(i for i, (n, _) in enumerate(parts) if n)
    return " ".join(f"{n} {unit}" for n, unit in parts[first : first + 2] if n)
