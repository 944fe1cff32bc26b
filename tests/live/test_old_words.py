"""A text that nobody has asked for in a long while goes, with what was told for it; its figures stay."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from models.session import Database
from schedules.loader import loads
from schedules.prompt_file import loads_prompt
from tasks.personalize.report import report
from tasks.sequence.prompts import publish_prompts
from tasks.sequence.words import Asker
from tasks.upkeep.old_words import OldWordsSettings, prune
from tests.live import seeds

PROMPT = """
task: Write a friendly line.
language: en
fields: {city: {from: sub.city, text: 40}}
slots: {subject: {max: 60}}
variants: [{subject: We have not seen you for a while}]
KEEP
"""
SOURCE = """
key: kept
title: Kept
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: mail, send: {template: test/mail, personalize: {prompt: test/NAME, lead: 1d}}}
"""
DAYS = OldWordsSettings(words_keep_days=90)


def run(database: Database, sql: str, **values: Any) -> None:
    with database.transaction() as connection:
        connection.execute(text(sql), values)


def publish(database: Database, name: str, keep: str = "") -> None:
    with database.transaction() as connection:
        made = loads_prompt(PROMPT.replace("KEEP", keep), f"test/{name}", "x.yaml")
        sequence = loads(SOURCE.replace("NAME", name), "x.yaml")
        publish_prompts(connection, sequence, {made.name: made})


def old(database: Database, name: str, days: int, n: int = 1, state: str = "ready") -> None:
    """`n` texts that were last asked for so many days ago."""
    run(
        database,
        "INSERT INTO wording (key, prompt_sha256, prompt, sequence_key, model, told, state, slots,"
        " needed_at, asked_at, asks, calls, cost)"
        " SELECT sha256(CAST(CAST(i AS text) || :name || CAST(:days AS text) AS bytea)), p.sha256,"
        " p.name, 'kept', 'variants', '{}', :state,"
        " CASE WHEN CAST(:state AS text) = 'ready' THEN CAST('{}' AS jsonb) END, clock_timestamp(),"
        " clock_timestamp() - make_interval(days => :days), 4, 1, 1000000"
        " FROM prompt p, generate_series(1, :n) i WHERE p.name = 'test/' || :name",
        name=name, days=days, n=n, state=state,
    )  # fmt: skip


def left(database: Database) -> dict[tuple[str, int], int]:
    with database.transaction() as connection:
        rows = connection.execute(
            text(
                "SELECT prompt, extract(day FROM clock_timestamp() - asked_at)::int AS days, count(*)"
                " FROM wording GROUP BY 1, 2"
            )
        )
        return {(row[0].removeprefix("test/"), row[1]): row[2] for row in rows}


def test_texts_go_by_their_prompt_or_the_setting_and_the_report_keeps_their_figures(
    database: Database,
) -> None:
    publish(database, "plain")
    publish(database, "short", "keep: 10d")
    publish(database, "long", "keep: 400d")
    for name in ("plain", "short", "long"):
        for days in (5, 50, 100):
            old(database, name, days, n=3)
    old(database, "plain", 200, state="failed")
    with database.transaction() as connection:
        before = report(connection)
    assert prune(database, DAYS, batch=2) == 3 + 3 + 3 + 1
    assert left(database) == {
        ("plain", 5): 3, ("plain", 50): 3, ("short", 5): 3,
        ("long", 5): 3, ("long", 50): 3, ("long", 100): 3,
    }  # fmt: skip
    with database.transaction() as connection:
        assert report(connection) == before
    # A prompt that is published with another `keep` makes no other texts.
    publish(database, "short", "keep: 3d")
    assert prune(database, DAYS) == 3
    publish(database, "long")
    assert prune(database, DAYS) == 3, "and one without it goes by the setting again"
    with database.transaction() as connection:
        assert report(connection) == before
        assert connection.execute(text("SELECT count(*) FROM prompt_source")).scalar_one() == 3


def test_what_somebody_waits_for_stays_and_who_asks_again_keeps_it(database: Database) -> None:
    publish(database, "plain")
    ids = seeds.subscribers(database, 1)
    key = seeds.sequence(database, SOURCE.replace("NAME", "plain"))
    seeds.enroll(database, key, ids)
    run(database, "UPDATE enrollment SET due_at = clock_timestamp() + interval '1 hour'")
    asker = Asker(database, "variants")
    assert asker.ask() == 1
    aged = "UPDATE wording SET asked_at = clock_timestamp() - interval '1000 days'"
    run(database, aged)
    assert prune(database, DAYS) == 0
    run(database, "DELETE FROM asked")
    assert asker.ask() == 1
    run(database, "DELETE FROM asked")
    assert prune(database, DAYS) == 0, "it was asked for a moment ago"
    run(database, aged)
    run(database, "UPDATE wording SET lease_until = clock_timestamp() + interval '1 minute'")
    assert prune(database, DAYS) == 0, "it is being written"
    run(database, "UPDATE wording SET lease_until = NULL")
    assert prune(database, DAYS) == 1
