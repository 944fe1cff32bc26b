"""Faults of the edge: killed while readers click and leave."""

from __future__ import annotations

import random
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from typing import Final

from workers.chaos.fault import fault
from workers.chaos.world import World, await_value

NAME: Final = "kill edge"
UP: Final = 60.0  # seconds within which it must answer


def _no_edge(world: World) -> str | None:
    if world.edge_port is None:
        return "this fleet has no edge"
    return None


def lacking() -> bool:
    """Whether the edge cannot run here."""
    return any(find_spec(each) is None for each in ("fastapi", "uvicorn", "limits"))


@fault(
    NAME, "kill -9 of the edge while readers click and leave, and a shop tells of events", _no_edge
)
def kill_edge(world: World, rng: random.Random) -> int:
    """What it has answered is so; another one soon answers where it did."""
    if not await_value(lambda: _answers(world) or None, UP):
        return 0
    time.sleep(rng.uniform(0.2, 1.5))
    return int(world.kill_edge())


def _answers(world: World) -> bool:
    try:
        with urllib.request.urlopen(f"{world.edge_url}/healthz", timeout=2):
            return True
    except OSError:
        return False
