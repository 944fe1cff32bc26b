"""The fleet as processes: all pools, beat and Flower, on servers of their own, and what kills do."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dkim as dkimpy
import psutil
import pytest
from sqlalchemy import text

from models.session import Database
from schedules.localtime import local
from tasks import names
from tasks.base import ring
from tasks.canary import store as canaries
from tasks.moves import pause
from tasks.send.compliance import missing
from tasks.send.dkim import Keyring
from tasks.send.gate import Gate
from tasks.send.settings import SendSettings
from tasks.webhooks import book
from tests.live import seeds
from tests.live.listener import Listener
from tests.live.processes import running, servers, until
from tests.live.webdriver import browsing
from workers.celery import build
from workers.embedded.launch import free_port
from workers.embedded.ledger import LEDGER, read_ledger, read_mail
from workers.embedded.stack import Stack
from workers.pools import BY_NAME
from workers.settings import RedisSettings
from workers.supervisor import Fleet

HEAVY = ("pandas", "sklearn", "cirq", "openai", "numba", "scipy", "matplotlib", "tornado")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Short periods, so that the ticks' own tests need no patience."""
    with servers(
        REAP_EVERY="1", RESOLVE_EVERY="1", FLOWER_PORT="15555", WEBHOOK_NETWORKS="127.0.0.0/8"
    ) as stack:
        stack.serve_edge()
        yield stack


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the supervisor told its operator."""
    return []


@pytest.fixture(scope="module")
def fleet(stack: Stack, said: list[str]) -> Iterator[Fleet]:
    """The whole fleet, every pool answering."""
    with running(Fleet(stack, edge=True, say=said.append)) as fleet:
        yield fleet


@pytest.fixture
def database(stack: Stack) -> Iterator[Database]:
    database = Database(stack.database_url)
    yield database
    database.close()


def answered(database: Database, pools: tuple[str, ...], redis_url: str) -> Callable[[], bool]:
    """Ring each pool's canary now; the condition that all of them have answered it."""
    with database.transaction() as connection:
        rung_at = canaries.now(connection)
    app = build(None, RedisSettings.model_validate({"redis_url": redis_url}))
    for pool in pools:
        assert ring(names.CANARY, names.canary(pool))
    app.close()

    def met() -> bool:
        with database.transaction() as connection:
            latest = canaries.latest(connection)
        return all(pool in latest and latest[pool] > rung_at for pool in pools)

    return met


def test_every_pool_answers_a_canary_rung_by_hand(
    fleet: Fleet, stack: Stack, database: Database
) -> None:
    assert set(fleet.pids()) == {*names.POOLS, "beat", "flower", "edge"}
    until(answered(database, names.POOLS, stack.redis_url), "all six canaries", fleet)


def test_every_tick_of_beat_is_answered(fleet: Fleet, database: Database) -> None:
    def ticked() -> bool:
        with database.transaction() as connection:
            seen = set(connection.execute(text("SELECT name FROM tick")).scalars())
        return seen >= {names.SCAN, names.DISPATCH, names.REAP, names.RESOLVE}

    until(ticked, "four ticks", fleet)


LIMITED = """
key: {key}
title: Limited
class: marketing
topic: limited
timezone: {{source: subscriber, fallback: UTC}}
entry: {{manual: true}}
limits:
  quiet_hours: {{from: "{quiet}", to: "{awake}"}}
  cap: {{max: 1, per: 7d, scope: topic, on_hit: skip}}
steps:
  - {{id: tell, webhook: {{to: crm, fields: [first_name]}}}}
  - {{id: buy, wait: {{until_event: purchase, timeout: 3d}}}}
  - {{id: mail, send: {{template: test/mail}}}}
"""


