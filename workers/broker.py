"""A plain client to the servers that hold the queues, whatever kind of URL names them.

Celery makes its own (`workers.celery`); this one is for what only looks: `status`, `doctor`, metrics.
Redis Cluster is nobody's here: kombu moves a message between keys of different slots.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tasks.errors import Misconfigured

if TYPE_CHECKING:
    import redis

MASTER = "DRIPFLEET_REDIS_SENTINEL_MASTER"
_PORT = 26379


def client(url: str, *, master: str | None = None, timeout: float = 2.0) -> redis.Redis:
    """A client that connects at its first command; the caller closes it.

    Args:
        url: as DRIPFLEET_REDIS_URL: redis://, rediss://, or sentinels divided by semicolons, whose
            user, password and database are the master's.
        master: the name that the sentinels know it by, else from DRIPFLEET_REDIS_SENTINEL_MASTER.
        timeout: seconds, to connect and for each answer.

    Raises:
        Misconfigured: sentinels without the name of their master.
    """
    import redis

    waits: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    if not url.startswith("sentinel://"):
        return redis.Redis.from_url(url, **waits)
    from redis.sentinel import Sentinel

    master = master or os.environ.get(MASTER)
    if not master:
        raise Misconfigured(f"a sentinel:// URL asks for {MASTER}, the name of the master; set it")
    parts = [urlsplit(each) for each in url.split(";")]
    first = parts[0]
    hosts = [(each.hostname or "127.0.0.1", each.port or _PORT) for each in parts]
    sentinels: Any = Sentinel(hosts, sentinel_kwargs=waits)  # type: ignore[no-untyped-call]
    found = sentinels.master_for(
        master,
        username=unquote(first.username) if first.username else None,
        password=unquote(first.password) if first.password else None,
        db=int(first.path.strip("/") or 0),
        **waits,
    )
    assert isinstance(found, redis.Redis)
    return found
