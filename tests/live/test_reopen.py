"""Those who have completed, when an edit puts steps behind the end: `publish: {finished: reopen}`."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from models.session import Database
from schedules.findings import DefinitionError
from schedules.loader import reads
from tasks.sequence import drain
from tasks.sequence.explain import explain
from tasks.sequence.publish import TooMany, preview, publish
from tests.live import seeds
from tests.live.test_edit import (
    LATER,
    WAIT,
    A,
    B,
    C,
    execute,
    people,
    planned,
    planner,
    published,
    rows,
    step_of,
    text_of,
)
from workers.cli.edit import in_words

REOPEN = "publish: {finished: reopen}\n"
END = "  - {id: end, exit: {reason: completed}}\n"
QUICK = WAIT.replace("2d", "1s")


def completed(database: Database, *steps: str, n: int = 3) -> list[int]:
    """That many people who went through all of it."""
    ids = people(database, text_of(*steps), n)
    walk(database)
    assert rows(database, "SELECT DISTINCT active, end_reason FROM enrollment") == [
        (False, "completed")
    ]
    return ids


def walk(database: Database, until: int = 12) -> None:
    """Let the planner run, and each mail arrive, until nobody is under way."""
    run = planner(database)
    for _ in range(until):
        run.scan()
        with database.transaction() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(
                text("UPDATE message SET state = 'sent', run_at = NULL,"
                     " terminal_at = clock_timestamp() WHERE terminal_at IS NULL")
            )  # fmt: skip
            connection.execute(
                text(
                    "UPDATE enrollment SET due_at = clock_timestamp(), wait_rule = CASE"
                    " WHEN wait_rule -> 'until' IS NULL THEN wait_rule"
                    " ELSE jsonb_set(wait_rule, '{until}', to_jsonb(clock_timestamp())) END"
                    " WHERE active"
                )
            )


def mails(database: Database) -> Counter[str]:
    return Counter(row.step_id for row in rows(database, "SELECT step_id FROM message"))


@pytest.mark.parametrize("end", ["", END])
def test_an_appended_step_is_run_for_those_who_had_completed(database: Database, end: str) -> None:
    [first, *_] = completed(database, A, QUICK, end)
    new = text_of(A, QUICK, B, LATER, C, end, publish=REOPEN)
    said = planned(database, new)
    effect = published(database, new).effect
    assert effect == said
    assert (said.people, said.reopened, said.due_now, said.immediate_sends) == (0, 3, 3, 3)
    there = step_of(said, "b")
    assert (there.reopened, there.due_now, there.mails_24h) == (3, 3, 3)
    walk(database)
    assert mails(database) == {"a": 3, "b": 3, "c": 3}
    with database.transaction() as connection:
        told = [line.text for line in explain(connection, first, "edited").lines]
    assert "b: version 2 has steps behind the end, so the way goes on here" in told
    assert told[-1] == f"left the sequence at {'end' if end else 'c'}: completed"


def test_without_the_word_they_stay_finished_and_later_the_word_holds(database: Database) -> None:
    completed(database, A)
    effect = published(database, text_of(A, B)).effect
    assert effect is not None and effect.reopened == 0
    effect = published(database, text_of(A, B, C, publish=REOPEN)).effect
    assert effect is not None and effect.reopened == 3
    walk(database)
    assert mails(database) == {"a": 3, "b": 3, "c": 3}
    again = published(database, text_of(A, B, C, publish=REOPEN + "title: Other\n").replace(
        "title: A sequence that is edited\n", ""
    )).effect  # fmt: skip
    assert again is not None and again.reopened == 0


def test_steps_that_only_moved_are_no_reason_and_are_not_run_again(database: Database) -> None:
    completed(database, A, QUICK, B)
    effect = published(database, text_of(B, A, QUICK, publish=REOPEN)).effect
    assert effect is not None and effect.reopened == 0
    effect = published(database, text_of(B, A, C, QUICK, publish=REOPEN)).effect
    assert effect is not None and effect.reopened == 3
    walk(database)
    assert mails(database) == {"a": 3, "b": 3, "c": 3}


def test_who_left_otherwise_or_may_get_nothing_or_came_again_stays_as_they_are(
    database: Database,
) -> None:
    converted, stopped, suppressed, again, plain = completed(database, A, n=5)
    execute(database, "UPDATE enrollment SET end_reason = 'converted' WHERE subscriber_id = :id",
            id=converted)  # fmt: skip
    execute(database, "UPDATE subscriber SET stopped_at = now(), stopped_reason = 'unsubscribe'"
            " WHERE id = :id", id=stopped)  # fmt: skip
    execute(
        database,
        "INSERT INTO suppression SELECT address_hmac, 'marketing', 'complaint', now()"
        " FROM subscriber WHERE id = :id",
        id=suppressed,
    )
    execute(
        database,
        "INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, entry_no, due_at)"
        " VALUES ('edited', 1, :id, 2, now() + interval '1 day')",
        id=again,
    )
    new = text_of(A, WAIT, B, publish=REOPEN)
    said = planned(database, new)
    assert published(database, new).effect == said and said.reopened == 1
    assert rows(
        database, "SELECT subscriber_id FROM enrollment WHERE active ORDER BY entry_no"
    ) == [(plain,), (again,)]


BRANCH = '  - id: ask\n    branch: [{{if: "sub.vip != null", next: b}}, {{if: "sub.old == null", next: end}}, {{else: {0}}}]\n'
EVENT = "  - {{id: e, wait: {{until_event: bought, timeout: 1s}}, paths: {{event: {0}, timeout: end}}}}\n"
LAST = "  - {id: e, wait: {until_event: bought, timeout: 1s}, paths: {event: b}}\n"
# Which steps they went through to an end, and which an edit puts where another way leads.
PARTED = [
    ((A, BRANCH.format("b"), B, END), (A, BRANCH.format("c"), B, C, END)),
    ((A, EVENT.format("b"), B, END), (A, EVENT.format("c"), C, END)),
    ((A.replace("mail}", "mail}, next: e"), B.replace("mail}", "mail}, next: end"), END, LAST),
     (A.replace("mail}", "mail}, next: e"), B, C, END, LAST)),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), PARTED)
def test_where_ways_part_an_end_stays_one(
    database: Database, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    completed(database, *before)
    effect = published(database, text_of(*after, publish=REOPEN)).effect
    assert effect is not None and effect.reopened == 0
    assert mails(database) == {"a": 3}


def test_the_word_is_one_of_two_and_does_not_go_with_letting_people_go(database: Database) -> None:
    people(database, text_of(A))
    with pytest.raises(DefinitionError, match=r"did you mean 'reopen'\?"):
        published(database, text_of(A, publish="publish: {finished: repoen}\n"))
    with pytest.raises(DefinitionError, match="'enrolled: drain'"):
        published(database, text_of(A, publish="publish: {finished: reopen, enrolled: drain}\n"))


def test_nobody_goes_on_in_a_sequence_that_drains(database: Database) -> None:
    completed(database, A)
    with database.transaction() as connection:
        drain.drain(connection, "edited", "over")
    new = text_of(A, B, publish=REOPEN)
    said = planned(database, new)
    assert published(database, new).effect == said and said.reopened == 0
    assert in_words(said).endswith("stays so, since the sequence takes nobody new")


def test_their_mails_count_as_mails_at_once(database: Database) -> None:
    completed(database, A)
    few = "publish: {finished: reopen, max_immediate_sends: 2}\n"
    with pytest.raises(TooMany, match="3 mails due at once"):
        published(database, text_of(A, B, publish=few))
    assert rows(database, "SELECT DISTINCT active FROM enrollment") == [(False,)]
    effect = published(database, text_of(A, WAIT, B, publish=few)).effect
    assert effect is not None and (effect.reopened, effect.immediate_sends) == (3, 0)


STEPS = {"a": A, "b": B, "c": C, "wait": WAIT, "later": LATER}
ORDERS = st.lists(st.sampled_from(tuple(STEPS)), min_size=1, max_size=5, unique=True)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=ORDERS, after=ORDERS, done=st.lists(st.booleans(), min_size=6, max_size=6))
def test_apply_reopens_whom_plan_said_and_nobody_goes_through_a_step_twice(
    crowd: tuple[Database, list[int]], before: list[str], after: list[str], done: list[bool]
) -> None:
    database, ids = crowd
    with database.engine.connect() as connection, connection.begin() as change:
        try:
            _one_edit(connection, ids, before, after, done)
        finally:
            change.rollback()


@pytest.fixture
def crowd(database: Database) -> tuple[Database, list[int]]:
    execute(database, "INSERT INTO topic (key, title) VALUES ('news', 'n')")
    return database, seeds.subscribers(database, 6)


def _one_edit(
    connection: Connection,
    ids: list[int],
    before: list[str],
    after: list[str],
    done: list[bool],
) -> None:
    """Some have completed `before`, the others stand in its last step."""

    def run(sql: str, **values: object) -> list[tuple[object, ...]]:
        found = connection.execute(text(sql), values)
        return [tuple(row) for row in found] if found.returns_rows else []

    source = text_of(*(STEPS[step] for step in before))
    mail = {"test/mail": seeds.MAIL}
    publish(connection, reads(source, "e.yaml"), source, mail)
    for id_, over in zip(ids, done, strict=True):
        run(
            "INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, step_id, active,"
            " ended_at, end_reason, due_at) VALUES ('edited', 1, :id, :last, :active,"
            " CASE WHEN :over THEN now() END, CASE WHEN :over THEN 'completed' END,"
            " CASE WHEN :active THEN now() + interval '9 days' END)",
            id=id_, last=before[-1], active=not over, over=over,
        )  # fmt: skip
        for step in before:
            run(
                "INSERT INTO decision (subscriber_id, sequence_key, enrollment_id, step_id, kind,"
                " reason) SELECT :id, 'edited', id, :step, 'handed_off', 'due' FROM enrollment"
                " WHERE subscriber_id = :id",
                id=id_, step=step,
            )  # fmt: skip
    new = text_of(*(STEPS[step] for step in after), publish=REOPEN)
    said = preview(connection, reads(new, "e.yaml"), mail).effect
    made = publish(connection, reads(new, "e.yaml"), new, mail, yes=True)
    assert made.effect == said and said is not None
    last = before[-1]
    behind = after[after.index(last) + 1 :] if last in after else []
    fresh = [step for step in behind if step not in before]
    finished = [id_ for id_, over in zip(ids, done, strict=True) if over]
    assert said.reopened == (len(finished) if fresh else 0)
    assert {s.id: s.reopened for s in said.steps if s.reopened} == (
        {fresh[0]: len(finished)} if fresh and finished else {}
    )
    there = run(
        "SELECT step_id, passed FROM enrollment WHERE subscriber_id = ANY(:ids) AND active",
        ids=finished,
    )
    passed = sorted(set(behind) & set(before))
    assert there == [(fresh[0], passed or None)] * said.reopened if fresh else there == []
