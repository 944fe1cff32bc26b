"""An uplift of people in Postgres: learned, offered, scored, and withdrawn when nothing is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

pytest.importorskip("skops", reason="the extra ml is not installed")

from models.session import Database
from schedules.expression import Needs
from schedules.loader import loads, reads
from tasks.churn import runs, scoring, store, trainings, why
from tasks.churn.settings import ChurnSettings
from tasks.errors import Permanent
from tasks.sequence.known import known_of
from tasks.sequence.report import report
from tasks.sequence.unseen import seen, unseen
from tests.live import seeds
from tests.unit.test_experiment_step import HELD
from workers.cli import main
from workers.cli.render import ExitCode

NAME, SPLIT = "uplift:trial", "uplift:trial/split"
PEOPLE = 1200
ASKS = """
key: asks
title: Asks
class: transactional
entry: {manual: true}
steps:
  - {id: ask, branch: [{if: "score('NAME', max_age='24h') > 0.05", next: end}, {else: end}], on_stale: end}
  - {id: end, exit: {reason: completed}}
"""


def do(database: Database, sql: str, **values: Any) -> Any:
    with database.transaction() as connection:
        found = connection.execute(text(sql), values)
        return found.all() if found.returns_rows else found.rowcount


@pytest.fixture
def divided(database: Database) -> Database:
    """Half of the people held out, a month ago; every second one had logged in before."""
    ids = seeds.subscribers(database, PEOPLE)
    seeds.enroll(database, seeds.sequence(database, HELD), ids)
    do(database, "UPDATE sequence_version SET created_at = now() - interval '90 days'")
    do(database, "UPDATE enrollment SET entered_at = now() - interval '30 days'")
    for name, ago, of in (("signup", 80, 1), ("login", 40, 2), ("login", 1, 1)):
        do(database, "INSERT INTO event (subscriber_id, name, occurred_at) SELECT s.id, :name,"
                     " now() - make_interval(days => :ago) FROM subscriber s WHERE s.id % :of = 0",
           name=name, ago=ago, of=of)  # fmt: skip
    return database


def convert(database: Database, planted: bool) -> None:
    """One of ten reaches the goal; of the mailed who had logged in six of ten, where it is planted."""
    holdout = loads(HELD, "t.yaml").holdout
    assert holdout is not None
    do(database, "DELETE FROM conversion")
    found = [
        who
        for who in range(1, PEOPLE + 1)
        if who * 7919 % 1000 < (600 if planted and not who % 2 and not holdout.holds(who) else 100)
    ]
    do(database, "INSERT INTO conversion (enrollment_id, sequence_key, subscriber_id, event_id,"
                 " occurred_at) SELECT e.id, 'trial', e.subscriber_id, e.id, e.entered_at +"
                 " interval '1 hour' FROM enrollment e WHERE e.subscriber_id = ANY(:ids)", ids=found)  # fmt: skip


def trained(database: Database, name: str = NAME, **options: Any) -> Any:
    """As the churn pool does it: asked for, done under a lease, written down."""
    with database.transaction() as connection:
        asked = trainings.ask(connection, name, options)
    trainings.work(database, ChurnSettings())
    with database.transaction() as connection:
        return trainings.look(connection, asked)


def warnings(database: Database, name: str) -> list[str]:
    loaded = reads(ASKS.replace("NAME", name), "asks.yaml")
    with database.snapshot() as connection:
        return [each.message for each in unseen(loaded.sequence, loaded.located, seen(connection))]


def champion(database: Database) -> str | None:
    with database.transaction() as connection:
        return store.champion(connection, NAME)


def told_by(capsys: pytest.CaptureFixture[str], *words: str, code: int = ExitCode.OK) -> Any:
    capsys.readouterr()
    assert main(["churn", *words]) == code
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_a_planted_gain_is_offered_scored_and_withdrawn_when_it_is_gone(
    divided: Database,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", divided.url)
    [told] = warnings(divided, NAME)
    assert "it was never trained; `dripfleet churn train uplift:trial`" in told
    convert(divided, planted=True)
    found = trained(divided)
    assert found.state == "done" and found.said.startswith("promoted: its Qini coefficient is +")
    assert champion(divided) == found.artifact and warnings(divided, NAME) == []
    with divided.transaction() as connection:
        shown = store.load(connection, found.artifact).manifest["report"]
        _, new = runs.open_run(connection, NAME, found.artifact, 500)
    out, talk = told_by(capsys, "uplift", "trial", "--json")
    assert out["champion"] == found.artifact and out["no_gain"] is None and len(out["parts"]) == 5
    assert "score('uplift:trial', max_age='24h') is offered to sequences" in talk
    told_by(capsys, "report", NAME, "--out", str(tmp_path))
    card = (tmp_path / "card.md").read_text()
    assert "Qini coefficient +" in card and (tmp_path / "qini.png").stat().st_size > 1000
    # What was not known when they came in is not learned from: everybody has logged in since.
    assert shown["rows"]["fit"] == PEOPLE and shown["qini"][1] > 0.05 and new
    assert shown["with"]["people"] + shown["without"]["people"] == PEOPLE
    assert scoring.work(divided, lambda: False) == {"ranges": 3, "rows": PEOPLE, "faults": 0}
    with divided.transaction() as connection:
        now = do(divided, "SELECT clock_timestamp() AS now")[0].now
        age = next(iter(loads(ASKS.replace("NAME", NAME), "a.yaml").needs.scores))
        known = known_of(connection, [(who, Needs(scores=frozenset({age}))) for who in (1, 2)], now)
    assert all(float(known[who].scores[age]) > 0.1 for who in (1, 2))
    lines = why.explain(divided, NAME, 2, 3)["lines"]
    assert "what the mails of trial add to the probability of the goal" in lines[1]
    # A range is being written, and another training finds nothing any more.
    with divided.transaction() as connection:
        runs.open_run(connection, NAME, found.artifact, 500)
        mine = runs.claim(connection)
    assert mine is not None
    convert(divided, planted=False)
    with divided.transaction() as connection:
        assert trainings.ask_all(connection) == 1
    trainings.work(divided, ChurnSettings())
    [row] = do(divided, "SELECT said, artifact FROM score_training ORDER BY id DESC LIMIT 1")
    assert row.said.startswith("not promoted: no gain is shown by uplift:trial")
    assert f"{found.artifact} and its scores are withdrawn" in row.said
    assert champion(divided) is None and not do(divided, "SELECT FROM score")
    with divided.transaction() as connection:
        assert not runs.hold(connection, mine)
        # Who had looked for champions before it was withdrawn opens a run all the same.
        runs.open_run(connection, NAME, found.artifact, 500)
    assert scoring.work(divided, lambda: False)["rows"] == 0
    assert not do(divided, "SELECT FROM score")
    do(divided, "UPDATE score_run SET state = 'failed', ended_at = now() WHERE state = 'open'")
    out, talk = told_by(capsys, "uplift", "trial", code=ExitCode.FINDINGS)
    assert out["champion"] is None and "nobody can branch on it" in talk
    with divided.snapshot() as connection:
        said = report(connection, "trial").uplift
    assert said is not None and said.startswith("uplift:trial: no gain is shown (Qini coefficient")
    [told] = warnings(divided, NAME)
    assert "missing for everybody, who so take the way of a stale score: no gain is shown" in told
    with pytest.raises(Permanent, match="is not promoted: no gain is shown"):
        with divided.transaction() as connection:
            store.promote(connection, row.artifact, "I want it")
    # A schedule asks for it again all the same.
    with divided.transaction() as connection:
        assert trainings.ask_all(connection) == 1


def test_of_an_experiment_it_is_learned_when_that_has_ended(divided: Database) -> None:
    """Arms by the parity of id // 2; those who came before the window is over do not count."""
    do(divided, "INSERT INTO experiment_epoch (experiment_key, shares)"
                " VALUES ('trial/split', '{\"plain\": 1, \"offer\": 1}')")  # fmt: skip
    do(divided, "INSERT INTO experiment_assignment (experiment_key, subscriber_id, arm, propensity,"
                " epoch_id, enrollment_id, at) SELECT 'trial/split', e.subscriber_id,"
                " CASE WHEN e.subscriber_id / 2 % 2 = 0 THEN 'plain' ELSE 'offer' END, 0.5,"
                " (SELECT max(id) FROM experiment_epoch), e.id, e.entered_at FROM enrollment e"
                " WHERE NOT e.subscriber_id % 5 = 0")  # fmt: skip
    do(divided, "INSERT INTO conversion (enrollment_id, sequence_key, subscriber_id, event_id,"
                " occurred_at) SELECT a.enrollment_id, 'trial', a.subscriber_id, 1, a.at + interval"
                " '1 hour' FROM experiment_assignment a WHERE a.subscriber_id * 7919 % 1000 <"
                " CASE WHEN a.arm = 'offer' AND a.subscriber_id % 2 = 0 THEN 500 ELSE 150 END")  # fmt: skip
    # Its thirty days are just not over.
    do(divided, "UPDATE experiment_assignment SET at = at + interval '1 hour'")
    do(divided, "UPDATE conversion SET occurred_at = occurred_at + interval '1 hour'")
    found = trained(divided, SPLIT)
    assert (found.state, found.artifact) == ("failed", None)
    assert "experiment trial/split is not over" in found.said and "experiment stop" in found.said
    do(divided, "INSERT INTO experiment_ruling (experiment_key, arm, kind, ruled_by, reason)"
                " VALUES ('trial/split', 'plain', 'chosen', 'operator', 'over')")  # fmt: skip
    found = trained(divided, SPLIT)
    assert found.said.startswith("promoted: ")
    with divided.transaction() as connection:
        manifest = store.load(connection, found.artifact).manifest
    assert manifest["report"]["arms"].startswith("arm offer of trial/split, beside arm plain")
    assert manifest["report"]["rows"]["fit"] == PEOPLE * 4 // 5
    assert trained(divided, f"{SPLIT}/offer", promote=False).said.startswith("not promoted, by the")
    assert "'best' is none of them" in trained(divided, f"{SPLIT}/best").said


def test_what_carries_no_uplift_is_refused_in_a_sentence(divided: Database) -> None:
    assert "no sequence 'tril' is published" in trained(divided, "uplift:tril").said
    assert "there is no experiment 'trial/splt'" in trained(divided, "uplift:trial/splt").said
    assert "0 of" in trained(divided).said and "at least 100 people" in trained(divided).said
    convert(divided, planted=True)
    do(divided, "UPDATE enrollment SET entered_at = now() - interval '13 days'")
    assert "nobody who came in has an event" in trained(divided).said
    assert "no other --kind" in trained(divided, kinds=["mlp"]).said
    bare = HELD.replace("holdout: {percent: 50, salt: half}\n", "")
    do(divided, "UPDATE sequence_version SET definition = CAST(:d AS jsonb)",
       d=loads(bare, "t.yaml").canonical())  # fmt: skip
    assert "has no holdout: what its mails add is learned from those who" in trained(divided).said
    assert champion(divided) is None
