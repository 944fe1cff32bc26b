"""Work that a command gives to a pool, and waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.cli.context import Services

SILENT = 90.0  # seconds without a canary after which a pool is taken for stopped


def require_worker(services: Services, pool: str, otherwise: str) -> None:
    """Nobody waits for a pool that is not there.

    Args:
        services: of the command.
        pool: who is to do the work.
        otherwise: the operator's other move, after "or".

    Raises:
        Transient: no worker of the pool answers.
    """
    from tasks.canary import store as canaries
    from tasks.errors import Transient

    with services.database.transaction() as connection:
        seen, now = canaries.latest(connection).get(pool), canaries.now(connection)
    if seen is None or (now - seen).total_seconds() > SILENT:
        raise Transient(
            f"no worker of pool {pool} answers: start the fleet (`dripfleet up`, or `dripfleet"
            f" worker {pool}`), or {otherwise} to do it in this process"
        )


def ring_pool(task: str) -> None:
    """Ring for work that stands in Postgres; a bell that is lost is rung again by the dispatcher."""
    from tasks import names
    from tasks.base import ring
    from workers.celery import build
    from workers.settings import RedisSettings, panel

    app = build(None, panel(RedisSettings)[RedisSettings])
    try:
        ring(task, names.tick())
    finally:
        app.close()
