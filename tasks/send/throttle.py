"""Where a relay's pace comes from: rates and rests from Redis, a warm-up's day from Postgres.

Redis may be emptied, and then every rate begins low again. What a day of a warm-up has let go must
outlive that, so it is counted in Postgres, before the mails go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from models.session import Database
from tasks.moves.put_off import FULL, RESTING, THROTTLED
from tasks.send import limits
from tasks.send.buckets import Ask, Buckets, Grant
from tasks.send.limits import Allowed, Limit
from tasks.send.mx import Groups, Resolve

if TYPE_CHECKING:
    import redis


class Tokens:
    """`pace.Source` of one relay.

    Args:
        relay: its name.
        database: where days are counted.
        buckets: in Redis; None: this process was given no Redis, and grants nothing.
        groups: looks domains up.
    """

    def __init__(
        self, relay: str, database: Database, buckets: Buckets | None, groups: Groups
    ) -> None:
        self._relay = relay
        self._database = database
        self._buckets = buckets
        self._groups = groups

    def ask(self, asks: list[tuple[Limit, Ask]]) -> list[tuple[Grant, str]]:
        """See `pace.Source`."""
        if self._buckets is None:
            raise ConnectionError("this process was given no Redis")
        grants = self._buckets.ask([ask for _, ask in asks])
        return [
            self._of_day(limit, ask, grant)
            for (limit, ask), grant in zip(asks, grants, strict=True)
        ]

    def leave(self, asks: list[tuple[Limit, Ask]]) -> None:
        """See `pace.Source`."""
        self.ask(asks)
        if self._buckets is not None:
            self._buckets.leave([ask.group for _, ask in asks])

    def find(self, domain: str) -> str:
        """See `pace.Source`."""
        return self._groups.find(domain)

    def _of_day(self, limit: Limit, ask: Ask, grant: Grant) -> tuple[Grant, str]:
        why = RESTING if grant.resting else THROTTLED
        wanted = grant.granted - ask.unused
        if limit.warm_up is None or not wanted:
            return grant, why
        with self._database.transaction() as connection:
            share = limits.take_of_day(connection, self._relay, limit, wanted)
        if wanted < 0 or share.granted == wanted:
            return grant, why
        # What comes back was counted when it was taken.
        granted = share.granted + ask.unused
        return dataclasses.replace(grant, granted=granted, wait=share.wait), FULL


class Throttles:
    """What all relays of one process share: the clients, the domains' groups, the limits read last."""

    def __init__(
        self,
        database: Database,
        owner: str,
        client: redis.Redis | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self.groups = Groups(resolve, client)
        self.allowed: Mapping[str, Allowed] = {}
        self._database = database
        self._owner = owner
        self._client = client

    def load(self) -> Mapping[str, Allowed]:
        """Read the limits anew.

        Raises:
            SQLAlchemyError: they cannot be read, and those read before hold on.
        """
        with self._database.transaction() as connection:
            self.allowed = limits.load(connection)
        return self.allowed

    def of(self, relay: str) -> Allowed:
        """What holds for a relay, by the last look."""
        return self.allowed.get(relay, limits.NOTHING)

    def tokens(self, relay: str) -> Tokens:
        """The source of one relay."""
        buckets = None if self._client is None else Buckets(self._client, relay, self._owner)
        return Tokens(relay, self._database, buckets, self.groups)
