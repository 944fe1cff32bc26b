"""Those who have completed a sequence, where an edit puts steps behind the end: they go on, if it says so.

``publish: {finished: reopen}``. They go on in the same entry, at the first step that is ahead of the one
they ended with: so every mail that they had keeps its key, and what an edit moved ahead of them is
passed. Who left otherwise (converted, stopped, expired) stays gone, and so does who ended where a step
leads more than one way, since nothing says which of them the new steps belong to.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from schedules.definition import BranchStep, ExitStep, ExperimentStep, Sequence, Step, WaitStep
from schedules.kinds import successors
from tasks.moves import edit as moves
from tasks.sequence.edit import Edit, Landing, reached
from tasks.sequence.migrate import BEEN_THROUGH, NOW, Effect

CHUNK = 20_000

DEFINITIONS = text("""
SELECT v.version, v.definition FROM sequence_version v
WHERE v.sequence_key = :key AND v.version = ANY(ARRAY(
    SELECT DISTINCT e.sequence_version FROM enrollment e
    WHERE e.sequence_key = :key AND e.end_reason = 'completed' AND e.sequence_version <> :version))
""")
DRAINS = text("SELECT draining_since IS NOT NULL FROM sequence WHERE key = :key")

# The last entry of each, as long as they may get mail.
_FINISHED = """
SELECT e.id, e.subscriber_id, e.sequence_version AS version, e.step_id, e.passed, s.zone
FROM enrollment e JOIN subscriber s ON s.id = e.subscriber_id
WHERE e.sequence_key = :key AND e.subscriber_id > :after AND e.end_reason = 'completed'
  AND e.sequence_version <> :version AND s.stopped_at IS NULL
  AND NOT EXISTS (
    SELECT 1 FROM enrollment o WHERE o.sequence_key = e.sequence_key
      AND o.subscriber_id = e.subscriber_id AND o.entry_no > e.entry_no)
  AND NOT EXISTS (
    SELECT 1 FROM suppression p
    WHERE p.address_hmac = s.address_hmac AND p.scope IN ('all', :class))
ORDER BY e.subscriber_id LIMIT :n
"""
FINISHED = {False: text(_FINISHED), True: text(_FINISHED + " FOR NO KEY UPDATE OF e")}

# Of those who ended at an exit step: the one that led them there. What was said of a mail later on is
# no step that they took.
BEFORE = text("""
SELECT DISTINCT ON (d.enrollment_id) d.enrollment_id, d.step_id
FROM unnest(CAST(:ids AS bigint[]), CAST(:subscribers AS bigint[]), CAST(:ends AS text[]))
     AS r (id, subscriber_id, ends)
JOIN decision d ON d.subscriber_id = r.subscriber_id AND d.enrollment_id = r.id
WHERE d.step_id <> r.ends AND d.kind NOT IN
    ('exited', 'parked', 'postponed', 'put_off', 'moved', 'edited', 'reopened', 'zone_fallback',
     'retried', 'settled', 'evident', 'quarantined')
