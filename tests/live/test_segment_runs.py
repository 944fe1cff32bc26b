"""Segment runs on a real Postgres: from events to labels, taken up again, refused in a sentence."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from models.session import Database
from schedules.cron import reads
from schedules.expression import read
from tasks import names
from tasks.errors import Transient
from tasks.quantum import features, profile, store
from tasks.quantum.request import Request, this_hour
from tasks.segments import segment_sql
from tasks.sequence import crontab
from tasks.sequence import store as sequences
from tests.live import seeds

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
STAGES = ("coreset", "cut", "assign", "judge")
EVENTS = text("""
INSERT INTO event (subscriber_id, name, occurred_at, properties)
SELECT x.id, x.name, x.at, jsonb_build_object('amount', x.amount)
FROM unnest(CAST(:ids AS bigint[]), CAST(:names AS text[]), CAST(:ats AS timestamptz[]),
    CAST(:amounts AS float8[])) AS x (id, name, at, amount)
""")


def shop(database: Database, people: int = 90, buyers: int = 80) -> list[int]:
    """Three kinds of buyers, and some who never bought."""
    ids = seeds.subscribers(database, people)
    rng = np.random.default_rng(0)
    rows: list[tuple[int, str, dt.datetime, float]] = []
    for k, who in enumerate(ids[:buyers]):
        days, times, amount = ((2, 12, 90.0), (40, 4, 30.0), (300, 1, 8.0))[k % 3]
        for n in range(times):
            at = NOW - dt.timedelta(days=days + 7 * n + float(rng.random()), hours=2)
            rows.append((who, "purchase", at, amount * (0.5 + float(rng.random()))))
        if k % 3 == 0:
            rows.append((who, "open", NOW - dt.timedelta(days=3), 0.0))
    columns = list(zip(*rows, strict=True))
    with database.transaction() as connection:
        connection.execute(
            EVENTS, dict(zip(("ids", "names", "ats", "amounts"), map(list, columns), strict=True))
        )
    return ids


def request(**more: Any) -> Request:
    given = {"k": 3, "points": 6, "layers": 2, "backend": "engine", "shots": 256, "seeds": 1}
    return Request(segment="value", as_of=NOW, **{**given, **more}).checked()


def asked(database: Database, wanted: Request) -> int:
    with database.transaction() as connection:
        run, new = store.ask(connection, wanted)
    assert new
    return run


def worked(database: Database) -> dict[str, int]:
    from tasks.quantum import runs

    return runs.work(database, STAGES, noisy=False, budget=60)


def row(database: Database, run: int) -> Any:
    with database.transaction() as connection:
        return store.found(connection, None, run)


def members(database: Database, run: int) -> dict[int, str]:
    with database.transaction() as connection:
        found = connection.execute(
            text("SELECT subscriber_id, label FROM segment_member WHERE run = :run"), {"run": run}
        )
        return {r.subscriber_id: r.label for r in found}


def test_events_become_segments_with_names_figures_and_a_verdict(database: Database) -> None:
    ids = shop(database)
    run = asked(database, request(seeds=10))
    assert worked(database) == {"coreset": 1, "cut": 1, "assign": 1, "judge": 1}
    done = row(database, run)
    assert done.stage == "done", done.why
    report = done.report
    labels = members(database, run)
    assert set(labels) == set(ids)
    assert [labels[i] for i in ids[80:]] == [profile.NEVER_BOUGHT] * 10
    # The three kinds of buyers are three segments, whole.
    kinds = [{labels[i] for k, i in enumerate(ids[:80]) if k % 3 == kind} for kind in range(3)]
    assert all(len(kind) == 1 for kind in kinds) and len(set.union(*kinds)) == 3
    assert {"high-value-recent"} == kinds[0]
    sizes = {s["label"]: s["subscribers"] for s in report["segments"]}
    assert sum(sizes.values()) == 90 and sizes[profile.NEVER_BOUGHT] == 10
    best = report["segments"][0]
    assert best["label"] == "high-value-recent" and best["against_the_whole"]["value"] > 1.5
    assert "×" in best["in_words"]
    assert report["verdict"] in ("tie", "quantum_worse", "inconclusive")
    assert report["backend"] == {
        "requested": "engine", "actual": ["engine"], "kind": "ideal", "hardware": False,
        "title": report["backend"]["title"],
    }  # fmt: skip
    assert len(report["cuts"]) == 2
    for cut in report["cuts"]:
        trial = cut["trial"]
        assert trial["seeds"] == 10 and trial["stability"] is not None
        assert set(trial["rivals"]) == {
            "goemans_williamson", "k_means", "local_search", "random", "spectral"
        }  # fmt: skip
        assert trial["optimum"] is not None and 0 < trial["p_opt"] <= 1
    assert report["partitions"]["quantum"] == pytest.approx(
        report["partitions"]["k_means"], abs=0.2
    )


def test_a_segment_counts_in_sequences_once_it_is_promoted(database: Database) -> None:
    ids = shop(database)
    run = asked(database, request())
    worked(database)
    sql, values = segment_sql(read("segment('value', promoted=true) == 'high-value-recent'"))
    find = text(f"SELECT s.id FROM subscriber s WHERE {sql} ORDER BY s.id")
    with database.transaction() as connection:
        assert connection.execute(find, values).scalars().all() == []
        store.promote(connection, run)
        assert connection.execute(find, values).scalars().all() == [
            i for k, i in enumerate(ids[:80]) if k % 3 == 0
        ]


def test_a_run_goes_on_where_a_kill_left_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.quantum import stages

    shop(database)
    run = asked(database, request())
    real, cuts = stages._one_cut, []

    class Killed(BaseException):
        """Stands for kill -9: nothing is written down after it."""

    def dies_at_second(*args: Any) -> Any:
        cuts.append(args[-1])
        if len(cuts) == 2:
            raise Killed
        return real(*args)

    monkeypatch.setattr(stages, "_one_cut", dies_at_second)
    with pytest.raises(Killed):
        worked(database)
    assert row(database, run).stage == "cut"
    assert worked(database) == {}, "its lease still stands"
    with database.transaction() as connection:
        connection.execute(text("UPDATE segment_run SET lease_until = now() - interval '1 s'"))
    assert worked(database) == {"cut": 1, "assign": 1, "judge": 1}
    assert cuts == [1, 2, 2], "the first cut was not computed twice"
    assert row(database, run).stage == "done"


def test_on_a_slow_backend_a_kill_costs_the_seed_that_was_in_hand(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.quantum import runs
    from tasks.quantum.backends import REGISTRY
    from tasks.quantum.backends.simulators import Engine

    # The engine in the place of a device: what is tried is the way of a slow one, not its noise.
    slow = replace(REGISTRY["engine"], kind="noisy_virtual")
    monkeypatch.setitem(REGISTRY, "engine", slow)
    shop(database)
    run = asked(database, request(k=2, seeds=4))
    runs.work(database, ("coreset", "cut", "assign"), noisy=True, budget=60)
    assert row(database, run).stage == "judge"
    real, tried = Engine.submit, []

    class Killed(BaseException):
        """Stands for kill -9: nothing is written down after it."""

    def dies_at_third(self: Engine, compiled: Any, shots: int, seed: int, wait: float) -> Any:
        tried.append(seed)
        if len(tried) == 3:
            raise Killed
        return real(self, compiled, shots, seed, wait)

    monkeypatch.setattr(Engine, "submit", dies_at_third)
    with pytest.raises(Killed):
        runs.work(database, ("judge",), noisy=True, budget=60)
    with database.transaction() as connection:
        connection.execute(text("UPDATE segment_run SET lease_until = now() - interval '1 s'"))
    assert runs.work(database, ("judge",), noisy=True, budget=60) == {"judge": 1}
    assert tried == [0, 1, 2, 2, 3], "the first two were not measured twice"
    assert row(database, run).stage == "done"


def test_an_assignment_goes_on_after_its_last_range(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = shop(database)
    monkeypatch.setattr(features, "RANGE", 20)
    run = asked(database, request())
    reads: list[tuple[int, int]] = []
    real = features.read

    def fails_once(connection: Any, as_of: Any, first: int, end: int) -> Any:
        reads.append((first, end))
        if len(reads) == 8:  # five of the coreset, then the third of the assignment
            raise Transient("the connection broke")
        return real(connection, as_of, first, end)

    monkeypatch.setattr(features, "read", fails_once)
    assert worked(database) == {"coreset": 1, "cut": 1, "put_off": 1}
    assert "the connection broke" in row(database, run).why
    assert len(members(database, run)) == 40
    with database.transaction() as connection:
        connection.execute(text("UPDATE segment_run SET retry_at = NULL"))
    assert worked(database) == {"assign": 1, "judge": 1}
    assert len(reads) == 8 + 3, "the first two ranges were not read again"
    assert set(members(database, run)) == set(ids)


def test_whoever_lost_the_lease_writes_nothing(database: Database) -> None:
    shop(database)
    run = asked(database, request())
    with database.transaction() as connection:
        first = store.take(connection, ("coreset",), noisy=False)
        connection.execute(text("UPDATE segment_run SET lease_until = now() - interval '1 s'"))
        second = store.take(connection, ("coreset",), noisy=False)
    assert first is not None and second is not None and second.epoch == first.epoch + 1
    with database.transaction() as connection:
        assert not store.put_step(connection, first, "coreset", {})
        assert not store.move(connection, first, "done")
        assert store.steps(connection, run) == {}
        assert store.put_step(connection, second, "coreset", {})


def test_the_same_events_are_reduced_once(database: Database) -> None:
    shop(database)
    for segment, cached in (("value", False), ("other", True)):
        run = asked(database, replace(request(), segment=segment))
        worked(database)
        assert row(database, run).report["coreset"]["cached"] is cached
    with database.transaction() as connection:
        connection.execute(
            text("INSERT INTO event (subscriber_id, name, occurred_at) SELECT min(id), 'open', :at FROM subscriber"),
            {"at": NOW - dt.timedelta(days=1)},
        )  # fmt: skip
    run = asked(database, request())
    worked(database)
    assert row(database, run).report["coreset"]["cached"] is False


@pytest.mark.parametrize(
    ("people", "stage", "word"),
    [(0, "refused", "nobody bought anything"), (1, "done", "nothing was cut")],
)
def test_nobody_is_refused_and_one_subscriber_is_a_segment(
    database: Database, people: int, stage: str, word: str
) -> None:
    if people:
        shop(database, people=1, buyers=1)
    run = asked(database, request())
    worked(database)
    done = row(database, run)
    assert (done.stage, word in done.why) == (stage, True), done.why
    assert len(members(database, run)) == people


def test_identical_subscribers_are_one_segment(database: Database) -> None:
    ids = seeds.subscribers(database, 12)
    at = NOW - dt.timedelta(days=9)
    with database.transaction() as connection:
        connection.execute(
            EVENTS,
            {"ids": ids, "names": ["purchase"] * 12, "ats": [at] * 12, "amounts": [5.0] * 12},
        )
    run = asked(database, request())
    worked(database)
    done = row(database, run)
    assert done.stage == "done" and done.report["asked_for"] == 3
    assert len(set(members(database, run).values())) == 1 and done.report["cuts"] == []


def test_a_backend_that_cannot_run_here_is_refused_before_anything_is_computed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IONQ_API_KEY", raising=False)
    shop(database)
    run = asked(database, request(backend="ionq"))
    worked(database)
    done = row(database, run)
    assert done.stage == "refused" and "backend ionq cannot run here" in done.why
    with database.transaction() as connection:
        assert store.steps(connection, run) == {}


def test_a_run_that_keeps_failing_is_refused_with_its_reason(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.quantum import stages

    def breaks(*args: Any) -> Any:
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(stages, "_one_cut", breaks)
    shop(database)
    run = asked(database, request())
    for _ in range(store.FAULTS):
        worked(database)
        with database.transaction() as connection:
            connection.execute(text("UPDATE segment_run SET retry_at = NULL"))
    done = row(database, run)
    assert done.stage == "refused" and "3 times: ZeroDivisionError: no luck" in done.why


def test_a_run_that_brings_its_worker_down_each_time_is_given_up(database: Database) -> None:
    shop(database)
    run = asked(database, request())
    with database.transaction() as connection:
        connection.execute(text("UPDATE segment_run SET epoch = :n"), {"n": store.TAKES})
    assert worked(database) == {"refused": 1}
    assert "never ended" in row(database, run).why


def test_one_run_a_segment_at_a_time_and_the_clock_asks_for_what_was_asked_last(
    database: Database,
) -> None:
    shop(database)
    run = asked(database, request(k=2))
    with database.transaction() as connection:
        assert store.ask(connection, request()) == (run, False)
        assert store.ask_again(connection, this_hour(NOW)) == [], "it is under way"
    worked(database)
    with database.transaction() as connection:
        (again,) = store.ask_again(connection, this_hour(NOW))
        assert store.ask_again(connection, this_hour(NOW)) == []
        assert store.found(connection, None, again).request["k"] == 2


def test_the_dispatcher_rings_for_runs_that_wait_and_a_cron_line_may_ask_for_them(
    database: Database,
) -> None:
    line = "{key: s, cron: '0 5 * * *', zone: UTC, target: {task: quantum.segment}}"
    with database.transaction() as connection:
        assert crontab.findings(connection, reads(f"schedules:\n  - {line}\n", "cron.yaml")) == []
        assert sequences.waiting_segments(connection) == set()
        store.ask(connection, request())
        assert sequences.waiting_segments(connection) == {names.CORESET}
        connection.execute(text("UPDATE segment_run SET stage = 'judge'"))
        assert sequences.waiting_segments(connection) == {names.CUT}
        connection.execute(text("UPDATE segment_run SET noisy = true"))
        assert sequences.waiting_segments(connection) == {names.CUT_NOISY}
        assert store.take(connection, STAGES, noisy=True) is not None
        assert sequences.waiting_segments(connection) == set(), "somebody works on it"


def test_a_pool_without_its_extra_says_so_in_the_row(database: Database) -> None:
    run = asked(database, request())
    for _ in range(store.FAULTS):
        with database.transaction() as connection:
            store.turn_away(connection, STAGES, noisy=False, why="numba is not installed there")
            connection.execute(text("UPDATE segment_run SET retry_at = NULL"))
    done = row(database, run)
    assert (done.stage, done.why) == ("refused", "numba is not installed there")


def test_members_of_old_runs_are_forgotten_but_not_those_that_count(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.quantum.members.KEPT", 1)
    shop(database)
    made = []
    for n in range(3):
        made.append(asked(database, request(k=2)))
        worked(database)
        if n == 0:
            with database.transaction() as connection:
                store.promote(connection, made[0])
    assert [len(members(database, run)) for run in made] == [90, 0, 90]


def test_a_long_stage_keeps_its_lease(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.quantum import stages

    monkeypatch.setenv("DRIPFLEET_QUANTUM_LEASE", "0.4")
    shop(database)
    run = asked(database, request())
    real, others = stages._one_cut, []

    def waits(*args: Any) -> Any:
        ends = time.monotonic() + 1.2  # three leases, as in a vendor's queue
        while time.monotonic() < ends:
            with database.transaction() as connection:
                others.append(store.take(connection, STAGES, noisy=False))
        return real(*args)

    monkeypatch.setattr(stages, "_one_cut", waits)
    worked(database)
    assert row(database, run).stage == "done" and set(others) == {None}


def test_noisy_runs_are_taken_one_at_a_time_and_by_their_own_task(database: Database) -> None:
    shop(database)
    for segment in ("first", "second"):
        asked(database, replace(request(), segment=segment, backend="google-willow"))
    with database.transaction() as connection:
        connection.execute(text("UPDATE segment_run SET stage = 'cut'"))
        assert store.take(connection, STAGES, noisy=False) is None
        assert store.take(connection, STAGES, noisy=True) is not None
        assert store.take(connection, STAGES, noisy=True) is None
        connection.execute(text("UPDATE segment_run SET lease_until = now() - interval '1 s'"))
        assert store.take(connection, STAGES, noisy=True) is not None
