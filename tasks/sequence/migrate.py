"""What an edit does to those under way: counted for ``plan``, counted and written for ``apply``.

Both walk the same rows and ask `Edit` the same question, so what was shown is what is done, as far
as nobody moved in between.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from schedules.definition import Sequence
from schedules.expression.evaluate import Known
from tasks.errors import Permanent
from tasks.moves import edit as moves
from tasks.sequence.edit import AFTER_EDIT, Edit, Landing, Stand, kind_of
from tasks.sequence.known import known_of

CHUNK = 20_000

DEFINITIONS = text("""
SELECT v.version, v.definition FROM sequence_version v
WHERE v.sequence_key = :key AND v.version = ANY(ARRAY(
    SELECT DISTINCT e.sequence_version FROM enrollment e
    WHERE e.sequence_key = :key AND e.active AND e.sequence_version <> :version))
""")
# The clock of those who are looked at: nothing that they did is later.
NOW = text("SELECT clock_timestamp()")

_STANDING = f"""
SELECT e.id, e.subscriber_id, e.sequence_version AS version, e.step_id, e.step_started_at,
    NULLIF(e.due_at, 'infinity') AS due_at, e.parked_from,
    CASE WHEN e.wait_rule ->> 'kind' = '{AFTER_EDIT}' THEN e.wait_rule END AS rule,
    s.zone, e.entered_at, e.passed
FROM enrollment e JOIN subscriber s ON s.id = e.subscriber_id
WHERE e.sequence_key = :key AND e.active AND e.sequence_version <> :version AND e.id > :after
"""
# Those whose mail is under way come last and in id order, as the send loop locks them: they are held
# for the shortest time, and whoever holds some never waits for us while we wait for them.
_WAITING = _STANDING + " AND e.due_at IS NOT NULL ORDER BY e.id LIMIT :n"
_REST = _STANDING + " AND (CAST(:all AS boolean) OR e.due_at IS NULL) ORDER BY e.id LIMIT :n"
_LOCK = " FOR NO KEY UPDATE OF e"
PASSES = {
    False: (text(_WAITING), text(_REST)),
    True: (text(_WAITING + _LOCK), text(_REST + _LOCK)),
}

# What the log knows of steps that the edit brings in front of somebody who may have been through.
BEEN_THROUGH = text("""
SELECT DISTINCT d.enrollment_id, d.step_id
FROM unnest(CAST(:ids AS bigint[]), CAST(:subscribers AS bigint[])) AS r (id, subscriber_id)
JOIN decision d ON d.subscriber_id = r.subscriber_id AND d.enrollment_id = r.id
WHERE d.step_id = ANY(:steps)
  AND d.kind NOT IN
    ('parked', 'postponed', 'put_off', 'moved', 'edited', 'reopened', 'passed', 'exited')
