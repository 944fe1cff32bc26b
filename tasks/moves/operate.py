"""failed → scheduled by an operator: a mail is tried again, if its enrollment can wait for it.

Judged and moved in two statements of one transaction: the first takes the locks (enrollment before
message, in id order), so that the second sees what whoever held them before has done. In one
statement a planner's next mail, committed while we waited, would not be seen, and an enrollment
would have two live messages.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from tasks.moves.settings import DeliverySettings
from tasks.moves.statement import LIVE_SQL, move

BATCH = 500


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that was left alone: `reason` in a word, `state` None where there is no such one."""

    id: int
    state: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Operated:
    """What a move by hand did: the ids it moved (`dry_run`: would move), and those it refused."""

    done: list[int] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


LOCK_ENROLLMENTS = text("""
SELECT e.id FROM enrollment e
WHERE e.id = ANY(ARRAY(SELECT m.enrollment_id FROM message m WHERE m.id = ANY(:ids)))
ORDER BY e.id FOR NO KEY UPDATE
""")
LOCK_MESSAGES = text("SELECT m.id FROM message m WHERE m.id = ANY(:ids) ORDER BY m.id FOR UPDATE")

# Its time is over: past `expires_at`, or no allowed span is left.
PAST = """(coalesce(m.expires_at <= clock_timestamp(), false)
     OR next_allowed(m.allowed, clock_timestamp()) IS NULL)"""

# Who may not be written to: ARM would refuse them too, so the row would only come back.
UNREACHABLE = """
        WHEN s.stopped_at IS NOT NULL THEN 'stopped'
        WHEN EXISTS (SELECT 1 FROM suppression p WHERE p.address_hmac = s.address_hmac
                     AND p.scope IN ('all', t.class)) THEN 'suppressed'
        WHEN t.class = 'marketing' AND EXISTS (
            SELECT 1 FROM sequence q JOIN consent c ON c.topic = q.topic
            WHERE q.key = m.sequence_key AND c.subscriber_id = s.id AND NOT c.opted_in)
        THEN 'opted_out'"""
ACCEPTED = """EXISTS (SELECT 1 FROM attempt a
                     WHERE a.message_id = m.id AND a.outcome = 'accepted')"""
JUDGED = """
FROM unnest(CAST(:ids AS bigint[])) AS r (id)
LEFT JOIN message m ON m.id = r.id
LEFT JOIN subscriber s ON s.id = m.subscriber_id
LEFT JOIN stream t ON t.key = m.stream
LEFT JOIN enrollment e ON e.id = m.enrollment_id
ORDER BY r.id
"""

# `moved_on`: with a later mail of the enrollment on the wire, or another live one, this one would
# come out of its turn (I5) or be the second (I4). One that ended for any other reason than this
# failure, or its own end, was ended by somebody: a goal, a stop, an operator.
JUDGE = text(f"""
SELECT r.id, m.state::text AS state, m.enrollment_id,
    CASE WHEN m.id IS NULL THEN 'unknown'
        WHEN m.state <> 'failed' THEN 'not_failed'
        WHEN {ACCEPTED} THEN 'accepted'
        WHEN EXISTS (SELECT 1 FROM attempt a WHERE a.message_id = m.id
                     AND a.outcome = 'in_doubt' AND a.evidence IS NULL) THEN 'doubted'{UNREACHABLE}
        WHEN NOT e.active AND e.end_reason NOT IN ('completed', 'failed') THEN 'ended'
        WHEN NOT e.active AND EXISTS (
            SELECT 1 FROM enrollment o WHERE o.subscriber_id = e.subscriber_id
              AND o.sequence_key = e.sequence_key AND o.id <> e.id AND o.active)
        THEN 'entered_again'
        WHEN EXISTS (
            SELECT 1 FROM message o WHERE o.enrollment_id = m.enrollment_id AND o.id <> m.id
              AND (o.state IN ({LIVE_SQL}) OR (o.id > m.id AND o.armed_at IS NOT NULL)))
        THEN 'moved_on'
        WHEN NOT CAST(:late AS boolean) AND {PAST} THEN 'late' END AS refusal
{JUDGED}""")

# Back into the queue, at its next allowed time; one whose time is over gets another lifetime.
AGAIN = f"""
        run_at = CASE WHEN {PAST} THEN clock_timestamp()
                      ELSE next_allowed(m.allowed, clock_timestamp()) END,
        expires_at = CASE WHEN {PAST} THEN clock_timestamp() + make_interval(secs => :lifetime)
                          ELSE m.expires_at END,
        allowed = CASE WHEN {PAST} THEN m.allowed + tstzmultirange(tstzrange(
                      clock_timestamp(), clock_timestamp() + make_interval(secs => :lifetime)))
                  ELSE m.allowed END"""

