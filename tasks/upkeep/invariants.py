"""The invariants of delivery as SQL, each naming the rows that break it (DELIVERY.md, Invariants).

Every query selects (message_id, enrollment_id, subscriber_id, detail), any of the ids NULL where it
has no meaning. They run in one snapshot of a live fleet, so each allows for work in flight: `now()`
is the start of that transaction, from which on nothing that they see has changed. Set-based, one
walk over a table each; nothing newer than Postgres 15.

Parameters, in seconds: `armed_lease`, `grace`, `slack` (how long reaper and resolver may take),
`slo` (how late due work may be).
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.moves.statement import LIVE_SQL, TERMINAL_SQL


@dataclass(frozen=True, slots=True)
class Invariant:
    """What holds (`promise`), and what an operator reads when it does not (`sentence`)."""

    name: str
    promise: str
    sentence: str
    sql: str


# Whether an operator or a policy can have asked for a second sending. The policy of the stream may
# have been changed since; the content that a claim keeps where it may resend says what it was then.
# The operator's evidence on the attempt gives way to a journal's that comes later; the log keeps it.
RESENT = """(t.doubt_policy = 'resend'
         OR EXISTS (SELECT 1 FROM content c WHERE c.message_id = m.id)
         OR EXISTS (SELECT 1 FROM decision d
                    WHERE d.subscriber_id = m.subscriber_id AND d.kind IN ('settled', 'retried')
                      AND d.reason IN ('resend', 'operator')
                      AND d.detail ->> 'message' = m.id::text))"""

# Tries of messages with more than one: attempts, and the one that is in the air.
TRIES = """
tries AS MATERIALIZED (
    SELECT a.message_id, a.epoch, a.armed_at, a.ended_at, a.outcome, a.evidence
    FROM message m JOIN attempt a ON a.message_id = m.id WHERE m.attempts > 1
    UNION ALL
    SELECT m.id, m.epoch, m.armed_at, NULL, NULL, NULL
    FROM message m WHERE m.attempts > 1 AND m.state = 'armed')"""

INVARIANTS = (
    Invariant(
        "I1",
        "Each effect (step, entry, subscriber) has one message.",
        "Two messages stand for one effect, so somebody gets the same step twice. Pause the"
        " sequence, cancel what is not yet sent, and look for the index message_effect_key_key.",
        """
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    format('%s messages have its effect key', d.n) AS detail
FROM (SELECT effect_key, count(*) AS n FROM message GROUP BY 1 HAVING count(*) > 1) d
JOIN message m ON m.effect_key = d.effect_key
UNION ALL
SELECT m.id, m.enrollment_id, m.subscriber_id,
    format('%s messages are step %s of %s, entry %s', d.n, d.step_id, d.sequence_key, d.entry_no)
FROM (SELECT sequence_key, subscriber_id, entry_no, step_id, count(*) AS n
      FROM message WHERE sequence_key IS NOT NULL
      GROUP BY 1, 2, 3, 4 HAVING count(*) > 1) d
JOIN message m ON m.subscriber_id = d.subscriber_id AND m.sequence_key = d.sequence_key
    AND m.entry_no = d.entry_no AND m.step_id = d.step_id
WHERE EXISTS (SELECT 1 FROM message o
    WHERE o.subscriber_id = d.subscriber_id AND o.sequence_key = d.sequence_key
      AND o.entry_no = d.entry_no AND o.step_id = d.step_id AND o.effect_key <> m.effect_key)""",
    ),
    Invariant(
        "I2",
        "A message is accepted once, unless a doubt was resent.",
        "The relay accepted this mail twice, and no resent doubt explains it: its subscriber has two"
        " copies. Read `dripfleet message show ID` for both replies.",
        f"""
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    format('accepted at epochs %s and %s', a.epoch, a.next_epoch) AS detail
FROM (SELECT message_id, epoch, ended_at,
          lead(epoch) OVER w AS next_epoch, lead(armed_at) OVER w AS next_armed
      FROM attempt WHERE outcome = 'accepted'
      WINDOW w AS (PARTITION BY message_id ORDER BY epoch)) a
JOIN message m ON m.id = a.message_id JOIN stream t ON t.key = m.stream
-- An acceptance that was learned of after the next try had begun was a doubt until then.
WHERE a.next_epoch IS NOT NULL
  AND NOT (m.maybe_delivered AND a.ended_at >= a.next_armed AND {RESENT})""",
    ),
    Invariant(
        "I3",
        "Nothing is tried again after it was accepted, nor after a doubt that was not resent; every"
        " try is on record.",
        "A mail was put on the wire again when it was, or may have been, delivered; or its attempts"
        " are not all on record. Pause the stream and read `dripfleet message show ID`.",
        f"""
