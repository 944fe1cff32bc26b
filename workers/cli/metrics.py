"""`dripfleet metrics`: the fleet as Prometheus sees it, served or printed."""

from __future__ import annotations

import signal
import sys
import threading

import typer

from workers.cli.context import connected
from workers.cli.render import say


def register(app: typer.Typer) -> None:
    """Add `dripfleet metrics`."""
    app.command(
        epilog="Examples:\n\ndripfleet metrics\n\ndripfleet metrics --once\n\n"
        "dripfleet metrics --address 0.0.0.0 --port 9549",
    )(metrics)


def metrics(
    once: bool = typer.Option(False, "--once", help="Print them and end."),
    port: int | None = typer.Option(
        None, min=1, max=65535, help="Else DRIPFLEET_METRICS_FLEET_PORT, 9549."
    ),
    address: str | None = typer.Option(
        None, help="Where it listens. Else DRIPFLEET_METRICS_ADDRESS, 127.0.0.1."
    ),
) -> None:
    """Serve what Postgres and Redis say of the whole fleet, for Prometheus; until Ctrl-C.

    One for the fleet is enough, and two do no harm. However often it is asked, it looks every 5 s
    at most. Each worker process serves its own figures beside it (DRIPFLEET_METRICS_PORT).
    """
    from workers.metrics.export import MetricsSettings, serve
    from workers.settings import panel

    read = panel(MetricsSettings)[MetricsSettings]
    with connected(redis=True) as services:
        from prometheus_client import CollectorRegistry, generate_latest

        from workers.metrics.fleet import FleetCollector

        registry = CollectorRegistry()
        registry.register(FleetCollector(services.database, services.redis_url))
        if once:
            sys.stdout.write(generate_latest(registry).decode())
            sys.stdout.flush()
            return
        address, port = address or read.metrics_address, port or read.metrics_fleet_port
        ended = threading.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
        try:
            server = serve(registry, address, [port])
            say(f"metrics of the fleet: http://{address}:{port}/metrics")
            ended.wait()
            server.shutdown()
        except KeyboardInterrupt:
            return
        finally:
            signal.signal(signal.SIGTERM, before)
