"""Scores of a real book: CDNOW in Postgres, trained on, scored, resumed, rolled back."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
import redis
from sqlalchemy import text

pytest.importorskip("skops", reason="the extra ml is not installed")

from models.session import Database
from tasks.audience import rfm
from tasks.audience.address import address_hmac
from tasks.churn import (
    book,
    bulk,
    entry,
    features,
    requests,
    runs,
    scoring,
    store,
    training,
    trainings,
    watch,
    why,
)
from tasks.churn.artifact import Refused
from tasks.churn.contest import TooLittle
from tasks.churn.features import SeesTheFuture
from tasks.churn.kinds import CHURN, CLV, ENGAGEMENT, KINDS, named
from tasks.churn.settings import ChurnSettings
from tasks.churn.training import Options
from tasks.errors import Permanent
from tasks.sequence.unseen import OURS
from tests.live import cdnow, seeds
from workers.celery import build
from workers.settings import RedisSettings

QUICK = Options(kinds=("logistic",))
LAST = dt.datetime(1998, 6, 30, tzinfo=dt.UTC)
CUTOFF = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
SETTINGS = ChurnSettings()


def test_who_checks_a_sequence_knows_the_scores_that_are_made_here() -> None:
    assert KINDS.keys() == OURS


@pytest.fixture(scope="module")
def cdnow_url(postgres_url: str, _template: str) -> Iterator[str]:
    """CDNOW's 23 570 customers, two champions and a challenger, to be copied and never written."""
    name, base = f"cdnow_{uuid4().hex[:8]}", postgres_url.rpartition("/")[0]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_template}")
    filled = Database(f"{base}/{name}")
    cdnow.fill(filled)
    for kind in (CHURN, CLV):
        trainings.train(filled, kind, {"kinds": ["logistic"], "promote": True}, SETTINGS)
    # The operator's word holds against the rule, which would have promoted it.
    challenger = {"kinds": ["logistic"], "seed": 1, "most": 8000, "promote": False}
    assert not trainings.train(filled, CHURN, challenger, SETTINGS).promoted
    filled.close()
    yield f"{base}/{name}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def shop(postgres_url: str, cdnow_url: str) -> Iterator[Database]:
    """A copy of it for one test."""
    name, (base, _, source) = f"shop_{uuid4().hex[:8]}", cdnow_url.rpartition("/")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {source}")
    copied = Database(f"{base}/{name}")
    yield copied
    copied.close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def ask(database: Database, sql: str, **values: Any) -> Any:
    with database.transaction() as connection:
        found = connection.execute(text(sql), values)
        return found.all() if found.returns_rows else None


def champion(database: Database, name: str = CHURN) -> str:
    with database.transaction() as connection:
        found = store.champion(connection, name)
    assert found is not None
    return found


def challenger(database: Database) -> str:
    with database.transaction() as connection:
        (found,) = (m.id for m in store.models(connection, CHURN) if not m.champion)
    return found


def opened(database: Database, name: str = CHURN, size: int = 5000) -> int:
    with database.transaction() as connection:
        return runs.open_run(connection, name, champion(database, name), size)[0]


def looked(database: Database, run: int) -> runs.Progress:
    with database.transaction() as connection:
        return runs.progress(connection, run)


def never() -> bool:
    return False


