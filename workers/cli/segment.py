"""`dripfleet segment`: named segments; files become what holds, and who that is, or would be."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.context import connected
from workers.cli.render import emit, number, plain, say

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from models.session import Database
    from schedules.expression import Expression
    from schedules.findings import Finding

segment = typer.Typer(
    no_args_is_help=True, help="Name groups of subscribers by a condition, and see who is in them."
)

AS_JSON = typer.Option(False, "--json", help="JSON on a terminal too.")
DRY_RUN = typer.Option(False, "--dry-run", help="Say what would happen, write nothing.")
KEY = typer.Argument(help="Of the segment, such as lapsed.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet segment`."""
    app.add_typer(segment, name="segment")


@segment.command(
    epilog="Examples:\n\ndripfleet segment apply schedules/segments/*.yaml --dry-run\n\n"
    "dripfleet segment apply schedules/segments/*.yaml\n\n"
    "dripfleet segment apply lapsed.yaml --later",
)
def apply(
    files: list[str] = typer.Argument(help="Segment files, such as schedules/segments/*.yaml."),
    later: bool = typer.Option(
        False, "--later", help="Leave the first evaluation to the fleet, which begins at once."
    ),
    dry_run: bool = DRY_RUN,
    as_json: bool = AS_JSON,
) -> None:
    """Make segments what files say, and evaluate them; nothing changes while a file has a fault.

    Segments that no file names stay as they are; `segment remove` takes one away. Interrupted, the
    fleet does what is left.
    """
    from schedules.findings import DefinitionError
    from schedules.segment import read
    from tasks.audience import segment_book as book

    found: list[Finding] = []
    loaded = []
    for file in files:
        try:
            loaded.append(read(file))
        except DefinitionError as error:
            found += error.findings
    with connected() as services:
        database = services.database
        with database.transaction() as connection:
            book.hold(connection)
            found += book.findings(connection, loaded)
            if found:
                raise DefinitionError(found)
            with connection.begin_nested() as tried:
                done = book.apply(connection, loaded)
                order = book.order(connection)
                if dry_run:
                    tried.rollback()
        rows: list[dict[str, Any]] = [{"key": each.key, "change": each.change} for each in done]
        new = {each.key for each in done if each.change != "unchanged"}
        if not dry_run and not later:
            # What others ask for first: they ask for its members, not for its expression.
            _evaluate(database, [key for key in order if key in new], rows)
    emit(rows, title="What would change" if dry_run else "Segments", as_json=as_json)


@segment.command(
    "list", epilog="Examples:\n\ndripfleet segment list\n\ndripfleet segment list --json"
)
def list_(as_json: bool = AS_JSON) -> None:
    """List the named segments: how many are in each, and how it was last evaluated."""
    from tasks.audience import segment_book as book

    with connected() as services, services.database.snapshot() as connection:
        rows = plain(book.listed(connection))
    columns = (
        "key", "members", "unknown", "refresh", "evaluated_at", "took", "due_at", "fault", "condition"
    )  # fmt: skip
    emit(rows, columns=columns, title="Segments", as_json=as_json)
    if not rows:
        say("no segment stands; `dripfleet segment apply FILE` makes one")


@segment.command(
    epilog="Examples:\n\ndripfleet segment show lapsed\n\ndripfleet segment show lapsed --json"
)
def show(key: str = KEY, as_json: bool = AS_JSON) -> None:
    """Show a segment: its condition, who asks for it, who came and went within a day."""
    from tasks.audience import segment_book as book

    with connected() as services, services.database.snapshot() as connection:
        found = plain(book.shown(connection, key))
    if not as_json and sys.stdout.isatty():
        found["asked_by"] = ", ".join(found["asked_by"])
        found["last_day"] = ", ".join(f"{n} {edge}" for edge, n in found["last_day"].items())
    emit(found, title=f"Segment {key}", as_json=as_json)


