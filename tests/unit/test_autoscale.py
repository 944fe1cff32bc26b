"""How many workers a queue gets: Kubernetes' rule, with the clock in our hands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tasks.errors import Misconfigured
from tasks.upkeep import lateness
from workers.autoscale import AutoscaleSettings, Bounds, Scaler

CHART = Path(__file__).parents[2] / "deploy/helm/dripfleet"
SETTINGS = AutoscaleSettings()


def scaler(low: int = 1, high: int = 8) -> Scaler:
    return Scaler(Bounds("send", low, high), SETTINGS)


def test_late_work_multiplies_the_workers_and_never_by_more_than_two_in_a_period() -> None:
    one = scaler()
    assert one.decide(0, 70, 1) == 2, "ceil(1 × 70 / 60)"
    assert one.decide(15, 600, 2) == 2, "within the minute nothing more"
    assert one.decide(60, 600, 2) == 4
    assert one.decide(120, 600, 4) == 8
    assert one.decide(180, 6000, 8) == 8, "its most"


def test_near_the_target_nothing_changes() -> None:
    one = scaler()
    for second, age in enumerate((54, 60, 65)):
        assert one.decide(second, age, 3) == 3


def test_it_shrinks_one_by_one_after_the_window_and_never_below_its_least() -> None:
    one = scaler(low=2)
    assert one.decide(0, 200, 2) == 4
    looks = [(at, one.decide(at, 0, 4)) for at in range(15, 916, 15)]
    assert {n for at, n in looks if at <= 900} == {4}, "what was wanted in the window counts"
    assert looks[-1] == (915, 3)
    assert one.decide(930, 0, 3) == 3, "one in two minutes"
    assert one.decide(1035, 0, 3) == 2
    assert one.decide(3000, 0, 2) == 2


def test_a_burst_within_the_window_starts_it_anew() -> None:
    one = scaler()
    one.decide(0, 0, 3)
    assert one.decide(890, 60, 3) == 3
    assert one.decide(1700, 0, 3) == 3
    assert one.decide(1791, 0, 3) == 2


def test_what_nobody_knows_changes_nothing() -> None:
    one = scaler()
    one.decide(0, 0, 3)
    assert [one.decide(at, None, 3) for at in (500, 950, 1400)] == [3, 3, 3]
    assert one.decide(1500, 0, 3) == 3, "it may have been late meanwhile"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("send", "expected POOL=MIN:MAX, such as send=1:3"),
        ("send=3:1", "expected 1 <= MIN <= MAX <= 64"),
        ("send=0:1", "expected 1 <= MIN"),
        ("churn=1:2", "expected send or sequence"),
        ("send@EU=1:2", "expected POOL=MIN:MAX"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(Misconfigured, match=re.escape(why)):
        Bounds.parse(text)


def test_a_range_may_name_a_region() -> None:
    assert Bounds.parse("send@eu=1:3") == Bounds("send@eu", 1, 3)


def test_the_chart_has_the_same_rule() -> None:
    keda = YAML(typ="safe").load((CHART / "values.yaml").read_text())["keda"]
    assert keda["send"]["targetAge"] == keda["sequence"]["targetAge"] == SETTINGS.target_age
    assert keda["pollingInterval"] == SETTINGS.polling_interval
    window = SETTINGS.scale_down_stabilization_seconds
    assert keda["scaleDownStabilizationSeconds"] == window
    source = (CHART / "templates/scaled.yaml").read_text()
    down, *up = map(float, re.findall(r"periodSeconds: (\d+)", source))
    assert down == SETTINGS.scale_down_period and set(up) == {SETTINGS.scale_up_period}


def test_the_chart_asks_postgres_the_same() -> None:
    source = (CHART / "templates/scaled.yaml").read_text()
    queries = re.findall(r"query: >-\n((?: {10}\S.*\n)+)", source)
    here = [str(lateness.SEND), str(lateness.SEQUENCE)]
    for theirs, ours in zip(queries, here, strict=True):
        theirs = re.sub(r"NULLIF\('{{ .*? }}', ''\)", "CAST(:region AS text)", theirs)
        assert plain(theirs) == plain(ours.replace("::float8", "::bigint"))


def plain(sql: str) -> str:
    return re.sub(r"\s*([()])\s*", r"\1", " ".join(sql.split()))
