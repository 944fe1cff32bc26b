"""`dripfleet status`: how the fleet stands, once or on a screen; and `dripfleet metrics` beside it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli import metrics
from workers.cli.context import Services, connected
from workers.cli.render import emit, number, plain

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from tasks.upkeep.overview import Overview

EVERY = 1.0


def register(app: typer.Typer) -> None:
    """Add `dripfleet status` and `dripfleet metrics`."""
    app.command(
        epilog="Examples:\n\ndripfleet status\n\ndripfleet status --watch\n\ndripfleet status --json",
    )(status)
    metrics.register(app)


def status(
    watch: bool = typer.Option(
        False, "--watch", help="A screen to leave open; q or Ctrl-C leaves it."
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON; with --watch an object a line."),
) -> None:
    """Show how the fleet stands: pools, queues, streams, sequences, ticks.

    Counts of messages stop at 100 000, those of people at a million, and are marked with ≥ then. The rate of sending is that of the time
    between two looks, so it is there with --watch only.
    """
    with connected(redis=True) as services:
        if not watch:
            view, _ = _look(services, None)
            if as_json or not sys.stdout.isatty():
                emit(view, as_json=True)
                return
            from rich.console import Console

            Console(no_color="NO_COLOR" in os.environ).print(_drawn(view))
            return
        try:
            if as_json or not sys.stdout.isatty():
                _lines(services)
            from workers.cli.watch import watch as screen

            screen(lambda: _look(services, None)[0])
        except KeyboardInterrupt:
            return


def _lines(services: Services) -> None:
    """An object a line, every second, for a pipe."""
    before: Overview | None = None
    while True:
        view, before = _look(services, before)
        sys.stdout.write(json.dumps(plain(view), ensure_ascii=False) + "\n")
        sys.stdout.flush()
        time.sleep(EVERY)


def _look(services: Services, before: Overview | None) -> tuple[dict[str, Any], Overview]:
    from tasks.personalize.pace import yielding
    from tasks.upkeep.overview import overview
    from tasks.upkeep.tally import troubles

    with services.database.snapshot() as connection:
        now = overview(connection)
        wrong = troubles(connection)
        since = yielding(connection)
    view: dict[str, Any] = plain(now)
    view["queues"] = _depths(services.redis_url, now.queues)
    view["flower"] = _flower()
    view["troubles"] = plain(wrong)
    view["words_yield"] = since.total_seconds() if since is not None else None
    if before is not None:
        view["sent_per_second"] = round(now.sent_per_second(before), 1)
    return view, now


def _depths(url: str | None, queues: Sequence[str]) -> dict[str, int] | str:
    """How many doorbells wait in each queue, or a word on why nobody knows."""
    import redis

    from workers.metrics.fleet import queue_depths

    try:
        return queue_depths(url, queues)
    except ValueError as fault:
        return str(fault)
    except redis.RedisError as error:
        return f"Redis does not answer ({type(error).__name__}); check DRIPFLEET_REDIS_URL"


def _flower() -> str | None:
    """Where Flower is, if the supervisor of this home wrote it down."""
    home = Path(os.environ.get("DRIPFLEET_HOME") or "var")
    try:
        return (home / "run" / "flower.url").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _drawn(view: dict[str, Any]) -> Group:
    from rich.console import Group
    from rich.text import Text

    least = "" if view["exact"] else "≥ "
    people = "" if view["people_exact"] else "≥ "
    rate = f", {view['sent_per_second']:g} a second" if "sent_per_second" in view else ""
    head = (
        f"enrolled {people}{number(view['enrolled'])}   planned {least}{number(view['planned'])}   "
        f"sent {number(view['sent'])}{rate}   due {least}{number(view['due'])}   "
        f"in doubt {number(view['in_doubt'])}   failed {number(view['failed'])}   "
        f"not sent {number(view['not_sent'])}"
    )
    oldest = _ago(view["to_plan_oldest"])
    planner = f"to plan {least}{number(view['to_plan'])}" + (f", oldest {oldest}" if oldest else "")
    parts: list[RenderableType] = [Text(head, style="bold"), Text(planner)]
    queues = view["queues"]
    depths = queues if isinstance(queues, dict) else {}
    seen = {row["pool"]: row for row in view["pools"]}
    parts.append(
        _table(
            ("pool", "workers", "last seen", "queue"),
            [
                (p, seen.get(p, {}).get("workers", 0), _ago(seen.get(p, {}).get("seen_ago")), depth)
                for p, depth in (depths or dict.fromkeys(seen, "?")).items()
            ],
        )
    )
    if not isinstance(queues, dict):
        parts.append(Text(queues, style="red"))
    columns: tuple[str, ...] = (
        "stream",
        "due",
        "oldest",
        "later",
        "working",
        "armed",
        "in doubt",
        "paused",
    )
    names: tuple[str, ...] = (
        "key",
        "due",
        "oldest_due",
        "later",
        "working",
        "armed",
        "in_doubt",
        "pause_reason",
    )
    rows = [_row(row, names) for row in view["streams"]]
    if least:
        rows = [[key, f"≥ {number(due)}", *rest] for key, due, *rest in rows]
    parts.append(_table(columns, rows))
    columns = (
        "sequence",
        "active",
        "waiting",
        "held",
        "asking",
        "sent",
        "failed",
        "not sent",
        "paused",
    )
    names = (
        "key",
        "active",
        "waiting",
        "held",
        "asking",
        "sent",
        "failed",
        "not_sent",
        "pause_reason",
    )
    rows = [_row(row, names) for row in view["sequences"]]
    if any(row["draining_since"] for row in view["sequences"]):
        columns = (*columns, "drains")
        rows = [[*row, q["drain_reason"]] for row, q in zip(rows, view["sequences"], strict=True)]
    if people:
        rows = [
            [key, *(f"≥ {number(n)}" for n in counts[:3]), *counts[3:]] for key, *counts in rows
        ]
    parts.append(_table(columns, rows))
    if view["words_yield"] is not None:
        parts.append(Text(f"words yield to sends, since {_ago(view['words_yield'])}"))
    ticks = "   ".join(f"{row['name']} {_ago(row['ago'])} ago" for row in view["ticks"])
    parts.append(Text(f"ticks  {ticks}" if ticks else "no tick was ever answered", style="dim"))
    if view["flower"]:
        parts.append(Text(f"Flower  {view['flower']}"))
    return Group(*parts)


def _row(row: dict[str, Any], names: Sequence[str]) -> list[Any]:
    return [_ago(row[name]) if name == "oldest_due" else row[name] for name in names]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for place, name in enumerate(columns):
        words = not place or name in ("paused", "drains")
        table.add_column(name, justify="left" if words else "right")
    for row in rows:
        cells = [number(c) if isinstance(c, int) else str(c if c is not None else "") for c in row]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return ""
    from datetime import timedelta

    from tasks.sequence.outlook import span

    return span(timedelta(seconds=seconds))
