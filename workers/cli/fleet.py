"""`dripfleet up`, its processes one by one, and what they stand on."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import typer

from tasks import names
from workers.cli import doctor
from workers.cli.render import say

if TYPE_CHECKING:
    from models.session import Database
    from workers.embedded.stack import Stack
    from workers.supervisor import Fleet


EDGE_PATIENCE = 15.0


def register(app: typer.Typer) -> None:
    """Add `up`, `worker`, `beat`, `flower`, `api`, `migrate`, `doctor`."""
    app.command(
        epilog=_examples(
            "up",
            "up --only send --only upkeep",
            "up --no-flower",
            "up --autoscale send=1:3",
            "up --region eu --autoscale send@eu=1:3",
        )
    )(up)
    app.command(
        epilog=_examples("worker send", "worker send --region eu", "worker churn --concurrency 1")
    )(worker)
    app.command(epilog=_examples("beat"))(beat)
    app.command(epilog=_examples("flower"))(flower)
    app.command(epilog=_examples("api"))(api)
    app.command(epilog=_examples("migrate", "migrate --to base --yes"))(migrate)
    doctor.register(app)


def up(
    only: list[str] | None = typer.Option(
        None, metavar="POOL", help="Only this pool's worker; may be given again. Default: all."
    ),
    region: list[str] | None = typer.Option(
        None, help="A send worker for the streams of this region as well; may be given again."
    ),
    autoscale: list[str] | None = typer.Option(
        None,
        metavar="POOL=MIN:MAX",
        help="As many workers as keep the oldest due row within DRIPFLEET_AUTOSCALE_TARGET_AGE,"
        " of send, send@REGION or sequence; may be given again. Default: one each.",
    ),
    beat: bool = typer.Option(True, help="Run beat here."),
    flower: bool = typer.Option(True, help="Run Flower here."),
    edge: bool = typer.Option(True, help="Serve `dripfleet api` here, if its extra is installed."),
) -> None:
    """Run the whole fleet in the foreground, until Ctrl-C.

    Servers that no DRIPFLEET_…_URL names are started in DRIPFLEET_HOME. What dies is started
    again; Ctrl-C stops everything in order, a second one at once (nothing is lost by it).
    """
    from models.migrate import migrate as bring_to_head
    from models.session import Database
    from tasks.names import POOLS
    from workers.autoscale import Bounds
    from workers.embedded.stack import Stack
    from workers.pools import pool_named
    from workers.supervisor import Fleet

    for each in region or ():
        if not re.fullmatch(names.REGION, each):
            raise typer.BadParameter(
                f"{each[:64]!r} is no region's name: expected small letters, digits and -",
                param_hint="--region",
            )
    bounds = [Bounds.parse(each) for each in autoscale or ()]
    pools: list[str] = [pool_named(name).name for name in dict.fromkeys(only or POOLS)]
    with Stack(say=say) as stack:
        edge = edge and serve_edge(stack)
        database = Database(stack.database_url, name="dripfleet-migrate", size=1)
        bring_to_head(database)
        _check(pools, stack.environment())
        _tell_if_older(database, stack)
        database.close()
        fleet = Fleet(
            stack,
            pools=pools,
            regions=region or (),
            scale=bounds,
            beat=beat,
            flower=flower,
            edge=edge,
            say=say,
        )
        with fleet.signals():
            try:
                fleet.start()
                seconds = fleet.wait_ready()
                if not fleet.stopping.is_set():
                    say(f"the fleet answers, {len(fleet.pids())} processes, after {seconds:.1f} s")
                    tell_flower(fleet)
                    tell_edge(fleet)
                fleet.run()
            finally:
                say("stopping: beat, planner, delivery, the rest")
                fleet.stop()


def worker(
    pool: str = typer.Argument(
        help="sequence, send, personalize, churn, quantum or upkeep.", envvar="DRIPFLEET_POOL"
    ),
    region: str | None = typer.Option(
        None, help="Of a send worker: it sends the streams of this region only (DRIPFLEET_REGION)."
    ),
    name: str | None = typer.Option(None, help="POOL@HOST by default; unique in the fleet."),
    number: int = typer.Option(1, min=1, help="Which one of its kind here: part of that name."),
    concurrency: int | None = typer.Option(None, min=1, help="Tasks side by side."),
) -> int:
    """Run one worker process of a pool, for systemd or Kubernetes; SIGTERM drains it."""
    from workers.lifecycle import run_worker
    from workers.pools import pool_named

    chosen = pool_named(pool)
    if region is not None and chosen.name not in names.REGIONAL:
        raise typer.BadParameter(f"pool {chosen.name} has no regions; expected {_regional()}")
    _require("DRIPFLEET_DATABASE_URL", "DRIPFLEET_REDIS_URL")
    if region is not None:
        os.environ["DRIPFLEET_REGION"] = region
    return run_worker(chosen, name=name, number=number, concurrency=concurrency)


def beat() -> int:
    """Run beat: four ticks that say "everything due". Two of them do no harm."""
    _require("DRIPFLEET_REDIS_URL")
    from workers.lifecycle import run_beat

    return run_beat()


def flower() -> int:
    """Run Flower on 127.0.0.1, user dripfleet, password DRIPFLEET_SECRET_FLOWER or the home's."""
    _require("DRIPFLEET_REDIS_URL")
    from workers.flower import run

    return run()