ORDER BY d.enrollment_id, d.id DESC
""")


@dataclass(frozen=True, slots=True)
class Finished:
    """Somebody who completed: `last` is the step that they ended with."""

    id: int
    subscriber_id: int
    version: int
    last: str
    passed: frozenset[str]
    zone: str | None


def ahead_of_the_end(edit: Edit, version: int, last: str) -> str | None:
    """Return the step that follows where somebody had come to the end; None: it is the end still."""
    before, now = edit.old[version].step(last), edit.new.step(last)
    if before is None or now is None or _parts(before) or _parts(now):
        return None
    return now.next


def _parts(step: Step) -> bool:
    """Whether ways part at a step: that one of them ended says not where another would lead."""
    event = step.until_event if isinstance(step, WaitStep) else None
    return len(successors(step)) > 1 or (event is not None and event.on_timeout != step.next)


def way_on(
    edit: Edit, finished: Finished, been: frozenset[str]
) -> tuple[str, frozenset[str]] | None:
    """Return the step at which somebody goes on, and those ahead that they have been through.

    Args:
        edit: of the new version.
        finished: somebody who completed an older one.
        been: the steps that they have been through.

    Returns:
        None: there is nothing ahead of them that they have not done.
    """
    to = ahead_of_the_end(edit, finished.version, finished.last)
    if to is None:
        return None
    forward = edit.brought_forward(finished.version, finished.last, to)
    passed = finished.passed | (forward & been)
    step = edit.new.step(to)
    decides = BranchStep | ExperimentStep
    while step is not None and step.id in passed and not isinstance(step, decides):
        step = edit.new.step(step.next) if step.next is not None else None
    if step is None:
        return None
    ahead = (edit.new.step(each) for each in (reached(edit.new, step.id) | {step.id}) - passed)
    if all(isinstance(each, decides | ExitStep | None) for each in ahead):
        return None
    return step.id, passed


def reopen(
    connection: Connection,
    new: Sequence,
    version: int,
    current: Sequence,
    ever: frozenset[str],
    effect: Effect,
    *,
    write: bool,
) -> None:
    """Count who goes on behind their end by a new version, into `effect`, and let them.

    Nobody does while the sequence drains. The arguments are those of `migrate.edit`.
    """
    if new.publish.finished != "reopen":
        return
    asked = {"key": new.key, "version": version, "class": new.class_}
    effect.closed = bool(connection.execute(DRAINS, {"key": new.key}).scalar_one())
    if effect.closed:
        return
    old = {version - 1: current}
    for row in connection.execute(DEFINITIONS, asked):
        try:
            old[row.version] = Sequence.from_json(row.definition)
        except ValueError:
            continue  # whoever ended by what nobody can read any more stays where they ended
    rules, after = Edit(old, new, ever), 0
    while True:
        rows = connection.execute(FINISHED[write], asked | {"after": after, "n": CHUNK}).all()
        if not rows:
            return
        after = rows[-1].subscriber_id
        now = connection.execute(NOW).scalar_one()
        _chunk(connection, rules, _finished(connection, rules, rows), now, effect, write)


def _finished(connection: Connection, rules: Edit, rows: Seq[Any]) -> list[Finished]:
    """Those of them of whom it is known how they came to the end."""
    at_exit = [row for row in rows if _is_exit(rules, row.version, row.step_id)]
    came: dict[int, str] = {}
    if at_exit:
        values = {
            "ids": [row.id for row in at_exit],
            "subscribers": [row.subscriber_id for row in at_exit],
            "ends": [row.step_id for row in at_exit],
        }
        came = {row.enrollment_id: row.step_id for row in connection.execute(BEFORE, values)}
    exits = {row.id for row in at_exit}
    return [
        Finished(
            row.id, row.subscriber_id, row.version, last, frozenset(row.passed or ()), row.zone
        )
        for row in rows
        if row.version in rules.old
        and (last := came.get(row.id) if row.id in exits else row.step_id) is not None
    ]


def _is_exit(rules: Edit, version: int, step_id: str | None) -> bool:
    if version not in rules.old or step_id is None:
        return False
    return isinstance(rules.old[version].step(step_id), ExitStep)


def _chunk(
    connection: Connection,
    rules: Edit,
    people: Seq[Finished],
    now: datetime,
    effect: Effect,
    write: bool,
) -> None:
    # Of most edits nothing is ahead of anybody: then nobody's past is asked for.
    people = [each for each in people if ahead_of_the_end(rules, each.version, each.last)]
    if not people:
        return
    been = _been(connection, rules, people)
    steps = {step.id: step for step in effect.steps}
    # Whoever goes on at one step, in one zone, gets the same mails at the same time.
    ahead: dict[tuple[str, str | None], tuple[bool, tuple[str, ...]]] = {}
    reopened = []
    for each in people:
        way = way_on(rules, each, been.get(each.id, frozenset()))
        if way is None:
            continue
        to, passed = way
        if (to, each.zone) not in ahead:
            landing = Landing("moved", to, False, now, lands=to)
            at_once = rules.at_once(landing, each.zone, now)
            ahead[to, each.zone] = at_once, rules.mails(landing, each.zone, now)
        at_once, mails = ahead[to, each.zone]
        effect.reopened += 1
        steps[to].reopened += 1
        effect.due_now += 1
        steps[to].due_now += 1
        effect.immediate_sends += at_once
        for step_id in mails:
            steps[step_id].mails_24h += 1
            effect.mails_24h += 1
        reopened.append(moves.Reopened(each.id, to, sorted(passed)))
    if write and reopened:
        pinned = rules.new.publish.content == "pin"
        done = moves.reopen(connection, effect.version, pinned, reopened)
        if done != len(reopened):
            raise RuntimeError(f"an edit held {len(reopened)} who had ended and reopened {done}")


def _been(
    connection: Connection, rules: Edit, people: Seq[Finished]
) -> Mapping[int, frozenset[str]]:
    """Which of the steps that are ahead of them now people have been through."""
    wanted: set[str] = set()
    for version, last in {(each.version, each.last) for each in people}:
        to = ahead_of_the_end(rules, version, last)
        if to is not None:
            wanted |= rules.brought_forward(version, last, to)
    if not wanted:
        return {}
    values = {
        "ids": [each.id for each in people],
        "subscribers": [each.subscriber_id for each in people],
        "steps": sorted(wanted),
    }
    found: dict[int, set[str]] = {}
    for row in connection.execute(BEEN_THROUGH, values):
        found.setdefault(row.enrollment_id, set()).add(row.step_id)
    return {id_: frozenset(steps) for id_, steps in found.items()}
