"""An expression as SQL says of everybody what `evaluate` says, one by one."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import text
from typer.testing import CliRunner

from models.session import Database
from schedules.expression import ExpressionError, read
from schedules.expression.evaluate import STALE, holds
from tasks.errors import Permanent
from tasks.segment_query import segment_query
from tasks.segments import segment_sql
from tasks.sequence.enroll import BATCH, Tally, enroll_all, enroll_selected
from tasks.sequence.known import known_of
from tests.live import seeds
from workers.cli import sequence as commands

PEOPLE = 60
VALUES = [
    None, True, False, 0, 1, 2, -1, 30, Decimal("0.1"), Decimal("1.0"), Decimal("1E+400"),
    Decimal("0.12345678901234567890"), 10**40, "", "1", "true", "a", "é", "Z", "b", "2026-02-27",
    "2026-02-30", "2024-02-29T23:59:59.5+14:00", "2026-02-28 10:00", "2026-13-01", "1999-12-31Z",
    ["a", 1, True, None], [], {"a": 1}, [["a"]], "2026-02-28T10:00:00Z", "2026-02-27\n",
]  # fmt: skip
LEAVES = [
    "sub.a", "sub.b", "sub.c", "sub.missing", "sub['x y']", "sub.first_name", "sub.status",
    "sub.zone", "1", "0.1", "-1", "30", "'a'", "'true'", "true", "null", "'subscribed'",
    "count('buy')", "count('buy', within='3d')", "last('buy')", "last('see')", "sub.created_at",
    "days_since(last('buy'))", "days_since(sub.a)", "days_since(sub.b)", "days_since(sub.c)",
    "days_since('2026-02-01')", "score('fresh', max_age='24h')", "score('fresh', max_age='2h')",
    "segment('value', promoted=true)", "segment('never', promoted=true)", "topic('news')",
    "in_segment('vip')", "in_segment('none')", "['a', 1, true]", "['high', 'Zoë', 'stopped']", "[0.10, 2]", "['x', 'subscribed']",
]  # fmt: skip
OPS = ["==", "!=", "<", "<=", ">", ">=", "in", "not in"]


def expressions(chance: random.Random, n: int) -> list[str]:
    """`n` that pass the check, of all that the grammar can say."""

    def value(depth: int) -> str:
        if depth and chance.random() < 0.25:
            inner = f"{value(depth - 1)} {chance.choice('+-*')} {value(depth - 1)}"
            return chance.choice([f"({inner})", f"-{value(depth - 1)}"])
        return chance.choice(LEAVES)

    def condition(depth: int) -> str:
        kind = chance.random()
        if depth and kind < 0.35:
            op = chance.choice([" and ", " or "])
            return f"({op.join(condition(depth - 1) for _ in range(chance.choice([2, 2, 3])))})"
        if depth and kind < 0.5:
            return f"not {condition(depth - 1)}"
        if kind < 0.55:
            return chance.choice(["sub.a", "sub.b", "topic('news')", "in_segment('vip')", "true"])
        return f"{value(2)} {chance.choice(OPS)} {value(2)}"

    found: list[str] = []
    while len(found) < n:
        source = condition(3)
        try:
            read(source)
        except ExpressionError:
            continue
        found.append(source)
    return found


def run(database: Database, sql: str, **parameters: Any) -> Any:
    with database.transaction() as connection:
        return connection.execute(text(sql), parameters)


def as_json(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{as_json(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def populate(database: Database, chance: random.Random) -> list[int]:
    """People of every kind: attributes, events, fresh and old scores, labels, consents, stops."""
    ids = seeds.subscribers(database, PEOPLE)
    run(database, "INSERT INTO topic (key, title) VALUES ('news', 'News')")
    run(
        database,
        "INSERT INTO segment_run (segment, artifact, promoted_at) VALUES ('value', 'x', now() -"
        " interval '2 d'), ('value', 'x', now() - interval '1 d'), ('value', 'x', NULL),"
        " ('never', 'x', NULL)",
    )
    for id_ in ids:
        attributes = {name: chance.choice(VALUES) for name in ("a", "b", "c", "x y")}
        attributes.pop(chance.choice(["a", "b", "c", "zz"]), None)
        run(
            database,
            "UPDATE subscriber SET attributes = CAST(:a AS jsonb), first_name = :f, zone = :z,"
            " created_at = now() - make_interval(days => :d) WHERE id = :id",
            a=as_json(attributes),
            f=chance.choice(["Zoë", "a", None]),
            z=chance.choice([None, "Asia/Tokyo"]),
            d=chance.randrange(9),
            id=id_,
        )
        for _ in range(chance.choice([0, 0, 1, 3])):
            run(
                database,
                "INSERT INTO event (subscriber_id, name, occurred_at)"
                " VALUES (:id, :n, now() - make_interval(hours => :h))",
                id=id_,
                n=chance.choice(["buy", "see"]),
                h=chance.choice([-5, 1, 30, 71, 73, 900]),
            )
        if chance.random() < 0.7:
            run(
                database,
                "INSERT INTO score (name, subscriber_id, value, artifact, scored_at)"
                " VALUES ('fresh', :id, :v, 'x', now() - make_interval(hours => :h))",
                id=id_,
                v=chance.choice([0.1, 0.7, 1.0, 30.0, 0.1 + 0.2, float("nan"), float("inf")]),
                h=chance.choice([1, 3, 40]),
            )
        for run_id in (1, 2, 3):
            if chance.random() < 0.6:
                run(
                    database,
                    "INSERT INTO segment_member (segment, run, subscriber_id, label)"
                    " VALUES ('value', :run, :id, :label)",
                    run=run_id,
                    id=id_,
                    label=chance.choice(["high", "low"]),
                )
        if chance.random() < 0.6:
            run(
                database,
                "INSERT INTO consent (subscriber_id, topic, opted_in, source)"
                " VALUES (:id, 'news', :o, 'x')",
                id=id_,
                o=chance.random() < 0.5,
            )
        if chance.random() < 0.4:
            run(
                database,
                "INSERT INTO segment_present VALUES ('vip', :id, 1, now()), ('x', :id, 1, now())",
                id=id_,
            )
    run(
        database,
        "UPDATE subscriber SET stopped_at = now(), stopped_reason = 'x' WHERE id = ANY(:ids)",
        ids=ids[::7],
    )
    return ids


def test_sql_says_of_everybody_what_evaluate_says(database: Database) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    ids = populate(database, chance)
    now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
    answers: set[Any] = set()
    for source in expressions(chance, 500):
        expression = read(source)
        sql, parameters = segment_sql(expression, now=now)
        with database.transaction() as connection:
            rows = connection.execute(
                text(f"SELECT s.id, ({sql}) AS answer FROM subscriber s"), parameters
            )
            said = {row.id: row.answer for row in rows}
            gathered, values = segment_query(expression, now=now)
            at_once = {
                row.subscriber_id: row.answer for row in connection.execute(text(gathered), values)
            }
            known = known_of(connection, [(id_, expression.needs) for id_ in ids], now)
        for id_ in ids:
            answer = holds(expression.root, known[id_])
            expected = None if answer is STALE else answer
            assert said[id_] is expected, f"seed {seed}: {source} of {known[id_]}"
            assert at_once.get(id_, False) is expected, f"seed {seed}, gathered: {source}"
            answers.add(expected)
    assert answers == {True, False, None}


def test_facts_are_fetched_by_one_query_a_kind_and_none_that_nobody_needs(
    database: Database,
) -> None:
    ids = seeds.subscribers(database, 3)
    now = dt.datetime.now(dt.UTC)
    every = read(
        "sub.a == 1 and count('x') > 0 and count('y', within='1d') > 0 and days_since(last('x')) > 1"
        " and score('s', max_age='1h') > 0 and segment('g', promoted=true) == 'a' and topic('t')"
        " and in_segment('n')"
    ).needs

    def queries(source: str | None) -> int:
        needs = every if source is None else read(source).needs
        asked: list[Any] = []
        with database.transaction() as connection:
            execute = connection.execute
            connection.execute = lambda *a, **k: asked.append(a) or execute(*a, **k)  # type: ignore
            known_of(connection, [(id_, needs) for id_ in ids], now)
        return len(asked)

    assert queries(None) == 7
    assert queries("count('x') > 1") == 1
    assert queries("1 < 2") == 0


@pytest.fixture
def key(database: Database) -> str:
    return seeds.sequence(database, seeds.TWO_MAILS)


def test_those_of_a_segment_enter_whichever_batch_they_stand_in(
    database: Database, key: str
) -> None:
    ids = seeds.subscribers(database, BATCH + 10)
    chosen = [ids[0], ids[5], ids[-1]]
    run(
        database,
        "UPDATE subscriber SET attributes = CAST('{\"vip\": true}' AS jsonb) WHERE id = ANY(:ids)",
        ids=chosen,
    )
    run(
        database,
        "UPDATE subscriber SET stopped_at = now(), stopped_reason = 'x' WHERE id = :id",
        id=ids[5],
    )
    sql, parameters = segment_sql(read("sub.vip"))
    for dry_run in (True, False):
        seen: list[int] = []
        tally = enroll_selected(
            database,
            key,
            sql,
            parameters,
            dry_run=dry_run,
            on_batch=lambda tally, done, total, seen=seen: seen.append(done),  # type: ignore[misc]
        )
        assert tally == Tally(enrolled=2, stopped=1)
        assert seen == [ids[BATCH - 1], ids[-1]]
    assert enroll_selected(database, key, sql, parameters).already_enrolled == 2
    assert enroll_all(database, key, dry_run=True).enrolled == BATCH + 10 - 3
    with pytest.raises(Permanent, match="no sequence 'no'"):
        enroll_selected(database, "no", sql, parameters)
    with pytest.raises(ValueError, match="name it otherwise"):
        enroll_selected(database, key, "s.id = :after", {"after": 1})


@pytest.fixture
def command(
    database_url: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    commands.register(app)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_enqueue_takes_those_of_whom_a_condition_holds(
    command: Callable[..., Any], database: Database
) -> None:
    ids = seeds.subscribers(database, 5)
    run(
        database,
        "INSERT INTO event (subscriber_id, name, occurred_at) VALUES (:id, 'purchase', now())",
        id=ids[2],
    )
    condition = "count('purchase', within='90d') >= 1 and sub.status == 'subscribed'"
    for dry_run in (["--dry-run"], []):
        result = command("enqueue", "two-mails", "--segment", condition, *dry_run)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["enrolled"] == 1


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("sub.x = 1", "at character 7"),
        ("count('x')", "a yes or no"),
        ("topic('nowhere')", "topic 'nowhere' does not exist"),
    ],
)
def test_enqueue_refuses_a_condition_with_its_place(
    command: Callable[..., Any], condition: str, words: str
) -> None:
    result = command("enqueue", "two-mails", "--segment", condition)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())