def test_limits_and_waits_hold_in_the_running_fleet_and_who_is_to_be_told_is(
    fleet: Fleet, stack: Stack, database: Database
) -> None:
    def clock(hours: int) -> str:
        """An hour of the clock in Berlin, from now."""
        return f"{local(datetime.now(UTC) + timedelta(hours=hours), 'Europe/Berlin'):%H:%M}"

    def rows(sql: str) -> list[tuple[object, ...]]:
        with database.transaction() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def write(sql: str) -> None:
        with database.transaction() as connection:
            connection.execute(text(sql))

    with database.transaction() as connection:  # the mail itself is not what is looked at
        pause.pause_stream(connection, "marketing", "a test")
    night = {"quiet": clock(-1), "awake": clock(3)}
    (person,) = seeds.subscribers(database, 1)
    for key in ("limited-a", "limited-b"):
        seeds.enroll(database, seeds.sequence(database, LIMITED.format(key=key, **night)), [person])
    standing = "SELECT DISTINCT step_id, wait_rule ->> 'kind' FROM enrollment"
    until(lambda: rows(standing) == [("buy", "until_event")], "a wait for the event", fleet)
    assert rows("SELECT target, count(*) FROM webhook_outbox GROUP BY 1") == [("crm", 2)]
    # Who is called is named only now: what waited is told.
    listener, secret = Listener(), stack.environment()["DRIPFLEET_SECRET_ADDRESS"].encode()
    with database.transaction() as connection:
        book.add(connection, "crm", listener.url, key=secret, types=["event.recorded"], plain=True)

    write(
        "INSERT INTO event (subscriber_id, name, occurred_at)"
        f" VALUES ({person}, 'purchase', clock_timestamp())"
    )
    recorded = time.monotonic()
    moved = "SELECT DISTINCT step_id, wait_rule ->> 'by' FROM enrollment"
    until(lambda: rows(moved) == [("mail", "quiet_hours")], "quiet hours", fleet)
    assert time.monotonic() - recorded < 10  # 5 s at rest
    until(lambda: len(listener.told) == 3, "two calls and an event", fleet)
    assert sorted(each["type"] for each in listener.bodies()) == [
        "event.recorded", "step.called", "step.called",
    ]  # fmt: skip
    listener.close()
    assert rows("SELECT count(*) FROM message") == [(0,)]

    # Far in the east they are awake: one mail goes, and the cap has no room for the other.
    write(f"UPDATE subscriber SET zone = 'Asia/Tokyo' WHERE id = {person}")
    states = "SELECT sequence_key, CAST(state AS text) FROM message ORDER BY 1"
    done = [("limited-a", "scheduled"), ("limited-b", "capped")]
    until(lambda: rows(states) == done, "one mail and one that is capped", fleet)
    with database.transaction() as connection:
        pause.resume_stream(connection, "marketing")


