"""What is counted has the names that are written, costs nothing when off, and reaches who asks."""

from __future__ import annotations

import io
import json
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families as parsed
from ruamel.yaml import YAML

from tasks import metrics, names
from tasks.errors import Misconfigured, Transient
from tasks.metrics import Meter
from tasks.send.loop import Gauges
from tasks.send.pace import Standing
from workers.metrics import export
from workers.metrics.export import Exporter, MetricsSettings
from workers.metrics.families import ALL, PROCESS, SERIES, Family
from workers.metrics.process import ChildMeter, ProcessMeter

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
NAMED = re.compile(r"\bdripfleet_[a-z_]+")
GAUGES = Gauges(
    3, 5, 1995, 4096, False, {"default": 4}, {"default": 0.0},
    {"default": [
        Standing("gmail", "gmail", 300.0, 600.0, 2, 1, 0.0),
        Standing("a.test", "other", 50.0, 100.0, 0, 0, 9.0),
        Standing("b.test", "other", 10.0, 100.0, 0, 0, 0.0),
    ]},
)  # fmt: skip


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def meter(registry: CollectorRegistry) -> Iterator[ProcessMeter]:
    made = ProcessMeter(registry)
    before = metrics.use(made)
    yield made
    metrics.use(before)


def scraped(registry: CollectorRegistry) -> dict[str, Any]:
    return {family.name: family for family in parsed(generate_latest(registry).decode())}


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def work(meter: Meter) -> None:
    """Every hook once."""
    meter.task("send.deliver", "done", 0.2)
    meter.doorbell_lost("send.deliver")
    meter.claimed("marketing", 500)
    meter.ended("marketing", "sent", "reply")
    meter.cycle(0.004, 63, 64)
    meter.reply("dot", 250)
    meter.reply("rcpt", 550)
    meter.reply("dot", None)
    meter.rendered(500, 0.7)
    meter.renewed(250)


def rows_of_the_table() -> set[tuple[str, str, tuple[str, ...], str]]:
    text = (DEPLOY / "prometheus" / "METRICS.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", text, re.M)
    return {(n, kind, tuple(re.findall(r"`(\w+)`", ls)), why.strip()) for n, kind, ls, why in rows}


def test_the_table_for_operators_and_the_code_name_the_same_metrics() -> None:
    assert rows_of_the_table() == {(f.name, f.kind, f.labels, f.meaning) for f in ALL}
    assert len({f.name for f in ALL}) == len(ALL)


def test_a_worker_serves_each_metric_of_the_table_and_no_other(
    registry: CollectorRegistry, meter: ProcessMeter
) -> None:
    work(meter)
    meter.watch(lambda: GAUGES)
    assert_same(registry, PROCESS)
    # Of domains without a name of their own the one that fares worst, and none by its name.
    other = {"relay": "default", "domains": "other"}
    assert value(registry, "dripfleet_relay_domains_share", **other) == 0.1
    assert value(registry, "dripfleet_relay_domains_resting_seconds", **other) == 9
    assert b".test" not in generate_latest(registry)


def assert_same(registry: CollectorRegistry, families: tuple[Family, ...]) -> None:
    found = scraped(registry)
    # The parser takes `_total` off a counter's name.
    assert set(found) == {f.name.removesuffix("_total") for f in families}
    for family in families:
        metric = found[family.name.removesuffix("_total")]
        assert metric.type == family.kind
        labels = {name for sample in metric.samples for name in sample.labels} - {"le"}
        assert labels <= set(family.labels)
        assert metric.documentation == family.meaning


def test_what_the_hooks_say_is_what_is_served(
    registry: CollectorRegistry, meter: ProcessMeter
) -> None:
    work(metrics.meter)
    work(metrics.meter)
    assert value(registry, "dripfleet_tasks_total", task="send.deliver", end="done") == 2
    assert value(registry, "dripfleet_claimed_total", stream="marketing") == 1000
    sent = {"stream": "marketing", "outcome": "sent", "reason": "reply"}
    assert value(registry, "dripfleet_messages_total", **sent) == 2
    assert value(registry, "dripfleet_smtp_replies_total", stage="rcpt", code="5xx") == 2
    assert value(registry, "dripfleet_smtp_replies_total", stage="dot", code="none") == 2
    assert value(registry, "dripfleet_cycle_group_sum", move="arm") == 128
    assert value(registry, "dripfleet_render_seconds_total") == pytest.approx(1.4)


def test_the_null_meter_takes_every_hook_and_is_what_runs_by_default() -> None:
    assert type(metrics.meter) is Meter
    work(metrics.meter)
    hooks = {n for n in vars(Meter) if not n.startswith("_")}
    # A hook that the real meter forgot would be counted by nobody.
    assert hooks <= set(vars(ProcessMeter))


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        (None, "done"),
        (Transient("later"), "put_off"),
        (Misconfigured("wrong"), "refused"),
        (ZeroDivisionError("person@example.com"), "failed"),
    ],
)
def test_a_task_is_counted_by_its_end_and_by_nothing_it_says(
    registry: CollectorRegistry, meter: ProcessMeter, fault: Exception | None, end: str
) -> None:
    from celery import Celery

    from tasks.base import Failed, FleetTask

    app = Celery("test", set_as_current=False)

    class Once(FleetTask):
        name = "test.once"

        def run(self) -> str:
            if fault is not None:
                raise fault
            return "ok"

    task = app.register_task(Once())
    try:
        task(v=names.VERSION)
    except Failed:
        assert end in ("refused", "failed")
    assert value(registry, "dripfleet_tasks_total", task="test.once", end=end) == 1
    assert b"person" not in generate_latest(registry)


