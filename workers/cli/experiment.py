"""`dripfleet experiment`: how many people it takes, what it shows, and what is done about it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import typer

from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, plain, say

experiment = typer.Typer(
    no_args_is_help=True, help="Plan experiments, look at them as often as you like, and end them."
)
KEY = typer.Argument(help="SEQUENCE/STEP, or a sequence that has one experiment.")
AS_JSON = typer.Option(False, "--json", help="JSON on a terminal too.")
REASON = typer.Option(help="Why, for those who ask later; `experiment report` shows it.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet experiment`."""
    app.add_typer(experiment, name="experiment")


@experiment.command(
    epilog="Examples:\n\ndripfleet experiment plan --base 0.10 --lift 0.10\n\n"
    "dripfleet experiment plan --base 0.02 --lift 0.25 --arms 3 --per-day 4000",
)
def plan(
    base: float = typer.Option(help="The rate that is expected without a change, such as 0.10."),
    lift: float = typer.Option(help="The relative lift worth finding: 0.10 is 10 % → 11 %."),
    arms: int = typer.Option(2, min=2, max=20, help="Arms, the control among them."),
    power: float = typer.Option(0.8, help="The chance to find such a lift where it is real."),
    alpha: float = typer.Option(0.05, help="The chance to find one where there is none."),
    looks: int = typer.Option(5, min=2, max=50, help="Looks of the group-sequential tests."),
    per_day: int | None = typer.Option(None, min=1, help="People who come to it a day, together."),
    as_json: bool = AS_JSON,
) -> None:
    """Say how many people an experiment takes, before it starts, by each test.

    Two-sided tests of two proportions. With several arms each is compared at alpha / (arms − 1), the
    first step of Holm. A sequential test takes more people at most, and ends sooner where the effect
    is larger; it may be looked at every day (30 looks are reckoned with).
    """
    need_extra()
    from tasks.experiment.bounds import fixed
    from tasks.experiment.power import group_per_arm, per_arm, sequential_per_arm

    target, level = base * (1 + lift), alpha / (arms - 1)
    try:
        once = per_arm(base, target, power=power, alpha=level)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--base/--lift") from error
    tests = [
        ("one look at the end", once),
        (
            f"obrien_fleming, {looks} looks",
            group_per_arm(base, target, fixed("obrien_fleming", looks, level), power=power),
        ),
        (
            f"pocock, {looks} looks",
            group_per_arm(base, target, fixed("pocock", looks, level), power=power),
        ),
        (
            "sequential, looked at daily",
            sequential_per_arm(
                base, target, power=power, alpha=level, effect=min(max(abs(lift), 0.01), 1.0)
            ),
        ),
    ]
    rows: list[dict[str, Any]] = []
    for name, people in tests:
        row: dict[str, Any] = {"test": name, "per_arm": people, "together": people * arms}
        if per_day is not None:
            row["days"] = math.ceil(people * arms / per_day)
        rows.append(row)
    if not as_json:
        say(
            f"the sequential test takes `effect: {min(max(abs(lift), 0.01), 1.0):g}` in the file's `stop`"
        )
    emit(rows, title=f"{base:.2%} → {target:.2%}, power {power:.0%}, α {alpha:g}", as_json=as_json)


@experiment.command(
    "list", epilog="Examples:\n\ndripfleet experiment list\n\ndripfleet experiment list --json"
)
def list_(as_json: bool = AS_JSON) -> None:
    """List the experiments of published sequences."""
    from tasks.sequence.experiments import listed

    with connected() as services, services.database.snapshot() as connection:
        found = listed(connection)
    if not found:
        say("no published sequence has an experiment")
    emit(found, as_json=as_json)


