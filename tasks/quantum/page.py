"""The report as one HTML page: nothing is loaded from elsewhere, and every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

import numpy as np

from tasks.quantum import drawings
from tasks.quantum.engine.verdict import words

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2em auto; padding: 0 1em; color: #1a1a1a }
table { border-collapse: collapse; margin: 1em 0 } th, td { text-align: left; padding: .25em .8em .25em 0 }
th { border-bottom: 1px solid #999 } td.n { text-align: right; font-variant-numeric: tabular-nums }
.verdict { border-left: 6px solid #0072b2; padding: .4em 1em; background: #f3f6f9; margin: 1em 0 }
.drawings { display: flex; flex-wrap: wrap; gap: 1em } svg { max-width: 100%; height: auto }
svg text { font: 11px system-ui, sans-serif } svg .title { font-weight: 600; font-size: 12px }
svg .right { text-anchor: end } svg .middle { text-anchor: middle } svg .grid { stroke: #ccc }
small { color: #555 }
"""
SAID: Final = {
    "quantum_worse": "The quantum solver did worse than a classical one.",
    "tie": "A tie: a classical solver finds the same cut.",
    "inconclusive": "Nothing can be concluded.",
    "quantum_better_on_simulator": "Better than the classical solvers here, on a simulator: no advantage.",
    "advantage_candidate": "A candidate for an advantage, until somebody else repeats it.",
}


def page(report: Mapping[str, Any], run: int) -> str:
    """The page of a run's report, complete."""
    name, backend = report["segment"], report["backend"]
    title = f"Segment {name}, run {run}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<div class="verdict"><b>{escape(SAID[report["verdict"]])}</b><br>{escape(report["why"])}'
        f" <small>({escape(report['verdict'])})</small></div>",
        f"<p>Measured on <b>{escape(', '.join(backend['actual']))}</b>"
        f" (asked for: {escape(backend['requested'])}; {escape(backend['title'])};"
        f" {escape(backend['kind'])}). "
        + (
            "It ran on quantum hardware."
            if backend["hardware"]
            else "It was computed by a classical computer, and nothing here ran on quantum hardware."
        )
        + "</p>",
        "<h2>The segments</h2>",
        _segments(report),
        '<div class="drawings">',
        _where(report),
        "</div>",
        _partitions(report),
        "<h2>The cuts</h2>",
        "<p>Each cut is the same weighted graph for everybody, with the same wall time. ⟨C⟩ is the"
        " mean cut of the ideal circuit; the best of the shots stands last, since at a few points"
        " random guessing finds the best cut as well.</p>",
        *(_cut(cut) for cut in report["cuts"]),
        _foot(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(body)}"
        "</body></html>\n"
    )


def _segments(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><b>{escape(each['label'])}</b></td><td class=n>{each['subscribers']:,}</td>"
        f"<td>{escape(each['in_words'])}</td></tr>"
        for each in report["segments"]
    )
    made = len({group for group in report["coreset"]["groups"]})
    note = ""
    if made < report["asked_for"]:
        note = (
            f"<p>{report['asked_for']} were asked for and {made} made: no cut divides them further,"
            " or there are too few different subscribers.</p>"
        )
    return f"<table><tr><th>label<th>subscribers<th>what they are</tr>{rows}</table>{note}"


def _where(report: Mapping[str, Any]) -> str:
    """The coreset along its two principal axes."""
    kept = report["coreset"]
    points, masses = np.array(kept["points"]), np.array(kept["masses"])
    if len(points) < 2:
        return ""
    centered = points - np.average(points, axis=0, weights=masses)
    _, _, axes = np.linalg.svd(centered * np.sqrt(masses)[:, None], full_matrices=False)
    flat = centered @ axes[:2].T if len(axes) > 1 else np.column_stack([centered[:, 0], 0 * masses])
    return drawings.scatter(
        [(float(x), float(y)) for x, y in flat],
        masses.tolist(),
        kept["groups"],
        kept["labels"],
        title="Where the segments lie (area: subscribers)",
        axes=("first principal axis", "second principal axis"),
    )


def _partitions(report: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{escape(words(name))}<td class=n>{'—' if value is None else f'{value:.3f}'}</tr>"
        for name, value in report["partitions"].items()
    ]
    kept = report["coreset"]
    return (
        "<p>Silhouette of a sample of subscribers (1 is best), beside classical partitions of the"
        f" same {len(kept['points'])} points, which keep {kept['explained']:.0%} of the variance of"
        f" {kept['rows']:,} buyers:</p><table>{''.join(rows)}</table>"
    )


def _cut(cut: Mapping[str, Any]) -> str:
    trial = cut["trial"]
    optimum = trial["optimum"]

    def share(value: float) -> float | None:
        return value / optimum if optimum else None

    def bar(name: str, figures: Mapping[str, Any]) -> tuple[str, Any, Any, Any]:
        return name, figures["ratio"], share(figures["low"]), share(figures["high"])

    rivals = trial["rivals"].items()
    bars = [
        bar("QAOA: ⟨C⟩", trial["expectation"]),
        bar("QAOA: mean of the shots", trial["sampled"]),
        ("a random cut, mean", share(trial["mean_of_a_random_cut"]), None, None),
        *((bar(f"{words(name)}: best", figures)) for name, figures in rivals),
        bar("QAOA: best of the shots", trial["best_of_shots"]),
    ]
    curve = {int(p): v for p, v in trial["by_layers"].items() if v is not None}
    n = trial["n"]
    rounds = _rounds(n)
    probability = "—" if trial["p_opt"] is None else f"{trial['p_opt']:.2%}"
    stable = "—" if trial["stability"] is None else f"{trial['stability']:.2f}"
    facts = (
        f"{n} points · {cut['two_qubit']} two-qubit gates, depth {cut['depth']} · P(opt) of a shot"
        f" {probability} · the same partition between seeds (ARI) {stable} · {trial['seeds']} seeds,"
        f" {trial['seconds']:.2f} s each"
    )
    parts = [
        f"<h3>Cut {cut['number']}: {escape(trial['verdict'])}</h3><p>{escape(trial['why'])}.<br>",
        f"<small>{escape(facts)}</small></p>",
        '<div class="drawings">',
        drawings.bars(bars, title="Against the optimum; line: 95 % of the mean over seeds"),
    ]
    if curve:
        parts.append(drawings.curve(curve, title="⟨C⟩ against the optimum, by layers"))
    if len(cut["gammas"]) and n > 1:
        title = f"The circuit: γ {_angles(cut['gammas'])}, β {_angles(cut['betas'])}"
        parts.append(drawings.circuit(n, rounds, len(cut["gammas"]), title=title))
    return "".join([*parts, "</div>"])


def _rounds(n: int) -> list[list[tuple[int, int]]]:
    from tasks.quantum.circuits import matchings
    from tasks.quantum.engine import problem_from

    return list(matchings(problem_from(np.ones((n, n)) - np.eye(n)))) if n > 1 else []


def _angles(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _foot(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    wanted = report["request"]
    return (
        f"<p><small>Events before {escape(wanted['as_of'])} · objective {escape(wanted['objective'])}"
        f" · {wanted['shots']} shots · seed {wanted['seed']} · {escape(versions)}</small></p>"
    )
