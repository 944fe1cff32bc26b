"""`dripfleet churn`: which models there are, how good, why a score is what it is, and drift."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.churn import churn, require_ml
from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, plain, say

if TYPE_CHECKING:
    from models.session import Database


@churn.command(
    epilog="Examples:\n\ndripfleet churn models\n\ndripfleet churn models --name clv --json"
)
def models(
    name: str | None = typer.Option(None, help="Only of this score."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """List the artifacts: which is champion, how old, and how good it was on its test."""
    from tasks.churn import store

    with connected() as services, services.database.snapshot() as connection:
        found = store.models(connection, name)
    rows = [
        {
            "id": each.id,
            "name": each.name,
            "kind": each.kind,
            "champion": each.champion,
            "created_at": each.created_at,
            "cutoff": (each.cutoff or "")[:10],
            "auc": _figure(each.report, "auc"),
            "majority": each.report.get("majority"),
            "qini": each.report["qini"][0] if "qini" in each.report else None,
            "bytes": each.bytes,
        }
        for each in found
    ]
    emit(rows, as_json=as_json)
    if not rows:
        say("no artifact yet; `dripfleet churn train` makes one")


@churn.command(
    epilog="Examples:\n\ndripfleet churn report\n\n"
    "dripfleet churn report churn-0123456789ab --out card --json",
)
def report(
    which: str = typer.Argument("churn", help="A score (its champion), or an artifact's id."),
    out: Path | None = typer.Option(None, help="Write the model card and its plots there."),
    as_json: bool = typer.Option(False, "--json", help="The whole report as JSON."),
) -> None:
    """Show how good a model was on its test, beside the baselines; write its model card."""
    with connected() as services:
        manifest, id = _manifest(services.database, which)
    emit_report(id, manifest, as_json)
    if out is not None:
        require_ml()
        from tasks.churn import card

        for path in card.write(manifest, id, out):
            say(f"wrote {path}")


@churn.command(
    epilog="Examples:\n\ndripfleet churn explain zoe@example.com\n\n"
    "dripfleet churn explain zoe@example.com --name engagement --json",
)
def explain(
    email: str = typer.Argument(help="The subscriber's address."),
    name: str = typer.Option("churn", help="The score."),
    most: int = typer.Option(5, min=1, help="How many contributions."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Say what a subscriber's score is, how old, and what moves it, in plain words.

    What moves it is reckoned from what is known now. Exit 3: there is no score, with the reason.
    """
    from workers.cli.churn_people import by_address

    with connected() as services:
        ((subscriber, _),) = by_address(services.database, [email]).items()
        require_ml()
        from tasks.churn import why

        found = why.explain(services.database, name, subscriber, most)
    if as_json:
        emit(found, as_json=True)
    else:
        for line in found["lines"]:
            typer.echo(line)
    return ExitCode.OK if found["value"] is not None else ExitCode.FINDINGS


@churn.command(
    epilog="Examples:\n\ndripfleet churn promote churn-0123456789ab --why 'better in March'",
)
def promote(
    artifact: str = typer.Argument(help="The artifact's id."),
    why: str = typer.Option("the operator's word", help="Kept beside it."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Make an artifact the champion of its score, at once and for all; it is looked at first."""
    require_ml()
    from tasks.churn import store

    with connected() as services, services.database.transaction() as connection:
        before = store.promote(connection, artifact, why)
    emit({"champion": artifact, "before": before}, as_json=as_json)
    say("`dripfleet churn score --all` scores everybody with it; `churn rollback` goes back")


@churn.command(epilog="Examples:\n\ndripfleet churn rollback churn")
def rollback(
    name: str = typer.Argument(help="The score."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Go back to the champion before this one."""
    require_ml()
    from tasks.churn import store

    with connected() as services, services.database.transaction() as connection:
        before, now = store.rollback(connection, name)
    emit({"champion": now, "before": before}, as_json=as_json)


@churn.command(epilog="Examples:\n\ndripfleet churn drift\n\ndripfleet churn drift clv --json")
def drift(
    name: str = typer.Argument("churn", help="The score."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> int:
    """Hold today's subscribers against those that the champion was tested on (PSI).

    The bound knows how many rows there are: over it, chance alone would hardly show so much. A large
    book shows the smallest shift, so read the index too. Exit 3: something is over its bound.
    """
    require_ml()
    from tasks.churn import watch

    with connected() as services:
        found = watch.look(services.database, name)
    rows = [
        {
            "feature": each.feature,
            "psi": round(each.psi, 4),
            "bound": round(each.bound, 4),
            "drifted": each.drifted,
        }
        for each in found.features
    ]
    emit(rows, title=f"{found.artifact}, {found.rows} subscribers of now", as_json=as_json)
    return ExitCode.FINDINGS if any(each.drifted for each in found.features) else ExitCode.OK


@churn.command(epilog="Examples:\n\ndripfleet churn features --json")
def features(as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too.")) -> None:
    """List what a model knows of a subscriber: each feature's meaning, unit and source."""
    require_ml()
    from tasks.churn.features import CATALOG

    emit(
        [
            {"name": f.name, "meaning": f.meaning, "unit": f.unit, "source": f.source}
            for f in CATALOG
        ],
        as_json=as_json,
    )


def show_report(database: Database, artifact: str, as_json: bool) -> None:
    """Show the report of an artifact."""
    manifest, id = _manifest(database, artifact)
    emit_report(id, manifest, as_json)


def emit_report(id: str, manifest: Mapping[str, Any], as_json: bool) -> None:
    """Hand out a report: everything as JSON, or the table with the baselines."""
    import sys

    report = manifest["report"]
    if as_json or not sys.stdout.isatty():
        emit({"id": id, "kind": manifest["kind"], **plain(report)}, as_json=True)
        return
    if "qini" in report:
        from workers.cli.churn_uplift import show

        show(id, manifest)
        return
    if "kinds" not in report:
        emit(
            {name: value for name, value in report.items() if not isinstance(value, dict)}, title=id
        )
        return
    require_ml()
    from tasks.churn.contest import table_report

    emit(table_report(report), title=f"{id}: {manifest['foretells']}")
    gap = report["over_rule"]
    say(
        f"AUC over {report['rule']}: {gap[0]:+.3f} ({gap[1]:+.3f} to {gap[2]:+.3f}), paired"
        f" bootstrap; rows: {report['rows']['fit']} to fit, {report['rows']['test']} to test"
    )


def _manifest(database: Database, which: str) -> tuple[dict[str, Any], str]:
    from tasks.churn import store

    with database.snapshot() as connection:
        id = store.champion(connection, which) or which
        return store.load(connection, id).manifest, id


def _figure(report: Mapping[str, Any], name: str) -> float | None:
    chosen = report.get("kinds", {}).get(report.get("chosen"), {})
    return round(chosen[name][0], 4) if name in chosen else None