def test_a_reader_leaves_by_a_mail_that_the_sink_keeps_and_gets_nothing_that_was_queued(
    fleet: Fleet, stack: Stack, database: Database
) -> None:
    def mails() -> list[str]:
        kept = [read_mail(stack.home.mail, each) for each in read_ledger(ledger)]
        return [mail.decode().replace("\r\n ", " ") for mail in kept if b"person1@left" in mail]

    def states() -> list[tuple[str, str]]:
        told = (
            "SELECT CAST(state AS text), reason FROM message WHERE subscriber_id = :id ORDER BY id"
        )
        with database.transaction() as connection:
            return [tuple(row) for row in connection.execute(text(told), {"id": person})]

    ledger = stack.home.mail / LEDGER
    (person,) = seeds.subscribers(database, 1, domain="left.example")
    one = seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
    seeds.enroll(database, seeds.sequence(database, one.replace("one-mail", "left-a")), [person])
    until(lambda: ledger.exists() and len(mails()) == 1, "the first mail", fleet)
    with database.transaction() as connection:
        pause.pause_stream(connection, "marketing", "a test")
    seeds.enroll(database, seeds.sequence(database, one.replace("one-mail", "left-b")), [person])
    until(lambda: [state for state, _ in states()] == ["sent", "scheduled"], "a queued one", fleet)
    until(lambda: fleet.edge_url() is not None, "the edge", fleet)

    (link,) = re.findall(r"List-Unsubscribe: <(http://[^>]+)>", mails()[0])
    assert "List-Unsubscribe-Post: List-Unsubscribe=One-Click" in mails()[0]
    if driver := os.environ.get("DRIPFLEET_TEST_WEBDRIVER"):
        with browsing(driver, free_port(0)) as reader:
            reader.open(link)
            reader.click("button.stop")
            assert "You are off the list" in reader.text("h1")
    else:  # as their mail program does it
        with urllib.request.urlopen(link, data=b"List-Unsubscribe=One-Click", timeout=5) as answer:
            assert answer.status == 200
    assert states()[1] == ("suppressed", "unsubscribe")
    with database.transaction() as connection:
        pause.resume_stream(connection, "marketing")
        # An open of a while ago becomes an event, by the dispatcher's bell.
        connection.execute(
            text(
                "INSERT INTO hit (message_id, agent, at) SELECT id, 'browser', now() - interval '1 min'"
                " FROM message WHERE subscriber_id = :id AND state = 'sent'"
            ),
            {"id": person},
        )

    def opened() -> bool:
        told = "SELECT name FROM event WHERE subscriber_id = :id ORDER BY id"
        with database.transaction() as connection:
            names_ = connection.execute(text(told), {"id": person}).scalars().all()
        return names_ == ["email.unsubscribed", "email.opened"]

    until(opened, "the event of an open", fleet)
    assert len(mails()) == 1


def test_a_mail_of_the_demo_holds_what_providers_ask_for_and_its_signature_covers_the_one_click(
    fleet: Fleet, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's fleet is this one: the sink that ships, `serve_edge`, and nothing set by hand."""
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    settings = SendSettings()
    assert missing(Gate.of(settings).pieces(settings.sender)) == []
    (signer,) = Keyring.of(settings.dkim_keys)
    kept = [read_mail(stack.home.mail, x) for x in read_ledger(stack.home.mail / LEDGER)]
    octets = next(mail for mail in kept if b"List-Unsubscribe-Post" in mail)
    record = signer.record.encode()
    assert dkimpy.verify(octets, dnsfunc=lambda name, timeout=5: record)
    (covered,) = re.findall(rb"\bh=([^;]+);", octets)
    names_ = [each.strip().lower() for each in covered.split(b":")]
    assert {b"list-unsubscribe", b"list-unsubscribe-post", b"from"} <= {*names_}
    # Nobody on the way can take one out, or lead it elsewhere.
    for change in (
        octets.replace(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", b""),
        octets.replace(b"/u/", b"/v/"),
    ):
        assert change != octets
        assert not dkimpy.verify(change, dnsfunc=lambda name, timeout=5: record)


def test_flower_asks_for_the_password_and_shows_payloads(fleet: Fleet, stack: Stack) -> None:
    until(lambda: fleet.flower_url() is not None, "Flower", fleet)
    url = f"{fleet.flower_url()}/api/tasks?limit=50"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=5)
    assert refused.value.code == 401
    refused.value.close()
    secret = stack.home.secret("flower")
    token = base64.b64encode(f"dripfleet:{secret}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {token}"})

    def shown() -> bool:
        with urllib.request.urlopen(request, timeout=5) as answer:
            tasks = json.load(answer).values()
        return any(t["name"] == names.SCAN and t["kwargs"] == "{'v': 1}" for t in tasks)

    until(shown, "a scan in Flower", fleet)
    for pid in fleet.pids().values():
        assert secret not in " ".join(psutil.Process(pid).cmdline())


