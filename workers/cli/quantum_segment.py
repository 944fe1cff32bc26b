"""`dripfleet quantum segment`: ask for segments, read what came of them, make one count."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, number, plain, progress, say

segment = typer.Typer(no_args_is_help=True, help="Ask for segments, read them, promote them.")

AS_JSON = typer.Option(False, "--json", help="JSON on a terminal too.")
STABLE = 0.5
"""Agreement between seeds (ARI) below which a segment is not promoted without --anyway."""


@segment.command(
    epilog="Examples:\n\ndripfleet quantum segment run value\n\n"
    "dripfleet quantum segment run value --segments 3 --points 16 --wait\n\n"
    "dripfleet quantum segment run shapes --objective modularity --here",
)
def run(
    name: str = typer.Argument(help="Name of the segment, such as value."),
    segments: int = typer.Option(4, "--segments", "-k", help="How many segments."),
    points: int = typer.Option(12, help="Points of the coreset: qubits of the first cut."),
    layers: int | None = typer.Option(None, help="Layers of QAOA; by default 3, with noise 1."),
    objective: str = typer.Option("scatter", help="scatter, or modularity for shapes."),
    backend: str = typer.Option("cirq", help="Where circuits run; see `quantum backends`."),
    shots: int | None = typer.Option(
        None, help="Measurements of a circuit; by default 1024, with noise 256."
    ),
    seeds: int = typer.Option(10, help="Seeds by which it is judged; a verdict needs ten."),
    seed: int = typer.Option(0, help="The first of them."),
    wait: bool = typer.Option(False, "--wait", help="Wait until it is done."),
    here: bool = typer.Option(False, "--here", help="Compute it in this process, without a fleet."),
    as_json: bool = AS_JSON,
) -> None:
    """Ask for a segment of all subscribers: the quantum pool computes it, judges it, reports it.

    Nobody is mailed by it: a segment counts in sequences when it is promoted. Only events before
    this hour are seen. Interrupted, it goes on in the pool; a second request finds it.
    """
    from tasks.quantum import store
    from tasks.quantum.request import Request, this_hour, usual

    given = {"layers": layers, "shots": shots}
    chosen = usual(backend) | {name: n for name, n in given.items() if n is not None}
    with connected(redis=not here) as services:
        database = services.database
        with database.transaction() as connection:
            wanted = Request(
                name, this_hour(store.now(connection)), segments, points, objective=objective,
                backend=backend, seeds=seeds, seed=seed, **chosen,
            ).checked()  # fmt: skip
            id_, new = store.ask(connection, wanted)
        if not new:
            say(f"run {id_} of segment {name} is under way: it is not asked for twice")
        if here:
            _compute(database, id_)
        else:
            _ring(services.redis_url)
        if wait or here:
            row = _watch(database, id_, name)
            told = {"run": id_, "stage": row.stage, "why": row.why}
            verdict = (row.report or {}).get("verdict")
            emit({**told, "verdict": verdict}, as_json=as_json)
            if row.stage == "refused":
                say(f"run {id_} was refused: {row.why}", style="red")
                raise typer.Exit(ExitCode.FAULT)
            return
    emit({"run": id_, "segment": name, "new": new}, as_json=as_json)
    say(f"see it with `dripfleet quantum segment report {name}`")


@segment.command(
    epilog="Examples:\n\ndripfleet quantum segment report value\n\n"
    "dripfleet quantum segment report value --html value.html\n\n"
    "dripfleet quantum segment report value --run 3 --json",
)
def report(
    name: str = typer.Argument(help="Name of the segment."),
    run: int | None = typer.Option(None, help="A run of it; by default the newest."),
    html: str | None = typer.Option(None, "--html", help="Write a page with drawings there."),
    as_json: bool = AS_JSON,
) -> None:
    """Show what a run came to: segments in words, each cut beside its classical rivals, a verdict."""
    from tasks.quantum import store

    with connected() as services, services.database.snapshot() as connection:
        row = _of(store.found(connection, name, run), name)
    if row.stage != "done":
        say(f"run {row.id} of {name} is {_standing(row)}")
        raise typer.Exit(ExitCode.FINDINGS)
    made = row.report
    if html is not None:
        from tasks.quantum.page import page
        from workers.cli.quantum import need_extra

        need_extra()
        with open(html, "w", encoding="utf-8") as file:
            file.write(page(made, row.id))
        say(f"{html}: {len(made['cuts'])} cuts, {len(made['segments'])} segments")
    if as_json or not sys.stdout.isatty():
        emit({"run": row.id, **made}, as_json=True)
    else:
        shown = [{k: s[k] for k in ("label", "subscribers", "in_words")} for s in made["segments"]]
        emit(shown, title=f"Segment {name}, run {row.id}")
        from tasks.quantum.report import rows

        emit(rows(made), title="Each cut, by each solver, against the exact optimum")
    backend = made["backend"]
    say(f"{made['verdict']}: {made['why']}")
    if not backend["hardware"]:
        say(f"measured on {', '.join(backend['actual'])}: a classical computer did the work")


@segment.command(
    "list",
    epilog="Examples:\n\ndripfleet quantum segment list\n\ndripfleet quantum segment list value --json",
)
def list_(
    name: str | None = typer.Argument(None, help="Only runs of this segment."),
    as_json: bool = AS_JSON,
) -> None:
    """List runs: their stage, verdict, and which one sequences see."""
    from tasks.quantum import store

    with connected() as services, services.database.snapshot() as connection:
        rows = plain(store.listed(connection, name))
    columns = (
        "run", "segment", "stage", "verdict", "subscribers", "promoted_at", "created_at", "why"
    )  # fmt: skip
    emit(rows, columns=columns, title="Segment runs", as_json=as_json)
    if not rows:
        say("no segment was asked for; see `dripfleet quantum segment run --help`")


@segment.command(
    epilog="Examples:\n\ndripfleet quantum segment promote value --dry-run\n\n"
    "dripfleet quantum segment promote value --run 3",
)
def promote(
    name: str = typer.Argument(help="Name of the segment."),
    run: int | None = typer.Option(None, help="A run of it; by default the newest."),
    anyway: bool = typer.Option(False, "--anyway", help="Although it is not stable."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
    as_json: bool = AS_JSON,
) -> None:
    """Make a run what `segment('NAME', promoted=true)` sees, in every sequence, from now on."""
    from tasks.errors import Permanent
    from tasks.quantum import store

    with connected() as services, services.database.transaction() as connection:
        row = _of(store.found(connection, name, run), name)
        if row.stage != "done":
            raise Permanent(f"run {row.id} of {name} is {_standing(row)}: only one that is done")
        unstable = _unstable(row.report)
        if unstable and not anyway:
            raise Permanent(
                f"run {row.id} of {name} is not stable: {unstable}; --anyway promotes it"
            )
        if not dry_run:
            store.promote(connection, row.id)
    labels = [each["label"] for each in row.report["segments"]]
    emit(
        {"run": row.id, "segment": name, "promoted": not dry_run, "labels": labels,
         "verdict": row.report["verdict"]},
        as_json=as_json,
    )  # fmt: skip
    say(
        f"{'would be' if dry_run else 'is'} segment('{name}', promoted=true), one of: {', '.join(labels)}"
    )


@segment.command(
    epilog="Examples:\n\ndripfleet quantum segment compare 3 4\n\n"
    "dripfleet quantum segment compare 3 4 --json",
)
def compare(
    first: int = typer.Argument(help="A run."),
    second: int = typer.Argument(help="Another run."),
    as_json: bool = AS_JSON,
) -> None:
    """Compare two runs: who went from which segment to which, and how far the two agree.

    The adjusted Rand index is 1 where both divide people in the same way, and near 0 by chance.
    """
    from tasks.quantum import agreement, members, store

    with connected() as services, services.database.snapshot() as connection:
        for each in (first, second):
            store.found(connection, None, each)
        cells = members.cross(connection, first, second)
    index = agreement.adjusted_rand(cells)
    if as_json or not sys.stdout.isatty():
        rows = [{"first": a, "second": b, "subscribers": n} for a, b, n in cells]
        emit({"runs": [first, second], "adjusted_rand": index, "cells": rows}, as_json=True)
    else:
        emit(agreement.table(cells), title=f"Run {first} down, run {second} across")
    say(
        "they have no subscriber in common" if index is None else f"adjusted Rand index {index:.3f}"
    )


def _of(row: Any, name: str) -> Any:
    from tasks.errors import Permanent

    if row.segment != name:
        raise Permanent(f"run {row.id} is one of segment {row.segment!r}, not of {name!r}")
    return row


def _standing(row: Any) -> str:
    if row.stage == "refused":
        return f"refused: {row.why}"
    return f"at stage {row.stage}" + (f" (put off: {row.why})" if row.why else "")


def _unstable(report: Any) -> str | None:
    for cut in report["cuts"]:
        stability = cut["trial"]["stability"]
        if stability is not None and stability < STABLE:
            return f"seeds agree on cut {cut['number']} to {stability:.2f} (ARI) only"
    return None


def _ring(redis_url: str | None) -> None:
    """So that nobody waits for the dispatcher, who would ring within a second."""
    from tasks import names
    from tasks.base import ring
    from workers.celery import build
    from workers.settings import RedisSettings

    app = build(None, RedisSettings.model_validate({"redis_url": redis_url}))
    try:
        ring(names.CORESET, names.tick())
    finally:
        app.close()


def _compute(database: Any, run: int) -> None:
    from workers.cli.quantum import need_extra

    need_extra()
    from tasks.quantum import runs, store

    stages = ("coreset", "cut", "assign", "judge")
    with _quiet(), progress("segment") as bar:
        while True:
            with database.transaction() as connection:
                taken = store.take_one(connection, run)
            if taken is None:
                return
            bar.show(stages.index(taken.stage), len(stages), taken.stage)
            runs.advance(database, taken)


@contextmanager
def _quiet() -> Iterator[None]:
    """What a worker logs is not for the terminal: the row says how it ended."""
    import structlog

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _watch(database: Any, run: int, name: str) -> Any:
    from tasks.quantum import store

    order = ("coreset", "cut", "assign", "judge", "done")
    with progress(f"segment {name}") as bar:
        while True:
            with database.transaction() as connection:
                row = store.found(connection, None, run)
            if row.stage in ("done", "refused"):
                if row.stage == "done":
                    many = number(row.report["subscribers"])
                    say(f"segment {name}: {many} subscribers, {row.report['verdict']}")
                return row
            bar.show(order.index(row.stage), 4, row.stage)
            time.sleep(0.5)
