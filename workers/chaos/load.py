"""The mail of a run: people who keep coming in, some of whom leave, and some whom a template chokes on."""

from __future__ import annotations

import io
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.session import Database
from schedules.loader import reads
from tasks.audience.address import address_hmac
from tasks.audience.importer import import_subscribers
from tasks.audience.rejects import Rejects
from tasks.errors import Permanent
from tasks.moves.stop import stop_subscriber
from tasks.send import limits
from tasks.send.render import Bundle
from tasks.sequence.enroll import enroll_identities
from tasks.sequence.publish import publish

TOPIC: Final = "chaos"
POISON: Final = "poison"  # what the local part of an address begins with that is bad for a template
BODY: Final = (
    "{% if subscriber.attributes.bomb is defined %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}"
    "{% endif %}Good day {{ subscriber.first_name }}, this is one of many.\n"
)
MAIL: Final = Bundle(
    "chaos/mail", {"subject.txt": "For {{ subscriber.first_name }}", "body.txt": BODY}
)

# Two mails on a stream whose doubts are assumed sent, one on a stream that sends them again.
NEWS: Final = """
key: chaos-news
title: News under faults
class: marketing
topic: chaos
entry: {manual: true}
steps:
  - {id: first, send: {template: chaos/mail}}
  - {id: pause, wait: {delay: 1s}}
  - {id: second, send: {template: chaos/mail}}
"""
RECEIPT: Final = """
key: chaos-receipt
title: A receipt under faults
class: transactional
entry: {manual: true}
steps:
  - {id: only, send: {template: chaos/mail}}
"""
# An event lets in, and no hand: who acts upon it may die with it.
WELCOME: Final = """
key: chaos-welcome
title: A welcome under faults
class: transactional
entry: {trigger: {event: chaos.arrived}}
steps:
  - {id: only, send: {template: chaos/mail}}
"""
KEYS: Final = ("chaos-news", "chaos-receipt")
BATCH: Final = 12
ARRIVE: Final = 2  # of a batch: each is told of twice, as by a producer that tries again
EVERY: Final = 0.5  # seconds
AT_ONCE: Final = 24  # mails under way to a domain, over all workers: fewer than their connections

OPT_OUT = text("""
UPDATE consent SET opted_in = false, at = clock_timestamp() WHERE subscriber_id = :id AND opted_in
""")
SUPPRESS = text("""
INSERT INTO suppression (address_hmac, scope, reason)
SELECT address_hmac, 'all', 'complaint' FROM subscriber WHERE id = :id ON CONFLICT DO NOTHING
""")
MOVE_AWAY = text("""
UPDATE subscriber SET address = :address, address_hmac = :identity WHERE id = :id
""")
ADDRESS = text("SELECT address FROM subscriber WHERE id = :id")
ARRIVED = text("""
INSERT INTO event (subscriber_id, name, occurred_at, properties)
SELECT s.id, 'chaos.arrived', clock_timestamp(), '{}' FROM subscriber s, generate_series(1, 2)
WHERE s.address_hmac = ANY(CAST(:identities AS bytea[]))
""")
# Who was told of and is neither in, nor refused with a reason.
KEPT_OUT = text("""
SELECT DISTINCT x.subscriber_id FROM event x
WHERE x.name = 'chaos.arrived'
  AND NOT EXISTS (SELECT FROM enrollment e
      WHERE e.subscriber_id = x.subscriber_id AND e.sequence_key = 'chaos-welcome')
  AND NOT EXISTS (SELECT FROM entry_refusal f
      WHERE f.subscriber_id = x.subscriber_id AND f.sequence_key = 'chaos-welcome')
ORDER BY 1
""")
RECENT = text("""
SELECT e.subscriber_id FROM enrollment e WHERE e.active ORDER BY e.id DESC LIMIT 200
""")


