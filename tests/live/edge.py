"""A reader of mails that the sink keeps, and the edge of a test, asked without a socket."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.message import EmailMessage

from fastapi.testclient import TestClient
from pydantic import SecretStr

from models.session import Database
from tests.live.fleet import SECRET, Fleet
from workers.edge.app import build
from workers.edge.settings import EdgeSettings
from workers.embedded.ledger import read_mail

IDENTITIES = b"an identity of the tests"
BASE = "https://mail.example.com/e"


def settings(**more: object) -> EdgeSettings:
    """Those of an edge whose tokens are the fleet's."""
    return EdgeSettings(secret_token=SecretStr(SECRET.get_secret_value()), edge_url=BASE, **more)  # type: ignore[arg-type]


def client(database: Database, **more: object) -> TestClient:
    """The edge; use it as a context."""
    app = build(settings(**more), database, identities=IDENTITIES)
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
