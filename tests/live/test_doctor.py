"""What `doctor` tells of a fleet whose rows say that something is wrong, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, text

from models.session import Database
from tasks import names, regions
from tasks.canary import store as canaries
from tasks.upkeep import checks
from tests.live import seeds
from tests.unit.test_experiment_step import FILE
from workers.cli.doctor import tell
from workers.cli.render import ExitCode
from workers.doctor import examine, experiments, segment_runs, standing
from workers.doctor.finding import Finding, error, fine, warning

Check = Callable[[Connection], Iterator[Finding]]


def found(database: Database, check: Check) -> dict[str, Finding]:
    with database.transaction() as connection:
        return {finding.check: finding for finding in check(connection)}


def script(database: Database, *statements: str) -> None:
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))


def answered(database: Database, ago: float, *pools: str) -> None:
    for pool in pools or names.POOLS:
        script(
            database,
            f"INSERT INTO canary VALUES ('{pool}', 'w', now() - interval '{ago} s')"
            " ON CONFLICT (pool, worker) DO UPDATE SET seen_at = excluded.seen_at",
        )


def test_a_pool_that_does_not_answer_is_named_and_one_that_never_did(database: Database) -> None:
    assert found(database, standing.pools)["pools"].severity == "warning"
    answered(database, 300)
    said = found(database, standing.pools)["pools"]
    assert said.severity == "error" and "no worker has answered for 5 min" in said.says
    answered(database, 1)
    assert found(database, standing.pools) == {"pools": fine("pools", "all answered within 90 s")}
    answered(database, 100, "send", "churn")
    script(database, "DELETE FROM canary WHERE pool = 'upkeep'")
    said_of = {check: f.severity for check, f in found(database, standing.pools).items()}
    assert said_of == {"pool send": "error", "pool churn": "warning", "pool upkeep": "error"}


def test_a_tick_that_stopped_is_told_by_its_age(database: Database) -> None:
    assert found(database, standing.ticks)["ticks"].severity == "warning"
    script(database, f"INSERT INTO tick VALUES ('{names.SCAN}', now()), ('{names.REAP}', now())")
    assert found(database, standing.ticks)["ticks"].severity == "fine"
    script(
        database, f"UPDATE tick SET seen_at = now() - interval '1 h' WHERE name = '{names.REAP}'"
    )
    said = found(database, standing.ticks)["ticks"]
    assert said.severity == "error" and said.says == f"stopped: {names.REAP} (1 h ago)"


def test_late_mail_and_late_plans_are_errors_and_a_pause_is_its_reason(database: Database) -> None:
    people = seeds.subscribers(database, 2)
    key = seeds.sequence(database, seeds.TWO_MAILS)
    seeds.enroll(database, key, people)
    assert found(database, standing.due)["due"].severity == "fine"
    script(
        database,
        "UPDATE enrollment SET due_at = now() - interval '1 h'",
        "INSERT INTO message (effect_key, rfc_message_id, stream, subscriber_id, template, run_at)"
        " SELECT 'x', 'x', 'marketing', min(id), 'test/mail', now() - interval '2 h' FROM subscriber",
    )
    late = found(database, standing.due)
    assert set(late) == {"stream marketing", "planner"}
    assert "2 h" in late["stream marketing"].says and late["planner"].severity == "error"
    script(
        database,
        "UPDATE stream SET paused_at = now(), pause_reason = '535 wrong password'"
        " WHERE key = 'marketing'",
        "UPDATE sequence SET paused_at = now(), pause_reason = 'wrong price'",
    )
    assert set(found(database, standing.due)) == {"planner"}
    held = found(database, standing.paused)
    assert "535 wrong password" in held["stream marketing"].says
    assert held["sequence two-mails"].next.endswith("`dripfleet sequence resume two-mails`")


def test_doubts_missing_templates_and_cron_lines_name_the_next_move(database: Database) -> None:
    seeds.subscribers(database, 1)
    seeds.sequence(database, seeds.TWO_MAILS)
    assert found(database, standing.templates)["templates"].severity == "fine"
    assert found(database, standing.doubts)["doubts"].severity == "fine"
    script(
        database,
        "DELETE FROM template",
        "INSERT INTO message (effect_key, rfc_message_id, stream, subscriber_id, template, run_at)"
        " SELECT CAST(n AS bytea), n, 'marketing', id, 'test/other', now()"
        " FROM subscriber, (VALUES ('a'), ('b')) v (n)",
        "UPDATE message SET state = 'in_doubt', run_at = NULL, watch_at = 'infinity',"
        " maybe_delivered = true WHERE rfc_message_id = 'b'",
    )
    missing = found(database, standing.templates)
    assert missing["template test/mail"].says == "is not there, and sequence two-mails names it"
    assert "stream marketing" in missing["template test/other"].says
    held = found(database, standing.doubts)["stream marketing"]
    assert held.says == "1 mails in doubt wait for an operator" and "doubt list" in held.next
    line = (
        "INSERT INTO schedule (key, cron, zone, target, catch_up, max_lateness, tzdata)"
        " VALUES ('{0}', '0 9 * * 1', 'UTC', '{1}', 'latest', '1 h', '2026.6')"
    )
    script(
        database,
        line.format("good", '{"sequence": "two-mails"}').replace(":", r"\:"),
        line.format("gone", '{"sequence": "mars"}').replace(":", r"\:"),
        line.format("odd", '{"task": "send.everything"}').replace(":", r"\:"),
    )
    lines = found(database, standing.schedules)
    assert lines["schedule gone"].says == "there is no sequence 'mars'"
    assert lines["schedule odd"].says == "there is no task 'send.everything'"
    assert "schedule good" not in lines


def test_an_open_transaction_is_told_by_its_pid_and_never_by_its_text(database: Database) -> None:
    with database.raw() as other:
        other.execute("BEGIN")
        other.execute("SELECT 'zoe@example.com'")
        with database.transaction() as connection:
            (told,) = checks.open_transactions(connection, 0.0)
        assert told.pid == other.info.backend_pid
        assert (told.application, told.state) == ("dripfleet", "idle in transaction")
    assert found(database, standing.transactions)["transactions"].severity == "fine"


def test_a_clock_that_is_off_is_told(database: Database) -> None:
    import time

    assert found(database, standing.clock)["clock"].severity == "fine"
    skewed = found(database, lambda c: standing.clock(c, lambda: time.time() + 3600))["clock"]
    assert skewed.severity == "warning" and "3600.0 s ahead of Postgres" in skewed.says


def test_a_worker_whose_clock_is_off_is_named_and_one_of_long_ago_is_not(
    database: Database,
) -> None:
    import time

    with database.transaction() as connection:
        canaries.seen(connection, "send", "send@good")
        canaries.seen(connection, "send", "send@fast", lambda: time.time() + 60)
        canaries.seen(connection, "upkeep", "upkeep@gone", lambda: time.time() - 60)
    script(
        database, "UPDATE canary SET seen_at = now() - interval '2 h' WHERE worker = 'upkeep@gone'"
    )
    (said,) = found(database, standing.worker_clocks).values()
    assert said.check == "worker send@fast" and said.severity == "warning"
    assert said.says == "its clock is 60.0 s ahead of Postgres" and "NTP" in said.next
    script(database, "DELETE FROM canary WHERE worker = 'send@fast'")
    assert found(database, standing.worker_clocks)["worker clocks"].severity == "fine"


def test_a_region_that_nobody_answers_is_an_error_with_both_ways_out(database: Database) -> None:
    answered(database, 1)
    with database.transaction() as connection:
        regions.move(connection, "marketing", "eu")
    said = found(database, standing.pools)["pool send@eu"]
    assert said.severity == "error" and said.says == "never answered"
    assert "`dripfleet worker send --region eu`" in said.next
    assert "`dripfleet stream set marketing --no-region`" in said.next
    answered(database, 1, "send@eu")
    assert found(database, standing.pools) == {"pools": fine("pools", "all answered within 90 s")}
    with database.transaction() as connection:
        regions.move(connection, "transactional", "us")
    answered(database, 1, "send@us")
    script(database, "DELETE FROM canary WHERE pool = 'send'")
    said = found(database, standing.pools)["pool send"]
    assert said.severity == "warning", "no stream needs it"


def test_servers_that_are_down_hide_nothing(database: Database) -> None:
    told = examine(
        "postgresql://127.0.0.1:1/nothing", "redis://127.0.0.1:1/0", "smtp://127.0.0.1:1"
    )
    down = {finding.check for finding in told if finding.severity == "error"}
    assert {"postgres", "redis", "smtp"} <= down
    checked = {
        f.check for f in examine(database.url, "redis://127.0.0.1:1/0", "smtp://127.0.0.1:1")
    }
    assert {"postgres", "migrations", "pools", "ticks", "clock", "transactions"} <= checked


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([fine("a", "b")], ExitCode.OK),
        ([fine("a", "b"), warning("c", "d", "e")], ExitCode.OK),
        ([error("a", "b", "c"), warning("c", "d", "e")], ExitCode.FINDINGS),
    ],
)
def test_only_errors_are_an_exit_code(
    findings: list[Finding], code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(findings, as_json=True) == code
    rows = json.loads(capsys.readouterr().out)
    assert [row["severity"] for row in rows] == [finding.severity for finding in findings]
    assert all(row["next"] for row in rows if row["severity"] != "fine")


def test_a_segment_run_that_stands_still_or_was_refused_is_told_with_the_next_move(
    database: Database,
) -> None:
    assert found(database, segment_runs.runs)["segment runs"].severity == "fine"
    script(
        database,
        "INSERT INTO segment_run (segment, artifact, stage, noisy, created_at) VALUES"
        " ('value', 'qaoa', 'cut', true, now() - interval '1 hour'),"
        " ('fresh', 'qaoa', 'cut', false, now())",
        "INSERT INTO segment_run (segment, artifact, stage, lease_until, created_at) VALUES"
        " ('held', 'qaoa', 'judge', now() + interval '1 min', now() - interval '1 hour')",
        "INSERT INTO segment_run (segment, artifact, stage, why, ended_at) VALUES"
        " ('shapes', 'qaoa', 'refused', 'nobody bought', now()), ('once', 'qaoa', 'refused', 'no', now())",
        "INSERT INTO segment_run (segment, artifact, stage, ended_at) VALUES ('once', 'qaoa', 'done', now())",
    )
    said = found(database, segment_runs.runs)
    assert set(said) == {"segment value", "segment shapes"}
    assert "stood at stage cut for 1 h" in said["segment value"].says
    assert "quantum-noisy" in said["segment value"].next
    assert said["segment shapes"].says.endswith("was refused: nobody bought")
    assert "segment run shapes" in said["segment shapes"].next


def test_an_experiment_that_waits_for_a_word_is_told_with_the_next_move(database: Database) -> None:
    assert found(database, experiments.standing)["experiments"].severity == "fine"
    ids = seeds.subscribers(database, 1)
    seeds.enroll(database, seeds.sequence(database, FILE), ids)
    script(
        database,
        "INSERT INTO experiment_epoch (experiment_key, shares) VALUES ('trial/split', '{\"plain\": 1}')",
        "INSERT INTO experiment_assignment (experiment_key, subscriber_id, arm, propensity, epoch_id,"
        " enrollment_id, at) SELECT 'trial/split', e.subscriber_id, 'plain', 1, p.id, e.id,"
        " now() - interval '31 days' FROM enrollment e, experiment_epoch p",
        "INSERT INTO experiment_ruling (experiment_key, arm, kind, ruled_by, reason)"
        " VALUES ('trial/split', 'offer', 'stopped', 'guardrail', 'complaint_rate')",
    )
    with database.transaction() as connection:
        stopped, over = experiments.standing(connection)
    assert stopped.says == "the guardrail stopped offer (complaint rate); people go on without it"
    assert over.says == "its 30 days are over, and people are divided still"
    script(
        database,
        "INSERT INTO experiment_ruling (experiment_key, arm, kind, ruled_by, reason)"
        " VALUES ('trial/split', 'plain', 'chosen', 'operator', 'no winner')",
    )
    assert found(database, experiments.standing)["experiments"].severity == "fine"
