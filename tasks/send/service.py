"""The send pool's one delivery loop: started with the worker, drained and joined at its end."""

from __future__ import annotations

import contextlib
import gc
import os
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import ProgrammingError

from models.session import Database
from tasks.errors import Misconfigured
from tasks.moves.pipeline import StatementFailed
from tasks.moves.settings import DeliverySettings
from tasks.send.journal import Journal, owner
from tasks.send.loop import DeliveryLoop
from tasks.send.mx import Resolve, ask_dns
from tasks.send.prepare import Preparer
from tasks.send.relay import Relay
from tasks.send.replay import replay_all
from tasks.send.seen import Seen, identity
from tasks.send.settings import SendSettings
from tasks.send.store import Store
from tasks.send.throttle import Throttles

if TYPE_CHECKING:
    import redis

log = structlog.get_logger()

_RELAY_PREFIX = "DRIPFLEET_SMTP_URL_"


class Service:
    """A running loop and the store that feeds it."""

    def __init__(
        self,
        database: Database,
        settings: SendSettings,
        client: redis.Redis | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        delivery = DeliverySettings()
        found = relays(settings)
        if settings.sender_address.endswith("@example.com") and not found["default"].is_loopback:
            raise Misconfigured(
                f"mail would leave through {found['default']} as {settings.sender_address}; "
                "set DRIPFLEET_SENDER_ADDRESS to an address of yours"
            )
        preparer = Preparer(database, settings)
        fleet = identity(database)
        # Before any journal is replayed: of an older database its silence would prove nothing.
        seen = Seen.of(settings.journal_dir, fleet)
        seen.require_known_to(database)
        replayed = replay_all(database, settings.journal_dir, delivery)
        with contextlib.suppress(ProgrammingError):  # an older schema: the loop says so better
            preparer.gate.let_go(database)
        journal = Journal.create(settings.journal_dir, owner(), fleet)
        throttles = Throttles(
            database,
            str(journal.owner),
            client,
            resolve or (ask_dns if settings.mx_lookups else None),
        )
        self.loop = DeliveryLoop(database, found, settings, delivery, journal, seen, throttles)
        self.store = Store(database, self.loop, preparer, delivery, settings.region or None)
        self.drain_wait = settings.drain_wait
        try:
            # Before the first mail goes: a limit that is not known yet is no limit.
            throttles.load()
            self.loop.start()
        except BaseException as error:
            journal.close(remove=True)
            lacks = ("42P01", "42703", "42883")
            if (isinstance(error, StatementFailed) and error.sqlstate in lacks) or (
                isinstance(error, ProgrammingError)
                and getattr(error.orig, "sqlstate", None) in lacks
            ):
                raise Misconfigured(
                    "the database lacks a table or column that this version needs; run"
                    " `dripfleet migrate`"
                ) from error
            raise
        log.info("send_service_started", owner=self.loop.owner, journals_replayed=replayed)


_service: Service | None = None


def relays(settings: SendSettings) -> dict[str, Relay]:
    """Relay name → relay: `default`, and one for each `DRIPFLEET_SMTP_URL_NAME` (name in lower case)."""
    found = {"default": Relay.parse(settings.smtp_url.get_secret_value())}
    for name, url in os.environ.items():
        if name.startswith(_RELAY_PREFIX):
            found[name.removeprefix(_RELAY_PREFIX).lower()] = Relay.parse(url)
    return found


def start(database: Database, client: redis.Redis | None = None) -> None:
    """Replay the journals of the dead, then start the loop of this process.

    Args:
        database: where the rows are.
        client: of the Redis that all send workers share their pace by.
    """
    global _service
    if _service is None:
        _service = Service(database, SendSettings(), client)
        # What is here now stays: the collector need not walk all of it again for every few mails.
        gc.collect()
        gc.freeze()


def current() -> Service:
    """The service of this process.

    Raises:
        Misconfigured: the send entry runs in a process that is no send worker.
    """
    if _service is None:
        raise Misconfigured(
            "the delivery loop is not running; start this worker with `dripfleet worker send`"
        )
    return _service


def drain() -> None:
    """Claim nothing more and give back what is not armed; returns at once."""
    if _service is not None:
        _service.loop.drain()


def join(timeout: float | None = None) -> bool:
    """Wait for the replies to dots already written; True: everything is settled."""
    global _service
    if _service is None:
        return True
    done = _service.loop.join(_service.drain_wait if timeout is None else timeout)
    _service = None
    return done
