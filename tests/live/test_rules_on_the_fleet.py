"""R1 to R16, a sample of each on a running fleet: beat, planner, doorbells, send workers, a relay.

Each test has a sequence of its own in the one fleet. What time alone would bring (an hour of waiting, a
night of downtime) is brought by moving the row that waits for it; all else is done as an operator,
an application or a subscriber does it. Above each test stands what would make it fail.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from functools import reduce
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
import redis

from schedules.goal import Holdout
from tasks import names
from tasks.base import ring
from tasks.moves.settings import DeliverySettings
from tasks.upkeep.verify import VerifySettings, verify
from tests.live.standing import Standing, standing
from workers.celery import build
from workers.cli.audit import SinkLedger
from workers.cli.render import ExitCode
from workers.embedded.ledger import LEDGER
from workers.settings import RedisSettings

BERLIN, PAGO = "Europe/Berlin", "Pacific/Pago_Pago"
MAIL: Final = "rules/mail"
SEQUENCES: dict[str, str] = {}
HALF = Holdout(Decimal(50), "half")


def sequence(key: str, steps: str, more: str = "entry: {manual: true}", topic: str = "news") -> str:
    """The source of a sequence; the first one under a key is published before the first test."""
    source = (
        f"key: {key}\ntitle: {key}\nclass: marketing\ntopic: {topic}\n"
        f"timezone: {{source: subscriber, fallback: {BERLIN}}}\n{more.strip()}\nsteps:\n"
    )
    source += "".join(f"  {line}\n" for line in steps.strip().splitlines())
    SEQUENCES.setdefault(key, source)
    return source


def clock(zone: str, **later: int) -> str:
    """What a clock there shows, from now."""
    return f"{dt.datetime.now(ZoneInfo(zone)) + dt.timedelta(**later):%H:%M}"


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str, _valkey: str
) -> Iterator[Standing]:
    with redis.Redis.from_url(_valkey) as client:
        client.flushall()
    # A night in Berlin that began an hour ago; in Pago Pago it is a minute after noon.
    words = {"NIGHT": clock(BERLIN, hours=-1), "DAWN": clock(BERLIN, hours=3)}
    words["NOON"] = clock(PAGO, minutes=-1)
    sources = {
        key: reduce(lambda said, word: said.replace(word, words[word]), words, source)
        for key, source in SEQUENCES.items()
    }
    urls = {"DATABASE_URL": module_database_url, "REDIS_URL": _valkey, "HARM_EVERY": "0.5"}
    with standing(tmp_path_factory.mktemp("rules"), sources, [MAIL], **urls) as fleet:
        yield fleet


# R1. The vectors: zone, the day that an attribute holds, the time of day, and the instant.
VECTORS = {
    "gap-ny": ("America/New_York", "2026-03-08", "02:30", "2026-03-08T07:00Z"),
    "twice-ny": ("America/New_York", "2026-11-01", "01:30", "2026-11-01T05:30Z"),
    "after-ny": ("America/New_York", "2026-11-01", "09:00", "2026-11-01T14:00Z"),
    "gap-berlin": ("Europe/Berlin", "2026-03-29", "02:15", "2026-03-29T01:00Z"),
    "twice-berlin": ("Europe/Berlin", "2026-10-25", "02:15", "2026-10-25T00:15Z"),
    "tokyo": ("Asia/Tokyo", "2026-11-23", "08:00", "2026-11-22T23:00Z"),
}
sequence(
    "r1",
    "".join(
        f'- {{id: {key}, wait: {{until_date: {{attribute: {key}, at: "{at}", missing: skip}}}}}}\n'
        for key, (_, _, at, _) in VECTORS.items()
    )
    + "- {id: days, wait: {delay: 2d}}\n",
)
sequence("r1-days", '- {id: days, wait: {calendar_days: 2, at: "09:30"}}')


# Fails where a wall time is resolved by the offset of now, or by the zone data of the machine;
# where `delay: 2d` is two dates; where a day is one of UTC (Tokyo has another one for nine hours).
def test_r1_a_wall_time_is_its_instant_where_the_subscriber_is(fleet: Standing) -> None:
    header = "zone,topic:news," + ",".join(VECTORS)
    rows = []
    for key, (zone, day, _, _) in VECTORS.items():
        days = ",".join(day if key == each else "" for each in VECTORS)
        rows.append(f"{key},{zone},yes,{days}")
    fleet.people(header, *rows)
    fleet.enqueue("r1", *VECTORS)
    fleet.enqueue("r1-days", "tokyo", "gap-ny")
    fleet.until_at("days", "r1", *VECTORS)
    fleet.until_at("days", "r1-days", "tokyo", "gap-ny")
    for key, (_, _, _, instant) in VECTORS.items():
        # Not yet or long ago, whenever this is run: the log has when it is.
        (line,) = fleet.decided("r1", key, "waiting", "date_past")[:1]
        assert line.step_id == key
        assert dt.datetime.fromisoformat(line.detail["until"]) == dt.datetime.fromisoformat(instant)
        row = fleet.stands("r1", key)
        assert abs(row.due_at - row.step_started_at - dt.timedelta(hours=48)).total_seconds() < 5
    for who, zone in (("tokyo", "Asia/Tokyo"), ("gap-ny", "America/New_York")):
        row = fleet.stands("r1-days", who)
        day = row.step_started_at.astimezone(ZoneInfo(zone)).date() + dt.timedelta(days=2)
        assert f"{row.due_at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M}" == f"{day} 09:30"


sequence(
    "r2",
    f"""
