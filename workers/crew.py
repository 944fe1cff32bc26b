"""The worker processes of one queue under the supervisor: how many there are, and who leaves.

The first is called as its queue, the others `send-2`, `send-3`: by its number a worker has a node
name and a log of its own. Its journal and its port of metrics are its own by nature: a journal is
a file a process, and a port that is taken is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tasks import names
from workers.child import Child

Make = Callable[[str, list[str]], Child]


class Crew:
    """Workers of one queue.

    Args:
        queue: such as `send` or `send@eu`.
        make: a child of a name, with the arguments of `python -m workers`.
        patience: seconds that one may take to drain before it is killed.
    """

    def __init__(self, queue: str, make: Make, *, patience: float) -> None:
        self.queue = queue
        self._make = make
        self._patience = patience
        self._at_work: dict[int, Child] = {}
        self._leaving: dict[int, tuple[Child, float]] = {}

    @property
    def size(self) -> int:
        """How many there are, without those that drain."""
        return len(self._at_work)

    def children(self) -> Iterator[Child]:
        """All of them, those that drain too."""
        yield from self._at_work.values()
        yield from (child for child, _ in self._leaving.values())

    def resize(self, size: int) -> list[str]:
        """Start workers, or ask the newest to drain, until there are `size`; the names of those."""
        changed = []
        while self.size < size:
            number = self._free_number()
            child = self._make(self._name(number), self._arguments(number))
            self._at_work[number] = child
            child.start()
            changed.append(child.name)
        while self.size > size:
            number = max(self._at_work)
            child = self._at_work.pop(number)
            child.ask_to_stop()
            self._leaving[number] = (child, time.monotonic() + self._patience)
            changed.append(child.name)
        return changed

    def tend(self) -> None:
        """Start again what died; let go of what has drained."""
        for child in self._at_work.values():
            child.tend()
        for number, (child, deadline) in list(self._leaving.items()):
            if child.ended():
                del self._leaving[number]
            elif time.monotonic() >= deadline:
                # What it still waits for is settled from its journal, by whoever starts next.
                child.kill()

    def _free_number(self) -> int:
        """The lowest that nobody has: one that drains keeps its name until it is gone."""
        number = 1
        while number in self._at_work or number in self._leaving:
            number += 1
        return number

    def _name(self, number: int) -> str:
        return self.queue if number == 1 else f"{self.queue}-{number}"

    def _arguments(self, number: int) -> list[str]:
        pool, region = names.place_of(self.queue)
        arguments = ["worker", pool]
        if region:
            arguments += ["--region", region]
        if number > 1:
            arguments += ["--number", str(number)]
        return arguments
