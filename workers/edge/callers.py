"""Who calls `/v1`: an API key with a scope, and no oftener than its rate.

Requests are counted in Redis, for all processes together. While Redis does not answer nobody is
counted: the rate guards against a caller that runs wild, and what it writes is safe without it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import parse
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import ConnectionPool
from starlette.concurrency import run_in_threadpool

from models.session import Database
from tasks.audience import api_key
from tasks.audience.api_key import ApiKey
from workers.edge.problem import Problem
from workers.metrics.edge import EdgeMeter

log = structlog.get_logger()

BEARER: Final = HTTPBearer(auto_error=False, description="A key of `dripfleet key create`: `df_…`.")
PREFIX: Final = "dripfleet:edge"
SAY_EVERY: Final = 60.0
FAULTS: Final[tuple[type[Exception], ...]] = (OSError, TimeoutError)


class Callers:
    """Tells who calls, of one process.

    Args:
        database: where keys are.
        rate: such as `600/minute`, of one key.
        redis_url: where requests are counted; None, or a sentinel's: in this process alone.
        meter: counts those that are refused.
    """

    def __init__(
        self, database: Database, rate: str, redis_url: str | None, meter: EdgeMeter | None = None
    ) -> None:
        self._database = database
        self._meter = meter or EdgeMeter()
        self._rate = parse(rate)
        self._pool = _pool(redis_url)
        self._limiter = SlidingWindowCounterRateLimiter(_storage(redis_url, self._pool))
        self._said = -SAY_EVERY

    async def known(self, given: str | None, scope: str) -> ApiKey:
        """Whose key this is.

        Raises:
            Problem: 401, 403 or 429, with the next move.
        """
        found = None if given is None else await run_in_threadpool(self._find, given)
        if found is None:
            self._meter.refused("unknown")
            raise Problem(
                401,
                "expected `Authorization: Bearer df_…` with a key that is good; `dripfleet key list`"
                " tells which are",
                {"WWW-Authenticate": "Bearer"},
            )
        if scope not in found.scopes:
            self._meter.refused("scope")
            raise Problem(
                403,
                f"the key {found.id} has no scope {scope}; make one with"
                f" `dripfleet key create NAME --scope {scope}`",
            )
        await self._count(found)
        return found

    async def close(self) -> None:
        """Close what was opened to Redis."""
        if self._pool is not None:
            await self._pool.aclose()

    def _find(self, given: str) -> ApiKey | None:
        with self._database.transaction() as connection:
            return api_key.find(connection, given)

    async def _count(self, caller: ApiKey) -> None:
        try:
            if await self._limiter.hit(self._rate, PREFIX, caller.id):
                return
            window = await self._limiter.get_window_stats(self._rate, PREFIX, caller.id)
        except Exception as fault:
            if not isinstance(fault, FAULTS) and type(fault).__module__.split(".")[0] != "redis":
                raise
            if time.monotonic() - self._said >= SAY_EVERY:
                self._said = time.monotonic()
                log.warning("rate_not_counted", kind=type(fault).__name__, next="start Redis")
            return
        self._meter.refused("rate")
        wait = max(1, round(window.reset_time - time.time()))
        raise Problem(
            429,
            f"more than {self._rate} with this key; wait {wait} s, or send more in one request",
            {"Retry-After": str(wait)},
        )


def _pool(redis_url: str | None) -> ConnectionPool | None:
    if redis_url is None or not redis_url.startswith(("redis://", "rediss://")):
        return None
    return ConnectionPool.from_url(redis_url, socket_timeout=2.0, socket_connect_timeout=2.0)


def _storage(redis_url: str | None, pool: ConnectionPool | None) -> Storage:
    if pool is None:
        return MemoryStorage()
    options: dict[str, Any] = {"connection_pool": pool}
    return RedisStorage(f"async+{redis_url}", implementation="redispy", **options)


def caller(scope: str) -> Callable[..., Awaitable[ApiKey]]:
    """The dependency of a route that writes what `scope` names."""

    async def known(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    ) -> ApiKey:
        callers: Callers = request.app.state.callers
        return await callers.known(credentials.credentials if credentials else None, scope)

    return known
