"""Faults of Redis and of what stands in its queues."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from tasks import names
from workers.chaos.fault import fault
from workers.chaos.world import World

STRANGE = (
    {"v": 99, "stream": "marketing", "n": 500},
    {"v": 1, "stream": "no-such-stream", "n": 500},
    {"v": 1, "stream": "marketing", "n": -1},
    {"v": 1, "stream": "marketing", "n": 10**12},
    {"v": 1, "stream": None, "n": "many"},
    {"v": 1},
    {"v": 1, "stream": "marketing", "n": 1, "ids": [1, 2, 3]},
)
"""Doorbells that nobody of ours would ring: each is dropped, or harmless."""


@fault("FLUSHALL", "Redis is emptied")
def flush(world: World, rng: random.Random) -> int:
    """Doorbells are lost; the dispatcher rings again."""
    with world.redis() as client:
        return int(bool(client.flushall()))


@fault("empty Redis", "kill -9 of Redis, which comes back without what it had written")
def lose_redis(world: World, rng: random.Random) -> int:
    """Every connection and every doorbell is gone."""
    return int(world.restart_valkey_empty())


@fault("freeze Redis", "SIGSTOP of Redis for four seconds")
def freeze_redis(world: World, rng: random.Random) -> int:
    """Nobody's fault; workers wait."""
    pid = world.valkey.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(4)
    finally:
        os.kill(pid, signal.SIGCONT)
    return 1


@fault("CLIENT PAUSE", "Redis answers nobody for three seconds")
def pause_clients(world: World, rng: random.Random) -> int:
    """A pause, not a failure."""
    with world.redis() as client:
        return int(bool(client.client_pause(3000)))


@fault("CLIENT KILL", "Redis ends every connection")
def kill_clients(world: World, rng: random.Random) -> int:
    """Workers connect again, and are not deaf afterwards."""
    with world.redis() as client:
        killed = client.client_kill_filter(_type="normal", skipme=True)
        return int(killed) if isinstance(killed, int) else 0


@fault("redelivery storm", "every doorbell that is being answered is put back twenty times")
def redeliver(world: World, rng: random.Random) -> int:
    """Whoever comes second finds nothing due."""
    put = 0
    with world.redis() as client:
        for _ in range(50):
            held = client.hgetall("unacked")
            for raw in held.values() if isinstance(held, dict) else ():
                message, _, queue = json.loads(raw)
                put += 20
                client.rpush(queue, *[json.dumps(message)] * 20)
            if put:
                break
            time.sleep(0.1)
    return put


@fault("ring for nothing", "two hundred doorbells that nothing asked for")
def ring_for_nothing(world: World, rng: random.Random) -> int:
    """Claims that find nothing, or what was due anyway."""
    with _bell(world) as ring:
        for _ in range(200):
            ring(names.deliver(rng.choice(("marketing", "transactional")), 500))
    return 200


@fault("forged doorbells", "doorbells with streams, numbers and versions that make no sense")
def forge(world: World, rng: random.Random) -> int:
    """Dropped with a log line."""
    with _bell(world) as ring:
        for payload in STRANGE:
            ring(payload)
    return len(STRANGE)


@fault("garbage in a queue", "bytes that are no JSON: the worker that reads them ends")
def garbage(world: World, rng: random.Random) -> int:
    """It comes back, and nothing is lost."""
    with world.redis() as client:
        queue = rng.choice(("send", "sequence", "upkeep"))
        return int(bool(client.rpush(queue, b"\xff\x00no json{")))


@contextlib.contextmanager
def _bell(world: World) -> Iterator[Callable[[Any], object]]:
    """Something that rings `send.deliver` as Celery does, from outside of the fleet."""
    from celery import Celery

    from workers import queues

    app = Celery("stranger", broker=world.valkey.url, set_as_current=False)
    app.conf.update(task_queues=queues.queues(), task_routes=(queues.route,))
    with app.connection_for_write() as connection:
        yield lambda payload: app.send_task(names.DELIVER, kwargs=payload, connection=connection)
