"""What a fault of the catalogue is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from workers.chaos.world import World

Play = Callable[[World, random.Random], int]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: in a run's table.
        sentence: what happens, for the same table.
        play: does it, heals it, and says how often it took effect; 0: it found nothing to disturb.
        lacks: why it cannot be played in a world; None: it can.
    """

    name: str
    sentence: str
    play: Play
    lacks: Callable[[World], str | None] = lambda world: None


CATALOGUE: Final[dict[str, Fault]] = {}
"""Every fault by name, in the order in which the modules of the catalogue name them."""


def fault(
    name: str, sentence: str, lacks: Callable[[World], str | None] = lambda world: None
) -> Callable[[Play], Play]:
    """Put a function into the catalogue."""

    def add(play: Play) -> Play:
        CATALOGUE[name] = Fault(name, sentence, play, lacks)
        return play

    return add