- {{id: go, wait: {{until_event: r2.go, timeout: 1d}}}}
- {{id: due, wait: {{until_date: {{attribute: due, at: "00:00", missing: skip}}}}}}
- {{id: mail, send: {{template: {MAIL}}}, max_lateness: 1h, on_late: skip}}
- {{id: more, send: {{template: {MAIL}}}}}
""",
    """
entry: {manual: true}
exit: [{when: "sub.left == true", reason: left}]
holdout: {percent: 50, salt: half}
limits:
  quiet_hours: {from: "NIGHT", to: "DAWN"}
  cap: {max: 1, per: 7d, scope: sequence, on_hit: skip}
""",
)


# Each of them trips a gate and those behind it: fails where two gates change places, where one is
# left out, or where ARM is not told of the night.
def test_r2_the_gates_speak_in_their_order_at_hand_off(fleet: Standing) -> None:
    everybody = [f"r2-{n:02}" for n in range(16)]
    fleet.people("zone,topic:news", *(f"{who},{BERLIN},yes" for who in everybody))
    ids = dict(zip(everybody, fleet.ids(*everybody), strict=True))
    held = [who for who in everybody if HALF.holds(ids[who])]
    free = [who for who in everybody if not HALF.holds(ids[who])]
    leaves, out, stopped, control = held[0], held[1], held[2], held[3]
    late, night, capped = free[0], free[1], free[2]
    roles = (leaves, out, stopped, control, late, night, capped)
    fleet.enqueue("r2", *roles)
    fleet.until_at("go", "r2", *roles)
    fleet.people(
        "zone,topic:news,left:bool,due",
        f"{leaves},,no,true,2020-01-01", f"{out},,no,,2020-01-01", f"{stopped},,,,2020-01-01",
        f"{control},,,,2020-01-01", f"{late},,,,2020-01-01", f"{capped},Asia/Tokyo,,,",
    )  # fmt: skip
    fleet.rows(
        "INSERT INTO suppression (address_hmac, scope, reason)"
        " SELECT address_hmac, 'marketing', 'complaint' FROM subscriber WHERE id = ANY(:ids)",
        ids=[ids[leaves], ids[out], ids[stopped]],
    )
    fleet.tell("r2.go", *roles)
    assert fleet.until_ended("r2", leaves, out, stopped, control) == [
        "left", "opted_out", "complaint", "completed",
    ]  # fmt: skip
    assert fleet.mails("r2", leaves) == []
    assert fleet.mails("r2", out) == [("mail", "suppressed", "opted_out")]
    assert fleet.mails("r2", stopped) == [("mail", "suppressed", "complaint")]
    assert sorted(fleet.mails("r2", control)) == [
        ("mail", "held_out", "holdout"), ("more", "held_out", "holdout"),
    ]  # fmt: skip
    fleet.until(lambda: fleet.mails("r2", late) != [], "the mail that is late")
    assert fleet.mails("r2", late) == [("mail", "late", "max_lateness")]
    fleet.until(lambda: fleet.stands("r2", night).step_id == "mail", "who sleeps")
    row = fleet.stands("r2", night)
    assert row.wait_rule["by"] == "quiet_hours" and fleet.mails("r2", night) == []
    assert f"{row.due_at.astimezone(ZoneInfo(BERLIN)):%H:%M}" == row_dawn(fleet)
    assert fleet.until_ended("r2", capped) == ["completed"]
    assert fleet.mails("r2", capped) == [
        ("mail", "sent", "accepted"), ("more", "capped", "frequency_cap"),
    ]  # fmt: skip
    # The relay's retries are held to the same hours: three days with a hole a night.
    (spans,) = fleet.rows(
        "SELECT count(*) AS n FROM message m, unnest(m.allowed) WHERE m.sequence_key = 'r2'"
        " AND m.subscriber_id = :id AND m.step_id = 'mail'",
        id=ids[capped],
    )
    assert spans.n >= 3
    assert fleet.arrived().keys() & set(everybody) == {capped}


def row_dawn(fleet: Standing) -> str:
    """When the night of `r2` ends, as its published definition has it."""
    (row,) = fleet.rows(
        "SELECT definition #>> '{limits,quiet_hours,to}' AS dawn FROM sequence_version"
        " WHERE sequence_key = 'r2'"
    )
    return str(row.dawn)


sequence(
    "r3",
    f"""