@dataclass
class Load:
    """People who come in, `BATCH` a half second by hand into two sequences, a few by an event.

    Args:
        database: reached directly, not through the proxy.
        secret: of the addresses' identities.
        people: how many are made at most.
        rng: who leaves, and how.
    """

    database: Database
    secret: bytes
    people: int
    rng: random.Random
    enrolled: int = 0
    left: Counter[str] = field(default_factory=Counter)
    _next: int = 0
    _at: float = 0.0

    def prepare(self) -> None:
        """Import the people, publish the sequences, and limit how much is under way to a domain.

        So what the pace of a domain rests on, Redis among it, is under every fault too.
        """
        with self.database.transaction() as connection:
            limits.set_limit(connection, "default", "*", connections=AT_ONCE)
        import_subscribers(
            self.database, self._csv(), name="people", secret=self.secret, rejects=Rejects(None)
        )
        for source in (NEWS, RECEIPT, WELCOME):
            loaded = reads(source, "chaos.yaml")
            with self.database.transaction() as connection:
                publish(connection, loaded, source, {MAIL.name: MAIL})

    def tick(self) -> None:
        """Enroll the next batch where its time has come, and let one or two people leave."""
        if time.monotonic() < self._at or self._next >= self.people:
            return
        self._at = time.monotonic() + EVERY
        batch = range(self._next, min(self._next + BATCH, self.people))
        identities = [address_hmac(self.secret, _address(n)) for n in batch]
        for key in KEYS:
            if self._try(partial(enroll_identities, self.database, key, identities)):
                self.enrolled += len(batch)
        if self._try(partial(self._arrive, identities[:ARRIVE])):
            self.enrolled += len(identities[:ARRIVE])
        self._next += len(batch)
        self._leave()

    def _arrive(self, identities: list[bytes]) -> None:
        with self.database.transaction() as connection:
            connection.execute(ARRIVED, {"identities": identities})

    def kept_out(self) -> list[int]:
        """Subscribers whom an event was to let in, and whom nobody has let in, or refused."""
        with self.database.transaction() as connection:
            return list(connection.execute(KEPT_OUT).scalars())

    def _leave(self) -> None:
        how = self.rng.choice(("stopped", "suppressed", "opted_out", "moved_away", "stays"))
        if how == "stays":
            return

        def leave() -> None:
            with self.database.transaction() as connection:
                recent = connection.execute(RECENT).scalars().all()
                if recent:
                    leaves = {**_LEAVE, "moved_away": self._move_away}
                    leaves[how](connection, self.rng.choice(recent))
                    self.left[how] += 1

        self._try(leave)

    def _move_away(self, connection: Connection, subscriber: int) -> None:
        address = f"new.{connection.execute(ADDRESS, {'id': subscriber}).scalar_one()}"
        identity = address_hmac(self.secret, address)
        values = {"id": subscriber, "address": address, "identity": identity}
        connection.execute(MOVE_AWAY, values)

    def _try(self, action: Callable[[], object]) -> bool:
        """Do it, or leave it where Postgres is away or refuses, or the sequence is paused."""
        try:
            action()
        except (DBAPIError, Permanent):
            return False
        return True

    def _csv(self) -> BinaryIO:
        lines = [f"email,first_name,zone,topic:{TOPIC},bomb\n"]
        for number in range(self.people):
            bomb = "yes" if _address(number).startswith(POISON) else ""
            lines.append(f"{_address(number)},Ann,Europe/Berlin,yes,{bomb}\n")
        return io.BytesIO("".join(lines).encode())


def _stop(connection: Connection, subscriber: int) -> None:
    stop_subscriber(connection, subscriber, "unsubscribe")


def _opt_out(connection: Connection, subscriber: int) -> None:
    connection.execute(OPT_OUT, {"id": subscriber})


def _suppress(connection: Connection, subscriber: int) -> None:
    connection.execute(SUPPRESS, {"id": subscriber})


_LEAVE = {
    "stopped": _stop,
    "suppressed": _suppress,
    "opted_out": _opt_out,
}


def _address(number: int) -> str:
    """Every three hundredth is poison, every two hundredth is refused by the sink's rule."""
    if number % 300 == 7:
        return f"{POISON}{number}@d0.example.com"
    if number % 200 == 11:
        return f"bounce{number}@d1.example.com"
    return f"person{number}@d{number % 10}.example.com"