WITH {TRIES},
walked AS (
    SELECT *, max(armed_at) OVER later AS last_begin, min(epoch) OVER later AS next_epoch,
        count(*) FILTER (WHERE outcome = 'in_doubt') OVER so_far AS doubts
    FROM tries
    WINDOW later AS (PARTITION BY message_id ORDER BY epoch
                     ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING),
           so_far AS (PARTITION BY message_id ORDER BY epoch))
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    CASE w.outcome WHEN 'accepted' THEN format('accepted at epoch %s, tried again after', w.epoch)
         ELSE format('in doubt at epoch %s, tried again at epoch %s', w.epoch, w.next_epoch)
         END AS detail
FROM walked w JOIN message m ON m.id = w.message_id JOIN stream t ON t.key = m.stream
WHERE (w.outcome = 'accepted' AND w.last_begin > w.ended_at)
   -- The policy resends once; what an operator resends has evidence on its attempt.
   OR (w.outcome = 'in_doubt' AND w.next_epoch IS NOT NULL AND w.evidence IS NULL
       AND NOT (w.doubts = 1 AND {RESENT}))
UNION ALL
SELECT m.id, m.enrollment_id, m.subscriber_id,
    format('attempts says %s, %s on record%s', m.attempts, coalesce(a.n, 0),
           CASE WHEN m.state = 'armed' THEN ' and one armed' ELSE '' END)
FROM message m
LEFT JOIN (SELECT message_id, count(*) AS n FROM attempt GROUP BY 1) a ON a.message_id = m.id
WHERE m.attempts <> coalesce(a.n, 0) + CASE WHEN m.state = 'armed' THEN 1 ELSE 0 END""",
    ),
    Invariant(
        "I4",
        "An active enrollment waits, is due, or has exactly one live message; a finished one has"
        " none left to send.",
        "An enrollment is stranded (nothing will ever move it), is moved by two things at once, or"
        " has ended and still has a mail to send. Read `dripfleet explain` of its subscriber.",
        f"""
WITH live AS MATERIALIZED (
    SELECT enrollment_id, count(*) AS n, min(id) AS id FROM message
    WHERE enrollment_id IS NOT NULL AND state IN ({LIVE_SQL}) GROUP BY 1)
SELECT l.id AS message_id, e.id AS enrollment_id, e.subscriber_id,
    CASE WHEN e.due_at IS NOT NULL
         THEN format('waits, and has %s live messages', l.n)
         WHEN l.n IS NULL THEN 'neither waits nor has a live message'
         ELSE format('has %s live messages', l.n) END AS detail
FROM enrollment e LEFT JOIN live l ON l.enrollment_id = e.id
WHERE e.active AND coalesce(l.n, 0) <> CASE WHEN e.due_at IS NULL THEN 1 ELSE 0 END
UNION ALL
-- A deferred mail comes back after its back-off, hours after the end, and is cancelled then.
SELECT m.id, m.enrollment_id, m.subscriber_id,
    format('%s, but its enrollment ended (%s)', m.state, e.end_reason)
FROM live l JOIN message m ON m.enrollment_id = l.enrollment_id AND m.state IN ('scheduled', 'working')
JOIN enrollment e ON e.id = m.enrollment_id
JOIN stream t ON t.key = m.stream
WHERE NOT e.active AND t.paused_at IS NULL
  AND greatest(e.ended_at, m.run_at, m.watch_at) < now() - make_interval(secs => :slo)""",
    ),
    Invariant(
        "I5",
        "A step is never armed before the one before it has ended.",
        "A later step of this enrollment went out while an earlier one was still open. Read"
        " `dripfleet explain` of its subscriber for the order of events.",
        """
SELECT n.id AS message_id, n.enrollment_id, n.subscriber_id,
    format('step %s was armed before an earlier step had ended', n.step_id) AS detail