- {{id: first, send: {{template: {MAIL}}}}}
- {{id: wait, wait: {{delay: 1s}}}}
- {{id: second, send: {{template: {MAIL}}}}}
""",
)


# Fails where two scans plan one enrollment, where a tick says more than "now", or where work that
# a lost tick was to do waits for that very tick.
def test_r3_doubled_lost_and_late_ticks_change_nothing(fleet: Standing) -> None:
    who = [f"r3-{n}" for n in range(20)]
    fleet.people("topic:news", *(f"{each},yes" for each in who))
    app = build(None, RedisSettings.model_validate({"redis_url": fleet.fleet.stack.redis_url}))
    with redis.Redis.from_url(fleet.fleet.stack.redis_url) as broker:
        fleet.enqueue("r3", *who)
        for n in range(10):
            for name in (names.SCAN, names.DISPATCH, names.REAP):
                assert ring(name, names.tick())
            if n % 4 == 3:
                broker.flushdb()
        assert set(fleet.until_ended("r3", *who)) == {"completed"}
    app.close()
    assert all(fleet.mails("r3", each) == [
        ("first", "sent", "accepted"), ("second", "sent", "accepted"),
    ] for each in who)  # fmt: skip
    arrived = fleet.arrived()
    assert {arrived[each] for each in who} == {2}


sequence("r4", f"- {{id: mail, send: {{template: {MAIL}}}}}")
CRON: Final = {
    # What becomes of its fires, and of a first one that long ago.
    "r4-latest": ("0 9 * * *", "latest", "30d", "3 days 5 hours"),
    "r4-skip": ("0 9 29 2 *", "skip", "30d", "1 hour"),
    "r4-old": ("0 9 29 2 *", "latest", "30m", "1 hour"),
}


# Fails where a planner that looks a second time fires an instant again, where downtime is made up
# for fire by fire, or where one is run, or dropped without a word, that is too old.
def test_r4_a_fire_runs_once_over_the_fleet_and_what_was_missed_is_on_record(
    fleet: Standing,
) -> None:
    fleet.people("topic:news,r4:bool", "r4-a,yes,true", "r4-b,yes,true")
    lines = "schedules:\n" + "".join(
        f"  - {{key: {key}, cron: '{cron}', zone: UTC, catch_up: {catch_up}, max_lateness: {most},\n"
        "     target: {sequence: r4, segment: 'sub.r4 == true'}}\n"
        for key, (cron, catch_up, most, _) in CRON.items()
    )
    fleet.types(f"schedules apply {fleet.file('cron.yaml', lines)}")
    with fleet.database.transaction() as connection:
        for key, (_, _, _, ago) in CRON.items():  # as if nobody had been there since
            connection.exec_driver_sql(
                "UPDATE schedule SET next_fire_at = clock_timestamp() - %s::interval,"
                " next_wall = (clock_timestamp() - %s::interval) AT TIME ZONE 'UTC' WHERE key = %s",
                (ago, ago, key),
            )
    app = build(None, RedisSettings.model_validate({"redis_url": fleet.fleet.stack.redis_url}))
    for _ in range(10):
        assert ring(names.SCAN, names.tick()) and ring(names.FIRE, names.tick())
    app.close()

    def fires(key: str) -> list[tuple[str, str | None]]:
        rows = fleet.rows(
            "SELECT state, detail ->> 'reason' FROM schedule_fire WHERE schedule_key = :key"
            " ORDER BY fire_at",
            key=key,
        )
        return [tuple(row) for row in rows]

    def ended() -> bool:
        found = [fires(key) for key in CRON]
        return all(found) and "claimed" not in {state for each in found for state, _ in each}

    fleet.until(ended, "the end of every fire")
    *before, last = fires("r4-latest")
    assert last == ("done", None)
    assert len(before) >= 3 and set(before) == {("missed", "superseded")}
    assert fires("r4-skip") == [("missed", "skipped")]
    assert fires("r4-old") == [("missed", "too_late")]
    assert fleet.until_ended("r4", "r4-a", "r4-b") == ["completed", "completed"]
    assert [fleet.arrived()[each] for each in ("r4-a", "r4-b")] == [1, 1]


sequence(
    "r5",
    f"""
- {{id: due, wait: {{until_date: {{attribute: r5, at: "00:00", missing: exit}}}}}}
- {{id: early, send: {{template: {MAIL}}}, max_lateness: 1h, on_late: skip}}
- {{id: within, send: {{template: {MAIL}}}}}
- {{id: again, wait: {{until_date: {{attribute: r5, at: "00:00", missing: exit}}}}}}
- {{id: last, send: {{template: {MAIL}}}, max_lateness: 1h, on_late: exit}}
""",
    "entry: {manual: true}\ncatch_up: {max_lateness: 30d, spread: 2s}",
)


# Fails where lateness counts from the hand-off of the step before, where the bound of a step does
# not come before that of the sequence, or where all that is late goes in one heap.
def test_r5_what_is_late_goes_spread_within_its_bound_and_by_on_late_beyond(
    fleet: Standing,
) -> None:
    who = [f"r5-{n}" for n in range(5)]
    day = (dt.datetime.now(dt.UTC) - dt.timedelta(days=3)).date()
    fleet.people("topic:news,r5", *(f"{each},yes,{day}" for each in who))
    fleet.enqueue("r5", *who)
    assert set(fleet.until_ended("r5", *who)) == {"late"}
    spans = set()
    for each in who:
        assert fleet.mails("r5", each) == [
            ("early", "late", "max_lateness"),
            ("within", "sent", "accepted"),
            ("last", "late", "max_lateness"),
        ]
        (spread,) = fleet.decided("r5", each, "postponed")
        assert (spread.step_id, spread.reason) == ("within", "spread")
        spans.add(dt.datetime.fromisoformat(spread.detail["until"]) - spread.at)
    assert len(spans) == len(who) and max(spans) <= dt.timedelta(seconds=2)


sequence("r6", f"- {{id: mail, send: {{template: {MAIL}}}}}")


# Fails where a hand-off is more than one transaction, where its effect key is not unique, or where
# what a dead worker had claimed waits for a lease, or is lost.
def test_r6_a_kill_in_the_hand_off_makes_no_second_mail_and_loses_none(fleet: Standing) -> None:
    who = [f"r6-{n}" for n in range(10)]
    fleet.people("topic:news", *(f"{each},yes" for each in who))
    before = fleet.fleet.pids()
    for point in ("plan.written", "claim.committed"):
        fleet.points.arm(point, "kill")
    fleet.enqueue("r6", *who)
    reached: set[str] = set()

    def died() -> bool:
        reached.update(p for p in ("plan.written", "claim.committed") if fleet.points.take(p))
        return len(reached) == 2

    fleet.until(died, "two deaths")
    assert set(fleet.until_ended("r6", *who)) == {"completed"}
    assert {each: fleet.arrived()[each] for each in who} == dict.fromkeys(who, 1)
    after = fleet.fleet.pids()
    assert all(after[pool] != before[pool] for pool in ("sequence", "send"))


sequence(
    "r7",
    f"""
