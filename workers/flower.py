"""Flower over the fleet: who works, on what, with which counts.

On loopback and behind a password, since whoever has it can run any task. It keeps nothing: rows in
Postgres are the memory of the fleet.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import structlog

from tasks.errors import Misconfigured
from workers import logs
from workers.lifecycle import keep_logging
from workers.parent import watch_parent
from workers.settings import FleetSettings, RedisSettings, clear_blank, panel

log = structlog.get_logger()

USER = "dripfleet"
SECRET = "DRIPFLEET_SECRET_FLOWER"
ADDRESS = "127.0.0.1"
PORTS = 10
MAX_TASKS = 2000
URL_FILE = "flower.url"


def password(home: Path) -> str:
    """Flower's password: from the environment, else from the home's file.

    Raises:
        Misconfigured: neither is there; a password that nobody chose is not made here.
    """
    if given := os.environ.get(SECRET, "").strip():
        return given
    kept = home / "secrets" / "flower"
    try:
        return kept.read_text(encoding="utf-8").strip()
    except OSError:
        raise Misconfigured(
            f"Flower has no password: set {SECRET}, or write it into {kept} (0600)."
        ) from None


def run() -> int:
    """Serve Flower until SIGTERM."""
    clear_blank()
    read = panel(RedisSettings, FleetSettings)
    fleet = read[FleetSettings]
    secret = password(fleet.home)
    logs.configure(fleet.log_level, process="flower")
    watch_parent(10)

    from flower.app import Flower  # type: ignore[import-untyped]
    from flower.urls import settings  # type: ignore[import-untyped]
    from tornado.options import options

    from workers.celery import build

    keep_logging()
    options.address = ADDRESS
    options.basic_auth = [f"{USER}:{secret}"]
    options.max_tasks = MAX_TASKS
    options.persistent = False
    options.enable_events = False  # the workers' own setting has them on
    options.inspect_timeout = 3000.0
    options.purge_offline_workers = 60
    options.tasks_columns = "name,kwargs,result,state,runtime,worker,received"
    serving = Flower(capp=build(None, read[RedisSettings]), options=options, **settings)
    port = _bind(serving, options, fleet.flower_port)
    url_file = fleet.home / "run" / URL_FILE
    url_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    url_file.write_text(f"http://{ADDRESS}:{port}\n", encoding="utf-8")
    log.info("flower_serves", port=port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serving.start()
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        url_file.unlink(missing_ok=True)
        serving.stop()
    return 0


def _bind(serving: Any, options: Any, first: int) -> int:
    """Listen on the first free port of ten."""
    for port in range(first, min(first + PORTS, 65536)):
        options.port = port
        try:
            return int(serving.start_http_server())
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise Misconfigured(
        f"The ports {first} to {first + PORTS - 1} are taken: set DRIPFLEET_FLOWER_PORT to another."
    )