def test_features_are_those_of_a_slow_count_by_hand(database: Database) -> None:
    chance, ids = random.Random(3), seeds.subscribers(database, 30)
    kinds = ["purchase", features.OPENED, features.CLICKED, features.LOGIN, "subscription.started"]
    told: dict[int, list[tuple[str, float, dict[str, Any]]]] = {each: [] for each in ids}
    with database.raw() as raw:
        for _ in range(900):
            name, days = chance.choice(kinds), round(chance.uniform(-30, 400), 3)
            properties: dict[str, Any] = {}
            if name == "purchase":
                properties = {"amount": chance.choice([12.5, "7.25", "free"])}
            elif name.startswith("email."):
                properties = chance.choice([{}, {"machine": True}, {"machine": "true"}])
            elif name.startswith("sub"):
                properties = {"plan": chance.choice(["pro", "free", "other"])}
            who = chance.choice(ids[:-1])  # the last one never did anything
            if days > 0 and "machine" not in properties:
                told[who].append((name, days, properties))
            raw.execute(
                "INSERT INTO event (subscriber_id, name, occurred_at, properties)"
                " VALUES (%s, %s, %s, %s)",
                (who, name, CUTOFF - dt.timedelta(days=days), json.dumps(properties)),
            )
        rows = book.features_of(
            raw, named(ENGAGEMENT), CUTOFF, ids[0], ids[-1] + 1, ["pro", "free"]
        )
    assert rows.ids.tolist() == [each for each in ids if told[each]]
    for who, (_, row) in zip(rows.ids.tolist(), rows.table.iterrows(), strict=True):
        bought = sorted(d for n, d, _ in told[who] if n == "purchase")
        clicks = [d for n, d, _ in told[who] if n == features.CLICKED]
        spent = sum(
            float(p["amount"]) for n, _, p in told[who] if n == "purchase" and p["amount"] != "free"
        )
        plans = sorted((d, p["plan"]) for n, d, p in told[who] if n.startswith("sub"))
        assert row["frequency"] == len(bought) and row["monetary"] == pytest.approx(spent)
        assert row["recency_days"] == pytest.approx(bought[0]) if bought else True
        assert row["purchases_91d"] == sum(d <= 91 for d in bought)
        assert row["known_days"] == pytest.approx(max(d for _, d, _ in told[who]))
        assert row["active_days_ago"] == pytest.approx(min(d for _, d, _ in told[who]))
        decayed = sum(0.5 ** (d / features.HALF_LIFE) for d in clicks)
        assert row["clicks_decayed"] == pytest.approx(decayed)
        if clicks:
            assert row["click_days_ago"] == pytest.approx(min(clicks))
        else:
            assert np.isnan(row["click_days_ago"])
        newest = plans[0][1] if plans else None
        assert (row["plan"] if row["plan"] in ("pro", "free") else "other") == (newest or "other")
        if len(bought) > 1:
            gap = (bought[-1] - bought[0]) / (len(bought) - 1)
            assert row["gap_days"] == pytest.approx(gap, rel=1e-6)


def test_recency_frequency_and_monetary_are_those_that_segments_read(shop: Database) -> None:
    cutoff = dt.datetime(1998, 3, 1, tzinfo=dt.UTC)
    with shop.raw() as raw:
        rows = book.features_of(raw, named(CHURN), cutoff, 1, 2000, [])
        plain = bulk.read(raw, rfm.rfm_sql(), rfm.parameters(cutoff, 1, 2000), rfm.COLUMNS)
    assert (rows.ids == plain["subscriber_id"]).all()
    for name in rfm.AGGREGATES:
        assert np.allclose(rows.table[name], plain[name]), name


def test_a_canary_from_the_future_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that lost its cutoff trains nothing: the catalogue's ages cannot be below zero."""
    (one,) = seeds.subscribers(database, 1)
    ask(
        database,
        "INSERT INTO event (subscriber_id, name, occurred_at) VALUES (:id, 'purchase', :at)",
        id=one,
        at=CUTOFF + dt.timedelta(days=3),
    )
    with database.raw() as raw:
        assert len(book.features_of(raw, named(CHURN), CUTOFF, one, one + 1, []).ids) == 0
        monkeypatch.setattr(rfm, "WINDOW", "e.subscriber_id >= %(first)s AND %(end)s > 0")
        with pytest.raises(SeesTheFuture, match=r"'recency_days' sees 3\.00 days past its cutoff"):
            book.features_of(raw, named(CHURN), CUTOFF, one, one + 1, [])


def test_the_purchase_histories_are_the_published_ones(shop: Database) -> None:
    with shop.raw() as raw:
        cutoff = dt.datetime(1997, 9, 30, 12, tzinfo=dt.UTC)
        rows = book.histories_of(raw, cutoff, 1, 23_571)
    at = {int(id): n for n, id in enumerate(rows.ids)}
    for published in cdnow.sample():
        row = rows.table.iloc[at[int(published["customer"])]]
        assert row["x"] == int(published["x"])
        assert row["t_x"] / 7 == pytest.approx(float(published["t_x"]), abs=0.006)
        assert row["T"] / 7 == pytest.approx(float(published["T"]), abs=0.006)