- {{id: mail, send: {{template: {MAIL}}}}}
- {{id: wait, wait: {{delay: 1d}}}}
""",
    """
entry:
  trigger: {event: r7.paused}
  dedupe_key: event.pause_id
  reentry: {policy: after_exit, cooldown: 1h, while_active: ignore}
exit: [{event: r7.resumed, reason: resumed}]
holdout: {percent: 50, salt: half}
""",
)


# Fails where the cool-down counts from the entry, where a key enters a second time after its entry
# has ended, where an event waits that was to be ignored, or where the arm is drawn anew.
def test_r7_who_comes_again_is_judged_and_stays_in_their_arm(fleet: Standing) -> None:
    who = [f"r7-{n}" for n in range(12)]
    fleet.people("topic:news", *(f"{each},yes" for each in who))

    def refused() -> dict[str, int]:
        rows = fleet.rows(
            "SELECT reason, sum(n)::integer AS n FROM entry_refusal WHERE sequence_key = 'r7' GROUP BY 1"
        )
        return {row.reason: row.n for row in rows}

    fleet.tell("r7.paused", *who, pause_id="one of {who}")
    fleet.until_at("wait", "r7", *who)
    fleet.tell("r7.paused", *who, pause_id="two of {who}")
    fleet.until(lambda: refused() == {"active": 12}, "refusals of those who are in")
    fleet.tell("r7.resumed", *who)
    assert set(fleet.until_ended("r7", *who)) == {"resumed"}
    fleet.tell("r7.paused", *who, pause_id="one of {who}")
    fleet.tell("r7.paused", *who, pause_id="three of {who}")
    told = {"active": 12, "duplicate": 12, "cooldown": 12}
    fleet.until(lambda: refused() == told, "refusals of those who have just left")
    fleet.rows(
        "UPDATE enrollment SET ended_at = ended_at - interval '1 hour' WHERE sequence_key = 'r7'"
    )
    fleet.tell("r7.paused", *who, pause_id="four of {who}")
    fleet.until_at("wait", "r7", *who)
    assert {fleet.stands("r7", each).entry_no for each in who} == {2}
    arms = {each: [state for _, state, _ in fleet.mails("r7", each)] for each in who}
    ids = dict(zip(who, fleet.ids(*who), strict=True))
    for each, states in arms.items():
        assert states == ["held_out" if HALF.holds(ids[each]) else "sent"] * 2
    assert len({states[0] for states in arms.values()}) == 2, "both arms are there"


R8_EXIT = "entry: {manual: true}\nexit: [{event: r8.bought, reason: bought}]\n"
A, B, C = (f"- {{id: {step}, send: {{template: {MAIL}}}}}\n" for step in "abc")
sequence("r8", f"{A}- {{id: wait, wait: {{delay: 1h}}}}\n{B}", R8_EXIT)
R8_EDITED = sequence(
    "r8",
    f"- {{id: wait, wait: {{delay: 5m}}}}\n{B}{A}{C}",
    f"{R8_EXIT}publish: {{max_immediate_sends: 1}}",
)


# Fails where `plan` counts what `apply` does not do, where the time that was waited does not count,
# where a step that moved ahead is run again, where one that was added is not run, or where who has
# finished comes back.
def test_r8_an_edit_does_what_plan_said_and_runs_nothing_twice(fleet: Standing) -> None:
    fleet.people("topic:news", "r8-a,yes", "r8-b,yes", "r8-done,yes")
    fleet.enqueue("r8", "r8-a", "r8-b", "r8-done")
    fleet.until_at("wait", "r8", "r8-a", "r8-b", "r8-done")
    fleet.tell("r8.bought", "r8-done")
    assert fleet.until_ended("r8", "r8-done") == ["bought"]
    fleet.rows(  # ten minutes
        "UPDATE enrollment SET step_started_at = step_started_at - interval '10 minutes',"
        " due_at = due_at - interval '10 minutes' WHERE sequence_key = 'r8' AND active"
    )
    edited = fleet.file("r8.yaml", R8_EDITED)
    (planned,) = fleet.types(
        f"sequence plan {edited} --templates {fleet.folder / 'templates'}"
    ).data
    assert (planned["effect"]["people"], planned["effect"]["retimed"]) == (2, 2)
    assert (planned["effect"]["due_now"], planned["effect"]["immediate_sends"]) == (2, 2)
    fleet.apply(edited, code=ExitCode.FINDINGS)
    assert {fleet.stands("r8", each).step_id for each in ("r8-a", "r8-b")} == {"wait"}
    (done,) = fleet.apply(edited, more="--yes").data
    assert done["effect"] == planned["effect"]
    assert fleet.until_ended("r8", "r8-a", "r8-b") == ["completed", "completed"]
    for who in ("r8-a", "r8-b"):
        assert [step for step, state, _ in fleet.mails("r8", who) if state == "sent"] == [
            "a", "b", "c",
        ]  # fmt: skip
    assert fleet.stands("r8", "r8-done").end_reason == "bought"
    assert [fleet.arrived()[who] for who in ("r8-a", "r8-b", "r8-done")] == [3, 3, 1]


sequence(
    "r9",
    f"{A}- {{id: wait, wait: {{until_event: r9.on, timeout: 1h}}}}\n{B}{C}"
    "- {id: tail, wait: {delay: 1h}}\n"
    f"- {{id: d, send: {{template: {MAIL}}}}}\n",
)
R9_CUT = sequence("r9", f"{A}{C}")
R9_BACK = sequence("r9", f"{A}{C}- {{id: wait, send: {{template: {MAIL}}}}}\n")


# Fails where a deleted wait ends at once, where its people are sent to the first step, stranded or
# lost, or where the id of a step that is gone becomes another step's.
def test_r9_the_people_of_a_deleted_step_go_to_the_first_that_is_left(fleet: Standing) -> None:
    fleet.people("topic:news", "r9-waits,yes", "r9-last,yes")
    fleet.enqueue("r9", "r9-waits", "r9-last")
    fleet.until_at("wait", "r9", "r9-waits", "r9-last")
    fleet.tell("r9.on", "r9-last")
    fleet.until_at("tail", "r9", "r9-last")
    before = fleet.stands("r9", "r9-waits")
    fleet.apply(fleet.file("r9.yaml", R9_CUT))
    after = fleet.stands("r9", "r9-waits")
    assert (after.step_id, after.due_at) == ("c", before.due_at), "the wait is finished first"
    assert fleet.stands("r9", "r9-last").end_reason == "step_deleted"
    fleet.rows(
        "UPDATE enrollment SET due_at = clock_timestamp() WHERE sequence_key = 'r9' AND active"
    )
    assert fleet.until_ended("r9", "r9-waits") == ["completed"]
    assert [step for step, _, _ in fleet.mails("r9", "r9-waits")] == ["a", "c"]
    assert [step for step, _, _ in fleet.mails("r9", "r9-last")] == ["a", "b", "c"]
    said = fleet.apply(fleet.file("r9.yaml", R9_BACK), code=ExitCode.FINDINGS)
    assert "step id 'wait' was a wait" in said.talk


sequence("r10", '- {id: noon, wait: {calendar_days: 1, at: "NOON"}}')
sequence("r10-elapsed", "- {id: days, wait: {delay: 3d}}")


# Fails where a pending wait keeps the instant of the old zone, where one that is past there already
# is due at once, where elapsed time moves too, or where a zone that is none stops the planner.
def test_r10_a_zone_change_moves_pending_wall_times_and_no_elapsed_ones(fleet: Standing) -> None:
    fleet.people("zone", f"r10-over,{PAGO}", f"r10-east,{BERLIN}", "r10-lost,Asia/Tokyo")
    who = ("r10-over", "r10-east", "r10-lost")
    fleet.enqueue("r10", *who)
    fleet.enqueue("r10-elapsed", *who)
    fleet.until_at("noon", "r10", *who)
    fleet.until_at("days", "r10-elapsed", *who)
    walls = {
        each: dt.datetime.fromisoformat(fleet.stands("r10", each).wait_rule["wall"]) for each in who
    }
    stays = {each: fleet.stands("r10-elapsed", each).due_at for each in who}
    # Twenty-five hours ahead it is tomorrow already, and the minute after that noon.
    fleet.people("zone", "r10-over,Pacific/Kiritimati", "r10-east,Asia/Tokyo")
    fleet.rows("UPDATE subscriber SET zone = 'Mars/Olympus' WHERE address = 'r10-lost@example.com'")
    moved = {
        "r10-over": "Pacific/Kiritimati", "r10-east": "Asia/Tokyo", "r10-lost": BERLIN,
    }  # fmt: skip

    def all_moved() -> bool:
        rules = {each: fleet.stands("r10", each).wait_rule["zone"] for each in who}
        return rules == moved

    fleet.until(all_moved, "the new zones")
    now = dt.datetime.now(dt.UTC)
    for each, zone in moved.items():
        due = walls[each].replace(tzinfo=ZoneInfo(zone))
        while due.astimezone(dt.UTC) <= now:
            due += dt.timedelta(days=1)
        assert fleet.stands("r10", each).due_at == due.astimezone(dt.UTC)
        assert fleet.stands("r10-elapsed", each).due_at == stays[each]
    passed = walls["r10-over"].replace(tzinfo=ZoneInfo("Pacific/Kiritimati"))
    assert passed < now < fleet.stands("r10", "r10-over").due_at
    (line,) = fleet.decided("r10", "r10-lost", "zone_fallback")
    assert line.detail == {"zone": "Mars/Olympus", "used": BERLIN}


sequence(
    "r11",
    f"{A}- {{id: wait, wait: {{until_event: r11.on, timeout: 1d}}}}\n{B}",
    "entry: {manual: true}\nexit: [{event: r11.bought, reason: converted}]",
)


# Fails where a paused sequence sends, lets in, or lets somebody leave for it; where an event of that
# time is forgotten; or where what is parked stands at the head of the queue, or never wakes.
def test_r11_a_pause_holds_everybody_and_exits_nobody_for_it(fleet: Standing) -> None:
    fleet.people("topic:news", "r11-goes,yes", "r11-buys,yes", "r11-comes,yes")
    fleet.enqueue("r11", "r11-goes", "r11-buys")
    fleet.until_at("wait", "r11", "r11-goes", "r11-buys")
    fleet.types("sequence pause r11 --reason 'a wrong price'")
    said = fleet.enqueue("r11", "r11-comes", code=ExitCode.FAULT)
    assert "nobody enters a paused one" in said.talk
    fleet.tell("r11.on", "r11-goes")
    fleet.tell("r11.bought", "r11-buys")
    assert fleet.until_ended("r11", "r11-buys") == ["converted"]
    fleet.until(lambda: fleet.stands("r11", "r11-goes").parked_from is not None, "who is parked")
    row = fleet.stands("r11", "r11-goes")
    assert row.active and row.due_at is None and row.step_id == "b"
    assert len(fleet.mails("r11", "r11-goes")) == 1 and fleet.stands("r11", "r11-comes") is None
    fleet.types("sequence resume r11")
    assert fleet.until_ended("r11", "r11-goes") == ["completed"]
    assert [fleet.arrived()[who] for who in ("r11-goes", "r11-buys")] == [2, 1]
    fleet.enqueue("r11", "r11-comes")
    fleet.until_at("wait", "r11", "r11-comes")


sequence(
    "r12",
    f"{A}- {{id: wait, wait: {{until_event: r12.on, timeout: 1d}}}}\n{B}",
    "entry: {manual: true}\nexit: [{event: r12.bought, reason: converted}]\n"
    "goal: {event: r12.bought, window: 7d}",
)


# Fails where a conversion waits for the next hand-off, where what is queued goes out all the same,
# where it is not counted, or where one from before the entry ends it.
def test_r12_a_conversion_acts_when_it_arrives_and_calls_back_what_is_queued(
    fleet: Standing,
) -> None:
    fleet.people("topic:news", "r12-before,yes", "r12-waits,yes", "r12-queued,yes")
    fleet.tell("r12.bought", "r12-before", at=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1))
    fleet.enqueue("r12", "r12-before", "r12-waits", "r12-queued")
    fleet.until_at("wait", "r12", "r12-before", "r12-waits", "r12-queued")
    fleet.types("stream pause marketing --reason 'a test'")
    try:
        fleet.tell("r12.on", "r12-queued", "r12-before")
        fleet.until(lambda: len(fleet.mails("r12", "r12-queued")) == 2, "a mail in the queue")
        fleet.tell("r12.bought", "r12-waits", "r12-queued")
        assert fleet.until_ended("r12", "r12-waits", "r12-queued") == ["converted", "converted"]
        assert fleet.mails("r12", "r12-queued")[-1] == ("b", "cancelled", "converted")
    finally:
        fleet.types("stream resume marketing")
    assert fleet.until_ended("r12", "r12-before") == ["completed"]
    assert [fleet.arrived()[f"r12-{who}"] for who in ("before", "waits", "queued")] == [2, 1, 1]
    counted = fleet.rows("SELECT count(*) AS n FROM conversion WHERE sequence_key = 'r12'")
    assert counted[0].n == 2


for _key, _priority in (("r13-low", 10), ("r13-high", 90), ("r13-middle", 50)):
    sequence(
        _key,
        f"- {{id: on, wait: {{until_event: r13.on, timeout: 1d}}}}\n{A}",
        f"priority: {_priority}\nentry: {{manual: true}}\nexit: [{{event: {_key}.off, reason: off}}]\n"
        "limits: {cap: {max: 1, per: 7d, scope: topic}}",
        topic="rare",
    )
R13 = ("r13-high", "r13-middle", "r13-low")


# Fails where two planners count past each other, where the last slot goes to whoever comes first,
# or where a mail that was called back keeps its slot.
def test_r13_the_last_slot_of_a_cap_goes_by_priority_and_comes_back_with_a_mail_that_ends(
    fleet: Standing,
) -> None:
    fleet.people("topic:rare", "r13,yes")
    for key in reversed(R13):
        fleet.enqueue(key, "r13")
    for key in R13:
        fleet.until_at("on", key, "r13")

    def has(key: str) -> list[str]:
        return [state for _, state, _ in fleet.mails(key, "r13")]

    def held(key: str) -> bool:
        rule = fleet.stands(key, "r13").wait_rule
        return rule is not None and rule.get("by") == "cap"

    def waits_for_days(key: str) -> bool:
        (row,) = fleet.rows(
            "SELECT due_at > clock_timestamp() + interval '6 days' AS long FROM enrollment"
            " WHERE sequence_key = :key",
            key=key,
        )
        return bool(row.long)

    fleet.types("stream pause marketing --reason 'a test'")
    try:
        fleet.tell("r13.on", "r13")
        fleet.until(lambda: held("r13-middle") and held("r13-low"), "two that wait for a slot")
        assert [has(key) for key in R13] == [["scheduled"], [], []]
        fleet.tell("r13-high.off", "r13")
        assert fleet.until_ended("r13-high", "r13") == ["off"]
        assert has("r13-high") == ["cancelled"]
        fleet.rows(  # the hour after which they look again
            "UPDATE enrollment SET due_at = clock_timestamp() WHERE active AND sequence_key = ANY(:k)",
            k=list(R13),
        )
        fleet.until(lambda: has("r13-middle") == ["scheduled"], "the slot that came back")
    finally:
        fleet.types("stream resume marketing")
    assert fleet.until_ended("r13-middle", "r13") == ["completed"]
    fleet.until(lambda: waits_for_days("r13-low"), "the last one, until the window has moved on")
    assert has("r13-low") == [] and fleet.arrived()["r13"] == 1


BRANCH = """
- id: ask
  branch:
    - {if: "score('churn', max_age='24h') >= 0.8", next: high}
    - {else: low}
  on_stale: stale