""")
PINNED = text("""
SELECT count(*) FROM enrollment
WHERE sequence_key = :key AND active AND sequence_version <> :version
""")


@dataclass(slots=True)
class StepEffect:
    """What an edit does at one step.

    Attributes:
        id: of the step.
        change: what the edit does to the step itself: new, changed, deleted or same.
        here: people who stand there before the edit.
        entered: people who come to stand there, from steps that are gone.
        moved: people who leave it for another step, at once or when their wait or mail has ended.
        retimed: people there whose wait ends at another time.
        removed: people there who leave the sequence.
        due_now: people there who were to wait, or had completed, and are due at once.
        mails_24h: mails of this step within 24 hours, if every gate lets them pass and branches go
            their default way.
        reopened: people who had completed, and go on here.
    """

    id: str
    change: str
    here: int = 0
    entered: int = 0
    moved: int = 0
    retimed: int = 0
    removed: int = 0
    due_now: int = 0
    mails_24h: int = 0
    reopened: int = 0


@dataclass(slots=True)
class Effect:
    """What an edit does to those who go by an older version.

    Attributes:
        version: the one that they go by from then on.
        enrolled: the policy of `publish`.
        people: whom it takes over; under `pin` nobody, and `stay` counts them.
        not_begun: those of them before their first step.
        due_now: those who were to wait, or had completed, and are due at once.
        immediate_sends: those of `due_now` whose way has a mail before it has a wait.
        steps: the new version's, in its order, and those that are gone.
        reopened: people who had completed, and go on behind their end; none of `people`.
        closed: the file lets them go on, but the sequence takes nobody new.
    """

    version: int
    enrolled: str
    people: int = 0
    stay: int = 0
    not_begun: int = 0
    moved: int = 0
    retimed: int = 0
    removed: int = 0
    due_now: int = 0
    immediate_sends: int = 0
    mails_24h: int = 0
    steps: list[StepEffect] = field(default_factory=list)
    reopened: int = 0
    closed: bool = False


def edit(
    connection: Connection,
    new: Sequence,
    version: int,
    current: Sequence,
    ever: frozenset[str],
    *,
    write: bool,
) -> Effect:
    """Count what a new version does to those under way, and do it.

    Args:
        connection: inside a transaction; where it writes, nobody may enter meanwhile (the row of the
            sequence is locked).
        new: the new definition.
        version: its number.
        current: the definition that it takes the place of.
        ever: the id of every step that any version had.
        write: false only counts, and takes no lock.

    Raises:
        Permanent: a version that people go by cannot be read.
    """
    asked = {"key": new.key, "version": version}
    effect = Effect(version, new.publish.enrolled)
    if new.publish.enrolled == "pin":
        effect.stay = connection.execute(PINNED, asked).scalar_one()
        effect.steps = list(_steps(new, current, []).values())
        return effect
    # Whoever comes in while this one is written goes by the one before it.
    old = {version - 1: current}
    for row in connection.execute(DEFINITIONS, asked):
        try:
            old[row.version] = Sequence.from_json(row.definition)
        except ValueError as error:
            raise Permanent(str(error)) from error
    rules = Edit(old, new, ever)
    steps = _steps(new, current, list(old.values()))
    # In front of a row lock the clock would be older than what the row says.
    for statement in PASSES[write]:
        after = 0
        while True:
            values = asked | {"after": after, "n": CHUNK, "all": write}
            rows = connection.execute(statement, values).all()
            if not rows:
                break
            after = rows[-1].id
            now: dt.datetime = connection.execute(NOW).scalar_one()
            _chunk(connection, rules, [_stand(row) for row in rows], now, effect, steps, write)
    effect.steps = list(steps.values())
    return effect


def _chunk(
    connection: Connection,
    rules: Edit,
    stands: Seq[Stand],
    now: dt.datetime,
    effect: Effect,
    steps: Mapping[str, StepEffect],
    write: bool,
) -> None:
    asked = [(stand.subscriber_id, needs) for stand in stands if (needs := rules.needs(stand))]
    known: Mapping[int, Known] = known_of(connection, asked, now) if asked else {}
    landed = [(stand, rules.land(stand, now, known.get(stand.subscriber_id))) for stand in stands]
    for stand, landing in landed:
        _count(rules, stand, landing, now, effect, steps)
    if not write:
        return
    passed = _passed(connection, rules, landed)
    kept, edited = [], []
    for stand, landing in landed:
        if landing.what == "kept" and passed.get(stand.id, frozenset()) == stand.passed:
            kept.append(stand.id)
        else:
            behind = passed.get(stand.id, stand.passed)
            edited.append(_edited(stand, landing, behind, effect.version))
    pinned = rules.new.publish.content == "pin"
    done = moves.write(connection, effect.version, pinned, kept, edited)
    if done != len(stands):
        raise RuntimeError(f"an edit held {len(stands)} enrollments and wrote {done}")


def _count(
    rules: Edit,
    stand: Stand,
    landing: Landing,
    now: dt.datetime,
    effect: Effect,
    steps: Mapping[str, StepEffect],
) -> None:
    effect.people += 1
    here = steps.get(stand.step_id) if stand.step_id is not None else None
    if here is None:
        effect.not_begun += stand.step_id is None
    else:
        here.here += 1
        if landing.what != "kept":
            setattr(here, landing.what, getattr(here, landing.what) + 1)
        if landing.what == "moved" and landing.lands is not None:
            steps[landing.lands].entered += 1
    if landing.what != "kept":
        setattr(effect, landing.what, getattr(effect, landing.what) + 1)
    if landing.what == "retimed" and landing.at is not None and landing.at <= now:
        before = stand.due_at or stand.held_from
        if before is not None and before > now:
            effect.due_now += 1
            if here is not None:
                here.due_now += 1
            effect.immediate_sends += rules.at_once(landing, stand.zone, now)
    for step_id in rules.mails(landing, stand.zone, now):
        steps[step_id].mails_24h += 1
        effect.mails_24h += 1


def _passed(
    connection: Connection, rules: Edit, landed: Seq[tuple[Stand, Landing]]
) -> dict[int, frozenset[str]]:
    """Those steps of each person that they have been through and that the edit puts ahead."""
    found: dict[int, set[str]] = {s.id: set(s.passed) for s, _ in landed if s.passed}
    wanted: dict[int, frozenset[str]] = {}
    subscribers: dict[int, int] = {}
    for stand, landing in landed:
        if stand.step_id is not None and landing.lands is not None:
            steps = rules.brought_forward(stand.version, stand.step_id, landing.lands)
            if steps:
                wanted[stand.id], subscribers[stand.id] = steps, stand.subscriber_id
    if wanted:
        every = sorted(frozenset().union(*wanted.values()))
        values = {"ids": list(wanted), "subscribers": list(subscribers.values()), "steps": every}
        for row in connection.execute(BEEN_THROUGH, values):
            if row.step_id in wanted[row.enrollment_id]:
                found.setdefault(row.enrollment_id, set()).add(row.step_id)
    return {id_: frozenset(steps) for id_, steps in found.items()}


def _edited(stand: Stand, landing: Landing, passed: frozenset[str], version: int) -> moves.Edited:
    decision: tuple[str, str | None, str, dict[str, Any]] | None = None
    if landing.leaves is not None:
        said = f"version {version} let those go who were under way"
        if landing.leaves == "step_deleted":
            said = f"version {version} has no such step, and none behind it"
        decision = ("exited", stand.step_id, landing.leaves, {"because": said})
    elif landing.rule is not None and landing.rule.get("kind") == AFTER_EDIT:
        to = landing.rule["to"]
        then = f"the way goes on at {to}" if to else "the sequence ends"
        then = f"when the mail has ended, {then}"
        decision = ("moved", stand.step_id, "edit", {"version": version, "to": to, "then": then})
    elif landing.what == "moved":
        then = f"the way goes on at {landing.step_id} when what was waited for has come"
        detail = {"version": version, "to": landing.step_id, "then": then}
        decision = ("moved", stand.step_id, "edit", detail)
    elif landing.what == "retimed" and landing.at is not None:
        before = stand.due_at or stand.held_from
        detail = {"version": version, "until": landing.at.isoformat()}
        if before is not None:
            detail["before"] = before.isoformat()
        decision = ("edited", stand.step_id, "retimed", detail)
    at = None if landing.leaves is not None else landing.at
    return moves.Edited(
        stand.id,
        landing.step_id,
        landing.begun,
        at,
        landing.rule,
        landing.leaves,
        sorted(passed),
        decision,
    )


def _stand(row: Any) -> Stand:
    # Unpacked, not asked by name: it is done for everybody under way.
    id_, subscriber, version, step, started, due, held, rule, zone, entered, passed = row
    behind = frozenset(passed or ())
    return Stand(id_, subscriber, version, step, started, due, held, rule, zone, entered, behind)


def _steps(new: Sequence, current: Sequence, old: Seq[Sequence]) -> dict[str, StepEffect]:
    """Every step that the new version has, then those that only older ones have."""
    rules = Edit({0: current}, new)
    steps = {}
    for step in new.steps:
        change = "same" if rules.unchanged(0, step.id) else "changed"
        if current.step(step.id) is None:
            change = "new"
        elif change == "same" and current.next_of(step.id) != step.next:
            change = "changed"
        steps[step.id] = StepEffect(step.id, change)
    for older in (current, *old):
        for step in older.steps:
            steps.setdefault(step.id, StepEffect(step.id, "deleted"))
    return steps


def reused(
    history: Mapping[int, Sequence], current: int, new: Sequence
) -> Iterator[tuple[int, str]]:
    """Yield the place and a sentence of each step that takes the id of another deed.

    An id is what people's positions and the keys of their mails go by: a deleted one is retired,
    and comes back only as what it was.

    Args:
        history: every version so far.
        current: the newest of them.
        new: what is to be published.
    """
    for index, step in enumerate(new.steps):
        for version in sorted(history, reverse=True):
            there = history[version].step(step.id)
            if there is None:
                continue
            if kind_of(there) != kind_of(step):
                yield (
                    index,
                    f"step id {step.id!r} was a {kind_of(there)} in version {version} and is a"
                    f" {kind_of(step)} now: expected an id of its own, since people and their mails"
                    " are known by it; choose another id",
                )
            elif version != current and not Edit({version: history[version]}, new).unchanged(
                version, step.id
            ):
                yield (
                    index,
                    f"step id {step.id!r} was retired after version {version}: expected an id of its"
                    " own for another step, since whoever had a mail under it gets no other; choose"
                    " another id, or bring back the step as it was",
                )
            break