@experiment.command(
    epilog="Examples:\n\ndripfleet experiment report win-back/split\n\n"
    "dripfleet experiment report win-back --html split.html",
)
def report(
    key: str = KEY,
    html: Path | None = typer.Option(None, "--html", help="Write it as one page, with plots."),
    as_json: bool = AS_JSON,
) -> None:
    """Show what an experiment shows: shares first, then arms, then whether they differ beyond chance.

    Look at it as often as you like. Exit code 3 where the arms did not get their shares.
    """
    need_extra()
    from tasks.sequence.experiment_report import report as told

    with connected() as services, services.database.snapshot() as connection:
        found = told(connection, key)
    if html is not None:
        from tasks.experiment.page import page

        html.write_text(page(plain(found)), encoding="utf-8")
        say(f"{html} is written")
    if as_json or not sys.stdout.isatty():
        emit(found, as_json=True)
    else:
        from workers.cli.experiment_report import show

        show(found)
    if found.verdict.answer == "sample_ratio":
        raise typer.Exit(ExitCode.FINDINGS)


@experiment.command(
    epilog="Examples:\n\ndripfleet experiment stop win-back/split --arm offer --reason 'wrong price'\n\n"
    "dripfleet experiment stop win-back/split --reason 'no winner'",
)
def stop(
    key: str = KEY,
    arm: str | None = typer.Option(None, "--arm", help="Nobody comes into it any more."),
    reason: str = REASON,
) -> None:
    """Stop one arm, so that the others go on without it; or all of it, and everybody gets the control."""
    _rule(key, arm, "stopped" if arm is not None else "chosen", reason)


@experiment.command(
    epilog="Examples:\n\ndripfleet experiment resume win-back/split\n\n"
    "dripfleet experiment resume win-back/split --arm offer",
)
def resume(
    key: str = KEY,
    arm: str | None = typer.Option(None, "--arm", help="Only what was ruled about this arm."),
) -> None:
    """Take back what `stop`, `promote` or a guardrail said; people are divided again as the file says."""
    from tasks.sequence import experiments, trials

    with connected() as services, services.database.transaction() as connection:
        sequence, step = experiments.find(connection, key)
        lifted = trials.lift(connection, trials.key_of(sequence.key, step.id), arm)
    say(f"took back {lifted} ruling{'' if lifted == 1 else 's'}" if lifted else "nothing was ruled")


@experiment.command(
    epilog="Examples:\n\ndripfleet experiment promote win-back/split offer --reason 'better, p = .003'",
)
def promote(
    key: str = KEY,
    arm: str = typer.Argument(help="That everybody is to come into."),
    reason: str = REASON,
) -> None:
    """End an experiment: everybody who comes to it from now on comes into one arm."""
    _rule(key, arm, "chosen", reason)


def _rule(key: str, arm: str | None, kind: str, reason: str) -> None:
    from schedules.reading import suggest
    from tasks.sequence import experiments, trials

    if not reason.strip():
        raise typer.BadParameter("expected a few words that say why", param_hint="--reason")
    with connected() as services, services.database.transaction() as connection:
        sequence, step = experiments.find(connection, key)
        found = step.control if arm is None else step.arm(arm)
        if found is None:
            names = [each.name for each in step.arms]
            move = suggest(arm or "", names) or "name one"
            raise typer.BadParameter(
                f"{arm!r} is no arm: expected one of {', '.join(names)}; {move}"
            )
        full = trials.key_of(sequence.key, step.id)
        new = trials.rule(connection, full, found.name, kind, "operator", reason.strip())
    done = "nobody comes into it" if kind == "stopped" else "everybody comes into it"
    if new:
        say(f"{full}: {found.name} is {kind}; {done} from now on")
        return
    raise typer.BadParameter(
        f"something like it was ruled before; `dripfleet experiment report {full}` says what, and"
        " `experiment resume` takes it back"
    )


def need_extra() -> None:
    """Raises Misconfigured where the extra `experiment` is not installed."""
    from importlib.util import find_spec

    from tasks.errors import Misconfigured

    missing = [name for name in ("numpy", "scipy") if find_spec(name) is None]
    if missing:
        raise Misconfigured(
            f"{', '.join(missing)} not installed: pip install 'dripfleet[experiment]'"
        )