"""
ENDS = "".join(f"- {{id: {end}, exit: {{reason: {end}}}}}\n" for end in ("high", "low", "stale"))
sequence("r14", BRANCH + ENDS)


# Fails where an old score is taken for a fresh one, where a missing one is a zero, or where a file
# is published whose branch has no way for them.
def test_r14_a_stale_score_takes_the_way_that_the_file_names(fleet: Standing) -> None:
    fleet.people("first_name", "r14-high,A", "r14-low,A", "r14-old,A", "r14-none,A")
    fleet.rows(
        "INSERT INTO score (name, subscriber_id, value, artifact, scored_at)"
        " SELECT 'churn', r.id, r.value, 'a test', clock_timestamp() - CAST(r.ago AS interval)"
        " FROM unnest(CAST(:ids AS bigint[]), CAST(:values AS float8[]), CAST(:ago AS text[]))"
        " AS r (id, value, ago)",
        ids=fleet.ids("r14-high", "r14-low", "r14-old"),
        values=[0.9, 0.1, 0.9],
        ago=["1 hour", "1 hour", "25 hours"],
    )
    who = ("r14-high", "r14-low", "r14-old", "r14-none")
    fleet.enqueue("r14", *who)
    assert fleet.until_ended("r14", *who) == ["high", "low", "stale", "stale"]
    without = SEQUENCES["r14"].replace("    on_stale: stale\n", "").replace("r14", "r14-blind")
    said = fleet.apply(fleet.file("blind.yaml", without), code=ExitCode.FINDINGS)
    assert "expected 'on_stale'" in said.talk
    assert fleet.rows("SELECT key FROM sequence WHERE key = 'r14-blind'") == []


sequence(
    "r15",
    f"""
{A.strip()}
- id: click
  wait: {{until_event: email.clicked, of: a, ignore_bots: true, timeout: 1d}}
  paths: {{event: b, timeout: c}}
{B.strip()}
{C.strip()}
""",
)


# Fails where an opened mail, or the scanner that follows its links, is taken for its reader; or
# where the last step leaves people standing.
def test_r15_a_scanner_moves_nobody_a_click_does_and_the_last_step_completes(
    fleet: Standing,
) -> None:
    fleet.people("topic:news", "r15-reader,yes", "r15-bot,yes", "r15-opens,yes")
    who = ("r15-reader", "r15-bot", "r15-opens")
    fleet.enqueue("r15", *who)
    fleet.until_at("click", "r15", *who)
    of: dict[str, Any] = {"sequence": "r15", "step": "a"}
    fleet.tell("email.opened", "r15-opens", **of)
    fleet.tell("email.clicked", "r15-bot", machine=True, **of)
    fleet.tell("email.clicked", "r15-bot", sequence="r15", step="b")
    fleet.tell("email.clicked", "r15-reader", **of)
    # It was told last, so what came before it has been looked at too.
    assert fleet.until_ended("r15", "r15-reader") == ["completed"]
    fleet.until(lambda: fleet.rows("SELECT id FROM event_wake") == [], "a look at every event")
    assert [step for step, _, _ in fleet.mails("r15", "r15-reader")] == ["a", "b", "c"]
    for other in ("r15-bot", "r15-opens"):
        assert fleet.stands("r15", other).step_id == "click"
        assert len(fleet.mails("r15", other)) == 1


sequence("r16", f"{A}- {{id: wait, wait: {{until_event: r16.on, timeout: 1d}}}}\n{B}")
FAULTY = """\
key: r16
title: Wrong in many ways
class: marketing
topic: nowhere
timezone: {source: subscriber, fallback: Europe/Berlin}
entry: {manual: true}
limits:
  quiet_hours: {from: "21:00", to: "08:00"}
  send_window: {from: "22:00", to: "07:00"}
