"""The process of the edge: uvicorn on one port, until SIGTERM, and every request in hand answered."""

from __future__ import annotations

import gc
import os
import signal
import socket
from types import FrameType

import structlog

from models.session import Database, DatabaseSettings
from tasks.audience.settings import AudienceSettings
from tasks.errors import Misconfigured
from tasks.moves.settings import DeliverySettings, IdentitySettings
from workers import logs
from workers.edge.provider_settings import ProviderSettings
from workers.edge.settings import EdgeSettings
from workers.metrics import edge as metrics
from workers.metrics.export import MetricsSettings
from workers.parent import PARENT_FD, watch_parent
from workers.settings import FleetSettings, RedisSettings, clear_blank, panel

log = structlog.get_logger()

URL_FILE = "edge.url"


def run() -> int:
    """Serve the edge until SIGTERM.

    Raises:
        Misconfigured: a setting is wrong, the extra is missing, or the port is taken.
    """
    clear_blank()
    read = panel(
        DatabaseSettings, RedisSettings, FleetSettings, AudienceSettings, IdentitySettings,
        DeliverySettings, EdgeSettings, ProviderSettings, MetricsSettings,
    )  # fmt: skip
    fleet, settings = read[FleetSettings], read[EdgeSettings]
    logs.configure(fleet.log_level, process="edge")
    supervised = PARENT_FD in os.environ
    watch_parent(settings.edge_drain + 10)
    settings.keys  # noqa: B018  # what is wrong with them is said before a port is opened
    try:
        import uvicorn

        from workers.edge.app import build
    except ImportError as fault:
        raise Misconfigured(
            f"the edge needs the extra `edge` ({fault.name} is not installed):"
            " pip install 'dripfleet[edge]'"
        ) from None
    listening = _listen(settings)
    host, port = listening.getsockname()[:2]
    database = Database(
        read[DatabaseSettings].database_url.get_secret_value(), name="dripfleet-edge", size=8
    )
    told = fleet.home / "run" / URL_FILE
    told.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    told.write_text(f"http://{host}:{port}\n", encoding="utf-8")
    meter = metrics.EdgeMeter()
    metrics.serve(meter, read[MetricsSettings], fleet.home, supervised=supervised)
    log.info("edge_serves", port=port, url=settings.edge_url or None)
    server = uvicorn.Server(
        uvicorn.Config(
            build(
                settings,
                database,
                identities=read[AudienceSettings].key,
                identity=read[IdentitySettings],
                redis_url=read[RedisSettings].redis_url.get_secret_value(),
                meter=meter,
            ),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, int(settings.edge_drain)),
            timeout_keep_alive=20,
            h11_max_incomplete_event_size=32_768,
            loop="uvloop",
            http="httptools",
            ws="none",
        )
    )

    def end(signum: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn gives a signal that it has acted on to whoever handled it before, which would end us by it.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
    # What stays for good is looked at no more: a full collection of it would hold up every answer.
    gc.collect()
    gc.freeze()
    try:
        server.run([listening])
    finally:
        told.unlink(missing_ok=True)
        listening.close()
        database.close()
    log.info("edge_ended")
    return 0


def _listen(settings: EdgeSettings) -> socket.socket:
    """The port, opened before anything else is: who takes it away is told at once.

    Raises:
        Misconfigured: it is taken, or there is no such address here.
    """
    address, port = settings.edge_address, settings.edge_port
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address, port))
        listening.listen(2048)
    except (OSError, OverflowError) as fault:
        listening.close()
        raise Misconfigured(
            f"the edge cannot listen on {address} port {port}"
            f" ({getattr(fault, 'strerror', None) or fault}); set DRIPFLEET_EDGE_ADDRESS and"
            " DRIPFLEET_EDGE_PORT"
        ) from None
    return listening
