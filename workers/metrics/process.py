"""What one worker process counts: the real meter, and the gauges of its delivery loop.

A hook is called for each mail, so the child of a label set is looked up here by its tuple; the
client's own `labels()` takes a lock and four times as long.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.metrics import Meter
from workers.metrics.families import BY_NAME

if TYPE_CHECKING:
    from tasks.send.loop import Gauges

TASK_BUCKETS = (0.01, 0.05, 0.25, 1.0, 5.0, 20.0, 60.0, 300.0, 1800.0)
CYCLE_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
GROUP_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

M = TypeVar("M", Counter, Histogram)


class _Labelled(Generic[M]):
    """The children of a metric by their label values."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *values: str) -> M:
        child = self._children.get(values)
        if child is None:
            # Two threads at once make the same child twice: the client hands out one.
            child = self._children[values] = self._metric.labels(*values)
        return child


class ProcessMeter(Meter):
    """Counts into `registry`, which is this process's own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        self._tasks = self._counter("dripfleet_tasks_total")
        self._task_seconds = self._histogram("dripfleet_task_seconds", TASK_BUCKETS)
        self._lost = self._counter("dripfleet_doorbells_lost_total")
        self._children = self._counter("dripfleet_children_started_total")
        self._claimed = self._counter("dripfleet_claimed_total")
        self._ended = self._counter("dripfleet_messages_total")
        self._replies = self._counter("dripfleet_smtp_replies_total")
        self._rendered = self._counter("dripfleet_rendered_total")
        self._render_seconds = self._counter("dripfleet_render_seconds_total")
        self._renewed = self._counter("dripfleet_leases_renewed_total")
        self._cycle_seconds = self._histogram("dripfleet_cycle_seconds", CYCLE_BUCKETS)
        self._cycle_group = self._histogram("dripfleet_cycle_group", GROUP_BUCKETS)

    def task(self, name: str, end: str, seconds: float) -> None:
        """See `Meter`."""
        self._tasks(name, end).inc()
        self._task_seconds(name).observe(seconds)

    def doorbell_lost(self, name: str) -> None:
        """See `Meter`."""
        self._lost(name).inc()

    def claimed(self, stream: str, n: int) -> None:
        """See `Meter`."""
        self._claimed(stream).inc(n)

    def ended(self, stream: str, outcome: str, reason: str, n: int = 1) -> None:
        """See `Meter`."""
        self._ended(stream, outcome, reason).inc(n)

    def cycle(self, seconds: float, recorded: int, ready: int) -> None:
        """See `Meter`."""
        self._cycle_seconds().observe(seconds)
        if recorded:
            self._cycle_group("record").observe(recorded)
        if ready:
            self._cycle_group("arm").observe(ready)

    def reply(self, stage: str, code: int | None) -> None:
        """See `Meter`."""
        self._replies(stage, f"{code // 100}xx" if code else "none").inc()

    def rendered(self, n: int, seconds: float) -> None:
        """See `Meter`."""
        self._rendered().inc(n)
        self._render_seconds().inc(seconds)

    def renewed(self, n: int) -> None:
        """See `Meter`."""
        self._renewed().inc(n)

    def watch(self, gauges: Callable[[], Gauges]) -> None:
        """Ask a delivery loop how it stands, at each scrape."""
        self._registry.register(LoopCollector(gauges))

    def told(self, line: str) -> None:
        """Take what a child wrote; see `ChildMeter`."""
        match json.loads(line):
            case ["task", str(name), str(end), int() | float() as seconds]:
                self.task(name, end, seconds)
            case ["doorbell_lost", str(name)]:
                self.doorbell_lost(name)
            case ["born"]:
                self._children().inc()

    def _counter(self, name: str) -> Callable[..., Counter]:
        family = BY_NAME[name]
        made = Counter(name, family.meaning, family.labels, registry=self._registry)
        return _Labelled(made) if family.labels else lambda: made

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Callable[..., Histogram]:
        family = BY_NAME[name]
        made = Histogram(
            name, family.meaning, family.labels, buckets=buckets, registry=self._registry
        )
        return _Labelled(made) if family.labels else lambda: made


class LoopCollector(Collector):
    """The gauges of a delivery loop, read when somebody asks."""

    def __init__(self, gauges: Callable[[], Gauges]) -> None:
        self._gauges = gauges

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering it must not ask the loop."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        now = self._gauges()
        yield gauge("dripfleet_armed", now.armed)
        yield gauge("dripfleet_held", now.held)
        yield gauge("dripfleet_window_free", now.window_free)
        yield gauge("dripfleet_journal_bytes", now.journal_bytes)
        yield gauge("dripfleet_journal_torn", now.journal_torn)
        yield gauge("dripfleet_relay_connections", {(r,): n for r, n in now.connections.items()})
        yield gauge("dripfleet_relay_closed_seconds", {(r,): s for r, s in now.closed_for.items()})
        yield from _of_domains(now)


def _of_domains(now: Gauges) -> Iterator[Metric]:
    """The pace of limited domains; of those that share a label the one that fares worst."""
    rates: dict[tuple[str, ...], float] = {}
    shares: dict[tuple[str, ...], float] = {}
    resting: dict[tuple[str, ...], float] = {}
    for relay, groups in now.paces.items():
        for each in groups:
            key = (relay, each.label)
            resting[key] = max(resting.get(key, 0.0), each.closed_for)
            if each.rate is not None and each.ceiling:
                rates[key] = min(rates.get(key, each.rate), each.rate)
                shares[key] = min(shares.get(key, 1.0), each.rate / each.ceiling)
    yield gauge("dripfleet_relay_domains_rate", rates)
    yield gauge("dripfleet_relay_domains_share", shares)
    yield gauge("dripfleet_relay_domains_resting_seconds", resting)


class ChildMeter(Meter):
    """The meter of a prefork child: a line a call into a pipe, which its parent reads.

    One write below PIPE_BUF is whole among those of the other children. A pipe that nobody reads is
    full one day; then a line is lost, never a task held up.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._write("born")

    def task(self, name: str, end: str, seconds: float) -> None:
        """See `Meter`."""
        self._write("task", name, end, seconds)

    def doorbell_lost(self, name: str) -> None:
        """See `Meter`."""
        self._write("doorbell_lost", name)

    def _write(self, *parts: Any) -> None:
        try:
            os.write(self._fd, f"{json.dumps(parts)}\n".encode())
        except OSError:
            return


def gauge(name: str, value: float | dict[tuple[str, ...], float]) -> GaugeMetricFamily:
    """A gauge of `families`: one value, or one for each set of label values."""
    family = BY_NAME[name]
    made = GaugeMetricFamily(name, family.meaning, labels=family.labels)
    for labels, one in (value if isinstance(value, dict) else {(): value}).items():
        made.add_metric(labels, float(one))
    return made
