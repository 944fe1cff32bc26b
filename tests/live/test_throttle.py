"""The pace of a domain is one for all send workers, lives in Redis, and comes back slowly after a no."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from models.session import Database
from tasks.moves.claim import claim
from tasks.moves.release import Returned, give_back
from tasks.moves.settings import DeliverySettings
from tasks.send import limits
from tasks.send.buckets import Ask, Buckets, Grant, standing
from tasks.send.limits import Limit, WarmUp
from tasks.send.service import Service
from tasks.sequence.explain import explain
from tests.live import seeds
from tests.live.fleet import Fleet, eventually
from workers.cli import main
from workers.cli.render import ExitCode
from workers.doctor.relays import relays
from workers.embedded.faults import Faults
from workers.embedded.launch import free_port
from workers.embedded.sink import in_thread


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as made:
        yield made


def asked(buckets: Buckets, wanted: int, **more: object) -> Grant:
    (grant,) = buckets.ask([Ask("gmail", wanted, **({"per_minute": 6000.0} | more))])  # type: ignore[arg-type]
    return grant


def later(client: redis.Redis, seconds: float, group: str = "gmail") -> None:
    """Let time pass for a bucket: its stamps move back by so much."""
    key = f"dripfleet:pace:default:{group}"
    for name in ("at", "grown", "cut", "rest"):
        client.hincrbyfloat(key, name, -seconds)


def test_two_workers_share_one_rate_which_begins_slowly_and_is_halved_by_a_no(
    client: redis.Redis,
) -> None:
    one, two = Buckets(client, "default", "a"), Buckets(client, "default", "b")
    first = asked(one, 500)
    assert first.granted == 1 and first.rate == 750 and 0 < first.wait <= 0.08
    # Two seconds' worth of the rate lie there at most, whoever asks.
    later(client, 60)
    grants = [asked(one, 20), asked(two, 500)]
    assert sum(grant.granted for grant in grants) == 25
    assert (grants[1].processes, grants[0].before, grants[1].before) == (2, 0, 1)
    assert [grant.share(5) for grant in (asked(one, 0), asked(two, 0))] == [3, 2]
    # It doubles in half a minute that used it, and not in one that did not.
    later(client, 30)
    assert asked(one, 0, delivered=10).rate == 750
    later(client, 30)
    assert asked(one, 0, delivered=400).rate == pytest.approx(1500, rel=0.01)
    no = asked(two, 5, slowed=True, rest=40.0, jitter=0.5)
    assert no.granted == 0 and no.rate == pytest.approx(750, rel=0.01)
    assert 44 <= no.resting <= 45 and asked(one, 5).granted == 0
    # A second refusal of the same burst lowers nothing more.
    assert asked(one, 5, slowed=True, rest=40.0).rate == no.rate
    later(client, 60)
    assert asked(one, 5).granted == 5
    # Above half of what it had it grows by a twentieth of its ceiling a minute.
    later(client, 60)
    assert asked(one, 0, delivered=750).rate == pytest.approx(750 + 300, rel=0.02)
    (pacing,) = standing(client, "default")
    assert (pacing.group, pacing.ceiling, pacing.cuts) == ("gmail", 6000, 1)
    client.flushall()
    assert asked(one, 5).rate == 750


def test_what_was_not_used_comes_back_and_without_a_rate_a_rest_still_holds(
    client: redis.Redis,
) -> None:
    one = Buckets(client, "default", "a")
    later_tokens = asked(one, 1).granted
    assert later_tokens == 1 and asked(one, 1).granted == 0
    assert asked(one, 1, unused=1).granted == 1
    assert asked(one, 9000, per_minute=None).granted == 9000
    assert asked(one, 9000, per_minute=None, slowed=True, rest=10.0).granted == 0
    assert asked(one, 9000, per_minute=None).wait > 9


def test_the_days_of_a_warm_up_are_counted_over_all_workers(database: Database) -> None:
    with database.transaction() as connection:
        limits.warm_up(connection, "default", "gmail", 50, dt.timedelta(days=1), 1000)
        (limit,) = limits.load(connection)["default"].limits.values()
    assert limit.warm_up is not None and limit.warm_up.first == 50

    def take(n: int, of: Limit = limit) -> limits.Share:
        with database.transaction() as connection:
            return limits.take_of_day(connection, "default", of, n)

    assert take(30) == limits.Share(30, 0.0)
    assert take(30).granted == 20
    empty = take(5)
    assert empty.granted == 0 and 0 < empty.wait <= 86400
    assert take(-10).granted == -10 and take(30).granted == 10
    over = Limit("gmail", warm_up=WarmUp(50, dt.timedelta(days=1), 50, dt.date(2020, 1, 1)))
    assert take(500, over) == limits.Share(500, 0.0)
    with database.transaction() as connection:
        assert limits.taken_today(connection) == {("default", "gmail"): 50}


def test_a_slow_domain_is_put_off_costs_no_attempt_and_holds_up_nobody(
    database: Database,
    client: redis.Redis,
    tmp_path: Path,
    short_durations: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    monkeypatch.setenv("DRIPFLEET_REDIS_URL", client_url(client))
    monkeypatch.setattr(limits, "READ_EVERY", 0.1)
    assert (
        main(["relay", "limit", "default", "--domains", "tarpit.test", "--per-minute", "60"])
        == ExitCode.OK
    )
    with in_thread(tmp_path / "mail", faults=Faults()) as sink:
        fleet = Fleet(database, sink, tmp_path)
        fleet.service.loop.join(10)
        fleet.service = Service(database, fleet.settings, client)
        fast = seeds.subscribers(database, 60, domain="fast.test")
        slow = seeds.subscribers(database, 20, domain="tarpit.test")
        key = seeds.sequence(
            database, seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
        )
        seeds.enroll(database, key, [*slow, *fast])
        fleet.scan()
        fleet.send()
        assert sum("fast.test" in line.rcpt for line in sink.lines()) == 60
        eventually(lambda: set(fleet.states()) == {"sent", "scheduled"})
        row = fleet.one(
            "SELECT count(*) AS n, sum(attempts) AS tries, sum(deferrals) AS deferrals,"
            " min(reason) AS reason, bool_and(run_at > clock_timestamp()) AS later"
            " FROM message WHERE state = 'scheduled'"
        )
        assert row.n >= 15 and (row.tries, row.deferrals, row.reason) == (0, 0, "throttled")
        capsys.readouterr()
        assert main(["relay", "list", "--json"]) == ExitCode.OK
        (told,) = [r for r in json.loads(capsys.readouterr().out) if r["domains"] == "tarpit.test"]
        assert (told["ceiling"], told["streams"]) == (60, "marketing, transactional")
        # Without the limit what was put off is due at once.
        assert main(["relay", "limit", "default", "--domains", "tarpit.test", "--clear"]) == 0
        assert "are due in a few seconds" in capsys.readouterr().err

        def all_sent() -> bool:
            fleet.send()
            return fleet.states() == {"sent": 80}

        # Within seconds the worker has read that it is off.
        eventually(all_sent, 20)
        assert len(sink.lines()) == 80
        fleet.service.loop.join(10)


def test_where_one_relay_lets_nobody_in_the_spare_one_takes_over_and_back(
    database: Database, tmp_path: Path, short_durations: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    port = free_port()
    monkeypatch.setenv("DRIPFLEET_SMTP_URL_MAIN", f"smtp://127.0.0.1:{port}")
    assert main(["stream", "set", "marketing", "--relay", "main=1,default=0"]) == ExitCode.OK
    assert main(["stream", "set", "marketing", "--relay", "main=x"]) == ExitCode.USAGE
    with in_thread(tmp_path / "mail", faults=Faults()) as spare:
        fleet = Fleet(database, spare, tmp_path)
        fleet.enrolled(40)
        fleet.send()
        eventually(lambda: fleet.send() == {} and fleet.states() == {"sent": 40})
        assert len(spare.lines()) == 40
        assert fleet.one("SELECT sum(attempts) AS n FROM message").n == 40
        assert fleet.service.loop.gauges().closed_for["main"] >= 0
        # It is there again: one mail finds out, and the others follow.
        with in_thread(tmp_path / "back", port=port) as back:
            people = seeds.subscribers(database, 40, domain="later.example.com")
            seeds.enroll(database, "one-mail", people)
            fleet.scan()
            eventually(lambda: fleet.service.loop.gauges().closed_for["main"] == 0)
            fleet.send()
            eventually(lambda: fleet.send() == {} and fleet.states() == {"sent": 80})
            assert len(back.lines()) + len(spare.lines()) == 80 and back.lines()
        fleet.service.loop.join(10)


def client_url(client: redis.Redis) -> str:
    options = client.connection_pool.connection_kwargs
    return f"redis://:{options['password']}@{options['host']}:{options['port']}/0"


def test_a_paused_relay_is_handed_nothing_and_says_so(
    database: Database, tmp_path: Path, short_durations: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    assert main(["relay", "pause", "default", "--reason", "their incident"]) == ExitCode.OK
    with in_thread(tmp_path / "mail", faults=Faults()) as sink:
        fleet = Fleet(database, sink, tmp_path)
        subscriber, *_ = fleet.enrolled(3)
        assert fleet.send() == {} and fleet.states() == {"scheduled": 3}
        with database.snapshot() as connection:
            (told,) = explain(connection, subscriber, "one-mail").next
        assert "is paused since" in told and "(its relay is: their incident)" in told
        assert main(["relay", "resume", "default"]) == ExitCode.OK
        fleet.service.loop.join(10)
        fleet.service = Service(database, fleet.settings)
        assert fleet.send() == {"claimed": 3, "sent": 3}
        fleet.service.loop.join(10)


def test_the_planner_hands_out_the_slots_of_a_throttled_sequence_once(fleet: Fleet) -> None:
    source = seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
    fleet.enrolled(30, source + "limits: {throttle: 10/m}\n")
    assert fleet.states() == {"scheduled": 11}
    row = fleet.one(
        "SELECT count(*) AS n, count(DISTINCT due_at) AS slots, max(due_at) - min(due_at) AS over"
        " FROM enrollment WHERE due_at > clock_timestamp()"
    )
    assert (row.n, row.slots, round(row.over.total_seconds())) == (19, 19, 108)
    # Who comes later takes the slot behind the last.
    late = seeds.subscribers(fleet.database, 1, domain="late.example.com")
    seeds.enroll(fleet.database, "one-mail", late)
    fleet.scan()
    behind = fleet.one("SELECT max(due_at) = (SELECT due_at FROM enrollment WHERE subscriber_id = :id)"
                       " AS last FROM enrollment", id=late[0])  # fmt: skip
    assert behind.last
    with fleet.database.snapshot() as connection:
        told = explain(connection, late[0], "one-mail", "mail")
    assert told.step is not None and "no faster than its throttle" in told.step


def test_doctor_says_who_waits_for_which_limit_and_what_to_do(
    database: Database, fleet: Fleet
) -> None:
    def found() -> list[tuple[str, str]]:
        with database.transaction() as connection:
            return [(each.severity, each.says) for each in relays(connection)]

    assert found() == []
    with database.transaction() as connection:
        limits.set_limit(connection, "default", "gmail", per_minute=60)
        limits.warm_up(connection, "default", "*", 50, dt.timedelta(days=1), 1000)
        limits.pause(connection, "default", "their incident")
    assert found() == [
        ("warning", "paused: their incident"),
        ("fine", "warms up *: 0 of 50 today"),
        ("fine", "nobody waits for a limit of a relay"),
    ]
    (subscriber,) = fleet.enrolled(1)
    with database.transaction() as connection:
        (row,) = claim(connection, stream="marketing", n=1, owner="w", lease=60).rows
        back = [Returned(row.id, row.epoch, "warm_up_day_full", 3600.0)]
        assert give_back(connection, back, "w", DeliverySettings()) == 1
    says = "1 mail waits: the warm-up of its relay lets no more go today"
    assert ("warning", says) in found()
    with database.snapshot() as connection:
        (told,) = explain(connection, subscriber, "one-mail").next
    assert "(in 59 min" in told and "the warm-up of its relay lets no more go today" in told
