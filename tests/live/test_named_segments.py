"""Named segments: who joins, who leaves, what moves them, and what an operator sees of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from schedules.segment import reads
from tasks.audience import segment_book as book
from tasks.audience import segment_refresh as work
from tasks.errors import Permanent
from tasks.membership import Edge, edges_since, newest_edge, to_evaluate
from tasks.sequence import crontab
from tests.live import seeds
from workers.cli import main
from workers.cli.render import ExitCode
from workers.doctor import standing

VIP = "key: vip\ntitle: V\nwhen: sub.vip\n"
BUYERS = "key: buyers\ntitle: B\nwhen: \"count('buy', within='30d') >= 2\"\n"
BOTH = "key: both\ntitle: C\nwhen: \"in_segment('vip') and in_segment('buyers')\"\n"


def run(database: Database, sql: str, **parameters: Any) -> Any:
    with database.transaction() as connection:
        done = connection.execute(text(sql), parameters)
        return done.all() if done.returns_rows else done.rowcount


def apply(database: Database, *sources: str) -> list[book.Applied]:
    files = [reads(source, f"{n}.yaml") for n, source in enumerate(sources)]
    with database.transaction() as connection:
        book.hold(connection)
        assert book.findings(connection, files) == []
        return book.apply(connection, files)


def made(database: Database, *sources: str) -> None:
    """Apply them and evaluate each that is new."""
    done = apply(database, *sources)
    with database.transaction() as connection:
        order = book.order(connection)
    for key in order:
        if key in {each.key for each in done}:
            assert work.refresh(database, key) is not None


def edges(database: Database, key: str, after: int = 0, limit: int = 1000) -> list[Edge]:
    with database.transaction() as connection:
        return edges_since(connection, key, after, limit)


def told(database: Database, key: str) -> list[tuple[int, str, int, str]]:
    return [(e.subscriber_id, e.edge, e.join_no, e.cause) for e in edges(database, key)]


def buy(database: Database, id_: int, n: int = 1, *, ahead: float = 0) -> None:
    for _ in range(n):
        run(
            database,
            "INSERT INTO event (subscriber_id, name, occurred_at)"
            " VALUES (:id, 'buy', now() + make_interval(secs => :ahead))",
            id=id_,
            ahead=ahead,
        )


def set_vip(database: Database, ids: list[int], vip: bool) -> None:
    run(
        database,
        "UPDATE subscriber SET attributes = jsonb_build_object('vip', CAST(:v AS boolean))"
        " WHERE id = ANY(:ids)",
        ids=ids,
        v=vip,
    )


def row(database: Database, key: str) -> Any:
    (found,) = run(database, "SELECT * FROM segment WHERE key = :key", key=key)
    return found


def test_whoever_joins_and_leaves_is_an_edge_each_and_evaluating_again_is_none(
    database: Database,
) -> None:
    a, b, c = seeds.subscribers(database, 3)
    set_vip(database, [a, b], True)
    made(database, VIP)
    assert told(database, "vip") == [(a, "join", 1, "definition"), (b, "join", 1, "definition")]
    assert row(database, "vip").members == 2
    set_vip(database, [b], False)
    set_vip(database, [c], True)
    for _ in range(2):  # the second time changes nothing
        assert work.refresh(database, "vip") is not None
        assert told(database, "vip")[2:] == [
            (b, "leave", 1, "schedule"),
            (c, "join", 1, "schedule"),
        ]
    set_vip(database, [b], True)
    work.refresh(database, "vip")
    assert told(database, "vip")[4:] == [(b, "join", 2, "schedule")]
    assert row(database, "vip").members == 3
    run(database, "DELETE FROM subscriber WHERE id = :id", id=a)
    work.refresh(database, "vip")
    assert told(database, "vip")[5:] == [(a, "leave", 1, "schedule")]


def test_edges_are_read_on_from_where_one_was(database: Database) -> None:
    ids = seeds.subscribers(database, 5)
    set_vip(database, ids, True)
    made(database, VIP)
    first = edges(database, "vip", limit=2)
    rest = edges(database, "vip", first[-1].id)
    assert [each.subscriber_id for each in (*first, *rest)] == ids
    with database.transaction() as connection:
        assert newest_edge(connection, "vip") == rest[-1].id
        assert newest_edge(connection, "none") == 0
    assert edges(database, "vip", rest[-1].id) == edges(database, "none") == []


def test_an_event_moves_whom_it_touches_and_nobody_else_is_looked_at(database: Database) -> None:
    a, b = seeds.subscribers(database, 2)
    made(database, BUYERS)
    buy(database, a)
    assert work.work_touches(database) == 1 and told(database, "buyers") == []
    buy(database, a)
    run(
        database,
        "INSERT INTO event (subscriber_id, name, occurred_at) VALUES (:id, 'see', now())",
        id=b,
    )
    with database.transaction() as connection:
        assert to_evaluate(connection)
    assert work.work_touches(database) == 1, "no segment asks for 'see'"
    assert told(database, "buyers") == [(a, "join", 1, "event")]
    assert row(database, "buyers").members == 1
    with database.transaction() as connection:
        assert not to_evaluate(connection)
    # Time alone takes somebody out: the schedule notices.
    run(database, "UPDATE event SET occurred_at = occurred_at - interval '31 days'")
    assert work.refresh(database, "buyers") is not None
    assert told(database, "buyers")[1:] == [(a, "leave", 1, "schedule")]


def test_what_is_dated_ahead_counts_when_its_time_comes(database: Database) -> None:
    (a,) = seeds.subscribers(database, 1)
    made(database, BUYERS)
    buy(database, a, 2, ahead=3600)
    buy(database, a, 1, ahead=40 * 86400)
    assert work.work_touches(database) == 0
    run(database, "UPDATE segment_touch SET due_at = due_at - interval '2 hours'")
    run(database, "UPDATE event SET occurred_at = occurred_at - interval '2 hours'")
    assert work.work_touches(database) == 2
    assert told(database, "buyers") == [(a, "join", 1, "event")]


def test_a_segment_that_asks_for_others_follows_them(database: Database) -> None:
    a, b = seeds.subscribers(database, 2)
    set_vip(database, [a, b], True)
    made(database, BOTH, VIP, BUYERS)
    assert work.work_touches(database) == 2, "the vips touch what asks for them"
    buy(database, a, 2)
    assert work.work_touches(database) == 2, "the two events"
    assert work.work_touches(database) == 1, "who joined touches what asks for it"
    assert told(database, "both") == [(a, "join", 1, "event")]
    set_vip(database, [a], False)
    assert work.refresh(database, "vip") is not None
    assert work.work_touches(database) == 1
    assert told(database, "both")[1:] == [(a, "leave", 1, "event")]


def test_where_many_are_moved_at_once_what_asks_for_them_looks_at_everybody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = seeds.subscribers(database, 4)
    made(database, VIP, "key: other\ntitle: O\nwhen: not in_segment('vip')\n")
    monkeypatch.setattr(work, "MANY", 2)
    set_vip(database, ids[:3], True)
    assert work.refresh(database, "vip") is not None
    assert work.work_touches(database) == 1
    done = work.refresh(database)
    assert done is not None and (done.key, done.left) == ("other", 3)
    assert work.work_touches(database) == 0


def test_who_cannot_be_told_stays_in_or_out_as_they_were(database: Database) -> None:
    a, b = seeds.subscribers(database, 2)
    score = (
        "INSERT INTO score (name, subscriber_id, value, artifact, scored_at) VALUES"
        " ('churn', :id, :v, 'x', now()) ON CONFLICT (name, subscriber_id) DO UPDATE SET value = :v"
    )
    run(database, score, id=a, v=0.9)
    made(database, "key: risk\ntitle: R\nwhen: score('churn', max_age='24h') > 0.5\n")
    assert told(database, "risk") == [(a, "join", 1, "definition")]
    assert row(database, "risk").unknown == 1
    run(database, "UPDATE score SET scored_at = now() - interval '2 days'")
    work.refresh(database, "risk")
    assert told(database, "risk")[1:] == [], "nobody leaves since nobody scored"
    run(database, "UPDATE score SET scored_at = now()")
    run(database, score, id=a, v=0.1)
    run(database, score, id=b, v=0.7)
    work.refresh(database, "risk")
    assert told(database, "risk")[1:] == [(a, "leave", 1, "schedule"), (b, "join", 1, "schedule")]


def test_of_a_flood_of_touches_the_segments_are_evaluated_for_everybody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = seeds.subscribers(database, 5)
    made(database, BUYERS, VIP)
    monkeypatch.setattr(work, "FLOOD", 3)
    for id_ in ids:
        buy(database, id_, 2)
    assert work.work_touches(database) == 4, "counting stops there"
    assert run(database, "SELECT FROM segment_touch") == []
    done = work.refresh(database)
    assert done is not None and (done.key, done.joined) == ("buyers", 5)
    assert work.refresh(database) is None, "vip asks for no event"


def test_a_segment_that_fails_is_put_off_and_says_so_and_holds_up_no_other(
    database: Database,
) -> None:
    (a,) = seeds.subscribers(database, 1)
    set_vip(database, [a], True)
    apply(database, BUYERS, VIP)
    run(database, "UPDATE segment SET condition = 'count(' WHERE key = 'buyers'")
    run(database, "UPDATE segment SET due_at = now() - interval '1 h' WHERE key = 'buyers'")
    assert work.refresh(database) is None
    done = work.refresh(database)
    assert done is not None and done.key == "vip"
    fault = row(database, "buyers")
    assert fault.faults == 1 and "ends too early" in fault.fault
    buy(database, a, 2)
    assert work.work_touches(database) == 2
    again = row(database, "buyers")
    assert (again.faults, again.due_at) == (1, fault.due_at), "a touch puts it off no further"
    run(database, "UPDATE segment SET due_at = now() WHERE key = 'buyers'")
    assert work.refresh(database) is None
    fault = row(database, "buyers")
    assert fault.faults == 2 and fault.due_at > again.due_at
    with database.transaction() as connection:
        (found,) = standing.segments(connection)
    assert found.severity == "error" and "failed 2 times" in found.says
    apply(database, BUYERS.replace("30d", "31d"))
    done = work.refresh(database)
    assert done is not None and (done.key, done.joined) == ("buyers", 1)
    with database.transaction() as connection:
        (found,) = standing.segments(connection)
    assert found.severity == "fine"


def test_doctor_says_what_is_not_evaluated(database: Database) -> None:
    (a,) = seeds.subscribers(database, 1)
    made(database, VIP, BUYERS)
    run(database, "UPDATE segment SET due_at = now() - interval '2 h' WHERE key = 'vip'")
    buy(database, a)
    run(database, "UPDATE segment_touch SET due_at = now() - interval '1 h'")
    with database.transaction() as connection:
        found = {each.check: each for each in standing.segments(connection)}
    assert found.keys() == {"segment vip", "segments"}
    assert "was to be evaluated 2 h" in found["segment vip"].says
    assert "has moved nobody yet" in found["segments"].says


def test_edges_of_two_who_write_at_once_appear_in_the_order_of_their_ids(
    database: Database,
) -> None:
    """A reader that keeps the last id misses none: who comes second waits for the first to commit."""
    a, b = seeds.subscribers(database, 2)
    made(database, BUYERS)
    buy(database, a, 2)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with database.transaction() as connection:
            connection.execute(text("SELECT FROM segment WHERE key = 'buyers' FOR NO KEY UPDATE"))
            connection.execute(
                text(
                    "INSERT INTO segment_edge (segment, subscriber_id, join_no, edge, cause)"
                    " VALUES ('buyers', :id, 1, 'join', 'event')"
                ),
                {"id": b},
            )
            begun.set()
            assert go_on.wait(30)

    other = threading.Thread(target=slow)
    other.start()
    assert begun.wait(30)
    second = threading.Thread(target=work.work_touches, args=(database,))
    second.start()
    second.join(0.2)
    assert second.is_alive() and edges(database, "buyers") == []
    go_on.set()
    other.join(30)
    second.join(30)
    assert [each.subscriber_id for each in edges(database, "buyers")] == [b, a]


def test_one_process_of_the_fleet_refreshes_and_one_works_on_touches(database: Database) -> None:
    (a,) = seeds.subscribers(database, 1)
    apply(database, BUYERS)
    buy(database, a)
    with database.transaction() as connection:
        for slot in (work.TOUCHES, work.REFRESH):
            values = {"space": work.LOCK_SPACE, "slot": slot}
            assert connection.execute(work.SLOT, values).scalar_one()
        assert work.work_touches(database) == 0
        assert work.refresh(database) is None
    assert work.work_touches(database) == 1
    assert work.refresh(database) is not None


# --- what operators do ---


@pytest.fixture
def place(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    monkeypatch.chdir(tmp_path)
    for name, source in (("vip", VIP), ("buyers", BUYERS), ("both", BOTH)):
        (tmp_path / f"{name}.yaml").write_text(source)
    return tmp_path


@pytest.fixture
def command(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*arguments: str, code: int = ExitCode.OK) -> Any:
        capsys.readouterr()
        assert main(list(arguments)) == code
        said = capsys.readouterr()
        return json.loads(said.out) if said.out else said.err

    return call


def test_files_are_applied_and_looked_at(command: Callable[..., Any], database: Database) -> None:
    a, b, _ = seeds.subscribers(database, 3)
    set_vip(database, [a, b], True)
    buy(database, b, 2)
    files = ("both.yaml", "buyers.yaml", "vip.yaml")
    assert [each["change"] for each in command("segment", "apply", *files, "--dry-run")] == [
        "added"
    ] * 3
    assert command("segment", "list") == []
    done = {each["key"]: each for each in command("segment", "apply", *files)}
    assert {key: each["joined"] for key, each in done.items()} == {"both": 1, "buyers": 1, "vip": 2}
    assert {each["change"] for each in command("segment", "apply", *files)} == {"unchanged"}
    assert {each["key"]: each["members"] for each in command("segment", "list")} == {
        "both": 1,
        "buyers": 1,
        "vip": 2,
    }
    (member,) = command("segment", "members", "both")
    assert (member["subscriber_id"], member["join_no"]) == (b, 1)
    shown = command("segment", "show", "vip")
    assert shown["asked_by"] == ["segment both"]
    assert shown["last_day"] == {"join by definition": 2}
    assert "asked for by segment both" in command("segment", "remove", "vip", code=ExitCode.FAULT)
    assert "would remove" in command("segment", "remove", "both", "--dry-run")
    assert "1 subscribers left" in command("segment", "remove", "both")
    assert told(database, "both")[1:] == [(b, "leave", 1, "definition")]
    assert "there is no segment 'both'" in command("segment", "show", "both", code=ExitCode.FAULT)


def test_a_preview_is_a_count_and_some_of_them_and_writes_nothing(
    command: Callable[..., Any], database: Database
) -> None:
    a, b, c = seeds.subscribers(database, 3)
    set_vip(database, [a, b], True)
    made(database, VIP)
    for what in ("vip.yaml", "sub.vip", "vip", "in_segment('vip')"):
        found = command("segment", "preview", what, "--sample", "1")
        assert (found["subscribers"], found["members"], found["unknown"]) == (3, 2, 0)
        assert [each["subscriber_id"] for each in found["sample"]] == [b]
    found = command("segment", "preview", "score('churn', max_age='24h') > 0.5")
    assert (found["members"], found["unknown"], found["sample"]) == (0, 3, [])
    found = command("segment", "preview", "not in_segment('vip')")
    assert [each["subscriber_id"] for each in found["sample"]] == [c]
    assert len(edges(database, "vip")) == 2


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("sub.vip = 1", "at character 9"),
        ("topic('nowhere')", "topic 'nowhere' does not exist"),
        ("in_segment('vipp')", "segment 'vipp' does not exist; did you mean 'vip'"),
    ],
)
def test_a_preview_of_what_makes_no_sense_is_one_sentence(
    command: Callable[..., Any], database: Database, what: str, words: str
) -> None:
    made(database, VIP)
    assert words in command("segment", "preview", what, code=ExitCode.USAGE)


def test_files_that_ask_for_what_is_not_there_or_in_a_circle_change_nothing(
    command: Callable[..., Any], database: Database, place: Path
) -> None:
    told_ = command("segment", "apply", "both.yaml", code=ExitCode.FINDINGS)
    assert "both.yaml:3:7: 'when' of segment 'both': segment 'buyers' does not exist" in told_
    made(database, VIP, BUYERS, BOTH)
    (place / "vip.yaml").write_text("key: vip\ntitle: V\nwhen: not in_segment('both')\n")
    told_ = command("segment", "apply", "vip.yaml", code=ExitCode.FINDINGS)
    assert "vip.yaml:3:7: segments ask for each other in a circle: 'both' → 'vip' → 'both'" in told_
    (place / "again.yaml").write_text(VIP)
    told_ = command("segment", "apply", "vip.yaml", "again.yaml", code=ExitCode.FINDINGS)
    assert "that of another file too" in told_
    assert row(database, "vip").condition == "sub.vip"


def test_sequences_cron_lines_and_enqueue_ask_for_a_segment(
    command: Callable[..., Any], database: Database, place: Path
) -> None:
    a, _ = seeds.subscribers(database, 2)
    set_vip(database, [a], True)
    made(database, VIP)
    key = seeds.sequence(database, seeds.TWO_MAILS)
    for segment in ("vip", "in_segment('vip')"):
        assert command("enqueue", key, "--segment", segment, "--dry-run")["enrolled"] == 1
    assert "segment 'vipp' does not exist" in command(
        "enqueue", key, "--segment", "vipp", code=ExitCode.USAGE
    )
    cron = (
        "schedules:\n  - {{key: m, cron: '0 9 * * MON', zone: UTC,"
        " target: {{sequence: two-mails, segment: {0}}}}}\n"
    )
    (place / "cron.yaml").write_text(cron.format("vip"))
    command("schedules", "apply", "cron.yaml")
    (line,) = run(database, "SELECT target FROM schedule")
    assert line.target == {"into": "two-mails", "segment": "in_segment('vip')"}
    (place / "cron.yaml").write_text(cron.format("vipp"))
    told_ = command("schedules", "apply", "cron.yaml", code=ExitCode.FINDINGS)
    assert "segment 'vipp' does not exist; did you mean 'vip'?" in told_
    assert crontab.SEQUENCES is not None
    with database.transaction() as connection, pytest.raises(Permanent, match="schedule m"):
        book.remove(connection, "vip")


def test_a_sequence_that_asks_for_no_segment_that_there_is_is_not_published(
    command: Callable[..., Any], database: Database, place: Path
) -> None:
    source = (
        "key: s\ntitle: S\nclass: transactional\nentry: {manual: true}\n"
        "exit: [{when: \"in_segment('nope')\", reason: gone}]\n"
        "steps:\n  - id: b\n    branch: [{if: \"in_segment('vipp')\", next: e}, {else: e}]\n"
        "  - {id: e, exit: {reason: done}}\n"
    )
    (place / "s.yaml").write_text(source)
    made(database, VIP)
    told_ = command("sequence", "apply", "s.yaml", code=ExitCode.FINDINGS)
    assert "s.yaml:5:15: segment 'nope' does not exist" in told_
    assert "s.yaml:8:19: segment 'vipp' does not exist" in told_
    (place / "s.yaml").write_text(source.replace("nope", "vip").replace("vipp", "vip"))
    command("sequence", "apply", "s.yaml")
    with database.transaction() as connection:
        assert book.asked_by(connection, "vip") == ["sequence s"]
        assert book.asked_by(connection, "nope") == []