def test_on_cdnow_a_model_of_a_tenth_of_them_foretells_the_others_later(shop: Database) -> None:
    """Fitted to the published 1/10 sample, tested on all others at a later cutoff."""
    sample = np.array([int(row["customer"]) for row in cdnow.sample()])

    def parts(ids: Any, part: str) -> Any:
        inside = np.isin(ids, sample)
        if part == training.TEST:
            return ~inside
        return inside & ((book.hashed(ids) < 0.8) == (part == training.FIT))

    trained = training.train(shop, CHURN, QUICK, parts=parts)
    report = trained.artifact.manifest["report"]
    reached, rule = report["kinds"]["logistic"]["auc"], report["baselines"]["recency rule"]["auc"]
    assert report["rows"]["test"] == 23_570 - 2357
    assert reached[0] >= 0.79 and reached[0] > rule[0]
    assert report["over_rule"][1] > 0, "the paired interval lies above the recency rule"
    assert "BG/NBD expected purchases" in report["baselines"] and report["majority"] > 0.8
    assert trained.verdict.promote
    assert trained.artifact.manifest["cutoff"] > trained.artifact.manifest["fitted_at"][-1]


def test_no_customer_is_in_two_parts_and_no_label_reaches_into_the_test() -> None:
    ids = np.arange(1, 100_000)
    parts = [training.by_hash(ids, p) for p in (training.FIT, training.CALIBRATE, training.TEST)]
    assert np.sum(parts, axis=0).tolist() == [1] * len(ids)
    assert [round(float(p.mean()), 2) for p in parts] == [0.6, 0.15, 0.25]
    when = training.times(LAST - dt.timedelta(days=545), LAST, dt.timedelta(days=91))
    assert max(when.fits) + dt.timedelta(days=91) <= when.test
    assert when.test + dt.timedelta(days=91) == when.end == LAST
    with pytest.raises(TooLittle, match="events reach back 200 days: at least 228 were expected"):
        training.times(LAST - dt.timedelta(days=200), LAST, dt.timedelta(days=91))


def test_lifetime_value_errs_less_than_going_on_as_before(shop: Database) -> None:
    with shop.transaction() as connection:
        report = store.load(connection, champion(shop, CLV)).manifest["report"]
    assert report["error_over_rule"][2] < 0
    assert report["total_foretold"] == pytest.approx(report["total_spent"], rel=0.2)


def test_a_run_scores_everybody_once_with_artifact_and_time(shop: Database) -> None:
    run = opened(shop)
    assert opened(shop) == run, "a second request goes on with the open one"
    told = scoring.work(shop, never)
    now = looked(shop, run)
    assert (now.state, now.done, now.rows) == ("done", now.ranges, 23_570) and now.ranges == 5
    assert told == {"ranges": 5, "rows": 23_570, "faults": 0}
    rows = ask(
        shop,
        "SELECT artifact, scored_at, count(*), min(value), max(value) FROM score GROUP BY 1, 2",
    )
    assert [tuple(row)[:3] for row in rows] == [(champion(shop), now.cutoff, 23_570)]
    assert 0 <= rows[0][3] < rows[0][4] <= 1


def test_a_killed_range_is_taken_up_again_and_a_stale_one_writes_nothing(shop: Database) -> None:
    run = opened(shop)
    with shop.transaction() as connection:
        held = runs.claim(connection)
    assert held is not None
    scoring.work(shop, never)
    assert looked(shop, run).state == "open", "one range is still leased to whoever was killed"
    ask(shop, "UPDATE score_range SET lease_until = clock_timestamp() WHERE NOT done")
    scoring.work(shop, never)
    assert looked(shop, run).state == "done"
    before = ask(shop, "SELECT subscriber_id, value, artifact, scored_at FROM score ORDER BY 1")
    # Whoever was thought dead wakes up.
    assert scoring.score_range(shop, held) is None
    assert (
        ask(shop, "SELECT subscriber_id, value, artifact, scored_at FROM score ORDER BY 1")
        == before
    )


def test_a_score_of_later_is_not_taken_back_by_a_run_of_before(shop: Database) -> None:
    opened(shop)
    assert scoring.score_one(shop, CHURN, 1) is None
    later = ask(shop, "SELECT value, scored_at FROM score WHERE subscriber_id = 1")
    scoring.work(shop, never)
    assert ask(shop, "SELECT value, scored_at FROM score WHERE subscriber_id = 1") == later


