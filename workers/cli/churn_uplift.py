"""`dripfleet churn uplift`: whom a mail moves, and whether that is shown."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import typer

from workers.cli.churn import churn, require_ml
from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, plain, say


@churn.command(
    epilog="Examples:\n\ndripfleet churn uplift win-back\n\n"
    "dripfleet churn uplift win-back/split/offer --json",
)
def uplift(
    key: str = typer.Argument(
        help="SEQUENCE with a holdout, or SEQUENCE/STEP[/ARM] of an experiment."
    ),
    as_json: bool = typer.Option(False, "--json", help="The whole report as JSON."),
) -> int:
    """Show the last training of an uplift: whether choosing by it beats chance, and for whom.

    A sequence may ask for `score('uplift:KEY', max_age='24h')`; it is there only while the Qini
    coefficient lies above 0 with its whole interval. Exit 3: no gain is shown.
    """
    require_ml()
    from tasks.churn import store
    from tasks.churn.uplift_name import PREFIX, no_gain, parse
    from tasks.errors import Permanent

    name = f"{PREFIX}{parse(key)}"
    with connected() as services, services.database.snapshot() as connection:
        newest = next(iter(store.models(connection, name)), None)
        if newest is None:
            raise Permanent(f"{name} was never trained; `dripfleet churn train {name}` does it")
        manifest = store.load(connection, newest.id).manifest
        champion = store.champion(connection, name)
    why = no_gain(name, manifest["report"])
    if as_json or not sys.stdout.isatty():
        told = {"id": newest.id, "champion": champion, "no_gain": why}
        emit({**told, **plain(manifest["report"])}, as_json=True)
    else:
        show(newest.id, manifest)
    if why is not None:
        say(f"{why}; nobody can branch on it")
        return ExitCode.FINDINGS
    offered = f"score('{name}', max_age='24h') is offered to sequences, by {champion}"
    say(
        offered
        if champion
        else f"it is not promoted; `dripfleet churn promote {newest.id}` does it"
    )
    return ExitCode.OK


def show(id: str, manifest: Mapping[str, Any]) -> None:
    """Show an uplift to people: the arms, and what was said and seen in fifths of the ranking."""
    from tasks.churn.card import seen_in_words

    report = manifest["report"]
    emit(
        [
            {
                "fifth": part["part"],
                "people": part["people"],
                "said": f"{100 * part['said']:+.2f} points",
                "seen": seen_in_words(part["seen"]),
            }
            for part in report["parts"]
        ],
        title=f"{id}: {manifest['foretells']}",
    )
    value, low, high = report["qini"]
    say(
        f"{report['arms']}: {seen_in_words(report['all'])} for all together; Qini coefficient"
        f" {value:+.3f} ({low:+.3f} to {high:+.3f}), out of fold"
    )
