"""LOCK, RECORD and ARM: one transaction for every connection that waits (DELIVERY.md, Grouped).

The answered group is recorded and the ready group armed together; the next cycle starts when the
last has committed. LOCK comes first and alone: in one statement with ARM, the NOT EXISTS would read
the snapshot from before the wait for the lock, and arm the person who has just left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tasks.moves.by_key import SETTINGS
from tasks.moves.pipeline import Parameter, Pipeline, blobs, integers, scalar, stamps, texts
from tasks.moves.settings import DeliverySettings
from tasks.moves.statement import AFTERMATH


class Ready(NamedTuple):
    """A mail whose body is written and whose dot is not. `address`: as it was claimed."""

    id: int
    epoch: int
    subscriber_id: int
    address: str
    content_sha256: bytes


class Answered(NamedTuple):
    """A reply to a dot. `armed_at`: as ARM returned it, in Postgres's text."""

    id: int
    epoch: int
    enrollment_id: int | None
    armed_at: str
    content_sha256: bytes
    code: int
    enhanced_code: str | None
    reply: str


@dataclass(frozen=True, slots=True)
class Cycled:
    """What a cycle did: the ids armed, when, and the ids whose subscriber's lock was taken."""

    armed: frozenset[int]
    armed_at: str
    busy: frozenset[int]


# $1 ids, $2 subscriber ids. The one-argument advisory key space is the subscribers'. The ids whose
# lock was got go to a setting of the transaction: a pipelined statement cannot take a result.
# The settings hold for RECORD and ARM too, which are planned in the first transaction that has them.
# `OFFSET 0` there: a row is asked for by its key, where Postgres might read all attempts at once.
LOCK = f"""
SELECT set_config('dripfleet.got', '{{' || coalesce(string_agg(t.id::text, ',')
           FILTER (WHERE pg_try_advisory_xact_lock_shared(t.subscriber_id)), '') || '}}', true),
       set_config('lock_timeout', '500ms', true), {SETTINGS}
FROM (SELECT id, subscriber_id
      FROM unnest($1::bigint[], $2::bigint[]) AS u (id, subscriber_id)
      ORDER BY subscriber_id) t
"""

# $1 ids, $2 epochs, $3 codes, $4 enhanced codes, $5 replies, $6 armed_at, $7 hashes,
# $8 enrollment ids, $9 owner, $10 first back-off s, $11 longest back-off s, $12 evidence or ''.
# The message may have been put in doubt, and even assumed sent, in the meantime. A 2yz that comes
# after the policy has put the row back into its queue ends it there, or a copy would follow; in any
# other state only the attempt is written. An earlier acceptance wins over what came later.
RECORD = f"""
WITH r AS MATERIALIZED (
    SELECT t.*, (SELECT clock_timestamp()) AS ts
    FROM unnest($1::bigint[], $2::integer[], $3::smallint[], $4::text[], $5::text[],
                $6::timestamptz[], $7::bytea[])
         AS t (id, epoch, code, enhanced_code, reply, armed_at, sha256)
    ORDER BY t.id),
le AS MATERIALIZED (
    SELECT e.id FROM enrollment e WHERE e.id = ANY($8::bigint[])
    ORDER BY e.id FOR NO KEY UPDATE),
lm AS MATERIALIZED (
    SELECT m.id, m.state AS was, r.code, r.ts,
        CASE WHEN r.code / 100 = 2 THEN 'sent'
             WHEN m.maybe_delivered AND EXISTS (
                 SELECT 1 FROM attempt a
                 WHERE a.message_id = m.id AND a.outcome = 'accepted' OFFSET 0)
             THEN 'sent'
             WHEN r.code / 100 = 4 AND m.state <> 'sent_assumed' THEN 'scheduled'
             ELSE 'failed' END::message_state AS becomes
    FROM message m JOIN r ON r.id = m.id
    WHERE (SELECT count(*) FROM le) >= 0
      AND ((r.epoch = m.epoch AND m.state IN ('armed', 'in_doubt', 'sent_assumed'))
        OR (r.epoch <= m.epoch AND r.code / 100 = 2
            AND m.state IN ('scheduled', 'working', 'in_doubt', 'sent_assumed')))
    ORDER BY m.id FOR NO KEY UPDATE OF m),
moved AS (
    UPDATE message m SET
        state = lm.becomes,
        owner = NULL, watch_at = NULL, parked_from = NULL,
        terminal_at = CASE WHEN lm.becomes <> 'scheduled' THEN coalesce(m.terminal_at, lm.ts) END,
        run_at = CASE WHEN lm.becomes = 'scheduled' THEN least(
            coalesce(next_allowed(m.allowed, lm.ts + make_interval(secs =>
                least($11::float8, $10::float8 * 2 ^ least(m.deferrals, 20))
                * (0.8 + 0.4 * random()))), m.expires_at, lm.ts), m.expires_at) END,
        deferrals = m.deferrals + CASE WHEN lm.becomes = 'scheduled' THEN 1 ELSE 0 END,
        last_code = lm.code, last_stage = 'dot',
        reason = CASE lm.becomes WHEN 'sent' THEN 'accepted' WHEN 'scheduled' THEN 'deferred'
                                 ELSE 'refused' END
    FROM lm
    WHERE m.id = lm.id
    RETURNING m.id, m.enrollment_id, m.sequence_key, m.step_id, lm.was, m.state AS now),
{AFTERMATH},
tried AS (
    INSERT INTO attempt AS t (message_id, epoch, owner, armed_at, content_sha256, outcome, stage,
                              code, enhanced_code, reply, ended_at, evidence)
    SELECT r.id, r.epoch, $9::text, r.armed_at, r.sha256,
           CASE r.code / 100 WHEN 2 THEN 'accepted' WHEN 4 THEN 'deferred'
                             ELSE 'refused' END::attempt_outcome,
           'dot', r.code, r.enhanced_code, r.reply, r.ts, nullif($12::text, '')
    FROM r WHERE (SELECT count(*) FROM moved) >= 0
    ON CONFLICT (message_id, epoch) DO UPDATE SET
        outcome = excluded.outcome, stage = excluded.stage, code = excluded.code,
        enhanced_code = excluded.enhanced_code, reply = excluded.reply,
        ended_at = excluded.ended_at, evidence = excluded.evidence)
SELECT count(*) FROM moved
"""

