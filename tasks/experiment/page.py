"""The report as one HTML page: nothing is loaded from elsewhere, and every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tasks.experiment import drawings
from tasks.experiment.sequential import always_valid_interval
from tasks.experiment.sheet import table, whole
from tasks.experiment.verdict import SAID


def page(report: Mapping[str, Any]) -> str:
    """Return the page of a report, complete.

    Args:
        report: as `dripfleet experiment report --json` gives it.
    """
    verdict = report["verdict"]
    title = f"Experiment {report['key']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<div class="verdict"><b>{escape(_sentence(SAID[verdict["answer"]]))}</b><br>'
        f"{escape(report['said'])}</div>",
        f"<p>Counted is {escape(report['goal'])}. The arms got their shares with p ="
        f" {verdict['sample_ratio']:.3g}; below .001 nothing would be concluded.</p>",
        "<h2>The arms</h2>",
        _rates(report),
        _arms(report),
    ]
    if verdict["comparisons"]:
        body += ["<h2>Beside the control</h2>", _compared(verdict["comparisons"])]
        body += [_course(report, k, each) for k, each in enumerate(verdict["comparisons"], 1)]
    if report.get("values"):
        body += ["<h2>Value per person</h2>", *_values(report["values"])]
    if report.get("uplift"):
        body.append(f"<p>{escape(report['uplift'])}.</p>")
    body += ["<h2>Harm</h2>", _harm(report["arms"]), _rulings(report["rulings"]), _foot(report)]
    return whole(title, body)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _rates(report: Mapping[str, Any]) -> str:
    rows = [
        (arm["arm"], 100 * arm["rate"], 100 * arm["low"], 100 * arm["high"])
        for arm in report["arms"]
        if arm["rate"] is not None
    ]
    title = "Of a hundred people, who converted; lines: 95 % (Wilson)"
    return drawings.intervals(rows, title=title) if rows else ""


def _arms(report: Mapping[str, Any]) -> str:
    rows = [
        (
            arm["arm"] + (" (control)" if arm["arm"] == report["control"] else ""),
            f"{arm['share']:.0%}",
            f"{arm['people']:,}",
            f"{arm['converted']:,}",
            "—" if arm["rate"] is None else f"{arm['rate']:.2%}",
            arm["value"] if arm["value"] is not None else "—",
        )
        for arm in report["arms"]
    ]
    return table(("arm", "share now", "people", "converted", "rate", "value"), rows)


def _compared(comparisons: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            each["arm"],
            f"{100 * each['difference']:+.2f}",
            f"{100 * each['low']:+.2f} … {100 * each['high']:+.2f}",
            "—" if each["lift"] is None else f"{each['lift']:+.1%}",
            "—" if each["adjusted"] is None else f"{each['adjusted']:.3g}",
            f"{each['chance']:.1%}",
            each["finding"] or "no",
        )
        for each in comparisons
    ]
    head = ("arm", "points", "interval", "lift", "p (Holm)", "P(better)", "beyond chance")
    looks = [
        (
            f"{each['arm']}, look {look['number']}",
            look["people"],
            f"{look['z']:+.3f}",
            f"{look['bound']:.3f}",
        )
        for each in comparisons
        for look in each["looks"]
    ]
    return table(head, rows) + (
        table(("look", "people an arm", "z", "bound"), looks) if looks else ""
    )


def _course(report: Mapping[str, Any], number: int, each: Mapping[str, Any]) -> str:
    """How the difference stood on each day, with the interval that holds over all of them."""
    arm, control = each["arm"], each["against"]
    if report["allocate"] != "fixed":
        return ""  # weights moved from day to day: plain rates would mix seasons in
    if each["left_out"]:
        return (
            f"<p>{escape(arm)}: {each['left_out']} earlier epochs are left out, in which the two arms"
            " had other weights, so no course over all days is drawn.</p>"
        )
    rows = []
    for day in report["days"]:
        n, m = day["people"].get(control, 0), day["people"].get(arm, 0)
        x, y = day["converted"].get(control, 0), day["converted"].get(arm, 0)
        if n and m and 0 < x + y < n + m:
            low, high = always_valid_interval(x, n, y, m, report["alpha"], report["effect"])
            rows.append((day["day"][5:], 100 * (y / m - x / n), 100 * low, 100 * high))
    if len(rows) < 2:
        return ""
    title = f"{arm} − {control} in points, day by day; lines hold for all days together"
    return drawings.course(rows, title=title, mark=number)


def _values(values: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            each["arm"],
            f"{each['mean']:.3f}",
            f"{each['mean_of_control']:.3f}",
            "—" if each["said"] else f"{each['difference']:+.3f}",
            "—" if each["said"] else f"{each['low']:+.3f} … {each['high']:+.3f}",
            "—" if each["said"] else f"{each['adjusted']:.3g}",
        )
        for each in values
    ]
    head = ("arm", "each", "each of the control", "difference", "at all looks", "p (Holm)")
    said = [f"{each['said']}." for each in values if each["said"]]
    said.append(
        f"Values above {values[0]['most']:,.2f}, the highest hundredth of all arms together, count as"
        " that. The verdict is by conversions."
    )
    return [table(head, rows), *(f"<p><small>{escape(each)}</small></p>" for each in said)]


def _harm(arms: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            arm["arm"],
            f"{arm['mails']:,}",
            arm["complaints"],
            arm["unsubscribes"],
            arm["stopped"] or "—",
        )
        for arm in arms
    ]
    return table(("arm", "mails", "complaints", "unsubscribes", "stopped"), rows)


def _rulings(rulings: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            f"{word['at'][:16].replace('T', ' ')} UTC",
            word["arm"], word["kind"], word["ruled_by"], word["reason"],
            "taken back" if word["lifted_at"] else "",
        )
        for word in rulings
    ]  # fmt: skip
    return table(("when", "arm", "what", "by", "why", ""), rows) if rows else ""


def _foot(report: Mapping[str, Any]) -> str:
    days = f"{report['max_days']} days" if report["max_days"] else "no end"
    needed = (
        f" · {report['needed']:,} people an arm find it 4 times of 5" if report["needed"] else ""
    )
    return (
        f"<p><small>Test: {escape(report['test'])}, weights {escape(report['allocate'])}, at α {report['alpha']:g}, two-sided · at least"
        f" {report['min_per_arm']:,} people an arm · {days} · looked for: a lift of"
        f" {report['effect']:.0%}{needed} · since {escape((report['since'] or 'nobody came')[:10])}"
        "</small></p>"
    )