FROM (SELECT id, enrollment_id, subscriber_id, step_id, armed_at, created_at,
          max(coalesce(terminal_at, 'infinity')) OVER (
              PARTITION BY enrollment_id ORDER BY id
              ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS over_at
      FROM message WHERE enrollment_id IS NOT NULL) n
-- Almost every step was made after the one before had ended; only the others look up attempts.
WHERE n.armed_at IS NOT NULL AND least(n.created_at, n.armed_at) < n.over_at
  AND least(n.armed_at, (SELECT min(a.armed_at) FROM attempt a WHERE a.message_id = n.id))
      < n.over_at""",
    ),
    Invariant(
        "I6",
        "The state of a message and its columns agree.",
        "A column says another state than `state`, so workers and reaper may pass this row by. A"
        " check constraint of table message is missing: run `dripfleet doctor`.",
        f"""
SELECT id AS message_id, enrollment_id, subscriber_id,
    format('%s, but%s%s%s%s', state,
        CASE WHEN (run_at IS NOT NULL) <> (state = 'scheduled') THEN ' run_at' END,
        CASE WHEN (watch_at IS NOT NULL) <> (state IN ('working', 'armed', 'in_doubt'))
             THEN ' watch_at' END,
        CASE WHEN (owner IS NOT NULL) <> (state IN ('working', 'armed')) THEN ' owner' END,
        CASE WHEN (terminal_at IS NOT NULL) <> (state IN ({TERMINAL_SQL}))
             THEN ' terminal_at' END) || ' does not agree' AS detail
FROM message
WHERE (run_at IS NOT NULL) <> (state = 'scheduled')
   OR (watch_at IS NOT NULL) <> (state IN ('working', 'armed', 'in_doubt'))
   OR (owner IS NOT NULL) <> (state IN ('working', 'armed'))
   OR (terminal_at IS NOT NULL) <> (state IN ({TERMINAL_SQL}))""",
    ),
    Invariant(
        "I7",
        "What is `sent` was accepted, or has evidence; every doubt is flagged.",
        "A mail is called sent and nobody accepted it, or it may be out without being flagged so."
        " Ask the relay's log for its Message-ID (`dripfleet message show ID`).",
        """
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    'sent without an accepted attempt' AS detail
FROM message m
WHERE m.state = 'sent' AND NOT EXISTS (
    SELECT 1 FROM attempt a WHERE a.message_id = m.id
      AND (a.outcome = 'accepted' OR (a.outcome = 'in_doubt' AND a.evidence IS NOT NULL)))
  -- Quarantined before any attempt, and known to an operator: the evidence is in the log.
  AND NOT EXISTS (
    SELECT 1 FROM decision d WHERE d.subscriber_id = m.subscriber_id
      AND d.kind = 'settled' AND d.reason = 'sent' AND d.detail ->> 'message' = m.id::text)
UNION ALL
(SELECT m.id, m.enrollment_id, m.subscriber_id, format('%s, not flagged maybe_delivered', m.state)
FROM message m WHERE NOT m.maybe_delivered AND m.state IN ('in_doubt', 'sent_assumed')
UNION
SELECT m.id, m.enrollment_id, m.subscriber_id, format('%s, not flagged maybe_delivered', m.state)
FROM attempt a JOIN message m ON m.id = a.message_id
WHERE a.outcome = 'in_doubt' AND NOT m.maybe_delivered)""",
    ),
    Invariant(
        "I8",
        "Nothing is stuck: no lease, doubt or due time is long over.",
        "Due work is not being done, or what nobody holds is not brought back. Look whether beat and"
        " the sequence, send and upkeep pools run: `dripfleet status`.",
        """
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    format('%s since %s', w.why, m.watch_at) AS detail
FROM message m JOIN stream t ON t.key = m.stream,
LATERAL (SELECT CASE
    WHEN m.state = 'working'
     AND m.watch_at < now() - make_interval(secs => :grace + :slack)
    THEN 'its working lease is over'
    WHEN m.state = 'armed'
     AND greatest(m.watch_at, m.armed_at + make_interval(secs => :armed_lease))
         < now() - make_interval(secs => :grace + :slack)
    THEN 'its armed lease is over; its working lease ended'
    WHEN m.state = 'in_doubt' AND t.doubt_policy <> 'hold'
     AND m.watch_at < now() - make_interval(secs => :slack)
    THEN 'in doubt; its hold is over' END AS why) w
WHERE m.watch_at < now() AND w.why IS NOT NULL
UNION ALL
SELECT m.id, m.enrollment_id, m.subscriber_id, format('due since %s', m.run_at)
FROM message m JOIN stream t ON t.key = m.stream
LEFT JOIN sequence q ON q.key = m.sequence_key
WHERE m.run_at < now() - make_interval(secs => :slo) AND m.state = 'scheduled'
  AND t.paused_at IS NULL AND q.paused_at IS NULL
UNION ALL
SELECT NULL, e.id, e.subscriber_id, format('to be planned since %s', e.due_at)
FROM enrollment e JOIN sequence q ON q.key = e.sequence_key
WHERE e.due_at < now() - make_interval(secs => :slo) AND e.active AND q.paused_at IS NULL""",
    ),
    Invariant(
        "I9",
        "Nothing is armed after a suppression, an unsubscribe or an erasure.",
        "Somebody who had left was written to. Pause the stream, and look for the triggers"
        " suppression_stamp and subscriber_stamp: `dripfleet doctor`.",
        """
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    format('armed %s, %s %s', m.armed_at, x.how, x.at) AS detail
FROM (SELECT s.id, 'all' AS scope, s.stopped_at AS at, 'stopped' AS how
      FROM subscriber s WHERE s.stopped_at IS NOT NULL
      UNION ALL
      SELECT s.id, p.scope, p.at, 'suppressed'
      FROM suppression p JOIN subscriber s ON s.address_hmac = p.address_hmac) x
JOIN message m ON m.subscriber_id = x.id
JOIN stream t ON t.key = m.stream
-- `armed_at` is that of the latest try, so it tells of any.
WHERE m.armed_at > x.at AND x.scope IN ('all', t.class)""",
    ),
    Invariant(
        "I10",
        "A message has one Message-ID and, once a copy may be out, one content.",
        "Two messages share a Message-ID, or a mail that may be out was sent again with other bytes,"
        " which no mailbox can recognise as the same. Read `dripfleet message show ID`.",
        """
SELECT m.id AS message_id, m.enrollment_id, m.subscriber_id,
    format('%s messages have its Message-ID', d.n) AS detail
FROM (SELECT rfc_message_id, count(*) AS n FROM message GROUP BY 1 HAVING count(*) > 1) d
JOIN message m ON m.rfc_message_id = d.rfc_message_id
UNION ALL
SELECT m.id, m.enrollment_id, m.subscriber_id,
    format('the content of epoch %s is not that of an earlier one', a.epoch)
FROM (SELECT message_id, epoch, content_sha256,
          lag(content_sha256) OVER (PARTITION BY message_id ORDER BY epoch) AS before
      FROM attempt WHERE outcome IN ('accepted', 'in_doubt')) a
JOIN message m ON m.id = a.message_id
WHERE a.before <> a.content_sha256""",
    ),
    Invariant(
        "I11",
        "No attempt is from the future: its message has reached that epoch.",
        "An attempt was made under a fencing token that was never given out, or its message is gone."
        " If this database was restored from an older dump, stop the send pool before anything else.",
        """
SELECT a.message_id, m.enrollment_id, m.subscriber_id,
    CASE WHEN m.id IS NULL THEN format('attempt of epoch %s without a message', a.epoch)
         ELSE format('attempt of epoch %s, the message is at %s', a.epoch, m.epoch) END AS detail
FROM attempt a LEFT JOIN message m ON m.id = a.message_id
WHERE m.id IS NULL OR a.epoch > m.epoch""",
    ),
    Invariant(
        "I12",
        "The counters equal the rows that they count.",
        "The figures that are shown are not those of the rows; delivery itself is not touched. A"
        " move was made past `tasks.moves`, or counter rows were edited: recount this step.",
        f"""
SELECT NULL::bigint AS message_id, NULL::bigint AS enrollment_id, NULL::bigint AS subscriber_id,
    format('%s / %s, %s: counted %s, rows %s', k, s, o, coalesce(told.n, 0), coalesce(stand.n, 0))
        AS detail
FROM (SELECT coalesce(sequence_key, '') AS k, coalesce(step_id, '') AS s, state AS o, count(*) AS n
      FROM message WHERE state IN ({TERMINAL_SQL}) GROUP BY 1, 2, 3) stand
FULL JOIN (SELECT sequence_key AS k, step_id AS s, outcome AS o, sum(n) AS n
           FROM counter GROUP BY 1, 2, 3) told USING (k, s, o)
WHERE coalesce(told.n, 0) <> coalesce(stand.n, 0)""",
    ),
)

# I13 is reported, not judged: how many of the mails that were put on the wire were ever in doubt.
DOUBT = """
SELECT t.key AS stream, t.doubt_policy AS policy, count(m.id) AS armed,
    count(m.id) FILTER (WHERE m.maybe_delivered) AS doubted,
    count(m.id) FILTER (WHERE m.state = 'in_doubt') AS in_doubt,
    count(m.id) FILTER (WHERE m.state = 'sent_assumed') AS assumed
FROM stream t LEFT JOIN message m
    ON m.stream = t.key AND (m.armed_at IS NOT NULL OR m.maybe_delivered)
GROUP BY 1, 2 ORDER BY 1
"""

STATES = "SELECT state::text AS state, count(*) AS n FROM message GROUP BY state ORDER BY state"

ENROLLMENTS = """
SELECT count(*) FILTER (WHERE e.active) AS active, count(*) FILTER (WHERE NOT e.active) AS ended
FROM enrollment e
"""
# Parked, and its sequence runs. Just resumed, or forgotten? One look cannot tell: counted, not judged.
PARKED = """
SELECT (SELECT count(*) FROM message m JOIN sequence q ON q.key = m.sequence_key
        WHERE m.parked_from IS NOT NULL AND q.paused_at IS NULL)
     + (SELECT count(*) FROM enrollment e JOIN sequence q ON q.key = e.sequence_key
        WHERE e.parked_from IS NOT NULL AND q.paused_at IS NULL)
"""