steps:
  - {id: a, sent: {template: rules/mail}}
  - {id: nap, wait: {calendar_days: 1, at: 930}}
  - {id: b, send: {template: rules/mail}, next: a}
  - id: c
    branch: [{if: "count('buy') > 'ten'", next: b}, {else: b}]
"""
WAYS = """\
key: r16-ways
title: Ways that lead round, or nowhere
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: a, send: {template: rules/mail}}
  - {id: b, send: {template: rules/mail}, next: a}
  - {id: c, send: {template: rules/mail}}
"""
MISSING = """\
key: r16-missing
title: Mails of nowhere
class: marketing
topic: nowhere
entry: {manual: true}
steps:
  - {id: a, send: {template: rules/missing}}
"""


FOUND = {
    "faulty.yaml:9:16": "quiet_hours leave nothing of 'send_window'",
    "faulty.yaml:11:5": "step 'a' does nothing",
    "faulty.yaml:11:13": "unknown key 'sent' in step 'a'",
    "faulty.yaml:12:44": "'at' of 'wait' of step 'nap' is the number 930",
    "faulty.yaml:15:35": "a number is compared with text",
    "missing.yaml:4:8": "topic 'nowhere' does not exist",
    "missing.yaml:7:30": "template 'rules/missing' of step 'a' does not exist",
    "ways.yaml:8:49": "the steps a → b → a form a cycle",
    "ways.yaml:9:5": "step 'c' is never reached",
}


# Fails where a finding has no place, where the first one hides the others, or where a file is
# published that stands beside a faulty one: those under way would go by half an edit.
def test_r16_a_fault_is_named_by_line_and_column_and_nothing_is_published(fleet: Standing) -> None:
    fleet.people("topic:news", "r16,yes")
    fleet.enqueue("r16", "r16")
    fleet.until_at("wait", "r16", "r16")
    files = [
        fleet.file("faulty.yaml", FAULTY),
        fleet.file("ways.yaml", WAYS),
        fleet.file("missing.yaml", MISSING),
        fleet.file("sound.yaml", SEQUENCES["r16"].replace("key: r16", "key: r16-sound")),
    ]
    said = fleet.apply(*files, code=ExitCode.FINDINGS).talk
    lines = [line.removeprefix("dripfleet: ") for line in said.splitlines()]
    findings = (line for line in lines if ".yaml:" in line and not line.startswith("warning: "))
    found = dict(line.split(": ", 1) for line in findings)
    told = {place.rpartition("/")[2]: message for place, message in found.items()}
    assert told.keys() == FOUND.keys()
    assert all(words in told[place] for place, words in FOUND.items())
    fleet.tell("r16.on", "r16")
    assert fleet.until_ended("r16", "r16") == ["completed"]
    rows = fleet.rows("SELECT key, version FROM sequence WHERE key LIKE 'r16%'")
    assert [tuple(row) for row in rows] == [("r16", 1)]


sequence(
    "harm",
    f"""
