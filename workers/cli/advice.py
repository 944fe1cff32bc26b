"""From how the fleet stands to what somebody should do about it: a sentence, and the next move."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tasks import names
from tasks.send.compliance import HELD
from tasks.sequence.outlook import span

TICK_LATE = 60.0  # every tick's work is done every few seconds, whatever it finds
CANARY_LATE = 90.0
DUE_LATE = 900.0

_MOVES: Final[Mapping[str, str]] = {
    "relay_unreachable": "dripfleet doctor",
    "stream_fault": "dripfleet stream list",
    "journal_full": "free the disk of DRIPFLEET_JOURNAL_DIR, then dripfleet doctor",
    "paused": "dripfleet stream list",
    "relay_paused": "dripfleet relay list",
    "throttled": "dripfleet relay list",
    "domain_resting": "dripfleet relay list",
    "warm_up_day_full": "dripfleet relay list",
    "throttle_unreachable": "dripfleet doctor",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """What is the matter, and the next move; `grave`: nothing or less is sent because of it."""

    says: str
    next: str
    grave: bool = False


def advice(view: Mapping[str, Any]) -> list[Advice]:
    """What is the matter with a fleet, the gravest first; `view` as `dripfleet status --json`."""
    found = [*_servers(view), *_paused(view), *_late(view), *_troubles(view), *_words(view)]
    return sorted(found, key=lambda one: not one.grave)


def ago(seconds: float | None) -> str:
    """A length of time in words; nothing for None."""
    return "" if seconds is None else span(dt.timedelta(seconds=seconds))


def _servers(view: Mapping[str, Any]) -> Iterator[Advice]:
    if not isinstance(view["queues"], Mapping):
        sentence, _, rest = str(view["queues"]).partition("; ")
        yield Advice(sentence, rest or "dripfleet doctor", bool(rest))
    # Where no pool ever answered, no fleet was started yet: that is no fault.
    if not view["pools"]:
        yield Advice("no worker has answered yet", "dripfleet up")
        return
    answering = [row for row in view["pools"] if row["seen_ago"] <= CANARY_LATE]
    if not answering:
        last = min(row["seen_ago"] for row in view["pools"])
        yield Advice(f"no worker has answered for {ago(last)}", "dripfleet up", True)
        return
    stopped = [row for row in view["ticks"] if row["ago"] > TICK_LATE]
    for row in stopped:
        yield Advice(f"tick {row['name']} stopped {ago(row['ago'])} ago", "dripfleet doctor", True)
    for row in view["pools"]:
        if row["seen_ago"] > CANARY_LATE:
            says = f"pool {row['pool']} has been silent for {ago(row['seen_ago'])}"
            yield Advice(says, names.worker_of(row["pool"]), True)
    # Without its workers a region's mails wait; other pools may be left out on purpose.
    answered = {row["pool"] for row in view["pools"]}
    for queue in view["queues"] if isinstance(view["queues"], Mapping) else ():
        if queue not in answered and names.place_of(queue)[1]:
            yield Advice(f"nobody answers the queue {queue}", names.worker_of(queue), True)


def _paused(view: Mapping[str, Any]) -> Iterator[Advice]:
    for kind, rows in (("stream", view["streams"]), ("sequence", view["sequences"])):
        for row in rows:
            if row["paused_at"] is not None:
                says = f"{kind} {row['key']} is paused: {row['pause_reason']}"
                # What lacks a piece is let go by a worker that has it, and by no word.
                verb = "show" if str(row["pause_reason"]).startswith(HELD) else "resume"
                # A sequence is paused by people alone, a stream by a relay that refuses us too.
                yield Advice(says, f"dripfleet {kind} {verb} {row['key']}", kind == "stream")
    for row in view["sequences"]:
        if row.get("draining_since") is not None:
            says = f"sequence {row['key']} takes nobody new: {row['drain_reason']}"
            yield Advice(says, f"dripfleet sequence drain {row['key']} --undo")


def _late(view: Mapping[str, Any]) -> Iterator[Advice]:
    for row in view["streams"]:
        if (row["oldest_due"] or 0) > DUE_LATE and row["paused_at"] is None:
            says = f"{row['key']}: the oldest due mail waits {ago(row['oldest_due'])}"
            more = names.worker_of(names.queue_of("send", row.get("region")))
            yield Advice(says, f"{more} (one more), or dripfleet doctor", True)
    if (view["to_plan_oldest"] or 0) > DUE_LATE:
        says = f"the planner is {ago(view['to_plan_oldest'])} behind"
        yield Advice(says, "dripfleet worker sequence (one more)", True)


def _troubles(view: Mapping[str, Any]) -> Iterator[Advice]:
    for row in view.get("troubles", ()):
        reason = row["reason"] or "no reason given"
        show = f"dripfleet message show {row['latest']}"
        when = f", {ago(row['ago'])} ago" if row["ago"] is not None else ""
        if row["state"] == "failed":
            yield Advice(f"{row['n']} failed: {reason}{when}", show)
        elif row["state"] == "in_doubt":
            yield Advice(f"{row['n']} in doubt: {reason}", f"{show}; dripfleet verify")
        else:
            yield Advice(f"{row['n']} put off: {reason}", _MOVES.get(row["reason"], show))


def _words(view: Mapping[str, Any]) -> Iterator[Advice]:
    if view.get("words_yield") is not None:
        says = f"words have been yielding to sends for {ago(view['words_yield'])}"
        yield Advice(says, "let the mails go, or dripfleet doctor")
