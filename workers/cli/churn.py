"""`dripfleet churn`: train, and score; what there is and how good it is stands in `churn_models`."""

from __future__ import annotations

import logging
import os
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.context import Services, connected
from workers.cli.pool_work import require_worker, ring_pool
from workers.cli.render import ExitCode, emit, number, progress, say

if TYPE_CHECKING:
    from tasks.churn.runs import Progress

churn = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Scores: train models, score subscribers, see how good and how old.",
)

POLL = 0.2
ONE_WAITS = 30.0


def register(app: typer.Typer) -> None:
    """Add `dripfleet churn`."""
    import_module("workers.cli.churn_models")
    import_module("workers.cli.churn_uplift")
    app.add_typer(churn, name="churn")


def require_ml() -> None:
    """Refuse a command that computes here without the extra, and keep it to one thread.

    Raises:
        Misconfigured: the extra is not installed.
    """
    from tasks.errors import Misconfigured

    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    if find_spec("skops") is None:
        raise Misconfigured(
            "this needs the extra `ml`, which is not installed here: pip install dripfleet[ml]"
        )
    import structlog

    # What a worker would log, the command says itself; and stdout is data.
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )


@churn.command(
    epilog="Examples:\n\ndripfleet churn train\n\ndripfleet churn train clv --here\n\n"
    "dripfleet churn train --horizon 60 --no-promote\n\ndripfleet churn train uplift:win-back\n\n"
    "dripfleet churn train --data telco.csv --label Churn --drop customerID --out telco",
)
def train(
    name: str = typer.Argument(
        "churn", help="The score: churn, engagement, clv or uplift:SEQUENCE."
    ),
    horizon: float | None = typer.Option(
        None, min=1, help="Days that the label looks ahead; by default the score's own."
    ),
    kind: list[str] = typer.Option(
        [], help="Only this kind of model: logistic, boosting, mlp; repeat it for more."
    ),
    promote: bool | None = typer.Option(
        None, "--promote/--no-promote", help="Your word, whatever the rule says."
    ),
    here: bool = typer.Option(False, "--here", help="In this process, not in the churn pool."),
    seed: int = typer.Option(0, help="Of fits and intervals."),
    data: Path | None = typer.Option(
        None, help="A CSV file of your own with labels, instead of the subscribers; runs here."
    ),
    label: str | None = typer.Option(None, help="With --data: the label's column."),
    positive: str | None = typer.Option(
        None, help="With --data: the label's value that means churned; else found out."
    ),
    drop: list[str] = typer.Option([], help="With --data: a column that is no feature."),
    train_rows: int | None = typer.Option(
        None, min=1, help="With --data: fit to the first so many rows, test on the rest."
    ),
    out: Path | None = typer.Option(
        None, help="With --data: folder for model, manifest and card; by default the file's name."
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Train a score, show how good it is beside its baselines, and promote it if it is good enough.

    Promoted by itself is only what beats the one-line rule with its whole interval, and is not worse
    than the champion. A training that fails changes nothing. Exit 3: trained, and not promoted.
    """
    kinds = _kinds(kind)
    if data is not None:
        return _train_table(
            data, label, positive, tuple(drop), train_rows, kinds, seed, out, as_json
        )
    if label is not None or positive is not None or drop or train_rows or out is not None:
        raise typer.BadParameter("--label, --positive, --drop, --train-rows, --out go with --data")
    options: dict[str, Any] = {"seed": seed}
    if horizon is not None:
        options["horizon_days"] = horizon
    if kinds:
        options["kinds"] = list(kinds)
    if promote is not None:
        options["promote"] = promote
    with connected(redis=not here) as services:
        if here:
            require_ml()
            from tasks.churn import trainings
            from tasks.churn.settings import ChurnSettings

            ended = trainings.train(services.database, name, options, ChurnSettings(), say=say)
            artifact, said = ended.artifact, ended.said
        else:
            artifact, said = _trained_in_pool(services, name, options)
        from workers.cli.churn_models import show_report

        show_report(services.database, artifact, as_json)
    say(f"{artifact}: {said}")
    return ExitCode.OK if said.startswith("promoted") else ExitCode.FINDINGS


@churn.command(
    epilog="Examples:\n\ndripfleet churn score --all\n\n"
    "dripfleet churn score --email zoe@example.com --name clv\n\n"
    "dripfleet churn score --segment \"sub.plan == 'pro'\"\n\n"
    "dripfleet churn score --data customers.csv --model telco",
)
def score(
    everybody: bool = typer.Option(False, "--all", help="Everybody, range by range."),
    segment: str | None = typer.Option(
        None, help="Those for whom an expression holds, or a file of addresses."
    ),
    email: list[str] = typer.Option([], help="One subscriber; repeat it for more."),
    name: str | None = typer.Option(
        None, help="The score; by default churn, and with --all every one that has a champion."
    ),
    here: bool = typer.Option(False, "--here", help="In this process, not in the churn pool."),
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Until it is done."),
    data: Path | None = typer.Option(None, help="A CSV file of your own, scored by --model."),
    model: Path | None = typer.Option(None, help="A folder that `churn train --data` wrote."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Score subscribers with the champion, and write the scores down with artifact and time.

    A run of everybody goes on after a kill; asking again while one is open goes on with that one.
    """
    ways = sum((everybody, segment is not None, bool(email), data is not None))
    if ways != 1:
        raise typer.BadParameter("expected one of --all, --segment, --email, --data")
    if (data is None) != (model is None):
        raise typer.BadParameter("--data and --model go together")
    if data is not None and model is not None:
        return _score_table(data, model)
    with connected(redis=not here) as services:
        if here:
            require_ml()
        elif wait:
            require_worker(services, "churn", "add --here")
        if everybody:
            return _score_all(services, name, here, wait, as_json)
        from workers.cli.churn_people import people

        ids = people(services.database, segment, email)
        return _score_some(services, name or "churn", ids, here, wait, as_json)


def _kinds(kinds: list[str]) -> tuple[str, ...]:
    known = ("logistic", "boosting", "mlp")
    if wrong := [kind for kind in kinds if kind not in known]:
        raise typer.BadParameter(f"--kind {wrong[0]}: expected one of {', '.join(known)}")
    return tuple(kinds)


def _train_table(
    data: Path, label: str | None, positive: str | None, drop: tuple[str, ...],
    train_rows: int | None, kinds: tuple[str, ...], seed: int, out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    if label is None:
        raise typer.BadParameter("--data needs --label, the column that says who churned")
    require_ml()
    from tasks.churn import own_table
    from tasks.churn.engine import KINDS
    from workers.cli.churn_models import emit_report

    asked = own_table.Asked(data, label, positive, drop, train_rows, kinds or KINDS, seed)
    artifact = own_table.train(asked)
    folder = out or Path(artifact.name)
    own_table.write(artifact, folder)
    emit_report(artifact.id, artifact.manifest, as_json)
    for column, why in artifact.manifest["left_out"].items():
        say(f"column {column} left out: {why}")
    say(f"{artifact.id}: model, manifest and card are in {folder}")
    return ExitCode.OK


def _score_table(data: Path, model: Path) -> int:
    require_ml()
    from tasks.churn import own_table

    typer.echo(own_table.score(model, data).to_csv(index=False), nl=False)
    return ExitCode.OK


def _trained_in_pool(services: Services, name: str, options: dict[str, Any]) -> tuple[str, str]:
    from tasks import names
    from tasks.churn import trainings
    from tasks.errors import Permanent

    require_worker(services, "churn", "add --here")
    with services.database.transaction() as connection:
        asked = trainings.ask(connection, name, options)
    ring_pool(names.CHURN_FIT)
    say(f"training {asked} of {name} in the churn pool; it goes on without this command")
    with progress(f"training {name}") as bar:
        began = time.monotonic()
        while True:
            with services.database.transaction() as connection:
                found = trainings.look(connection, asked)
            if found.state != "open":
                break
            bar.show(time.monotonic() - began, None, "under way")
            time.sleep(POLL)
    if found.state == "failed":
        raise Permanent(f"{found.said}; the champion stays")
    return str(found.artifact), str(found.said)


def _score_all(services: Services, name: str | None, here: bool, wait: bool, as_json: bool) -> int:
    from tasks import names
    from tasks.churn import runs, store
    from tasks.churn.settings import ChurnSettings
    from tasks.errors import Permanent

    database = services.database
    with database.transaction() as connection:
        champions = store.champions(connection)
    chosen = {n: a for n, a in champions.items() if name in (None, n)}
    if not chosen:
        raise Permanent(
            f"score {name or 'churn'!r} has no champion; `dripfleet churn train` makes one"
        )
    opened = []
    for each, artifact in chosen.items():
        with database.transaction() as connection:
            id, new = runs.open_run(connection, each, artifact, ChurnSettings().range)
        say(f"run {id} of {each} with {artifact}{'' if new else ', already open: it goes on'}")
        opened.append(id)
    if not here:
        ring_pool(names.CHURN_RANGE)
        if not wait:
            return ExitCode.OK
    found = [_follow(services, run, here) for run in opened]
    columns = ("id", "name", "artifact", "state", "rows", "ranges", "cutoff")
    emit(found, columns=columns, as_json=as_json)
    left = [run for run in found if run.state != "done"]
    for run in left:
        say(f"run {run.id} {run.state}: {run.reason}; scores of before stay", style="red")
    return ExitCode.FAULT if left else ExitCode.OK


def _follow(services: Services, run: int, here: bool) -> Progress:
    from tasks.churn import runs

    with progress(f"scoring, run {run}") as bar:
        while True:
            if here:
                from tasks.churn import scoring

                until = time.monotonic() + 1.0
                scoring.work(services.database, lambda: time.monotonic() >= until)  # noqa: B023
            with services.database.transaction() as connection:
                now = runs.progress(connection, run)
            bar.show(now.done, now.ranges, f"{number(now.rows)} scores")
            if now.state != "open":
                return now
            if not here:
                time.sleep(POLL)


def _score_some(
    services: Services, name: str, ids: dict[int, str], here: bool, wait: bool, as_json: bool
) -> int:
    from tasks import names
    from tasks.churn import requests

    said: dict[int, str | None] = {}
    for each in ids:
        if here:
            from tasks.churn import scoring

            said[each] = scoring.score_one(services.database, name, each)
        else:
            requests.ask(services.database, name, each)
    if not here:
        ring_pool(names.CHURN_ONE)
        if not wait:
            return ExitCode.OK
    rows = []
    with progress(f"scoring {number(len(ids))}") as bar:
        for at, (each, shown) in enumerate(ids.items()):
            found = _answer(services, name, each)
            why = said.get(each) or found.said or ("no answer yet" if found.waiting else None)
            rows.append(
                {
                    "subscriber": shown,
                    "score": name,
                    "value": None if why else found.value,
                    "artifact": None if why else found.artifact,
                    "scored_at": None if why else found.scored_at,
                    "why_not": why,
                }
            )
            bar.show(at + 1, len(ids))
    emit(rows, as_json=as_json)
    return ExitCode.OK if all(row["why_not"] is None for row in rows) else ExitCode.FINDINGS


def _answer(services: Services, name: str, subscriber: int) -> Any:
    from tasks.churn import requests

    until = time.monotonic() + ONE_WAITS
    while True:
        found = requests.answered(services.database, name, subscriber)
        if not found.waiting or time.monotonic() >= until:
            return found
        time.sleep(0.02)
