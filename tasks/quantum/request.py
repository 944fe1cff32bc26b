"""What is asked of a segment run: checked once, stored with the run, and never changed."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from tasks.errors import Permanent
from tasks.quantum.backends import spec_of

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
OBJECTIVES: Final = ("scatter", "modularity")
MOST: Final = {"k": 12, "points": 20, "layers": 8, "shots": 100_000, "seeds": 100}
USUAL: Final = {"layers": 3, "shots": 1024}
USUAL_SLOW: Final = {"layers": 1, "shots": 256}
"""Noise outweighs what a second layer brings, and a shot of 12 qubits costs 10 ms a layer."""
LEAST: Final = {"k": 2, "points": 2, "layers": 1, "shots": 16, "seeds": 1}


@dataclass(frozen=True)
class Request:
    """A segment, as it was asked for.

    Attributes:
        segment: its name, by which sequences know it.
        as_of: events before it count.
        k: segments.
        points: of the coreset, and so qubits of the largest cut.
        layers: p of QAOA.
        objective: `scatter` or `modularity`.
        backend: where circuits are measured.
        shots: a circuit.
        seeds: with how many seeds it is judged.
        seed: the first of them.
    """

    segment: str
    as_of: dt.datetime
    k: int = 4
    points: int = 12
    layers: int = 3
    objective: str = "scatter"
    backend: str = "cirq"
    shots: int = 1024
    seeds: int = 10
    seed: int = 0

    def checked(self) -> Request:
        """Itself.

        Raises:
            Permanent: something of it cannot be; the message names it.
        """
        if not NAME.fullmatch(self.segment):
            raise Permanent(
                f"{self.segment[:64]!r} is no name of a segment: expected letters, digits, - and _,"
                " such as value"
            )
        for name, least in LEAST.items():
            value = getattr(self, name)
            if not least <= value <= MOST[name]:
                raise Permanent(f"{name} is {value}: expected {least} to {MOST[name]:,}")
        if self.k > self.points:
            raise Permanent(f"{self.k} segments of {self.points} points: expected as many points")
        if self.objective not in OBJECTIVES:
            raise Permanent(f"objective {self.objective!r}: expected {' or '.join(OBJECTIVES)}")
        if self.seed < 0:
            raise Permanent(f"seed is {self.seed}: expected no negative number")
        spec = spec_of(self.backend)
        if self.points > spec.max_qubits:
            raise Permanent(
                f"{self.points} points need {self.points} qubits, and {spec.name} takes"
                f" {spec.max_qubits}: ask for fewer points"
            )
        return self

    @property
    def noisy(self) -> bool:
        """Whether it belongs in the queue of slow runs."""
        return spec_of(self.backend).slow

    @property
    def artifact(self) -> str:
        """In one line."""
        return (
            f"qaoa p={self.layers} points={self.points} k={self.k} {self.objective}"
            f" on {self.backend}"
        )

    def as_json(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self) | {"as_of": self.as_of.astimezone(dt.UTC).isoformat()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Request:
        """What `as_json` stored."""
        return cls(**dict(value) | {"as_of": dt.datetime.fromisoformat(value["as_of"])})


def usual(backend: str) -> dict[str, int]:
    """Layers and shots where nobody asks for others.

    Raises:
        Permanent: nobody knows the backend.
    """
    return USUAL_SLOW if spec_of(backend).slow else USUAL


def this_hour(now: dt.datetime) -> dt.datetime:
    """The beginning of the hour: runs of one hour see the same events, and share a coreset."""
    return now.replace(minute=0, second=0, microsecond=0)