def test_three_faults_of_a_range_end_the_run_and_scores_of_before_stay(
    shop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring.score_one(shop, CHURN, 7)
    before = ask(shop, "SELECT * FROM score")
    run = opened(shop)

    def broken(*_: Any) -> Any:
        raise ValueError("column 'overdue' missing: the model was fitted to 19 columns")

    monkeypatch.setattr(scoring, "rows_of", broken)
    scoring.work(shop, never)
    now = looked(shop, run)
    assert now.state == "failed" and "3 times: ValueError: column 'overdue' missing" in str(
        now.reason
    )
    assert ask(shop, "SELECT * FROM score") == before


def test_a_tick_opens_a_run_of_every_champion_and_rings_a_canvas_of_its_ranges(
    shop: Database, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "database", lambda: shop)
    monkeypatch.setattr(entry, "settings", lambda: ChurnSettings(range=5000))
    app = build(None, RedisSettings.model_validate({"redis_url": valkey_url}))
    assert entry.score.run() == {"runs": 2, "rung": 10}
    app.close()
    with redis.Redis.from_url(valkey_url) as client:
        bells = [json.loads(each) for each in client.lrange("churn", 0, -1)]
    assert [bell["headers"]["task"] for bell in bells] == ["churn.range"] * 10
    assert scoring.work(shop, never)["ranges"] == 10
    rows = ask(shop, "SELECT name, count(*) FROM score GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in rows] == [("churn", 23_570), ("clv", 23_570)]


def test_a_single_request_is_answered_or_says_why_not(shop: Database) -> None:
    ask(
        shop,
        "INSERT INTO subscriber (id, address, address_hmac) VALUES (99999, 'n@example.com', 'x')",
    )
    for each in (5, 99_999):
        requests.ask(shop, CHURN, each)
    assert requests.answered(shop, CHURN, 5).waiting
    assert scoring.answer_requests(shop) == 2
    found = requests.answered(shop, CHURN, 5)
    assert not found.waiting and found.artifact == champion(shop) and 0 < found.value < 1
    assert requests.answered(shop, CHURN, 99_999).said == "never bought"
    assert scoring.answer_requests(shop) == 0


def test_the_newest_request_is_answered_first(shop: Database) -> None:
    for each in (5, 6, 7):
        requests.ask(shop, CHURN, each)
    assert scoring.answer_requests(shop, most=1) == 1
    assert not requests.answered(shop, CHURN, 7).waiting, "a segment does not stand before it"


def test_promotion_and_rollback_move_the_pointer_and_are_written_down(shop: Database) -> None:
    first, second = champion(shop), challenger(shop)
    with shop.transaction() as connection:
        assert store.promote(connection, second, "a try") == first
    assert champion(shop) == second != first
    with shop.transaction() as connection:
        assert store.rollback(connection, CHURN) == (second, first)
    assert champion(shop) == first
    with pytest.raises(
        Permanent, match="is the first champion of 'churn': there is nothing before"
    ):
        with shop.transaction() as connection:
            store.rollback(connection, CHURN)
    rows = ask(
        shop, "SELECT artifact, before, why FROM score_promotion WHERE name = 'churn' ORDER BY id"
    )
    assert [(r.artifact, r.before) for r in rows] == [
        (first, None),
        (second, first),
        (first, second),
    ]
    assert rows[2].why == "rollback"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x80\x04\x95.", "is corrupt"),
        (None, "is corrupt: its bytes do not have the hash"),
    ],
)
def test_a_corrupt_or_pickled_challenger_is_refused_and_the_champion_stays(
    shop: Database, data: bytes | None, why: str
) -> None:
    first, second = champion(shop), challenger(shop)
    broken = data if data is not None else b"junk"
    ask(shop, "UPDATE score_artifact SET data = :d WHERE id = :id", d=broken, id=second)
    with pytest.raises(Refused, match=why), shop.transaction() as connection:
        store.promote(connection, second, "a try")
    assert champion(shop) == first


