"""The report of a sequence as one HTML page: nothing is loaded from elsewhere, every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

from tasks.experiment import drawings
from tasks.experiment.intervals import wilson
from tasks.experiment.sheet import table, whole


def page(report: Mapping[str, Any]) -> str:
    """Return the page of a report, complete.

    Args:
        report: as `dripfleet sequence report --json` gives it.
    """
    lift, arms = report["lift"], report["arms"]
    title = f"Sequence {report['key']}"
    goal, holdout = report["goal"] or "none", report["holdout"] or "none"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<div class="verdict"><b>{escape(_sentence(lift))}</b></div>',
        f"<p>Goal: {escape(goal)}. Held out: {escape(holdout)}.</p>",
    ]
    if report.get("uplift"):
        body.append(f"<p>{escape(report['uplift'])}.</p>")
    if report["steps"]:
        rows = [(step["step"], step["came"], step["sent"]) for step in report["steps"]]
        body += [
            "<h2>The mails</h2>",
            drawings.bars(rows, title="Who came to each mail; filled: it went"),
        ]
    body += ["<h2>Both arms</h2>", _rates(arms), _arms(arms), _days(report["days"])]
    if lift is not None and lift["conversions"] is not None:
        body += ["<h2>What the mails brought</h2>", _lift(lift)]
    if lift is not None and lift["parts"]:
        body += _parts(lift["parts"])
    ends = [
        (reason.replace("_", " "), arm["arm"].replace("_", " "), f"{n:,}")
        for arm in arms
        for reason, n in arm["ends"].items()
    ]
    if ends:
        body += ["<h2>How it ended</h2>", table(("reason", "arm", "entries"), ends)]
    return whole(title, body)


def _sentence(lift: Mapping[str, Any] | None) -> str:
    if lift is None:
        return "What the mails brought is not known: that takes a holdout and a goal."
    said = str(lift["said"])
    return f"{said[:1].upper()}{said[1:]}."


def _rates(arms: list[Mapping[str, Any]]) -> str:
    rows = []
    for arm in arms:
        if arm["rate"] is not None:
            low, high = wilson(arm["people_converted"], arm["people"])
            name = arm["arm"].replace("_", " ")
            rows.append((name, 100 * arm["rate"], 100 * low, 100 * high))
    title = "Of a hundred people, who converted; lines: 95 % (Wilson)"
    return drawings.intervals(rows, title=title) if rows else ""


def _arms(arms: list[Mapping[str, Any]]) -> str:
    rows = [
        (
            arm["arm"].replace("_", " "),
            f"{arm['people']:,}",
            f"{arm['sent']:,}",
            f"{arm['people_converted']:,}",
            "—" if arm["rate"] is None else f"{arm['rate']:.2%}",
            "—" if arm["value"] is None else arm["value"],
        )
        for arm in arms
    ]
    return table(("arm", "people", "mails", "converted", "rate", "value"), rows)


def _days(days: list[Mapping[str, Any]]) -> str:
    """Of a hundred people who have been in for so long, who had converted by then."""
    lines = [
        (name, points)
        for name, arm in (("mailed", "mailed_share"), ("held out", "held_out_share"))
        if len(points := [(d["day"], 100 * d[arm]) for d in days if d[arm] is not None]) > 1
    ]
    title = "Of a hundred people, who had converted so many days after they came in"
    return drawings.lines(lines, title=title) if lines else ""


HEADS: Final = {
    "step": "By step: at the last mail that was due before",
    "segment": "By segment that people were in when they came in",
    "score": "By thirds of the score that people had when they came in",
}


def _parts(parts: list[Mapping[str, Any]]) -> list[str]:
    body: list[str] = []
    for by, head in HEADS.items():
        mine = [part for part in parts if part["by"] == by]
        if not mine:
            continue
        body.append(f"<h2>{escape(head)}</h2>")
        told = [
            (_name(part), span["value"], span["low"], span["high"])
            for part in mine
            if (span := part["conversions"]) is not None
        ]
        if told:
            title = "Conversions more per thousand people; lines: 95 % (Newcombe)"
            body.append(drawings.intervals(told, title=title, unit=""))
        body.append(table(PART_HEAD, [part_row(part) for part in mine]))
        body += [
            f"<p><small>{escape(_name(part))}: {escape(part['said'])}.</small></p>"
            for part in mine
            if part["said"] is not None
        ]
    if body:
        body.append(
            "<p><small>Each interval stands for itself: of twenty, about one misses the truth by"
            " chance.</small></p>"
        )
    return body


PART_HEAD: Final = (
    "", "mailed", "held out", "mails", "conversions/1,000 people", "/1,000 mails",
    "value/1,000 people", "/1,000 mails",
)  # fmt: skip


def part_row(part: Mapping[str, Any]) -> tuple[str, ...]:
    """One step, segment or band in words and figures, as `PART_HEAD` has them."""
    spans = ("conversions", "per_thousand_mails", "value", "value_per_thousand_mails")
    return (
        _name(part),
        f"{part['mailed_converted']:,} of {part['mailed']:,}",
        f"{part['held_out_converted']:,} of {part['held_out']:,}",
        f"{part['mails']:,}",
        *(_span(part[name]) for name in spans),
    )


def _name(part: Mapping[str, Any]) -> str:
    return str(part["part"]) or "before any mail"


def _span(span: Mapping[str, Any] | None) -> str:
    return (
        "—" if span is None else f"{span['value']:+.1f} ({span['low']:+.1f} … {span['high']:+.1f})"
    )


def _lift(lift: Mapping[str, Any]) -> str:
    names = (
        ("conversions", "conversions per thousand people"),
        ("per_thousand_mails", "conversions per thousand mails"),
        ("value", "value per thousand people"),
        ("value_per_thousand_mails", "value per thousand mails"),
    )
    rows = [
        (what, f"{span['value']:+.1f}", f"{span['low']:+.1f} … {span['high']:+.1f}")
        for name, what in names
        if (span := lift[name]) is not None
    ]
    return table(("more than without", "", "95 %"), rows)
