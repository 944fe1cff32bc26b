"""Words of a model are asked for ahead of their mails.

`ask` looks at who comes to a personalized send within its lead, reckons what the prompt may know of
them, and makes one row of each text that is not there yet. The personalize pool answers those rows.
What there is at the hand-off, `words_at_hand` reads.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any, Final

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from schedules.definition import Sequence
from schedules.expression import Needs
from schedules.personal import Personalize
from schedules.prompt import SEGMENT, Prompt
from tasks import names
from tasks.moves.wake import FOR_WORDS
from tasks.sequence import known, trials, word_arms
from tasks.sequence.planned import Standing
from tasks.sequence.word_places import Place, places
from tasks.wording import key_of

BATCH: Final = 2000
SWEEP_EVERY: Final = 60.0  # seconds: it walks everybody who waits for words
LOCK_SPACE: Final = 0x776F7264  # "word": who asks, asks alone

log = structlog.get_logger()

# Prompts, and the same in their other locales.
_PROMPTS = """
prompt p WHERE p.name = ANY(CAST(:prompts AS text[])) OR p.name IN (
    SELECT q.name || '/' || l FROM prompt q, unnest(q.locales) l
    WHERE q.name = ANY(CAST(:prompts AS text[])))"""

# Versions that ask for words, and whether it is our turn to: one row at least. The first has the
# prompts that are known to be asked with, so that a look needs no other statement for them. Its commit
# waits for no disk: what a crash of Postgres takes of it was not asked for, and is at the next look.
PERSONAL = text(f"""
WITH alone AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(:space, 0) AS got,
        set_config('synchronous_commit', 'off', true) AS lazily)
SELECT alone.got, alone.lazily, v.sequence_key, v.version, CASE WHEN row_number() OVER () = 1 THEN (
    SELECT jsonb_object_agg(p.name, jsonb_build_array(encode(p.sha256, 'hex'), p.locales))
    FROM {_PROMPTS}) END AS prompts
FROM alone LEFT JOIN sequence_version v
    ON alone.got AND v.definition @? '$.steps[*].send.personalize'
""")
DEFINITION = text("""
SELECT v.definition FROM sequence_version v WHERE v.sequence_key = :key AND v.version = :version
""")

# Who is due soon, at a place from which the way leads to a personalized send without another wait,
# and is not asked for yet. The soonest first; what is due now is the planner's. Who is asked for
# already is told apart by grouping, which walks both once: as a join, and as a look-up of each, it
# was planned while nobody was asked for, and compared all with all.
NEAR = text("""
WITH near AS MATERIALIZED (
    SELECT e.id, e.subscriber_id, e.sequence_key, e.sequence_version, e.step_id, e.due_at,
        e.step_started_at IS NOT NULL AS started
    FROM enrollment e
    WHERE e.due_at > (SELECT clock_timestamp())
      AND e.due_at <= (SELECT clock_timestamp() + make_interval(secs => :longest))
      AND e.active AND e.sequence_key = ANY(CAST(:keys AS text[])))
SELECT t.id, max(t.subscriber_id) AS subscriber_id, max(t.sequence_key) AS sequence_key,
    max(t.sequence_version) AS sequence_version, max(t.place) AS place, max(t.due_at) AS due_at,
    t.step_id,
    clock_timestamp() AS now
FROM (
SELECT e.id, r.send AS step_id, e.subscriber_id, e.sequence_key, e.sequence_version,
    e.step_id AS place, e.due_at
FROM near e
JOIN unnest(CAST(:keys AS text[]), CAST(:versions AS integer[]), CAST(:places AS text[]),
            CAST(:started AS boolean[]), CAST(:sends AS text[]), CAST(:leads AS float8[]))
     AS r (key, version, place, started, send, lead)
  ON r.key = e.sequence_key AND r.version = e.sequence_version
     AND r.place IS NOT DISTINCT FROM e.step_id AND r.started = e.started
WHERE e.due_at <= (SELECT clock_timestamp()) + make_interval(secs => r.lead)
UNION ALL
SELECT a.enrollment_id, a.step_id, NULL, NULL, NULL, NULL, NULL FROM asked a) t
GROUP BY t.id, t.step_id HAVING count(*) = count(t.due_at)
ORDER BY max(t.due_at) LIMIT :n
""")

PROMPTS = text(f"SELECT p.name, encode(p.sha256, 'hex') AS sha256, p.locales FROM {_PROMPTS}")
SOURCE = text("SELECT s.source FROM prompt_source s WHERE s.sha256 = :sha256")

# One row a text, in the order of keys as everywhere, and one for each mail that it is asked for. A text
# that failed is tried again for whoever asks an hour later. Whose text is there already is woken: they
# alone, and not the many who share it and were woken before.
WANT = text(f"""
WITH want AS (
INSERT INTO wording AS w (key, prompt_sha256, prompt, sequence_key, model, told, needed_at, asks)
SELECT r.key, r.sha, r.prompt, r.sequence_key, r.model, CAST(r.told AS jsonb), r.needed_at, r.asks
FROM unnest(CAST(:keys AS bytea[]), CAST(:shas AS bytea[]), CAST(:prompts AS text[]),
            CAST(:sequences AS text[]), CAST(:models AS text[]), CAST(:told AS text[]),
            CAST(:needed AS timestamptz[]), CAST(:asks AS bigint[]))
     AS r (key, sha, prompt, sequence_key, model, told, needed_at, asks)
ORDER BY r.key
ON CONFLICT (key) DO UPDATE SET
    asks = w.asks + excluded.asks,
    needed_at = least(w.needed_at, excluded.needed_at), asked_at = excluded.asked_at,
    state = CASE WHEN w.state = 'failed' AND w.ended_at < clock_timestamp() - interval '1 hour'
                 THEN 'wanted' ELSE w.state END,
    tries = CASE WHEN w.state = 'failed' THEN 0 ELSE w.tries END
RETURNING w.key, w.state),
ask AS (
INSERT INTO asked (enrollment_id, step_id, key)
SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:steps AS text[]), CAST(:asked AS bytea[]))
ON CONFLICT DO NOTHING),
held AS MATERIALIZED (
    SELECT e.id FROM want
    JOIN unnest(CAST(:ids AS bigint[]), CAST(:steps AS text[]), CAST(:asked AS bytea[]))
         AS r (id, step_id, key) ON r.key = want.key
    JOIN enrollment e ON e.id = r.id AND e.step_id = r.step_id
    WHERE want.state <> 'wanted' AND {FOR_WORDS}
    ORDER BY e.id FOR NO KEY UPDATE OF e SKIP LOCKED)
