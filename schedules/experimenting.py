"""How an ``experiment`` of a file is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from schedules.arms import HARMS, Allocation, Arm, ExperimentStep, Harm, Stop, Test
from schedules.reading import SLUG, Table, matching, suggest

_TESTS: Final[dict[str, Test]] = {
    "sequential": "sequential", "pocock": "pocock", "obrien_fleming": "obrien_fleming",
}  # fmt: skip
_ALLOCATE: Final[dict[str, Allocation]] = {"fixed": "fixed", "thompson": "thompson"}
_SLUG: Final = matching(SLUG)


def read_experiment(table: Table, id_: str) -> ExperimentStep | None:
    """Read an experiment; None where its ways on cannot be known."""
    body, paths = table.table("experiment"), table.table("paths", required=True)
    if body is None:
        return None
    body.only(("arms", "metric", "allocate", "salt", "stop"))
    allocate = body.choice("allocate", _ALLOCATE) or "fixed"
    body.choice("metric", {"goal": "goal"})
    salt = body.text("salt", "a word that divides them, such as winback-2026", _word)
    stop = _stop(body.table("stop")) if "stop" in body else Stop()
    if allocate == "thompson" and stop.test != "sequential":
        body.report.add_at(
            (*body.path, "allocate"),
            f"'allocate' of {body.name} is 'thompson' beside looks that are planned: expected 'test:"
            " sequential', since weights that move leave no plan; change one of the two",
        )
    weights = _weights(body)
    ways = _ways(paths, weights) if paths is not None and weights else None
    if weights is None or ways is None or ("salt" in body and salt is None):
        return None
    arms = tuple(Arm(name, weight, ways[name]) for name, weight in weights.items())
    return ExperimentStep(id_, arms, salt, stop=stop, allocate=allocate)


def judge_experiments(top: Table, steps: Iterable[Table]) -> None:
    """Report each experiment of a file that has no goal to count."""
    for step in steps if "goal" not in top else ():
        if "experiment" in step:
            top.report.add(
                step.values["experiment"],
                f"the experiment of {step.name} has nothing to count: expected a 'goal' in the"
                " file, such as {event: purchase, window: 14d}; add it",
            )


def _weights(body: Table) -> dict[str, int] | None:
    arms = body.table("arms", required=True)
    if arms is None:
        return None
    weights: dict[str, int] = {}
    for name in arms.values:
        try:
            _SLUG(name)
        except ValueError:
            arms.report.add(
                arms.keys[name],
                f"{name[:64]!r} is no name of an arm: expected lower-case letters, digits, '-' and"
                " '_'; choose another",
            )
            continue
        weight = arms.whole(name, 0, 1000)
        if weight is not None:
            weights[name] = weight
    sound = len(weights) == len(arms.values)
    if sound and (len(weights) < 2 or len(weights) > 20 or not any(weights.values())):
        found = "no arm that anybody comes into"
        if any(weights.values()):
            found = f"{len(weights)} arm{'' if len(weights) == 1 else 's'}"
        arms.report.add(
            arms.node,
            f"{arms.name} has {found}: expected 2 to 20, such as {{plain: 50, offer: 50}}, the"
            " first being what the others are compared with; correct it",
        )
        return None
    return weights if sound else None


def _ways(paths: Table, weights: dict[str, int]) -> dict[str, str] | None:
    ways: dict[str, str] = {}
    for name in weights:
        to = paths.slug(name) if name in paths else None
        if to is not None:
            ways[name] = to
        elif name not in paths:
            paths.missing(name, "the id of the step where that arm begins")
    for name, node in paths.keys.items():
        if name not in weights:
            move = suggest(name, weights) or "remove it, or add the arm"
            paths.report.add(
                node,
                f"{name!r} of {paths.name} is no arm: expected one of {', '.join(weights)}; {move}",
            )
    return ways if len(ways) == len(weights) else None


def _stop(table: Table | None) -> Stop:
    if table is None:
        return Stop()
    table.only(
        ("test", "alpha", "min_per_arm", "max_days", "effect", "looks", "people", "guardrail")
    )
    usual = Stop()
    test = table.choice("test", _TESTS) or usual.test
    alpha = _share(table, "alpha", 0.5) or usual.alpha
    least = table.whole("min_per_arm", 1, 100_000_000)
    days = table.whole("max_days", 1, 3650)
    effect = _share(table, "effect", 1.0) or usual.effect
    looks, people = table.whole("looks", 1, 50), table.whole("people", 2, 100_000_000)
    for key in ("looks", "people"):
        if test != "sequential" and key not in table:
            table.missing(
                key,
                "the looks that are planned and the people an arm at the last one, which"
                f" {test!r} needs (`dripfleet experiment plan` says how many)",
            )
        elif test == "sequential" and key in table:
            table.report.add_at(
                (*table.path, key),
                f"{key!r} of {table.name} has no effect: a sequential test may be looked at always;"
                " expected 'test: pocock' or 'obrien_fleming' beside it; add that or remove this",
            )
    rail = table.table("guardrail")
    harms: list[tuple[Harm, float]] = []
    if rail is not None:
        rail.only(HARMS)
        for harm in HARMS:
            limit = _share(rail, harm, 0.5) if harm in rail else None
            if limit is not None:
                harms.append((harm, limit))
    return Stop(
        test, alpha, usual.min_per_arm if least is None else least, days, effect, looks, people,
        tuple(harms),
    )  # fmt: skip


def _share(table: Table, key: str, most: float) -> float | None:
    """A number above 0 and at most ``most``."""
    if key not in table:
        return None
    said = table.plain(key)
    if isinstance(said, int | float) and not isinstance(said, bool) and 0 < said <= most:
        return float(said)
    if said is not None:
        table.report.add(
            table.values[key],
            f"{key!r} of {table.name} is {said!r}: expected a share above 0 and at most {most:g},"
            " such as 0.05; correct it",
        )
    return None


def _word(text: str) -> str:
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise ValueError
    return text
