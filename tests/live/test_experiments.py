"""Experiments in a running fleet: who is in which arm is on record, and harm stops an arm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from schedules.loader import loads
from tasks.send.render import Bundle
from tasks.sequence import allocation, entry, harm
from tasks.sequence.explain import explain
from tests.bench.daily_reports import lived
from tests.live import seeds
from tests.live.fleet import Fleet
from tests.unit.test_experiment_step import FILE, HELD
from workers.cli import main
from workers.cli.render import ExitCode

BUNDLES = {
    name: Bundle(name, {"subject.txt": f"A mail of {name}", "body.txt": "Hi."})
    for name in ("test/plain", "test/offer")
}


def published(database: Database, text_: str = FILE, people: int = 40) -> list[int]:
    ids = seeds.subscribers(database, people)
    seeds.enroll(database, seeds.sequence(database, text_, BUNDLES), ids)
    return ids


def rows(database: Database, sql: str, **values: Any) -> list[Any]:
    with database.transaction() as connection:
        done = connection.execute(text(sql), values)
        return list(done) if done.returns_rows else []


def arms(database: Database) -> dict[int, str]:
    found = rows(database, "SELECT subscriber_id, arm FROM experiment_assignment")
    return {row.subscriber_id: row.arm for row in found}


def test_each_gets_the_mail_of_their_arm_and_the_arm_is_on_record(fleet: Fleet) -> None:
    ids = published(fleet.database)
    fleet.scan()
    fleet.send()
    drawn = arms(fleet.database)
    assert set(drawn) == set(ids) and set(drawn.values()) == {"plain", "offer"}
    sent = rows(fleet.database, "SELECT subscriber_id, template FROM message WHERE state = 'sent'")
    assert {row.subscriber_id: row.template for row in sent} == {
        who: f"test/{arm}" for who, arm in drawn.items()
    }
    assert len(fleet.sink.lines()) == len(ids)
    found = rows(fleet.database, "SELECT DISTINCT a.propensity, e.shares, a.experiment_key"
                 " FROM experiment_assignment a JOIN experiment_epoch e ON e.id = a.epoch_id")  # fmt: skip
    assert [tuple(row) for row in found] == [(0.5, {"plain": 1, "offer": 1}, "trial/split")]
    with fleet.database.transaction() as connection:
        told = [line.text for line in explain(connection, ids[0], "trial").lines]
    assert f"split: arm {drawn[ids[0]]} of the experiment (one of 2 arms, by lot)" in told


def test_an_arm_stays_through_another_entry_and_an_edit_of_the_weights(fleet: Fleet) -> None:
    again = FILE.replace("manual: true", "manual: true, reentry: {policy: concurrent}")
    ids = published(fleet.database, again)
    fleet.scan()
    drawn = arms(fleet.database)
    # Everybody new comes into one arm from now on; whoever has an arm keeps it.
    edited = loads(
        again.replace("plain: 50, offer: 50", "plain: 0, offer: 1"), "t.yaml"
    ).canonical()
    rows(fleet.database, "UPDATE sequence_version SET definition = CAST(:d AS jsonb)", d=edited)
    fleet.planner._definition.cache_clear()
    new = rows(fleet.database, "INSERT INTO subscriber (address, address_hmac)"
               " VALUES ('new@example.com', sha256('new')) RETURNING id")[0].id  # fmt: skip
    seeds.enroll(fleet.database, "trial", [new])
    rows(fleet.database, "INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id,"
         " entry_no, due_at) SELECT 'trial', 1, unnest(CAST(:ids AS bigint[])), 2, now()", ids=ids)  # fmt: skip
    fleet.scan()
    assert arms(fleet.database) == {**drawn, new: "offer"}
    mails = rows(fleet.database, "SELECT subscriber_id, count(*) AS n, min(template) AS one,"
                 " max(template) AS other FROM message GROUP BY 1")  # fmt: skip
    for row in mails:
        if row.subscriber_id != new:
            assert (row.n, row.one, row.other) == (2, *[f"test/{drawn[row.subscriber_id]}"] * 2)
    epochs = rows(fleet.database, "SELECT shares FROM experiment_epoch ORDER BY id")
    assert [row.shares for row in epochs] == [{"plain": 1, "offer": 1}, {"offer": 1}]


def test_who_is_held_out_is_in_no_arm(fleet: Fleet) -> None:
    ids = published(fleet.database, HELD)
    fleet.scan()
    holdout = loads(HELD, "t.yaml").holdout
    assert holdout is not None
    assert set(arms(fleet.database)) == {who for who in ids if not holdout.holds(who)}


def test_an_arm_that_people_complain_of_is_stopped_and_assignment_goes_on_without_it(
    fleet: Fleet,
) -> None:
    published(fleet.database, people=60)
    fleet.scan()
    fleet.send()
    assert harm.look(fleet.database) == 0
    bad = [who for who, arm in arms(fleet.database).items() if arm == "offer"][:3]
    rows(fleet.database, "UPDATE subscriber SET stopped_at = now(), stopped_reason = 'complaint'"
         " WHERE id = ANY(:bad)", bad=bad)  # fmt: skip
    assert harm.look(fleet.database) == 1 and harm.look(fleet.database) == 0
    [row] = rows(
        fleet.database, "SELECT arm, kind, ruled_by, reason, detail FROM experiment_ruling"
    )
    assert tuple(row)[:4] == ("offer", "stopped", "guardrail", "complaint_rate")
    assert row.detail["events"] == 3 and row.detail["limit"] == 0.001
    before = arms(fleet.database)
    more = [row.id for row in rows(fleet.database, "INSERT INTO subscriber (address, address_hmac)"
            " SELECT i || '@example.org', sha256(i::text::bytea) FROM generate_series(1, 20) i"
            " RETURNING id")]  # fmt: skip
    seeds.enroll(fleet.database, "trial", more)
    fleet.scan()
    after = arms(fleet.database)
    assert {after[who] for who in more} == {"plain"}
    assert {who: after[who] for who in before} == before


def convert(database: Database, share: dict[str, float], ago: str = "0 s") -> None:
    """Of each arm that share reaches the goal now, those who came first; as if it was `ago`."""
    rows(database, "INSERT INTO conversion (enrollment_id, sequence_key, subscriber_id, event_id,"
         " occurred_at, value) SELECT r.enrollment_id, 'trial', r.subscriber_id, r.n,"
         " now() - CAST(:ago AS interval), 10 FROM (SELECT a.*, row_number() OVER"
         " (PARTITION BY arm ORDER BY subscriber_id) AS n, count(*) OVER (PARTITION BY arm) AS of"
         " FROM experiment_assignment a) r"
         " WHERE r.n <= r.of * CAST(CAST(:share AS jsonb) ->> r.arm AS numeric)",
         share=json.dumps(share), ago=ago)  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = ExitCode.OK) -> Any:
    capsys.readouterr()
    assert main(list(arguments)) == code
    told = capsys.readouterr()
    return json.loads(told.out) if told.out else told.err


@pytest.fixture
def at(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    return database


SMALL = FILE.replace("min_per_arm: 500", "min_per_arm: 100, effect: 0.5")


def test_a_report_says_who_is_better_and_promoting_it_gives_it_to_everybody(
    at: Database, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    published(at, SMALL, people=400)
    fleet.scan()
    found = run(capsys, "experiment", "report", "trial", "--json")
    assert found["verdict"]["answer"] == "undecided" and found["needed"] is None
    convert(at, {"plain": 0.2, "offer": 0.5})
    found = run(capsys, "experiment", "report", "trial/split", "--json")
    assert (found["verdict"]["answer"], found["verdict"]["arm"]) == ("winner", "offer")
    assert "`dripfleet experiment promote trial/split offer` gives it to all" in found["said"]
    drawn = list(arms(at).values())
    for arm in found["arms"]:
        n = drawn.count(arm["arm"])
        assert (arm["people"], arm["assigned"], arm["share"]) == (n, n, 0.5)
        assert arm["converted"] == int(n * {"plain": 0.2, "offer": 0.5}[arm["arm"]])
        assert float(arm["value"]) == 10 * arm["converted"]
    [one] = found["verdict"]["comparisons"]
    assert one["adjusted"] < 0.05 and 0 < one["low"] < 0.3 < one["high"] and one["chance"] > 0.99
    run(capsys, "experiment", "promote", "trial", "offer", "--reason", "better")
    more = rows(at, "INSERT INTO subscriber (address, address_hmac) SELECT i || '@example.org',"
                " sha256(i::text::bytea) FROM generate_series(1, 9) i RETURNING id")  # fmt: skip
    seeds.enroll(at, "trial", [row.id for row in more])
    fleet.scan()
    mails = rows(at, "SELECT DISTINCT template FROM message WHERE subscriber_id > :old",
                 old=max(row.id for row in more) - 9)  # fmt: skip
    assert [row.template for row in mails] == ["test/offer"] and len(arms(at)) == 400
    assert [row["chosen"] for row in run(capsys, "experiment", "list", "--json")] == ["offer"]
    told = run(
        capsys, "experiment", "promote", "trial", "plain", "--reason", "x", code=ExitCode.USAGE
    )
    assert "`experiment resume` takes it back" in told
    assert "took back 1 ruling" in run(capsys, "experiment", "resume", "trial")
    told = run(
        capsys, "experiment", "stop", "trial", "--arm", "ofer", "--reason", "x", code=ExitCode.USAGE
    )
    assert "did you mean 'offer'?" in told
    told = run(capsys, "experiment", "report", "trail/split", code=ExitCode.FAULT)
    assert "did you mean 'trial/split'?" in told


def test_shares_that_are_wrong_and_a_goal_reached_before_are_said_and_not_counted(
    at: Database, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    published(at, SMALL, people=300)
    fleet.scan()
    convert(at, {"plain": 0.1, "offer": 0.1}, ago="1 hour")
    found = run(capsys, "experiment", "report", "trial", "--json")
    assert [arm["converted"] for arm in found["arms"]] == [0, 0]
    assert all(
        arm["people"] == arm["assigned"] - int(arm["assigned"] * 0.1) for arm in found["arms"]
    )
    # A fault loses the people of one arm.
    rows(at, "DELETE FROM experiment_assignment WHERE arm = 'offer' AND subscriber_id % 3 = 0")
    found = run(capsys, "experiment", "report", "trial", "--json", code=ExitCode.FINDINGS)
    assert found["verdict"]["answer"] == "sample_ratio" and found["verdict"]["comparisons"] == []
    assert "look for what keeps people of one arm from being written down" in found["said"]


def test_planned_looks_count_what_was_known_when_they_were_due(
    at: Database, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = "min_per_arm: 50, test: pocock, looks: 2, people: 100"
    published(
        at, FILE.replace("test: sequential", planned).replace("min_per_arm: 500, ", ""), people=160
    )
    fleet.scan()
    rows(at, "UPDATE experiment_assignment SET at = at - interval '2 days'"
             " + subscriber_id * interval '1 minute'")  # fmt: skip
    convert(at, {"plain": 0.2, "offer": 0.6})
    # Of 200 people the first look is due at the hundredth; nothing had been reached by then.
    found = run(capsys, "experiment", "report", "trial", "--json")
    [one] = found["verdict"]["comparisons"]
    assert [(look["number"], look["z"]) for look in one["looks"]] == [(1, 0)]
    assert one["looks"][0]["bound"] == pytest.approx(2.157, abs=2e-3) and one["p"] is None
    rows(at, "UPDATE conversion SET at = now() - interval '3 days'")
    found = run(capsys, "experiment", "report", "trial", "--json")
    assert found["verdict"]["arm"] == "offer"


def test_how_many_it_takes_is_said_before_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "experiment", "plan", "--base", "0.1", "--lift", "0.1", "--per-day", "1000")
    by_test = {row["test"].split(",")[0]: row["per_arm"] for row in found}
    assert by_test["one look at the end"] == 14_751 and found[0]["days"] == 30
    assert 14_751 < by_test["obrien_fleming"] < by_test["pocock"] < by_test["sequential"] < 26_000
    told = run(capsys, "experiment", "plan", "--base", "1.5", "--lift", "0.1", code=ExitCode.USAGE)
    assert "expected two different ones between 0 and 1" in told


def test_weights_move_to_the_better_arm_and_the_chance_of_each_is_on_record(
    at: Database, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    published(at, SMALL.replace("metric: goal", "allocate: thompson"), people=500)
    fleet.scan()
    assert allocation.move(at) == 1  # nobody has converted yet: both are as likely
    rows(at, "DELETE FROM experiment_allocation")
    convert(at, {"plain": 0.1, "offer": 0.4})
    rows(at, "UPDATE experiment_assignment SET at = at - interval '1 hour'")
    assert allocation.move(at) == 1 and allocation.move(at) == 0
    more = rows(at, "INSERT INTO subscriber (address, address_hmac) SELECT i || '@example.org',"
                " sha256(i::text::bytea) FROM generate_series(1, 200) i RETURNING id")  # fmt: skip
    seeds.enroll(at, "trial", [row.id for row in more])
    fleet.scan()
    new = rows(at, "SELECT a.arm, a.propensity, e.shares, count(*) AS n FROM experiment_assignment a"
               " JOIN experiment_epoch e ON e.id = a.epoch_id WHERE a.subscriber_id >= :first"
               " GROUP BY 1, 2, 3", first=more[0].id)  # fmt: skip
    told = {row.arm: (row.propensity, row.n) for row in new}
    assert told["offer"][0] > 0.85 and told["offer"][1] > 150
    assert sum(p for p, _ in told.values()) == pytest.approx(1)
    found = run(capsys, "experiment", "report", "trial", "--json")
    assert found["allocate"] == "thompson" and found["verdict"]["arm"] == "offer"
    assert sum(arm["share"] for arm in found["arms"]) == pytest.approx(1)


def test_the_planner_looks_after_experiments_and_goes_on_where_that_fails(
    at: Database, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(at, people=60)
    fleet.scan()
    fleet.send()
    rows(at, "UPDATE subscriber s SET stopped_at = now(), stopped_reason = 'complaint'"
             " FROM experiment_assignment a WHERE a.subscriber_id = s.id AND a.arm = 'plain'")  # fmt: skip
    monkeypatch.setattr(entry, "database", lambda: at)
    monkeypatch.setattr(entry, "_looked_after", float("-inf"))
    entry._look_after_experiments()
    ruled = rows(at, "SELECT arm FROM experiment_ruling")
    assert [row.arm for row in ruled] == ["plain"]
    # Once a minute is enough.
    rows(at, "DELETE FROM experiment_ruling")
    entry._look_after_experiments()
    assert not rows(at, "SELECT FROM experiment_ruling")
    monkeypatch.setattr(entry, "_looked_after", float("-inf"))
    rows(at, "ALTER TABLE experiment_assignment RENAME TO elsewhere")
    entry._look_after_experiments()


def test_a_report_counts_as_people_came_on_every_day(database: Database) -> None:
    """Each verdict is held against one of counts that were kept; `tests.bench.daily_reports` runs many."""
    ids = seeds.subscribers(database, 600)
    answers = list(lived(database, "equal", ids, (0.2, 0.2), looks=5, seed=1))
    assert answers == ["undecided"] * 5
    assert "winner" in lived(database, "gain", ids, (0.1, 0.4), looks=5, seed=1, effect=0.5)


def test_value_per_person_stands_beside_the_rates(
    at: Database, fleet: Fleet, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    published(at, SMALL, people=500)
    fleet.scan()
    convert(at, {"plain": 0.5, "offer": 0.5})
    rows(at, "UPDATE conversion c SET value = CASE WHEN c.event_id = 1 THEN 1e6 ELSE 10 + c.event_id % 5"
             " + CASE WHEN a.arm = 'offer' THEN 10 ELSE 0 END END FROM experiment_assignment a"
             " WHERE a.enrollment_id = c.enrollment_id")  # fmt: skip
    page = tmp_path / "split.html"
    found = run(capsys, "experiment", "report", "trial", "--json", "--html", str(page))
    [one] = found["values"]
    # Two mad values count as the highest hundredth, and the arms differ by about five a person.
    assert (one["arm"], one["against"]) == ("offer", "plain") and one["most"] < 30
    assert 0 < one["low"] < 5 < one["high"] < 10 and one["adjusted"] < 0.05
    assert found["verdict"]["answer"] == "undecided" and one["said"] is None
    assert "Value per person" in page.read_text()
    rows(at, "DELETE FROM conversion WHERE event_id > 90")
    [one] = run(capsys, "experiment", "report", "trial", "--json")["values"]
    assert one["difference"] is None and one["said"].startswith("90 of offer and 90 of plain have")
