"""Who plays the faults: some threads, each with the next fault of the plan, until all have told."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from workers.chaos.fault import Fault
from workers.chaos.world import World

PLAYERS: Final = 3  # faults at a time
TRIES: Final = 3  # a fault may find nothing to disturb because of another one,
PATIENCE: Final = 20.0  # or more often within so many seconds,
TURNS: Final = 4  # and comes again, after all others, if it still took no effect
PAUSE: Final = (0.2, 2.0)  # seconds between two faults of a player


@dataclass(slots=True)
class Played:
    """A fault of the plan: how often it was begun, and how often it took effect."""

    name: str
    sentence: str
    planned: int = 0
    fired: int = 0
    lacks: str | None = None


class Players:
    """Threads that play faults side by side, each the next one of the plan.

    Until time is up, and until each fault has had its turn and took effect, or took none in `TURNS`.
    """

    def __init__(
        self,
        world: World,
        faults: list[Fault],
        seconds: float,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.played = [Played(f.name, f.sentence, lacks=f.lacks(world)) for f in faults]
        self._world = world
        self._say = say
        self._until = time.monotonic() + seconds
        self._lock = threading.Lock()
        playable = [n for n, each in enumerate(self.played) if each.lacks is None]
        self._faults = faults
        self._turns = playable
        self._turn = 0
        self._in_play: set[int] = set()
        self._threads = [
            threading.Thread(target=self._play, args=(random.Random(seed + n),), daemon=True)
            for n in range(PLAYERS)
        ]

    def start(self) -> None:
        """Begin to play."""
        for thread in self._threads:
            thread.start()

    def playing(self) -> bool:
        """Whether one of them still does."""
        return any(thread.is_alive() for thread in self._threads)

    def _next(self) -> int | None:
        with self._lock:
            index = self._choose()
            if index is not None:
                self.played[index].planned += 1
                self._in_play.add(index)
            return index

    def _choose(self) -> int | None:
        if self._turn < len(self._turns):
            self._turn += 1
            return self._turns[self._turn - 1]
        for index in self._turns:
            each = self.played[index]
            if not each.fired and each.planned < TURNS and index not in self._in_play:
                return index
        if time.monotonic() >= self._until or not self._turns:
            return None
        self._turn += 1
        return self._turns[(self._turn - 1) % len(self._turns)]

    def _play(self, rng: random.Random) -> None:
        while (index := self._next()) is not None:
            each = self._faults[index]
            began = time.monotonic()
            fired = tries = 0
            while not fired and (tries < TRIES or time.monotonic() - began < PATIENCE):
                tries += 1
                try:
                    fired = each.play(self._world, rng)
                except Exception as error:
                    # Another fault took away what this one needed.
                    self._say(f"  {each.name}: {type(error).__name__}; once more")
                if not fired:
                    time.sleep(1.0)
            with self._lock:
                self.played[index].fired += fired
                self._in_play.discard(index)
            self._say(f"  {each.name}: {fired} in {time.monotonic() - began:.1f} s")
            time.sleep(rng.uniform(*PAUSE))