@segment.command(
    epilog="Examples:\n\ndripfleet segment preview schedules/segments/lapsed.yaml\n\n"
    "dripfleet segment preview \"sub.country == 'DE' and count('purchase', within='90d') >= 2\"\n\n"
    "dripfleet segment preview lapsed --sample 3",
)
def preview(
    what: str = typer.Argument(
        metavar="EXPR|FILE|KEY", help="A condition, a segment file, or the key of a segment."
    ),
    sample: int = typer.Option(5, min=0, max=1000, help="How many of them to show."),
    as_json: bool = AS_JSON,
) -> None:
    """Say of how many subscribers a condition holds now, and show some; nothing is written.

    Unknown are those of whom it cannot be told, since a score or label is missing or too old.
    """
    from tasks.audience import segment_book as book

    with connected() as services, services.database.snapshot() as connection:
        condition = _condition(connection, what)
        found = book.preview(connection, condition, sample)
    counts = {"subscribers": found.subscribers, "members": found.members, "unknown": found.unknown}
    if as_json or not sys.stdout.isatty():
        emit({"condition": condition.source, **counts, "sample": plain(found.sample)}, as_json=True)
        return
    emit({"condition": condition.source, **counts})
    if found.sample:
        emit(plain(found.sample), title="The newest of them")


@segment.command(
    epilog="Examples:\n\ndripfleet segment members lapsed\n\n"
    "dripfleet segment members lapsed -n 1000 --after 52417 --json",
)
def members(
    key: str = KEY,
    n: int = typer.Option(50, "-n", min=1, max=100_000, help="How many of them."),
    after: int = typer.Option(0, help="Go on behind this subscriber's id."),
    as_json: bool = AS_JSON,
) -> None:
    """List who is in a segment, since when, and for which time."""
    from tasks.audience import segment_book as book

    with connected() as services, services.database.snapshot() as connection:
        rows = plain(book.members(connection, key, n, after))
    emit(rows, title=f"Segment {key}", as_json=as_json)
    if len(rows) == n:
        say(f"there may be more: go on with --after {rows[-1]['subscriber_id']}")


@segment.command(
    epilog="Examples:\n\ndripfleet segment remove loyal --dry-run\n\ndripfleet segment remove loyal"
)
def remove(key: str = KEY, dry_run: bool = DRY_RUN) -> None:
    """Take a segment away; refused while a sequence, a schedule or another segment asks for it."""
    from tasks.audience import segment_book as book

    with connected() as services, services.database.transaction() as connection:
        book.hold(connection)
        with connection.begin_nested() as tried:
            left = book.remove(connection, key)
            if dry_run:
                tried.rollback()
    told = f"{number(left)} subscribers {'would leave' if dry_run else 'left'} it"
    say(f"{'would remove' if dry_run else 'removed'} segment {key!r}; {told}")


def _evaluate(database: Database, keys: list[str], rows: list[dict[str, Any]]) -> None:
    """Evaluate segments for everybody, and write into their rows what came of it."""
    from tasks.audience.segment_refresh import refresh

    by_key = {row["key"]: row for row in rows}
    for key in keys:
        with without_log():
            done = refresh(database, key)
        if done is None:
            say(f"segment {key!r} could not be evaluated; `dripfleet segment show {key}` says why")
            continue
        by_key[key] |= {"joined": done.joined, "left": done.left, "unknown": done.unknown}
        by_key[key] |= {"seconds": round(done.took, 3)}
        say(f"{key}: {number(done.joined)} joined, {number(done.left)} left in {done.took:.1f} s")


@contextmanager
def without_log() -> Iterator[None]:
    """What a store logs for the fleet's log is said in other words here."""
    import structlog

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _condition(connection: Connection, what: str) -> Expression:
    """The condition that was typed, or that a file or a segment has."""
    from schedules.expression import ExpressionError
    from schedules.expression import read as read_expression
    from schedules.segment import as_condition, read
    from tasks.audience import segment_book as book

    if what.endswith((".yaml", ".yml")) or Path(what).is_file():
        condition = read(what).segment.when
    else:
        text = as_condition(what)
        try:
            condition = read_expression(
                text if text == what.strip() else book.condition_of(connection, what.strip())
            )
        except ExpressionError as error:
            raise typer.BadParameter(
                f"at character {error.at + 1}: {error}", param_hint="EXPR|FILE|KEY"
            ) from error
    topics, keys = book.topic_keys(connection), {row["key"] for row in book.listed(connection)}
    for why in book.unknown_names(condition.needs, topics, keys):
        raise typer.BadParameter(why, param_hint="EXPR|FILE|KEY")
    return condition
