"""How long `verify` takes on many messages, most sent, some doubted, some under way.

    python -m tests.bench.audited_million [--messages 1000000] [--json]

On an embedded Postgres of its own. The rows are written as the moves would have left them, and the
audit has to find them clean; the clock runs for the audit alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from tasks.moves.settings import DeliverySettings
from tasks.upkeep.verify import VerifySettings, verify
from workers.cli.render import say
from workers.embedded.postgres import EmbeddedPostgres

# Of ten messages of a step one was resent after a doubt, one is assumed sent, and one is due yet. All
# stand under a cap that everybody has just reached, so that the audit counts each beside the others.
ROWS = """
INSERT INTO subscriber (id, address, address_hmac)
SELECT i, 's' || i || '@example.com', sha256(('s' || i)::bytea) FROM generate_series(1, {people}) i;
INSERT INTO topic (key, title) VALUES ('news', 'News');
INSERT INTO consent (subscriber_id, topic, opted_in, source, at)
SELECT id, 'news', true, 'benchmark', now() - interval '10 days' FROM subscriber;
INSERT INTO sequence (key, title, stream, topic, version) VALUES ('letters', 'L', 'marketing', 'news', 1);
UPDATE stream SET doubt_policy = 'resend' WHERE key = 'marketing';
INSERT INTO sequence_version (sequence_key, version, definition, source, sha256)
VALUES ('letters', 1, '{{"class": "marketing", "topic": "news",
    "limits": {{"cap": {{"max": {steps}, "per": "7d", "scope": "topic"}}}}}}', '', '');
INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, active, ended_at, end_reason)
SELECT 'letters', 1, id, id % 10 = 3, CASE WHEN id % 10 <> 3 THEN now() - interval '1 hour' END,
    CASE WHEN id % 10 <> 3 THEN 'completed' END
FROM subscriber;
INSERT INTO message (effect_key, rfc_message_id, stream, sequence_key, sequence_version, step_id,
    entry_no, enrollment_id, subscriber_id, template, content_sha256, state, run_at, watch_at,
    terminal_at, epoch, takes, armed_at, attempts, maybe_delivered, created_at)
SELECT sha256(convert_to(e.id || '.' || n, 'UTF8')), '<' || e.id || '.' || n || '@mail.test>',
    'marketing', 'letters', 1, 'mail-' || n, 1, e.id, e.subscriber_id, 'test/mail',
    CASE WHEN w.kind <> 3 THEN sha256(convert_to(e.id || '.' || n, 'UTF8')) END,
    CAST(CASE w.kind WHEN 2 THEN 'sent_assumed' WHEN 3 THEN 'scheduled' ELSE 'sent' END AS message_state),
    CASE WHEN w.kind = 3 THEN now() + interval '1 hour' END, NULL,
    CASE WHEN w.kind <> 3 THEN w.ended END,
    CASE w.kind WHEN 1 THEN 2 WHEN 3 THEN 0 ELSE 1 END, 1,
    CASE WHEN w.kind <> 3 THEN w.ended - interval '1 min' END,
    CASE w.kind WHEN 1 THEN 2 WHEN 3 THEN 0 ELSE 1 END, w.kind IN (1, 2), w.ended - interval '2 hours'
FROM enrollment e, generate_series(1, {steps}) n, LATERAL (
    SELECT CASE WHEN e.subscriber_id % 10 = 3 AND n < {steps} THEN 0 ELSE e.subscriber_id % 10 END AS kind,
        now() - interval '9 days' + n * interval '3 hours' AS ended) w;
INSERT INTO attempt (message_id, epoch, owner, armed_at, content_sha256, outcome, stage, ended_at)
SELECT m.id, t, 'worker', m.armed_at - (m.attempts - t) * interval '1 hour', m.content_sha256,
    CAST(CASE WHEN m.state = 'sent_assumed' OR t < m.attempts THEN 'in_doubt' ELSE 'accepted' END
        AS attempt_outcome), 'dot', m.armed_at + interval '1 min' - (m.attempts - t) * interval '1 hour'
FROM message m, generate_series(1, m.attempts) t;
INSERT INTO counter (sequence_key, step_id, shard, outcome, n)
SELECT sequence_key, step_id, id & 3, state, count(*) FROM message
WHERE state NOT IN ('scheduled', 'working', 'armed', 'in_doubt') GROUP BY 1, 2, 3, 4
"""
STEPS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Build, audit, print; 3 where the audit found something."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            database = Database(server.url)
            migrate(database)
            _fill(database, args.messages)
            began = time.monotonic()
            report = verify(database, DeliverySettings(), VerifySettings())
            took = time.monotonic() - began
            database.close()
        finally:
            server.stop()
    found = {each.name: each.count for each in report.findings if each.count}
    told = {"messages": report.counted["messages"], "seconds": round(took, 1), "found": found}
    say(
        json.dumps(told)
        if args.json
        else f"{told['messages']:,} messages: {took:.1f} s; found: {found}"
    )
    return 3 if found else 0


def _fill(database: Database, messages: int) -> None:
    with database.transaction() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in ROWS.format(people=messages // STEPS, steps=STEPS).split(";"):
            connection.execute(text(statement))
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("VACUUM ANALYZE")


if __name__ == "__main__":
    sys.exit(main())
