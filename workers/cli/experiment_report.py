"""How a terminal shows what an experiment shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from workers.cli.render import emit, number, plain

if TYPE_CHECKING:
    from tasks.sequence.experiment_report import Report


def show(found: Report) -> None:
    """Print a report for people: a sentence, the arms, the comparisons, and what was ruled."""
    verdict = found.verdict
    typer.echo(f"{found.key}: {found.said}")
    typer.echo(
        f"goal: {found.goal}; test: {found.test}, weights {found.allocate}, at α {found.alpha:g}; shares as they were to be:"
        f" p = {verdict.sample_ratio:.3g}"
    )
    emit(
        [
            {
                "arm": arm.arm + (" (control)" if arm.arm == found.control else ""),
                "share": f"{arm.share:.0%}",
                "people": number(arm.people),
                "converted": number(arm.converted),
                "rate": _rate(arm.rate),
                "95 %": f"{_rate(arm.low)} … {_rate(arm.high)}" if arm.people else "",
                "mails": number(arm.mails),
                "complaints": arm.complaints,
                "unsubscribes": arm.unsubscribes,
                "stopped": arm.stopped,
            }
            for arm in found.arms
        ]
    )
    if verdict.comparisons:
        emit(
            [
                {
                    "arm": each.arm,
                    "difference": f"{100 * each.difference:+.2f} points",
                    "at all looks" if each.p is not None else "95 %": f"{100 * each.low:+.2f}"
                    f" … {100 * each.high:+.2f}",
                    "lift": "" if each.lift is None else f"{each.lift:+.1%}",
                    "p": "" if each.p is None else f"{each.p:.3g}",
                    "p (Holm)": "" if each.adjusted is None else f"{each.adjusted:.3g}",
                    "P(better)": f"{each.chance:.1%}",
                    "enough": each.enough,
                    "beyond chance": each.finding,
                }
                for each in verdict.comparisons
            ],
            title=f"beside {found.control}",
        )
    for each in verdict.comparisons:
        for look in each.looks:
            typer.echo(
                f"{each.arm}: look {look.number} at {number(look.people)} an arm: z {look.z:+.3f},"
                f" bound {look.bound:.3f}"
            )
        if each.left_out:
            typer.echo(
                f"{each.arm}: {each.left_out} earlier epochs are left out, since the weights of the"
                " two arms had another ratio then"
            )
    for arm_, effective in verdict.refused.items():
        typer.echo(
            f"{arm_}: not compared, since its people stand for {effective:.0f} of equal weight, and it"
            " takes 100"
        )
    if found.values:
        emit(
            [
                {
                    "arm": each.arm,
                    "each": f"{each.mean:.3f}",
                    f"each of {each.against}": f"{each.mean_of_control:.3f}",
                    "difference": "" if each.difference is None else f"{each.difference:+.3f}",
                    "at all looks": ""
                    if each.low is None or each.high is None
                    else f"{each.low:+.3f} … {each.high:+.3f}",
                    "p (Holm)": "" if each.adjusted is None else f"{each.adjusted:.3g}",
                }
                for each in found.values
            ],
            title=f"value per person, of {found.values[0].most:,.2f} at most",
        )
    if found.uplift is not None:
        typer.echo(found.uplift)
    for value in found.values:
        if value.said is not None:
            typer.echo(f"{value.arm}: {value.said}")
    for word in plain(found.rulings):
        lifted = f", taken back {word['lifted_at'][:19]}Z" if word["lifted_at"] else ""
        typer.echo(
            f"{word['at'][:19]}Z {word['arm']} {word['kind']} by {word['ruled_by']}:"
            f" {word['reason']}{lifted}"
        )


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.2%}"
