"""Work on content, done here or in the personalize pool; and `dripfleet content jobs`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.context import Services, connected
from workers.cli.pool_work import require_worker, ring_pool
from workers.cli.render import emit, plain, progress, say

if TYPE_CHECKING:
    from tasks.personalize.settings import ModelSettings

POLL = 0.2

QUEUE = typer.Option(
    False, "--queue", help="In the personalize pool, not in this process; goes on without it."
)
WAIT = typer.Option(
    True, "--wait/--no-wait", help="With --queue: until it is done, else its number is told."
)


@dataclass(frozen=True, slots=True)
class Done:
    """What came of work: `asked` and `found` as its deed has them; `cost` in the table's currency."""

    job: int
    asked: Mapping[str, Any]
    found: Mapping[str, Any]
    model: str | None
    cost: float


def register(content: typer.Typer) -> None:
    """Add `dripfleet content jobs`."""
    content.command(
        epilog="Examples:\n\ndripfleet content jobs\n\ndripfleet content jobs --limit 5 --json"
    )(jobs)


def jobs(
    job: int | None = typer.Argument(None, help="Number of a job: what came of it, as JSON."),
    limit: int = typer.Option(20, min=1, max=1000, help="How many at most, the newest first."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """List the work on content that a model or the pool was asked for, and what it cost.

    A job is forgotten a month after its end.
    """
    from tasks.personalize import requests
    from tasks.personalize.prices import MILLION

    with connected() as services, services.database.snapshot() as connection:
        if job is not None:
            row = plain(dict(requests.look(connection, job)._mapping))
            emit(row | {"cost": row["cost"] / MILLION}, as_json=True)
            return
        rows = requests.listed(connection, limit)
    told = [plain(row) | {"cost": row["cost"] / MILLION} for row in rows]
    emit(told, title="Work on content", as_json=as_json)


def have_done(
    task: str,
    scope: str,
    asked: Mapping[str, Any],
    *,
    by_model: bool,
    queue: bool = False,
    wait: bool = True,
) -> Done | None:
    """Have work done, and wait for it.

    Args:
        task: a name of `tasks.names`.
        scope: the sequence or template whose budget a model is paid from.
        asked: as the task's deed reads it.
        by_model: whether a model is asked.
        queue: by a worker of the personalize pool.
        wait: until it is done.

    Returns:
        What came of it; None: nobody waits.

    Raises:
        Permanent: it failed, and why.
        Transient: no worker answers.
    """
    from tasks.personalize import requests
    from tasks.personalize.settings import ModelSettings
    from tasks.wording import WordingSettings

    with connected(redis=queue) as services:
        if not queue:
            with _server(ModelSettings(), by_model) as (settings, model):
                from tasks.personalize.desk import Desk

                with services.database.transaction() as connection:
                    id_ = requests.ask(connection, task, scope, model, asked)
                Desk(services.database, settings, quiet=True).do(id_)
            return _done(services, id_)
        require_worker(services, "personalize", "leave --queue out")
        model = WordingSettings().model if by_model else None
        with services.database.transaction() as connection:
            id_ = requests.ask(connection, task, scope, model, asked)
        ring_pool(task)
        if not wait:
            emit({"job": id_, "task": task})
            say(f"see it with `dripfleet content jobs {id_}`")
            return None
        _follow(services, id_, task)
        return _done(services, id_)


def of_job(job: int, task: str) -> Done:
    """What came of a job that was asked for before.

    Raises:
        Permanent: it is another kind of work, failed, or is not done yet.
    """
    from tasks.errors import Permanent
    from tasks.personalize import requests

    with connected() as services:
        with services.database.snapshot() as connection:
            row = requests.look(connection, job)
        if row.task != task:
            raise Permanent(f"job {job} is work of {row.task}, not of {task}; name another one")
        if row.state == "open":
            raise Permanent(f"job {job} is not done yet; look with `dripfleet content jobs {job}`")
        return _done(services, job)


def tell_who_wrote(model: str | None) -> None:
    """Say so where no language model did."""
    from tasks.wording import SHIPPED

    if model == SHIPPED:
        say(
            "written by the server that ships, which is no language model: it puts the words that"
            " it was given into a frame. DRIPFLEET_MODEL_URL and DRIPFLEET_MODEL name a real one"
        )


@contextmanager
def _server(settings: ModelSettings, by_model: bool) -> Iterator[tuple[ModelSettings, str | None]]:
    """The server that the settings name, else the one that ships, for as long as this takes."""
    from tasks.wording import SHIPPED, WordingSettings

    if not by_model:
        yield settings, None
    elif settings.url:
        yield settings, WordingSettings().model
    else:
        from workers.embedded.model_server import in_thread

        with in_thread() as server:
            yield settings.model_copy(update={"url": server.url}), SHIPPED


def _done(services: Services, job: int) -> Done:
    from tasks.errors import Permanent
    from tasks.personalize import requests
    from tasks.personalize.prices import MILLION

    with services.database.snapshot() as connection:
        row = requests.look(connection, job)
    if row.state != "done":
        raise Permanent(f"job {job} failed: {row.said}")
    return Done(job, row.asked, row.found, row.model, row.cost / MILLION)


def _follow(services: Services, job: int, task: str) -> None:
    from tasks.personalize import requests

    began = time.monotonic()
    with progress(f"job {job} of {task}") as bar:
        while True:
            with services.database.snapshot() as connection:
                row = requests.look(connection, job)
            if row.state != "open":
                return
            bar.show(time.monotonic() - began, None, row.said or "under way")
            time.sleep(POLL)