UPDATE enrollment e SET due_at = clock_timestamp() FROM held WHERE e.id = held.id
""")

# Who left the sequence before the hand-off waits for nothing.
LEFT = text("""
DELETE FROM asked a WHERE (a.enrollment_id, a.step_id) IN (
    SELECT x.enrollment_id, x.step_id FROM asked x JOIN enrollment e ON e.id = x.enrollment_id
    WHERE NOT e.active LIMIT :n)
""")
WAITING = text("""
SELECT EXISTS (
    SELECT FROM sequence_version v WHERE v.definition @? '$.steps[*].send.personalize') AS asks,
EXISTS (
    SELECT FROM word_batch b
    WHERE b.state <> 'ended' AND b.look_at <= (SELECT clock_timestamp())
      AND (b.lease_until IS NULL OR b.lease_until <= (SELECT clock_timestamp())))
OR EXISTS (
    SELECT FROM wording w LEFT JOIN model_circuit c ON c.model = w.model
    WHERE w.state = 'wanted' AND w.retry_at <= (SELECT clock_timestamp())
      AND (w.lease_until IS NULL OR w.lease_until <= (SELECT clock_timestamp()))
      AND coalesce(c.open_until, '-infinity') <= (SELECT clock_timestamp())
      AND EXISTS (SELECT FROM asked a WHERE a.key = w.key)) AS waiting