def api() -> int:
    """Serve readers and other systems over HTTP: leaving, clicks and opens, `/v1`; SIGTERM drains it.

    It listens on DRIPFLEET_EDGE_ADDRESS and DRIPFLEET_EDGE_PORT; TLS ends before it. Any number may
    run. Mails name DRIPFLEET_EDGE_URL, which the send workers are given too.
    """
    _require("DRIPFLEET_DATABASE_URL", "DRIPFLEET_REDIS_URL")
    from importlib import import_module

    return int(import_module("workers.edge.run").run())


def migrate(
    to: str = typer.Option("head", metavar="REVISION", help="Older than what stands: downgrade."),
    yes: bool = typer.Option(False, "--yes", help="Really go back: tables and rows are dropped."),
    lock_timeout: float = typer.Option(5.0, min=0.1, help="Seconds to wait for a table's lock."),
) -> None:
    """Bring the database to a revision of the schema, and set what its role needs."""
    from models import migrate as schema
    from workers.cli.context import connected

    with connected() as services:
        wait = f"{lock_timeout:g}s"
        with services.database.transaction() as connection:
            before = schema.current(connection)
        if _is_older(to, before):
            if not yes:
                raise typer.BadParameter(f"{to} is older than {before}: this drops data; add --yes")
            after = schema.downgrade(services.database, to, wait)
        else:
            after = schema.migrate(services.database, to, wait)
    said = "was and is" if before == after else f"was at {before or 'nothing'}, is now"
    say(f"the schema {said} at {after or 'nothing'}")


def _check(pools: list[str], environment: dict[str, str]) -> None:
    """Say what is wrong with the settings before eight processes do."""
    from workers.lifecycle import settings_of
    from workers.pools import pool_named

    os.environ.update(environment)
    for pool in pools:
        settings_of(pool_named(pool))


def _regional() -> str:
    return " or ".join(sorted(names.REGIONAL))


def _tell_if_older(database: Database, stack: Stack) -> None:
    """Say at once what each send worker will refuse to start for."""
    from pathlib import Path

    from tasks.send.seen import OlderThanSent, Seen, identity

    folder = Path(stack.environment()["DRIPFLEET_JOURNAL_DIR"])
    try:
        Seen.of(folder, identity(database)).require_known_to(database)
    except OlderThanSent as fault:
        say(str(fault), style="red")


def _require(*variables: str) -> None:
    """Ask for servers: a process that systemd starts never embeds its own."""
    from tasks.errors import Misconfigured

    if missing := [name for name in variables if not os.environ.get(name, "").strip()]:
        raise Misconfigured(
            f"Set {' and '.join(missing)}: this process runs on servers of yours."
            " `dripfleet up` brings its own."
        )


def tell_flower(fleet: Fleet) -> None:
    """Say where Flower is, and where its password; never the password."""
    if url := fleet.flower_url():
        home = fleet.stack.home
        secret = home.shown(home.root / "secrets" / "flower")
        say(f"Flower: {url} (user dripfleet, password in {secret})")


def serve_edge(stack: Stack) -> bool:
    """Settle where the edge listens, if its libraries are here; whether they are."""
    from importlib.util import find_spec

    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        say("no edge: the extra edge is not installed (pip install 'dripfleet[edge]')")
        return False
    stack.serve_edge()
    return True


def tell_edge(fleet: Fleet) -> None:
    """Say where the edge is, once it is there; workers may be sooner."""
    import time

    until = time.monotonic() + EDGE_PATIENCE
    while "edge" in fleet.pids() and not fleet.stopping.is_set():
        if url := fleet.edge_url():
            say(f"edge: {url}")
            return
        if time.monotonic() > until:
            log = fleet.stack.home.shown(fleet.stack.home.logs / "edge.log")
            say(f"the edge does not serve yet; see {log}", style="yellow")
            return
        fleet.run(0.1)


def _is_older(wanted: str, stands: str | None) -> bool:
    """Whether `wanted` comes before the revision that stands.

    Raises:
        typer.BadParameter: this code knows no such revision.
    """
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    from models import migrations

    if stands is None or wanted in ("head", stands):
        return False
    if wanted == "base":
        return True
    script = ScriptDirectory(os.path.dirname(str(migrations.__file__)))
    try:
        found = script.get_revision(wanted)
        earlier = [revision.revision for revision in script.iterate_revisions(stands, "base")]
    except CommandError as fault:
        raise typer.BadParameter(f"no revision {wanted!r}: {fault}") from None
    return found is not None and found.revision in earlier


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"dripfleet {line}" for line in lines)