def test_a_prefork_child_counts_through_its_parent(
    registry: CollectorRegistry, meter: ProcessMeter
) -> None:
    reading, writing = os.pipe()
    child = ChildMeter(writing)
    work(child)
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            meter.told(line)
    assert value(registry, "dripfleet_tasks_total", task="send.deliver", end="done") == 1
    assert value(registry, "dripfleet_doorbells_lost_total", task="send.deliver") == 1
    assert value(registry, "dripfleet_children_started_total") == 1


def test_a_parent_that_reads_no_more_holds_no_child_up() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    child = ChildMeter(writing)
    for _ in range(5_000):  # more than a pipe takes
        child.task("churn.fit", "done", 1.0)
    os.close(reading)
    os.close(writing)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Exporter]]:
    exporters: list[Exporter] = []
    yield exporters
    for exporter in exporters:
        exporter.close()


def test_metrics_are_off_until_a_port_is_given_and_on_under_up(
    tmp_path: Path, started: list[Exporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export.start("send", MetricsSettings(), tmp_path, supervised=False) is None
    off = MetricsSettings(metrics_port=0)
    assert export.start("send", off, tmp_path, supervised=True) is None
    assert type(metrics.meter) is Meter
    monkeypatch.setattr(export, "UNDER_UP", 28540)
    on = export.start("send", MetricsSettings(), tmp_path, supervised=True)
    assert on is not None
    started.append(on)


def test_two_workers_of_a_pool_serve_on_ports_of_their_own_and_say_where(
    tmp_path: Path, started: list[Exporter]
) -> None:
    settings = MetricsSettings(metrics_port=28640)
    for _ in range(2):
        exporter = export.start("send", settings, tmp_path, supervised=False)
        assert exporter is not None
        started.append(exporter)
    assert started[0].url != started[1].url
    for exporter in started:
        exporter.meter.claimed("marketing", 7)
        with urllib.request.urlopen(exporter.url, timeout=5) as answer:
            assert b'dripfleet_claimed_total{stream="marketing"} 7.0' in answer.read()
    told = [json.loads(p.read_text()) for p in (tmp_path / "run" / "metrics").glob("*.json")]
    targets = {target for entries in told for entry in entries for target in entry["targets"]}
    assert targets == {re.sub(r"http://|/metrics", "", e.url) for e in started}
    assert all(entry["labels"] == {"pool": "send"} for entries in told for entry in entries)
    for exporter in started:
        exporter.close()
    started.clear()
    assert not list((tmp_path / "run" / "metrics").glob("*.json"))


def test_a_worker_starts_without_metrics_where_no_port_is_to_be_had(tmp_path: Path) -> None:
    nowhere = MetricsSettings(metrics_port=28740, metrics_address="192.0.2.1")
    assert export.start("send", nowhere, tmp_path, supervised=False) is None
    assert type(metrics.meter) is Meter


def expressions_of_the_dashboard() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "dripfleet.json").read_text())
    found = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
    return found + [v["definition"] for v in dashboard["templating"]["list"] if "definition" in v]


def rules() -> list[dict[str, Any]]:
    text = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    loaded = YAML(typ="safe").load(io.StringIO(text))
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def test_the_dashboard_asks_for_metrics_that_exist_and_for_each_one_of_them() -> None:
    asked = {name for e in expressions_of_the_dashboard() for name in NAMED.findall(e)}
    assert asked - SERIES == set()
    shown = {f.name for f in ALL if asked & set(f.series)}
    # What is for alerts, or for who reads /metrics itself.
    unseen = {
        "dripfleet_fleet_postgres_up", "dripfleet_fleet_redis_up", "dripfleet_fleet_look_seconds",
        "dripfleet_fleet_exact", "dripfleet_fleet_to_plan", "dripfleet_fleet_canary_seconds",
        "dripfleet_fleet_sequence_paused", "dripfleet_claimed_total", "dripfleet_journal_torn",
    }  # fmt: skip
    assert {f.name for f in ALL} - shown == unseen


def test_the_dashboard_imports_anywhere() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dripfleet.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) and dashboard["uid"] == "dripfleet"
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"


def test_alerts_ask_for_metrics_that_exist() -> None:
    for rule in rules():
        asked = NAMED.findall(rule["expr"])
        assert asked and set(asked) <= SERIES, rule["alert"]


def test_each_alert_says_what_is_and_names_a_command_that_exists() -> None:
    import typer.main
    from typer.core import TyperGroup

    from workers.cli import app

    group = typer.main.get_group(app)
    for rule in rules():
        said = rule["annotations"]
        assert said["summary"] and rule["labels"]["severity"] in ("page", "ticket")
        commands = re.findall(r"`dripfleet ([a-z]+)(?: ([a-z]+))?", said["runbook"])
        assert commands, f"{rule['alert']} names no next move"
        for first, second in commands:
            command = group.commands[first]
            if isinstance(command, TyperGroup):
                alone = not second and command.invoke_without_command
                assert alone or second in command.commands, (rule["alert"], first, second)


def test_labels_hold_nothing_that_grows_with_the_mails() -> None:
    few = {
        "task", "end", "stream", "outcome", "reason", "stage", "code", "move", "relay", "queue",
        "state", "sequence", "step", "pool", "tick", "schedule", "model", "segment", "edge",
        "endpoint", "domains", "route", "status", "agent",
    }  # fmt: skip
    assert {label for family in ALL for label in family.labels} == few
