"""The sequence pool's entry points: the planner and the dispatcher, each answering a tick."""

from __future__ import annotations

import datetime as dt
import time
from functools import cache
from typing import Any

import structlog
from celery import current_app, shared_task
from kombu.exceptions import ChannelError
from sqlalchemy.exc import DBAPIError

from tasks import content_work, hits, membership, names, regions, webhook_work
from tasks.base import FleetTask, database, ring
from tasks.crashpoint import reached
from tasks.moves.settings import DeliverySettings, IdentitySettings
from tasks.moves.tick import ticked
from tasks.sequence import allocation, cron, fire, harm, news, own_lines, store, words
from tasks.wording import WordingSettings

log = structlog.get_logger()

SCAN_BUDGET = 10.0  # seconds; the next tick goes on
FIRE_BUDGET = 10.0
ENTER_BUDGET = 10.0
DOORBELL = 500  # messages a doorbell
DOORBELLS = 16  # doorbells that wait in a queue at most
CANARY_EVERY = 30.0


@cache
def planner() -> store.Planner:
    """The planner of this process."""
    lifetime = dt.timedelta(seconds=DeliverySettings().message_lifetime)
    return store.Planner(database(), IdentitySettings(), lifetime)


@cache
def doorkeeper() -> news.Doorkeeper:
    """Who lets people in, of this process."""
    return news.Doorkeeper(database())


_looked_after = float("-inf")


def _look_after_experiments() -> None:
    """Stop arms that do harm, and move weights; now and then, since that changes slowly."""
    global _looked_after
    if time.monotonic() - _looked_after < DeliverySettings().harm_every:
        return
    _looked_after = time.monotonic()
    try:
        harm.look(database())
        allocation.move(database())
    except DBAPIError as fault:
        # A count that takes too long must not keep mail from being planned; the next minute tries again.
        log.error("experiments_not_looked_after", why=str(fault.orig))


@shared_task(base=FleetTask, name=names.SCAN)
def scan() -> dict[str, int]:
    """Plan every due enrollment, and ring for what that made."""
    until = time.monotonic() + SCAN_BUDGET
    enrollments = messages = 0
    planner().meanwhile()
    while time.monotonic() < until:
        done = planner().scan()
        enrollments += done.enrollments
        messages += done.messages
        if done.messages:
            _ring()
        if done.enrollments < store.BATCH:
            break
    _look_after_experiments()
    own_lines.sync(database())
    if cron.look(database()).waiting:
        ring(names.FIRE, names.tick())
    with database().transaction() as connection:
        asked = news.waiting(connection)
        ticked(connection, names.SCAN, enrollments=enrollments)
    if asked:
        ring(names.ENTER, names.tick())
    return {"enrollments": enrollments, "messages": messages}


@shared_task(base=FleetTask, name=names.FIRE)
def fire_schedules() -> dict[str, int]:
    """Do what cron lines that fired ask for, for as long as a doorbell may take."""

    def start(name: str) -> bool:
        return ring(name, names.tick())

    return fire.work(database(), budget=FIRE_BUDGET, ring=start)


@cache
def asker() -> words.Asker:
    """Who asks for words in this process."""
    return words.Asker(database(), WordingSettings().model)


@shared_task(base=FleetTask, name=names.ASK_WORDS)
def ask_words() -> dict[str, int]:
    """Ask for the words of mails that are due within their lead, and ring for them."""
    until = time.monotonic() + SCAN_BUDGET
    asked = 0
    while time.monotonic() < until:
        done = asker().ask()
        asked += done
        if done < words.BATCH:
            break
    if asked:
        ring(names.WRITE, names.tick())
    return {"asked": asked}


@shared_task(base=FleetTask, name=names.ENTER)
def enter() -> dict[str, int]:
    """Act on events that have come in, let in whose turn it is, and have them planned at once."""
    done = doorkeeper().work(budget=ENTER_BUDGET)
    if done["entered"]:
        ring(names.SCAN, names.tick())
    return done


@shared_task(base=FleetTask, name=names.DISPATCH)
def dispatch() -> dict[str, Any]:
    """Ring for what is due, for what nobody works on, and the canary of pools that are silent."""
    rung = _ring()
    with database().transaction() as connection:
        silent = store.silent_pools(connection, regions.queues(connection), CANARY_EVERY)
        left = {*store.left_by_churn(connection), *store.waiting_segments(connection)}
        left |= words.work_of(connection) | content_work.waiting(connection)
        if membership.to_evaluate(connection):
            left.add(names.NAMED_SEGMENTS)
        if hits.to_judge(connection):
            left.add(names.JUDGE)
        if webhook_work.to_deliver(connection):
            left.add(names.WEBHOOKS)
        ticked(connection, names.DISPATCH, rung=sum(rung.values()))
    for name in sorted(left):
        # One that waits in its queue answers for all that there is.
        if not _depth(names.QUEUE_OF.get(name, names.POOL_OF[name])):
            ring(name, names.tick())
    for queue, workers in silent.items():
        if not _depth(queue):
            # One each: Redis hands them to those who have waited longest.
            for _ in range(workers):
                ring(names.CANARY, names.canary(queue))
    return {"rung": rung, "canaries": len(silent)}


def _ring() -> dict[str, int]:
    """Ring as many doorbells as due messages ask for, and as their queue has room for."""
    most = DOORBELL * DOORBELLS
    with database().transaction() as connection:
        due = store.due_of_streams(connection, most)
    rung: dict[str, int] = {}
    room: dict[str, int] = {}
    for row in due:
        if not row.due:
            continue
        reached("dispatch.counted")
        queue = names.queue_of(names.POOL_OF[names.DELIVER], row.region)
        if queue not in room:
            room[queue] = DOORBELLS - _depth(queue)
        bell = names.deliver(row.key, DOORBELL, row.region)
        for _ in range(max(min(-(-row.due // DOORBELL), room[queue]), 0)):
            if not ring(names.DELIVER, bell):
                return rung
            reached("dispatch.rung")
            rung[row.key] = rung.get(row.key, 0) + 1
            room[queue] -= 1
    return rung


def _depth(queue: str) -> int:
    """How many messages wait in a queue; an empty list is no key in Redis, and no queue."""
    with current_app.connection_or_acquire() as connection:
        try:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
        except ChannelError:
            return 0
