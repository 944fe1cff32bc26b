"""The model card of an artifact: what it is, what it was learned from, how good it is, its limits.

Everything in it stands in the manifest, so a card can be made again at any time. (Mitchell et al.,
"Model Cards for Model Reporting", FAT* 2019.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tasks.churn.contest import table_report
from tasks.churn.kinds import shown

PLOTS: Final = ("calibration", "gain", "importance")
MOST: Final = 12  # features in the plot of importance


def write(manifest: Mapping[str, Any], id: str, folder: Path) -> list[Path]:
    """Write `card.md`, and its plots where the model has any; the paths.

    Args:
        manifest: of the artifact.
        id: of it.
        folder: made where it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "card.md"]
    written[0].write_text(markdown(manifest, id), encoding="utf-8")
    if "qini" in manifest["report"]:
        written.append(_plot("qini", manifest["report"], folder))
    if "reliability" in manifest["report"]:
        written += [_plot(name, manifest["report"], folder) for name in PLOTS]
    return written


def markdown(manifest: Mapping[str, Any], id: str) -> str:
    """The card as Markdown."""
    return "\n".join(_lines(manifest, id)) + "\n"


def _lines(manifest: Mapping[str, Any], id: str) -> Iterator[str]:
    report, rows = manifest["report"], manifest["report"]["rows"]
    yield from (f"# {id}", "", f"**Foretells** {manifest['foretells']}.", "")
    yield f"- Model: {manifest['kind']}; versions: {_pairs(manifest['versions'])}."
    if manifest.get("horizon_days"):
        yield f"- Horizon: {manifest['horizon_days']:g} days."
    yield f"- Data: {manifest['source']}; hash `{manifest['data_sha256'][:16]}`."
    if manifest.get("fitted_at"):
        at = ", ".join(each[:10] for each in manifest["fitted_at"])
        yield (
            f"- Cutoffs: fitted to what was known on {at}; tested on what was known on"
            f" {manifest['cutoff'][:10]}, with what happened until {manifest['label_until'][:10]},"
            " on other customers."
        )
    if "qini" in report:
        yield f"- Rows: {rows['fit']}, each foretold by a model that was not fitted to it."
    else:
        yield (
            f"- Rows: {rows['fit']} to fit, {rows['calibrate'] or 'out of fold'} to calibrate,"
            f" {rows['test']} to test."
        )
    yield f"- Artifact: skops, sha256 `{manifest['sha256']}`."
    yield from ("", "## How good it is", "")
    if "qini" in report:
        yield from _uplift(report)
        return
    if "kinds" not in report:
        yield from _value(report)
        return
    yield from _table(table_report(report), ("score", "auc", "accuracy", "ece", "brier"))
    low, high = report["over_rule"][1:]
    yield from (
        "",
        f"In brackets 95 % intervals by bootstrap. AUC over {report['rule']}, in pairs on the same"
        f" rows: {report['over_rule'][0]:+.3f} ({low:+.3f} to {high:+.3f}).",
        "",
        "![calibration](calibration.png) ![gain](gain.png) ![importance](importance.png)",
        "",
        "## Limits",
        "",
        "- The test is one past time. Another season, another offer or another audience may differ;"
        " `dripfleet churn drift` says when the audience does.",
        f"- An accuracy means nothing without the majority's, which is {report['majority']:.3f}.",
        "- Importance is what is lost when a column is shuffled, and a contribution what changes"
        " when it is set to what is typical: neither is a cause, and whether a mail helps, no"
        " score says; a holdout does.",
    )
    if manifest.get("left_out"):
        yield f"- Columns left out: {_pairs(manifest['left_out'])}."


def _uplift(report: Mapping[str, Any]) -> Iterator[str]:
    value, low, high = report["qini"]
    yield from _table(
        [
            {
                "fifth": part["part"],
                "people": part["people"],
                "said": f"{100 * part['said']:+.2f} points",
                "seen": seen_in_words(part["seen"]),
            }
            for part in report["parts"]
        ],
        ("fifth", "people", "said", "seen"),
    )
    yield from (
        "",
        f"Who: {report['arms']}. {report['with']['converted']} of {report['with']['people']} with,"
        f" {report['without']['converted']} of {report['without']['people']} without reached the"
        f" goal; all together: {seen_in_words(report['all'])}. {report['people_without_events']}"
        " others had no event from before and are left out.",
        "",
        f"Qini coefficient {value:+.3f} ({low:+.3f} to {high:+.3f}; 95 % by bootstrap), out of fold:"
        " 0 is a random choice, 1 a perfect one. It is offered to sequences only while the interval"
        " lies above 0.",
        "",
        "![qini](qini.png)",
        "",
        "## Limits",
        "",
        "- It was learned from who came in then, and says of everybody else what is true of people"
        " like those.",
        "- Each training is a look at its interval: where nothing is to be found, about one training"
        " in forty shows a gain all the same, and the next one withdraws it.",
        "- The interval is that of the ranking, wider by √2 than a bootstrap over rows has it, since"
        " folds are foretold by models of one another. What single people are said to gain is not"
        " tested; the fifths are.",
    )


def seen_in_words(seen: Sequence[float | None]) -> str:
    """A difference of rates and its interval, in percentage points."""
    value, low, high = seen
    if value is None or low is None or high is None:
        return "—"
    return f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}) points"


def _value(report: Mapping[str, Any]) -> Iterator[str]:
    gap = report["error_over_rule"]
    yield from _table(
        [
            {"score": "model", "mean error": shown(report["mean_error"])},
            {"score": f"rule: {report['rule']}", "mean error": shown(report["mean_error_of_rule"])},
        ],
        ("score", "mean error"),
    )
    yield from (
        "",
        f"Mean absolute error of what a customer spends in {report['horizon_days']} days, in the"
        f" shop's currency; over the rule, in pairs: {gap[0]:+.2f} ({gap[1]:+.2f} to {gap[2]:+.2f})."
        f" All together: {shown(report['total_foretold'])} foretold,"
        f" {shown(report['total_spent'])} spent.",
        "",
        f"- Purchases (BG/NBD, weeks): {_figures(report['purchases'])}.",
        f"- Worth (Gamma-Gamma): {_figures(report['worth'])}.",
        "",
        "## Limits",
        "",
        "- Only purchases enter; who never bought has no value. Seasons are not in the model.",
    )


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(str(row[column]) for column in columns)} |"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _figures(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def _plot(name: str, report: Mapping[str, Any], folder: Path) -> Path:
    # Without a screen, and without the global state of pyplot.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if name == "importance":
        top = report["importance"][:MOST][::-1]
        axes.barh([each["feature"] for each in top], [each["auc_lost"] for each in top])
        axes.set_xlabel("AUC lost when shuffled")
    elif name == "qini":
        points = report["curve"]
        axes.plot([p["mailed"] for p in points], [p["brings"] for p in points], marker=".")
        axes.plot([0, 1], [0, points[-1]["brings"]], "--", color="grey")
        axes.set(xlabel="share mailed, from the top", ylabel="conversions more per thousand people")
    elif name == "gain":
        points = report["gain"]
        axes.plot([p["asked"] for p in points], [p["found"] for p in points], marker=".")
        axes.plot([0, 1], [0, 1], "--", color="grey")
        axes.set(xlabel="share of the ranking, from the top", ylabel="share of the positives in it")
    else:
        points = report["reliability"]
        axes.plot([p["said"] for p in points], [p["seen"] for p in points], marker="o")
        axes.plot([0, 1], [0, 1], "--", color="grey")
        axes.set(xlabel="probability said (tenths of the test)", ylabel="share seen")
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=100)
    return path