""")


class Asker:
    """Asks for words ahead of their mails; one a process."""

    def __init__(self, database: Database, model: str) -> None:
        self._database = database
        self._model = model
        self._sweep_at = 0.0
        # A version never changes, nor what a hash stands for: each is read once.
        self._known: dict[tuple[str, int], Sequence] = {}
        self._known_places: dict[tuple[str, int], list[Place]] = {}
        self._known_prompts: dict[bytes, Prompt] = {}
        # Name → hash and other locales, of this look.
        self._published: dict[str, tuple[str, list[str]]] = {}

    def ask(self, n: int = BATCH) -> int:
        """Ask for up to `n` mails; returns how many were."""
        with self._database.transaction() as connection:
            wanted = self._places(connection)
            if not wanted:
                return 0
            if time.monotonic() >= self._sweep_at:
                self._sweep_at = time.monotonic() + SWEEP_EVERY
                connection.execute(LEFT, {"n": n})
            rows = connection.execute(NEAR, _near(wanted) | {"n": n}).all()
            if not rows:
                return 0
            found = {(*version, place.send.id, place.at): place for version, place in wanted}
            asks = [
                (row, found[row.sequence_key, row.sequence_version, row.step_id, row.place])
                for row in rows
            ]
            self._write(connection, asks)
            return len(rows)

    def _places(self, connection: Connection) -> list[tuple[tuple[str, int], Place]]:
        found = []
        asked = {
            place.send.personalize.prompt
            for places_ in self._known_places.values()
            for place in places_
            if place.send.personalize
        }
        rows = connection.execute(PERSONAL, {"space": LOCK_SPACE, "prompts": sorted(asked)}).all()
        self._published = rows[0].prompts or {}
        for row in rows:
            if row.sequence_key is None:  # none asks, or another process does it now
                continue
            key = (row.sequence_key, row.version)
            if key not in self._known_places:
                values = {"key": row.sequence_key, "version": row.version}
                stored = connection.execute(DEFINITION, values).scalar_one()
                try:
                    self._known[key] = Sequence.from_json(stored)
                    self._known_places[key] = places(self._known[key])
                except ValueError as fault:
                    log.error("words_not_asked", sequence=row.sequence_key, why=str(fault))
                    continue
            found += [(key, place) for place in self._known_places[key]]
        return found

    def _write(self, connection: Connection, found: Seq[tuple[Any, Place]]) -> None:
        asks = [(row, place.send.personalize, place.leading) for row, place in found]
        prompts = {
            name: self._prompt_named(connection, name)
            for name in sorted({p.prompt for _, p, _ in asks if p is not None})
        }
        needs = [
            (row.subscriber_id, _needs(personal, prompts[personal.prompt]))
            for row, personal, _ in asks
            if personal is not None and prompts[personal.prompt] is not None
        ]
        standings = self._standings(connection, [row for row, _, leading in asks if leading])
        facts = known.known_of(connection, needs, asks[0][0].now) if needs else {}
        texts: dict[bytes, dict[str, Any]] = {}
        asked: list[tuple[int, str, bytes]] = []
        for row, personal, leading in asks:
            prompt = prompts[personal.prompt] if personal is not None else None
            if personal is None or prompt is None:
                continue
            about = facts.get(row.subscriber_id)
            prompt = prompt.of(about.subscriber.get("locale")) if about is not None else prompt
            told = _told(personal, prompt, about)
            if leading:
                standing = standings.get(row.id, {})
                arms = word_arms.arms_of(row.sequence_key, leading, row.subscriber_id, standing)
                told = {**told, **word_arms.told(arms)}
            key = key_of(prompt.sha256, self._model, told)
            entry = texts.setdefault(
                key,
                {
                    "keys": key,
                    "shas": prompt.sha256,
                    "prompts": prompt.name,
                    "sequences": row.sequence_key,
                    "models": self._model,
                    "told": json.dumps(told, ensure_ascii=False),
                    "needed": row.due_at,
                    "asks": 0,
                },
            )
            entry["asks"] += 1
            asked.append((row.id, row.step_id, key))
        if not asked:
            return
        columns = {
            name: [entry[name] for entry in texts.values()] for name in next(iter(texts.values()))
        }
        ids, steps, keys = zip(*asked, strict=True)
        columns |= {"ids": list(ids), "steps": list(steps), "asked": list(keys)}
        connection.execute(WANT, columns)

    def _standings(self, connection: Connection, rows: Seq[Any]) -> dict[int, dict[str, Standing]]:
        versions = {row.id: self._known[row.sequence_key, row.sequence_version] for row in rows}
        return trials.standings(connection, rows, versions)

    def _prompt_named(self, connection: Connection, name: str) -> Prompt | None:
        if name not in self._published:  # of a version that is looked at for the first time
            for row in connection.execute(PROMPTS, {"prompts": [name]}):
                self._published[row.name] = (row.sha256, row.locales)
        if name not in self._published:
            log.error("prompt_missing", prompt=name, next="publish its sequence again")
            return None
        sha256, locales = self._published[name]
        made = self._prompt(connection, sha256)
        others = {
            locale: self._prompt(connection, self._published[f"{name}/{locale}"][0])
            for locale in locales
        }
        return replace(made, translations=others) if others else made

    def _prompt(self, connection: Connection, hexadecimal: str) -> Prompt:
        sha256 = bytes.fromhex(hexadecimal)
        if sha256 not in self._known_prompts:
            source = connection.execute(SOURCE, {"sha256": sha256}).scalar_one()
            self._known_prompts[sha256] = Prompt.from_json(source)
        return self._known_prompts[sha256]


def work_of(connection: Connection) -> set[str]:
    """The tasks that words wait for: asking ahead where a sequence has any, writing what is wanted."""
    row = connection.execute(WAITING).one()
    asks = {names.ASK_WORDS} if row.asks else set()
    return asks | {names.WRITE} if row.waiting else asks


def _near(wanted: Seq[tuple[tuple[str, int], Place]]) -> dict[str, Any]:
    leads = [_lead(place).total_seconds() for _, place in wanted]
    return {
        "keys": [key for (key, _), _ in wanted],
        "versions": [version for (_, version), _ in wanted],
        "places": [place.at for _, place in wanted],
        "started": [place.started for _, place in wanted],
        "sends": [place.send.id for _, place in wanted],
        "leads": leads,
        # A mail that waits for its words is due a lead on, and a scan later.
        "longest": max(leads),
    }


def _lead(place: Place) -> dt.timedelta:
    return place.send.personalize.lead if place.send.personalize else dt.timedelta()


def _needs(personal: Personalize, prompt: Prompt | None) -> Needs:
    if personal.segment is not None:
        spoken = prompt is not None and bool(prompt.translations)
        return Needs(segments=frozenset({personal.segment}), subscriber=spoken)
    return prompt.needs if prompt is not None else Needs()


def _told(personal: Personalize, prompt: Prompt, facts: Any) -> Mapping[str, str | None]:
    if personal.segment is not None:
        label = facts.segments.get(personal.segment) if facts is not None else None
        return {SEGMENT: label}
    return (
        prompt.told(facts) if facts is not None else dict.fromkeys([*prompt.fields, *prompt.names])
    )