LOGGED = """
logged AS (
    INSERT INTO decision (subscriber_id, sequence_key, enrollment_id, step_id, kind, reason, detail)
    SELECT v.subscriber_id, v.sequence_key, v.enrollment_id, v.step_id, :kind, :word,
           jsonb_build_object('message', v.id, 'was', v.was, 'because', CAST(:note AS text))
    FROM moved v)"""

# While no copy can be out the mail is made anew, with the template and the data of today: that is
# what an operator mends. The enrollment steps back to it: when it has ended, the way goes on from
# there, waits behind it begin again, and mails that were had are not made twice. A poisonous row is
# taken alone, three times more.
RETRY = text(
    move(
        "SELECT m.id, m.enrollment_id FROM message m WHERE m.id = ANY(:ids)",
        "m.state = 'failed'",
        f"""
        state = 'scheduled', terminal_at = NULL, reason = 'operator_retry',
        crashes = least(m.crashes, :alone), {AGAIN},
        template_version = CASE WHEN m.maybe_delivered THEN m.template_version END,
        variables = CASE WHEN m.maybe_delivered THEN m.variables END,
        frozen_at = CASE WHEN m.maybe_delivered THEN m.frozen_at END""",
        returning=", m.subscriber_id",
        extra=f""",
back AS (
    UPDATE enrollment e SET active = true, ended_at = NULL, end_reason = NULL,
        step_id = v.step_id, step_started_at = clock_timestamp(),
        due_at = NULL, parked_from = NULL, wait_rule = NULL
    FROM moved v WHERE e.id = v.enrollment_id),{LOGGED}""",
        result="SELECT id FROM moved ORDER BY id",
    )
)

# By the primary key from where the last batch ended, so that all batches walk the table once.
FAILED_OF = text("""
SELECT m.id FROM message m
WHERE m.id > :after AND m.id <= :last AND m.state = 'failed' AND m.sequence_key = :sequence
  AND (CAST(:step AS text) IS NULL OR m.step_id = :step)
  AND (CAST(:reason AS text) IS NULL OR m.reason = :reason)
  AND (CAST(:since AS float8) IS NULL
       OR m.terminal_at >= clock_timestamp() - make_interval(secs => :since))
ORDER BY m.id LIMIT :n
""")
LAST_ID = text("SELECT coalesce(max(id), 0) FROM message")


def lock(connection: Connection, ids: Sequence[int]) -> None:
    """Take the locks of these messages and their enrollments, in the order of the house."""
    connection.execute(LOCK_ENROLLMENTS, {"ids": list(ids)})
    connection.execute(LOCK_MESSAGES, {"ids": list(ids)})


def retry(
    connection: Connection,
    ids: Sequence[int],
    settings: DeliverySettings,
    *,
    late: bool = False,
    dry_run: bool = False,
) -> Operated:
    """Put failed messages back into their queue; once more does nothing, they are not failed then.

    Args:
        connection: inside a transaction; its locks last until it ends.
        ids: at most a few hundred.
        settings: `message_lifetime` of those that are late.
        late: take those too whose time is over (`expires_at`, sending windows); they go at once.
        dry_run: judge, and move nothing.
    """
    wanted = sorted(set(ids))
    if not dry_run:
        lock(connection, wanted)
    told = Operated()
    waited_for: set[int] = set()
    for row in connection.execute(JUDGE, {"ids": wanted, "late": late}):
        refusal = row.refusal
        if refusal is None and row.enrollment_id in waited_for:
            refusal = "moved_on"
        if refusal is not None:
            told.refused.append(Refusal(row.id, row.state, refusal))
            continue
        told.done.append(row.id)
        if row.enrollment_id is not None:
            waited_for.add(row.enrollment_id)
    if dry_run or not told.done:
        return told
    parameters: dict[str, object] = {"ids": told.done, "lifetime": settings.message_lifetime}
    parameters |= {"alone": settings.alone}
    parameters |= {"kind": "retried", "word": "operator", "note": None}
    moved = connection.execute(RETRY, parameters).scalars().all()
    return Operated(list(moved), told.refused)


def failed_of(
    connection: Connection,
    sequence: str,
    *,
    after: int,
    last: int,
    step: str | None = None,
    reason: str | None = None,
    since: dt.timedelta | None = None,
    n: int = BATCH,
) -> list[int]:
    """Ids of failed messages of a sequence, in order: more than `after`, at most `last`."""
    parameters = {
        "sequence": sequence,
        "after": after,
        "last": last,
        "step": step,
        "reason": reason,
        "since": None if since is None else since.total_seconds(),
        "n": n,
    }
    return list(connection.execute(FAILED_OF, parameters).scalars())


def last_id(connection: Connection) -> int:
    """The highest message id there is: what fails again later is not looked at in this run."""
    return int(connection.execute(LAST_ID).scalar_one())