def test_a_champion_that_was_corrupted_fails_its_run_with_a_sentence(shop: Database) -> None:
    scoring.score_one(shop, CHURN, 3)
    before = ask(shop, "SELECT * FROM score")
    scoring._models.clear()
    ask(shop, "UPDATE score_artifact SET data = data || '\\x00' WHERE name = 'churn'")
    run = opened(shop)
    scoring.work(shop, never)
    now = looked(shop, run)
    assert now.state == "failed" and "is corrupt" in str(now.reason)
    assert ask(shop, "SELECT * FROM score") == before
    assert "is corrupt" in str(scoring.score_one(shop, CHURN, 3))


def test_a_training_that_has_nothing_to_learn_from_ends_with_its_reason(shop: Database) -> None:
    first = champion(shop)
    for sql, reason in (
        ("UPDATE event SET name = 'visit'", "0 rows to test on"),
        ("DELETE FROM event", "there are no events to train on"),
    ):
        ask(shop, sql)
        with shop.transaction() as connection:
            asked = trainings.ask(connection, CHURN, {})
        assert trainings.work(shop, SETTINGS) == {"trained": 0}
        with shop.transaction() as connection:
            found = trainings.look(connection, asked)
        assert found.state == "failed" and reason in found.said
    assert champion(shop) == first


def test_a_training_that_kills_its_worker_is_not_begun_for_ever(shop: Database) -> None:
    with shop.transaction() as connection:
        asked = trainings.ask(connection, CHURN, {})
    ask(shop, "UPDATE score_training SET epoch = 3, lease_until = clock_timestamp()")
    trainings.work(shop, SETTINGS)
    with shop.transaction() as connection:
        assert "begun 3 times and never ended" in trainings.look(connection, asked).said


def test_drift_is_written_down_and_explained(shop: Database) -> None:
    found = watch.look(shop, CHURN)
    # Everybody has been away for decades: nothing could have moved further.
    assert {"recency_days", "score"} <= {d.feature for d in found.features if d.drifted}
    (row,) = ask(shop, "SELECT artifact, drifted FROM score_drift")
    assert row.artifact == champion(shop) and row.drifted == sum(d.drifted for d in found.features)
    told = why.explain(shop, CHURN, 1, 3)
    assert told["value"] is None and "no churn score is stored" in told["lines"][0]
    scoring.score_one(shop, CHURN, 1)
    told = why.explain(shop, CHURN, 1, 3)
    assert told["lines"][0].startswith("churn score 1.00, 0.0 h old, by churn-")
    assert len(told["contributions"]) == 3 and "typical" in told["lines"][-1]


def test_the_commands_give_json_and_their_exit_codes(shop: Database) -> None:
    secret = "a secret of the tests, long enough"
    own = {
        "DRIPFLEET_DATABASE_URL": shop.url,
        "DRIPFLEET_REDIS_URL": "redis://127.0.0.1:1/0",
        "DRIPFLEET_SECRET_ADDRESS": secret,
    }
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    hmac = address_hmac(secret.encode(), "customer-00001@example.com")
    ask(shop, "UPDATE subscriber SET address_hmac = :h WHERE id = 1", h=hmac)

    def run(*words: str, code: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "workers", "churn", *words],
            env=plain | own, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr

    first = champion(shop)
    listed = run("models")
    assert {row["id"]: row["champion"] for row in listed}[first] is True
    (scored,) = run("score", "--all", "--name", "churn", "--here")
    assert (scored["state"], scored["rows"]) == ("done", 23_570)
    told = run("explain", "customer-00001@example.com", "--json")
    assert told["artifact"] == first and len(told["lines"]) > 3
    assert any(row["drifted"] for row in run("drift", code=3))
    assert "no worker of pool churn answers" in run("score", "--all", code=1)


def test_a_sequence_reads_the_score_by_its_age(shop: Database) -> None:
    from schedules.expression import read
    from tasks.segments import segment_sql

    scoring.score_one(shop, CHURN, 1)
    for hours, expected in ((1, [1]), (30, [])):
        ask(shop, f"UPDATE score SET scored_at = clock_timestamp() - interval '{hours} hours'")
        condition, values = segment_sql(read("score('churn', max_age='24h') >= 0.5"))
        found = ask(shop, f"SELECT s.id FROM subscriber s WHERE {condition}", **values)
        assert [row.id for row in found] == expected
