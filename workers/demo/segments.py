"""The demo's segments: asked for when the purchases are in, computed while mail goes out, told at the end."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from models.session import Database
from tasks.quantum import store
from tasks.quantum.request import Request, this_hour

NAME: Final = "value"
PATIENCE: Final = 120.0
"""Seconds for which the end of the demo waits for it at most."""


def ask(database: Database) -> int | None:
    """Ask for the segment; its run, or None where the extra is not installed."""
    if any(find_spec(module) is None for module in ("cirq", "numba", "sklearn")):
        return None
    with database.transaction() as connection:
        wanted = Request(NAME, this_hour(store.now(connection)), k=3, points=12)
        run, _ = store.ask(connection, wanted.checked())
    return run


def look(database: Database, run: int) -> Any:
    """The run as it stands."""
    with database.transaction() as connection:
        return store.found(connection, None, run)


def solvers(report: dict[str, Any]) -> list[str]:
    """A line for each solver: its mean cut against the exact optimum, and its seconds, cut by cut."""
    from tasks.quantum.report import rows

    found: dict[str, list[str]] = {}
    for row in rows(report):
        shown = f"{row['of the optimum'] or '—':>8} in {row['seconds']:>8} s"
        found.setdefault(row["solver"], []).append(shown)
    width = max(map(len, found), default=0)
    return [f"{name:<{width}}  {'   '.join(shown)}" for name, shown in found.items()]
