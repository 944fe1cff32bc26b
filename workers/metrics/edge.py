"""What one process of the edge counts, and whether the edge answers where mails say it is.

Thousands of answers a second are counted, so a hook adds to plain numbers; they become metrics when
somebody asks.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.metrics.families import BY_NAME
from workers.metrics.process import gauge

if TYPE_CHECKING:
    from workers.metrics.export import MetricsSettings

log = structlog.get_logger()

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
GROUPS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2000)
PLACE: Final = 7
"""Of its port, above the base: behind those of all pools."""
PATIENCE: Final = 2.0


class _Buckets:
    """The counts of a histogram; the last one is of all that is above its bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulated(self) -> list[tuple[str, float]]:
        """As Prometheus has them."""
        names = [*map(str, map(float, self.bounds)), "+Inf"]
        return [*zip(names, map(float, accumulate(self.counts)), strict=True)]


class EdgeMeter(Collector):
    """The metrics of `families.EDGE`; its hooks are called in the event loop alone."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, _Buckets] = {}
        self._groups = _Buckets(GROUPS)
        self._commits = _Buckets(SECONDS)
        self._hits: Counter[str] = Counter()
        self._lost = 0
        self._refused: Counter[str] = Counter()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._answers[route, status] += 1
        buckets = self._seconds.get(route)
        if buckets is None:
            buckets = self._seconds[route] = _Buckets(SECONDS)
        buckets.add(seconds)

    def group(self, agents: Iterable[str], n: int, seconds: float) -> None:
        """A group of `n` clicks and opens was committed; `agents`: the word for each program."""
        self._hits.update(agents)
        self._groups.add(n)
        self._commits.add(seconds)

    def lost(self) -> None:
        """A click or open was answered and not counted, since Postgres was away."""
        self._lost += 1

    def refused(self, why: str) -> None:
        """A request to `/v1` was refused: unknown (key), scope or rate."""
        self._refused[why] += 1

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering it must not collect."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        yield _counter(
            "dripfleet_edge_requests_total",
            {(route, str(status)): n for (route, status), n in [*self._answers.items()]},
        )
        yield _histogram(
            "dripfleet_edge_seconds", {(route,): one for route, one in [*self._seconds.items()]}
        )
        yield _histogram("dripfleet_edge_group", {(): self._groups})
        yield _histogram("dripfleet_edge_commit_seconds", {(): self._commits})
        yield _counter(
            "dripfleet_edge_hits_total", {(each,): n for each, n in [*self._hits.items()]}
        )
        yield _counter("dripfleet_edge_hits_lost_total", {(): self._lost})
        yield _counter(
            "dripfleet_edge_refused_total", {(why,): n for why, n in [*self._refused.items()]}
        )


def serve(meter: EdgeMeter, settings: MetricsSettings, home: Path, *, supervised: bool) -> None:
    """Serve what this process counts, as a worker does, for as long as it runs; off: nothing."""
    from prometheus_client import CollectorRegistry, ProcessCollector

    from workers.metrics import export

    base = settings.metrics_port
    base = (export.UNDER_UP if supervised else 0) if base is None else base
    if not base:
        return
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(meter)
    export.listen(registry, "edge", settings, home, base=base, place=PLACE)


def ready() -> Iterator[Metric]:
    """Whether the edge says that it is ready, where DRIPFLEET_EDGE_URL says it is; nothing without one."""
    url = os.environ.get("DRIPFLEET_EDGE_URL", "").strip().rstrip("/")
    if url.startswith(("https://", "http://")):
        yield gauge("dripfleet_fleet_edge_ready", _answers(f"{url}/readyz"))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return True
    except urllib.error.HTTPError as fault:
        fault.close()
        return False
    except (OSError, ValueError):
        return False


def _counter(name: str, values: dict[tuple[str, ...], float]) -> CounterMetricFamily:
    family = BY_NAME[name]
    made = CounterMetricFamily(name, family.meaning, labels=family.labels)
    for labels, one in values.items():
        made.add_metric(labels, float(one))
    return made


def _histogram(name: str, values: dict[tuple[str, ...], _Buckets]) -> HistogramMetricFamily:
    family = BY_NAME[name]
    made = HistogramMetricFamily(name, family.meaning, labels=family.labels)
    for labels, one in values.items():
        made.add_metric(labels, one.cumulated(), one.total)
    return made