# $1 ids, $2 epochs, $3 hashes, $4 subscriber ids, $5 addresses as claimed, $6 margin s.
# Without LOCK before it in the transaction `dripfleet.got` is not there, and this raises.
# `coalesce(watch_at, …)`: no index can serve it, so the planner cannot pick the watch index.
ARM = """
WITH r AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bytea[], $4::bigint[], $5::text[])
                  AS t (id, epoch, sha256, subscriber_id, address)
    WHERE t.id IN (SELECT unnest(current_setting('dripfleet.got')::bigint[]))
    ORDER BY t.id),
a AS (
    UPDATE message m SET state = 'armed', armed_at = (SELECT clock_timestamp()),
        attempts = m.attempts + 1, crashes = 0, content_sha256 = r.sha256
    FROM r, subscriber s, stream t
    WHERE m.id = r.id AND m.epoch = r.epoch AND m.state = 'working'
      AND coalesce(m.watch_at, '-infinity') > clock_timestamp() + make_interval(secs => $6::float8)
      AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())
      AND m.allowed @> clock_timestamp()
      AND (NOT m.maybe_delivered OR (m.content_sha256 = r.sha256 AND NOT EXISTS (
              SELECT 1 FROM attempt x
              WHERE x.message_id = m.id AND x.outcome = 'accepted' OFFSET 0)))
      AND m.subscriber_id = r.subscriber_id AND s.id = r.subscriber_id AND s.address = r.address
      AND s.stopped_at IS NULL
      AND t.key = m.stream AND t.paused_at IS NULL
      AND NOT EXISTS (SELECT 1 FROM enrollment e WHERE e.id = m.enrollment_id AND NOT e.active)
      AND NOT EXISTS (SELECT 1 FROM sequence q
                      WHERE q.key = m.sequence_key AND q.paused_at IS NOT NULL)
      AND NOT EXISTS (SELECT 1 FROM suppression p
                      WHERE p.address_hmac = s.address_hmac AND p.scope IN ('all', t.class))
      AND NOT EXISTS (SELECT 1 FROM sequence q, consent c
                      WHERE t.class = 'marketing' AND q.key = m.sequence_key
                        AND c.subscriber_id = s.id AND c.topic = q.topic AND NOT c.opted_in)
    RETURNING m.id, m.armed_at)
SELECT coalesce(string_agg(id::text, ','), ''), coalesce(max(armed_at)::text, ''),
       current_setting('dripfleet.got')
FROM a
"""

STATEMENTS = {"dripfleet_lock": LOCK, "dripfleet_record": RECORD, "dripfleet_arm": ARM}


def _record_parameters(
    answered: Sequence[Answered], owner: str, settings: DeliverySettings, evidence: str
) -> list[Parameter]:
    return [
        integers([a.id for a in answered]),
        integers([a.epoch for a in answered]),
        integers([a.code for a in answered]),
        texts([a.enhanced_code for a in answered]),
        texts([a.reply for a in answered]),
        stamps([a.armed_at for a in answered]),
        blobs([a.content_sha256 for a in answered]),
        integers(sorted({a.enrollment_id for a in answered if a.enrollment_id is not None})),
        scalar(owner),
        scalar(settings.backoff_first),
        scalar(settings.backoff_max),
        scalar(evidence),
    ]


async def cycle(
    pipeline: Pipeline,
    answered: Sequence[Answered],
    ready: Sequence[Ready],
    *,
    owner: str,
    settings: DeliverySettings,
    evidence: str = "",
) -> Cycled:
    """RECORD what was answered and ARM what is ready, in one transaction and one write.

    Raises:
        StatementFailed: nothing happened; run the two apart, and halve the group.
        ConnectionLost: unknown what happened. No dot may follow; a RECORD may be run again.
    """
    calls: list[tuple[str, Sequence[Parameter]]] = [
        (
            "dripfleet_lock",
            [integers([r.id for r in ready]), integers([r.subscriber_id for r in ready])],
        )
    ]
    if answered:
        calls.append(("dripfleet_record", _record_parameters(answered, owner, settings, evidence)))
    if ready:
        calls.append(
            (
                "dripfleet_arm",
                [
                    integers([r.id for r in ready]),
                    integers([r.epoch for r in ready]),
                    blobs([r.content_sha256 for r in ready]),
                    integers([r.subscriber_id for r in ready]),
                    texts([r.address for r in ready]),
                    scalar(settings.arm_margin),
                ],
            )
        )
    answers = await pipeline.run(calls)
    if not ready:
        return Cycled(frozenset(), "", frozenset())
    armed, armed_at, got = (value or b"" for value in answers[-1][0])
    armed_ids = frozenset(map(int, armed.split(b","))) if armed else frozenset()
    inside = got.strip(b"{}")
    got_ids = frozenset(map(int, inside.split(b","))) if inside else frozenset()
    busy = frozenset(r.id for r in ready if r.id not in got_ids)
    return Cycled(armed_ids, armed_at.decode(), busy)
