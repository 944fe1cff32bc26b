"""Serve what this process counts: a small HTTP server on a thread, if a port is given for it.

Under `dripfleet up` it is on without being asked for. The address is written to
`DRIPFLEET_HOME/run/metrics/*.json` in the form of Prometheus's file_sd, so that nobody has to know
which port was free.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks import metrics, names
from tasks.errors import Misconfigured

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import CollectorRegistry

    from workers.metrics.process import ProcessMeter

log = structlog.get_logger()

UNDER_UP = 9540
SPARE = range(10, 30)  # above the base: for the second worker of a pool on this machine


class MetricsSettings(BaseSettings):
    """Where `/metrics` is served; `DRIPFLEET_` and the name."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65000,
        description="a pool's is this plus its place; 0 is off, unset is off but 9540 under `up`",
    )
    metrics_address: str = Field("127.0.0.1", description="where it listens")
    metrics_fleet_port: int = Field(
        9549, ge=1, le=65535, description="where `dripfleet metrics` serves the fleet's"
    )


class Exporter:
    """A serving process.

    Attributes:
        meter: what counts.
        url: where it serves.
    """

    def __init__(
        self, meter: ProcessMeter, server: WSGIServer, address: str, told: Path | None
    ) -> None:
        self.meter = meter
        self.url = f"http://{address}:{server.server_port}/metrics"
        self._server = server
        self._told = told
        self._pipe: tuple[int, int] | None = None

    def hear_children(self) -> None:
        """Count for prefork children too; call it before they are made."""
        self._pipe = reading, writing = os.pipe()
        os.set_blocking(writing, False)

        def hear() -> None:
            with open(reading, encoding="utf-8") as lines:
                for line in lines:
                    self.meter.told(line)

        threading.Thread(target=hear, name="metrics-children", daemon=True).start()

    def in_child(self) -> None:
        """Be the child of a fork: no server, and what is counted goes to the parent."""
        from workers.metrics.process import ChildMeter

        # Else the port stays taken as long as a child outlives its parent.
        self._server.socket.close()
        if self._pipe is not None:
            metrics.use(ChildMeter(self._pipe[1]))

    def close(self) -> None:
        """Stop serving and counting."""
        metrics.use(metrics.Meter())
        if self._told is not None:
            self._told.unlink(missing_ok=True)
        # It waits for the server's next look at its clock, half a second; a stop need not.
        threading.Thread(target=self._end, name="metrics-end", daemon=True).start()

    def _end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def start(
    queue: str, settings: MetricsSettings, home: Path, *, supervised: bool
) -> Exporter | None:
    """Count and serve, from now on; None: it is off, or no port is free (said in the log)."""
    base = settings.metrics_port
    if base is None:
        base = UNDER_UP if supervised else 0
    if not base:
        return None

    from prometheus_client import CollectorRegistry, ProcessCollector

    from workers.metrics.process import ProcessMeter

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    meter = ProcessMeter(registry)
    place = list(map(str, names.POOLS)).index(names.place_of(queue)[0])
    opened = listen(registry, queue, settings, home, base=base, place=place)
    if opened is None:
        return None
    metrics.use(meter)
    return Exporter(meter, opened[0], settings.metrics_address, opened[1])


def listen(
    registry: CollectorRegistry,
    queue: str,
    settings: MetricsSettings,
    home: Path,
    *,
    base: int,
    place: int,
) -> tuple[WSGIServer, Path | None] | None:
    """Serve a registry on a port above `base`, and tell Prometheus where; None: none is free."""
    ports = [base + place, *(base + spare for spare in SPARE)]
    try:
        server = serve(registry, settings.metrics_address, ports)
    except Misconfigured as fault:
        # Nobody sees it then; that is no reason to send nothing.
        log.warning("metrics_not_served", why=str(fault))
        return None
    target = f"{settings.metrics_address}:{server.server_port}"
    log.info("metrics_served", url=f"http://{target}/metrics")
    return server, _tell(home, queue, target)


def serve(registry: CollectorRegistry, address: str, ports: list[int]) -> WSGIServer:
    """Serve a registry on the first of these ports that is free, on a thread.

    Raises:
        Misconfigured: none is, or there is no such address here.
    """
    from prometheus_client import start_http_server

    why = ""
    for port in ports:
        try:
            return start_http_server(port, address, registry)[0]
        except OSError as error:
            why = error.strerror or type(error).__name__
        except OverflowError:  # a port beyond 65535
            break
    raise Misconfigured(
        f"metrics cannot be served on {address}, ports {ports[0]} to {ports[-1]} ({why}); set"
        " DRIPFLEET_METRICS_PORT (0: off) and DRIPFLEET_METRICS_ADDRESS"
    )


def _tell(home: Path, queue: str, target: str) -> Path | None:
    """Write where this process serves, for Prometheus to find."""
    path = home / "run" / "metrics" / f"{queue}-{target.rpartition(':')[2]}.json"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Whole or not at all: Prometheus reads when it likes.
        new = path.with_suffix(".new")
        new.write_text(json.dumps([{"targets": [target], "labels": {"pool": queue}}]) + "\n")
        new.replace(path)
        return path
    return None
