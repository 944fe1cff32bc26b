"""The page of an experiment: whole, loading nothing, to be read without color."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tasks.experiment.page import page
from tasks.experiment.verdict import Count, Epoch, Rules, judge
from tasks.sequence.experiment_report import ArmReport, Day, Report, Ruling
from workers.cli.experiment_report import show
from workers.cli.render import plain

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def told(days: int = 20, looks: bool = False) -> Report:
    random = np.random.default_rng(4)
    rates = {"plain": 0.10, "offer": 0.13, "<b>long & wide</b>": 0.101}
    people = {arm: 250 * (k + 1) for arm in rates for k in range(days)}
    converted = dict.fromkeys(rates, 0)
    course = []
    for k in range(days):
        for arm, rate in rates.items():
            converted[arm] += int(random.binomial(250, rate))
        upto = dict.fromkeys(rates, 250 * (k + 1))
        course.append(Day(START.date() + dt.timedelta(days=k), upto, dict(converted)))
    shares = dict.fromkeys(rates, 1)
    counts = {arm: Count(people[arm], people[arm], converted[arm]) for arm in rates} if days else {}
    rules = Rules(kind="pocock", looks=2) if looks else Rules()
    at_looks = {
        arm: [(Count(2000, 2000, 200), Count(2000, 2000, 260))] for arm in rates if arm != "plain"
    }
    verdict = judge(
        "plain",
        list(rates),
        [Epoch(shares, counts)] if days else [],
        rules,
        at_looks if looks else None,
    )
    arms = tuple(
        ArmReport(
            arm, 1 / 3, people.get(arm, 0), people.get(arm, 0), converted[arm],
            converted[arm] / people[arm] if days else None, 0.0, 0.2, Decimal("12.5"), 5000, k, 2 * k,
            "guardrail: complaint_rate" if k == 2 else None,
        )
        for k, arm in enumerate(rates)
    )  # fmt: skip
    ruling = Ruling("<b>long & wide</b>", "stopped", "guardrail", "complaint_rate", {}, START, None)
    return Report(
        "win-back/split", "purchase within 2w", "plain", "pocock" if looks else "sequential",
        "fixed", 0.05,
        1000, 30, 0.1, START if days else None, 1, arms, verdict, 25_410 if days else None,
        "what is said & done", (ruling,), tuple(course),
    )  # fmt: skip


def drawn(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", html)]


def test_a_page_is_whole_and_loads_nothing() -> None:
    html = page(plain(told()))
    assert html.startswith("<!doctype html>") and html.endswith("</html>\n")
    assert not re.search(r"(?:src|href)=|https?:|url\(|<script", html)
    assert "An arm is better than the control beyond chance." in html
    assert "<b>long" not in html and "&lt;b&gt;long &amp; wide&lt;/b&gt;" in html
    assert 'name="viewport"' in html


def test_arms_are_told_apart_by_their_marks_and_every_drawing_has_its_words() -> None:
    rates, *courses = drawn(page(plain(told())))
    marks = [each.tag for each in rates if each.get("class") == "mark"]
    assert marks == ["circle", "rect", "polygon"]
    assert len(courses) == 2 and all(each.get("aria-label") for each in (rates, *courses))
    width, height = (float(each) for each in rates.attrib["viewBox"].split()[2:])
    for each in (rates, *courses):
        height = float(each.attrib["viewBox"].split()[3])
        for line in each.iter("line"):
            ends = [float(line.attrib[name]) for name in ("x1", "x2", "y1", "y2")]
            assert all(0 <= x <= width for x in ends[:2]) and all(
                0 <= y <= height for y in ends[2:]
            )


def test_a_page_of_nobody_and_one_of_planned_looks_are_whole_too(capsys: Any) -> None:
    nobody = page(plain(told(days=0)))
    assert "Nobody has come into it yet." in nobody and not drawn(nobody)
    looks = told(looks=True)
    assert "offer, look 1" in page(plain(looks)) and "people an arm" in page(plain(looks))
    show(looks)
    told_ = capsys.readouterr().out
    assert (
        "offer: look 1 at 2 000 an arm: z +2." in told_ and "by guardrail: complaint_rate" in told_
    )