def test_a_killed_worker_is_started_again_and_answers(
    fleet: Fleet, stack: Stack, database: Database, said: list[str]
) -> None:
    before = fleet.pids()
    family = psutil.Process(before["quantum"]).children()
    assert family, "a prefork worker has a child"
    for pool in ("personalize", "quantum"):
        os.kill(before[pool], signal.SIGKILL)
    until(lambda: fleet.pids().get("personalize") != before["personalize"], "its death", fleet)
    until(lambda: not any(gone.is_running() for gone in family), "the child goes too", fleet)
    until(
        lambda: (
            {"personalize", "quantum"} <= set(fleet.pids())
            and fleet.pids()["quantum"] != before["quantum"]
        ),
        "the restart",
        fleet,
    )
    until(answered(database, ("personalize", "quantum"), stack.redis_url), "their answer", fleet)
    assert any(line.startswith("quantum ended with signal 9") for line in said)
    others = {name: pid for name, pid in before.items() if name not in ("personalize", "quantum")}
    assert others.items() <= fleet.pids().items(), "nobody else was touched"


def test_a_killed_broker_comes_back_and_every_pool_hears_again(
    fleet: Fleet, stack: Stack, database: Database
) -> None:
    url, service = stack.redis_url, stack.home.valkey()
    until(answered(database, names.POOLS, url), "all six canaries before it", fleet)
    # Two were killed a moment ago: one that still boots when its broker goes ends, and comes back.
    booting = ("personalize", "quantum")
    before = {name: pid for name, pid in fleet.pids().items() if name not in booting}
    os.kill(service.pid, signal.SIGKILL)
    until(lambda: stack.home.running("valkey") is not None, "the broker", fleet)
    assert stack.redis_url == url, "where its clients look for it"
    until(answered(database, names.POOLS, url), "all six canaries", fleet)
    assert before.items() <= fleet.pids().items(), "nobody had to be restarted"


def test_a_stop_is_in_order_and_leaves_no_process(fleet: Fleet, said: list[str]) -> None:
    processes = [psutil.Process(pid) for pid in fleet.pids().values()]
    processes += [child for process in processes for child in process.children(recursive=True)]
    told = len(said)
    fleet.stop()
    assert not [process for process in processes if process.is_running()]
    assert fleet.pids() == {} and fleet.flower_url() is None
    assert said[told:] == [], "each ended with 0"


def test_children_end_with_a_parent_that_is_killed(stack: Stack) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "workers",
            "up",
            "--only",
            "personalize",
            "--no-beat",
            "--no-flower",
            "--no-edge",
        ],
        env=stack.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert parent.stderr is not None
        assert any("the fleet answers" in line for line in parent.stderr)
        children = psutil.Process(parent.pid).children()
        assert len(children) == 1
    finally:
        parent.kill()
        parent.wait(10)
        parent.communicate()
    until(lambda: not any(child.is_running() for child in children), "the children's end")


def test_a_pool_loads_only_what_it_needs(tmp_path: Path) -> None:
    """One process imports what all share, and forks for what each pool adds."""
    code = """
import json, os, sys
from tasks.names import POOLS
from workers.celery import build
from workers.pools import BY_NAME
from workers.settings import RedisSettings
for pool in POOLS:
    if os.fork() == 0:
        app = build(pool, RedisSettings(redis_url="redis://127.0.0.1:1/0"))
        app.loader.import_default_modules()
        app.finalize()
        os.write(1, (json.dumps([pool, *sys.modules]) + "\\n").encode())
        os._exit(0)
    os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = {pool: set(modules) for pool, *modules in map(json.loads, done.stdout.splitlines())}
    assert tuple(loaded) == names.POOLS
    for pool, modules in loaded.items():
        entries = {module for module in modules if re.fullmatch(r"tasks\.\w+\.entry", module)}
        assert entries == set(BY_NAME[pool].imports)
        assert not modules & set(HEAVY)


def test_the_supervisor_and_help_load_no_celery() -> None:
    code = "import sys, workers.supervisor, workers.cli; print('celery' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("command", [["worker", "send"], ["beat"], ["flower"]])
def test_one_process_alone_asks_for_servers_and_embeds_none(
    command: list[str], tmp_path: Path
) -> None:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "workers", *command],
        cwd=tmp_path,
        env=plain,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "DRIPFLEET_REDIS_URL" in sentence
    assert list(tmp_path.iterdir()) == []
