"""A reader of mails that the sink keeps, and the edge of a test, asked without a socket."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from fastapi.testclient import TestClient
from pydantic import SecretStr

from models.session import Database
from tasks.moves.settings import IdentitySettings
from tests.live.fleet import SECRET, Fleet
from workers.edge.app import build
from workers.edge.settings import EdgeSettings
from workers.embedded.ledger import read_mail
from workers.metrics.edge import EdgeMeter

IDENTITIES = b"an identity of the tests"
BASE = "https://mail.example.com/e"


def settings(**more: object) -> EdgeSettings:
    """Those of an edge whose tokens are the fleet's."""
    return EdgeSettings(secret_token=SecretStr(SECRET.get_secret_value()), edge_url=BASE, **more)  # type: ignore[arg-type]


def client(
    database: Database,
    redis_url: str | None = None,
    meter: EdgeMeter | None = None,
    **more: object,
) -> TestClient:
    """The edge; use it as a context."""
    identity = IdentitySettings(secret_message_id=SECRET)
    app = build(
        settings(**more),
        database,
        identities=IDENTITIES,
        identity=identity,
        redis_url=redis_url,
        meter=meter,
    )
    return TestClient(app, base_url="https://mail.example.com", follow_redirects=False)


def mails(fleet: Fleet) -> list[EmailMessage]:
    """What the sink accepted, in order."""
    folder = fleet.sink.ledger.parent
    found = [
        message_from_bytes(read_mail(folder, each), policy=policy.default)
        for each in fleet.sink.lines()
    ]
    assert all(isinstance(each, EmailMessage) for each in found)
    return found


def path_to_leave(mail: EmailMessage) -> str:
    """As a mail program finds it: the https address of the pair of headers."""
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    found = re.search(rf"<{re.escape(BASE)}(/u/[^>]+)>", mail["List-Unsubscribe"])
    assert found is not None
    return found[1]


@contextmanager
def served(database: Database, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`dripfleet api` as a process of its own, and the port of this machine that it serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    own = {
        "DATABASE_URL": database.url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "HOME": str(folder),
        "EDGE_PORT": str(port),
        "SECRET_ADDRESS": IDENTITIES.decode(),
        "SECRET_MESSAGE_ID": SECRET.get_secret_value(),
        "SECRET_TOKEN": SECRET.get_secret_value(),
    }
    with (folder / "edge.log").open("wb") as log:
        started = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers", "api"],
            env={**plain, **{f"DRIPFLEET_{name}": value for name, value in own.items()}},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + 30
            while not (folder / "run" / "edge.url").exists():
                assert started.poll() is None, (folder / "edge.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield started, port
        finally:
            started.kill()
            started.wait()
