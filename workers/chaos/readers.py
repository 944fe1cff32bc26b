"""Readers and a shop at the edge of a run: clicks, events, and people who leave, while it is killed.

What was answered must be so, whatever died then: a click that led on is a hit or an event, an event
that was taken is there once, and who was told that they are off gets no marketing mail that was armed
after it. Each is asked of Postgres when all has settled, past the fleet.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
from dataclasses import dataclass, field
from typing import Final

import httpx
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.session import Database
from tasks.audience import api_key
from tasks.hits import NOT_COUNTED
from tasks.send.tokens import Keys, sign

EVERY: Final = 0.05  # seconds between two requests
PATIENCE: Final = 10.0  # seconds for an answer
LEAVES: Final = 0.08  # of what a reader does
TELLS: Final = 0.3
NAME: Final = "chaos.visited"
URL: Final = "https://shop.example/chaos"
BROWSER: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

LINK = text("""
INSERT INTO link (sha256, url) VALUES (sha256(convert_to(CAST(:url AS text), 'UTF8')), :url)
ON CONFLICT (sha256) DO UPDATE SET url = excluded.url RETURNING id
""")
# Mails of the sequence of two, of which the second may wait: whose readers may leave in good time. None
# that is only assumed to be sent: a click is evidence, and nobody follows a link of a mail that never came.
FRESH = text("""
SELECT m.id, m.subscriber_id FROM message m
WHERE m.id > :after AND m.sequence_key = 'chaos-news' AND m.state = 'sent'
ORDER BY m.id LIMIT 200
""")
NOW = text("SELECT clock_timestamp()")
UNCOUNTED = text("""
SELECT unnest(CAST(:ids AS bigint[]))
EXCEPT SELECT message_id FROM hit
EXCEPT SELECT CAST(properties ->> 'message' AS bigint) FROM event WHERE name = 'email.clicked'
""")
# Taken and not there, or there twice.
MISCOUNTED = text("""
SELECT n FROM (
    SELECT x.n, count(e.id) AS found FROM unnest(CAST(:told AS bigint[])) AS x (n)
    LEFT JOIN event e ON e.name = :name AND CAST(e.properties ->> 'n' AS bigint) = x.n
    GROUP BY x.n
    UNION ALL
    SELECT CAST(e.properties ->> 'n' AS bigint), count(*) + 1 FROM event e WHERE e.name = :name
    GROUP BY 1 HAVING count(*) > 1) y
WHERE found <> 1
""")
ARMED_AFTER = text("""
SELECT m.id FROM message m JOIN stream t ON t.key = m.stream
JOIN unnest(CAST(:who AS bigint[]), CAST(:at AS timestamptz[])) AS x (subscriber_id, at)
    ON x.subscriber_id = m.subscriber_id
WHERE t.class = 'marketing' AND (m.armed_at > x.at OR EXISTS (
    SELECT FROM attempt a WHERE a.message_id = m.id AND a.armed_at > x.at))
""")


@dataclass
class Readers:
    """What they did, and were answered.

    Args:
        database: reached directly, not through the proxy.
        url: of the edge.
        secret: of the tokens.
        rng: who does what.
    """

    database: Database
    url: str
    secret: str
    rng: random.Random
    clicked: list[int] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    left: dict[int, dt.datetime] = field(default_factory=dict)
    unanswered: int = 0
    _mails: list[tuple[int, int]] = field(default_factory=list)
    _after: int = 0
    _again: list[int] = field(default_factory=list)
    _n: int = 0

    def __post_init__(self) -> None:
        self._keys = Keys("k1", {"k1": self.secret.encode()})
        with self.database.transaction() as connection:
            self._link = int(connection.execute(LINK, {"url": URL}).scalar_one())
            self._key = api_key.create(connection, "chaos", ["events"])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-readers", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, when what is asked for is answered."""
        self._over.set()
        self._thread.join(PATIENCE + 5)

    def faults(self) -> list[str]:
        """What was answered and is not so; each is a sentence."""
        with self.database.transaction() as connection:
            clicks = connection.execute(UNCOUNTED, {"ids": self.clicked}).scalars().all()
            events = connection.execute(MISCOUNTED, {"told": self.told, "name": NAME})
            gone = {"who": [*self.left], "at": [*self.left.values()]}
            mails = connection.execute(ARMED_AFTER, gone).scalars().all()
            odd = events.scalars().all()
        found = [
            (clicks, "clicks led on and are not counted, such as of message"),
            (odd, "events were taken and are not there once, such as number"),
            (mails, "mails were armed after their reader was told to be off, such as message"),
        ]
        return [f"{len(those)} {what} {those[0]}" for those, what in found if those]

    def _run(self) -> None:
        headers = {"user-agent": BROWSER}
        with httpx.Client(base_url=self.url, timeout=PATIENCE, headers=headers) as client:
            while not self._over.wait(EVERY):
                try:
                    self._act(client)
                except (httpx.HTTPError, DBAPIError):
                    self.unanswered += 1

    def _act(self, client: httpx.Client) -> None:
        draw = self.rng.random()
        if draw < TELLS:
            self._tell(client)
            return
        if not self._mails:
            with self.database.transaction() as connection:
                fresh = connection.execute(FRESH, {"after": self._after})
                self._mails = [(row.id, row.subscriber_id) for row in fresh]
            if not self._mails:
                return
            self._after = max(message for message, _ in self._mails)
        message, who = self._mails.pop(self.rng.randrange(len(self._mails)))
        if draw < TELLS + LEAVES:
            self._leave(client, message, who)
        else:
            self._click(client, message)

    def _click(self, client: httpx.Client, message: int) -> None:
        answer = client.get(f"/c/{sign(self._keys, 'click', message, self._link)}")
        if answer.status_code == 302 and NOT_COUNTED not in answer.headers:
            self.clicked.append(message)

    def _leave(self, client: httpx.Client, message: int, who: int) -> None:
        token = sign(self._keys, "unsubscribe", message)
        answer = client.post(f"/u/{token}", data={"List-Unsubscribe": "One-Click"})
        if answer.status_code == 200:
            with self.database.transaction() as connection:
                self.left.setdefault(who, connection.execute(NOW).scalar_one())

    def _tell(self, client: httpx.Client) -> None:
        """As a producer does: what was not answered is told again under its id."""
        if self._again and self.rng.random() < 0.5:
            n = self._again.pop(0)
        else:
            self._n += 1
            n = self._n
        self._again.append(n)
        event = {
            "email": f"person{10 * self.rng.randrange(40)}@d0.example.com",
            "name": NAME,
            "source_id": str(n),
            "properties": {"n": n},
        }
        answer = client.post(
            "/v1/events",
            json={"source": "chaos", "events": [event]},
            headers={"authorization": f"Bearer {self._key}"},
        )
        if answer.status_code >= 500:
            return
        self._again.remove(n)
        if answer.status_code == 200 and not answer.json()["refused"]:
            self.told.append(n)
