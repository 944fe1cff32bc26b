"""What the tries of a message say: accepted once, never again after a doubt, and all on record.

I2, I3, I7, I10 and I11 of the invariants of delivery; how they are asked is told in
`tasks.upkeep.invariants`.
"""

from __future__ import annotations

from tasks.upkeep.finding import Invariant

# Whether an operator or a policy can have asked for a second sending. The policy of the stream may
# have been changed since; the content that a claim keeps where it may resend says what it was then.
# The operator's evidence on the attempt gives way to a journal's that comes later; the log keeps it.
RESENT = """(t.doubt_policy = 'resend'
         OR EXISTS (SELECT 1 FROM content c WHERE c.message_id = m.id)
         OR EXISTS (SELECT 1 FROM decision d
                    WHERE d.subscriber_id = m.subscriber_id AND d.kind IN ('settled', 'retried')
                      AND d.reason IN ('resend', 'operator')
                      AND d.detail ->> 'message' = m.id::text))"""

# What is on record of a doubted try whose copy never arrived: by an operator, or by a bounce.
NO_COPY = """(coalesce(w.evidence, '') LIKE 'operator: did not arrive%'
         OR coalesce(w.evidence, '') LIKE '%: bounced%')"""

# Tries of messages with more than one: attempts, and the one that is in the air.
TRIES = """
tries AS MATERIALIZED (
    SELECT a.message_id, a.epoch, a.armed_at, a.ended_at, a.outcome, a.evidence
    FROM message m JOIN attempt a ON a.message_id = m.id WHERE m.attempts > 1
    UNION ALL
    SELECT m.id, m.epoch, m.armed_at, NULL, NULL, NULL
    FROM message m WHERE m.attempts > 1 AND m.state = 'armed')"""

OF_TRIES = (
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
   -- The policy resends once; of what an operator resends it is on record that it did not arrive.
   OR (w.outcome = 'in_doubt' AND w.next_epoch IS NOT NULL AND NOT {NO_COPY}
       AND NOT (w.evidence IS NULL AND w.doubts = 1 AND {RESENT}))
UNION ALL
SELECT m.id, m.enrollment_id, m.subscriber_id,
    format('attempts says %s, %s on record%s', m.attempts, coalesce(a.n, 0),
           CASE WHEN m.state = 'armed' THEN ' and one armed' ELSE '' END)
FROM message m
LEFT JOIN (SELECT message_id, count(*) AS n FROM attempt GROUP BY 1) a ON a.message_id = m.id
WHERE m.attempts <> coalesce(a.n, 0) + CASE WHEN m.state = 'armed' THEN 1 ELSE 0 END""",
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
      AND (a.outcome = 'accepted'
           OR (a.outcome = 'in_doubt' AND a.evidence LIKE 'operator: arrived%')))
  -- Quarantined before any attempt that we know of: the evidence is in the log.
  AND NOT EXISTS (
    SELECT 1 FROM decision d WHERE d.subscriber_id = m.subscriber_id
      AND d.detail ->> 'message' = m.id::text
      AND ((d.kind = 'settled' AND d.reason = 'sent')
           OR (d.kind = 'evident' AND d.reason = 'arrived')))
UNION ALL
(SELECT m.id, m.enrollment_id, m.subscriber_id, format('%s, not flagged maybe_delivered', m.state)
FROM message m WHERE NOT m.maybe_delivered AND m.state IN ('in_doubt', 'sent_assumed')
UNION
SELECT m.id, m.enrollment_id, m.subscriber_id, format('%s, not flagged maybe_delivered', m.state)
FROM attempt a JOIN message m ON m.id = a.message_id
WHERE a.outcome = 'in_doubt' AND NOT m.maybe_delivered)""",
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
WHERE a.before <> a.content_sha256
UNION ALL
-- The hash that it stands with now is that of the try in the air, or of the next one.
SELECT m.id, m.enrollment_id, m.subscriber_id,
    format('its content is not that of epoch %s, of which a copy may be out', max(a.epoch))
FROM message m JOIN attempt a ON a.message_id = m.id AND a.outcome IN ('accepted', 'in_doubt')
WHERE m.maybe_delivered AND m.content_sha256 IS DISTINCT FROM a.content_sha256
  AND (m.content_sha256 IS NOT NULL OR NOT EXISTS (
      SELECT 1 FROM subscriber s WHERE s.id = m.subscriber_id AND s.erased_at IS NOT NULL))
GROUP BY m.id""",
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
)