- id: split
  experiment:
    arms: {{plain: 50, offer: 50}}
    stop: {{guardrail: {{complaint_rate: 0.001, unsubscribe_rate: 0.02}}}}
  paths: {{plain: a, offer: b}}
- {{id: a, send: {{template: {MAIL}}}, next: end}}
- {{id: b, send: {{template: {MAIL}}}}}
- {{id: end, exit: {{reason: completed}}}}
""",
    "entry: {manual: true}\ngoal: {event: harm.goal, window: 7d}",
)


# Fails where nobody looks after experiments in a fleet that runs, where somebody comes into an arm
# that was stopped, or where nobody is told why.
def test_a_guardrail_stops_the_arm_that_people_complain_of(fleet: Standing) -> None:
    first, later = ([f"harm-{when}-{n:02}" for n in range(16)] for when in ("first", "later"))
    fleet.people("topic:news", *(f"{who},yes" for who in (*first, *later)))

    def arms(who: list[str]) -> dict[str, str]:
        rows = fleet.rows(
            "SELECT subscriber_id, arm FROM experiment_assignment WHERE experiment_key = 'harm/split'"
        )
        of = {row.subscriber_id: row.arm for row in rows}
        return {each: of[id] for each, id in zip(who, fleet.ids(*who), strict=True) if id in of}

    fleet.enqueue("harm", *first)
    assert set(fleet.until_ended("harm", *first)) == {"completed"}
    fleet.until(lambda: all(fleet.arrived()[who] == 1 for who in first), "their mails")
    drawn = arms(first)
    assert set(drawn.values()) == {"plain", "offer"} and len(drawn) == 16
    offered = [who for who, arm in drawn.items() if arm == "offer"]
    plain = [who for who, arm in drawn.items() if arm == "plain"]
    fleet.types(f"subscribers stop {plain[0]}@example.com --reason unsubscribe")
    for who in offered[:4]:
        fleet.types(f"subscribers stop {who}@example.com --reason complaint")
    stopped = "SELECT arm, ruled_by, reason, detail FROM experiment_ruling"
    fleet.until(lambda: bool(fleet.rows(stopped)), "the guardrail")
    fleet.enqueue("harm", *later)
    assert set(fleet.until_ended("harm", *later)) == {"completed"}
    assert arms(later) == dict.fromkeys(later, "plain") and arms(first) == drawn
    assert {fleet.mails("harm", who)[0][0] for who in later} == {"a"}
    [row] = fleet.rows(stopped)
    assert (row.arm, row.ruled_by, row.reason) == ("offer", "guardrail", "complaint_rate")
    told = fleet.types("experiment report harm/split --json").data
    by_arm = {arm["arm"]: arm for arm in told["arms"]}
    assert by_arm["offer"]["stopped"] == "guardrail: complaint_rate"
    assert by_arm["offer"]["share"] == 0 and by_arm["plain"]["share"] == 1
    assert by_arm["offer"]["complaints"] >= 3 and by_arm["plain"]["unsubscribes"] == 1
    assert by_arm["plain"]["stopped"] is None
    [ruling] = told["rulings"]
    assert ruling["detail"]["limit"] == 0.001 and ruling["detail"]["events"] >= 2


# The last: what all of them did to the rows, and to the people.
def test_after_all_of_it_the_audit_is_clean(fleet: Standing) -> None:
    ledger = SinkLedger(fleet.fleet.stack.home.mail / LEDGER)
    audit = verify(fleet.database, DeliverySettings(), VerifySettings(), ledger=ledger)
    assert audit.clean, [finding for finding in audit.findings if finding.count]
