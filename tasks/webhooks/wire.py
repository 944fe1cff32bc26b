"""One request of a webhook: to an address that was looked at, and to no other; nothing is followed."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import Any, Final, Self

import httpcore
import httpx

from tasks.webhooks import engine
from tasks.webhooks.engine import Answer
from tasks.webhooks.target import Network, Refused, Target, permitted

MOST_READ: Final = 4096
"""Octets of an answer that are read; more of it is nobody's."""
TRIED: Final = 3
"""Addresses of a name that are tried, one after the other."""
AGENT: Final = "dripfleet-webhooks/1"


class _Looked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that `permitted` lets pass. TLS then names the host, as the header does."""

    def __init__(self, allowed: Sequence[Network], *, inside: bool) -> None:
        self._plain = httpcore.AnyIOBackend()
        self._allowed = allowed
        self._inside = inside

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("no address") from None
        named = [str(each[4][0]) for each in found]
        addresses = permitted(host, named, self._allowed, inside=self._inside)[:TRIED]
        for each in addresses[:-1]:
            try:
                return await self._plain.connect_tcp(
                    str(each), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._plain.connect_tcp(
            str(addresses[-1]), port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise Refused("no socket of this machine is called")

    async def sleep(self, seconds: float) -> None:
        await self._plain.sleep(seconds)


class Caller:
    """Makes requests, in one event loop; use it as a context.

    Args:
        allowed: networks of the operator's own that may be called, by http too.
        timeout: seconds of one request, from the look-up of the name to the end of the answer.
        trust: whose certificates are believed; by default the authorities of this machine.
    """

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        timeout: float = 10.0,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = timeout
        more: dict[str, Any] = {"max_connections": 64, "max_keepalive_connections": 32}
        more |= {"keepalive_expiry": 5.0, "retries": 0}
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=trust or _trust(),
                network_backend=_Looked(allowed, inside=scheme == "http"),
                **more,
            )
            for scheme in ("https", "http")
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self._pools.values():
            await each.aclose()

    async def call(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST to an endpoint; whatever goes wrong is an answer."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._call(target, headers, body)
        except Refused as fault:
            return Answer(None, str(fault))
        except (TimeoutError, httpcore.TimeoutException):
            return Answer(None, f"no answer within {self._timeout:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as fault:
            return Answer(None, _word(fault))

    async def _call(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        each = {"connect": self._timeout, "read": self._timeout, "write": self._timeout}
        own = {"user-agent": AGENT, "content-type": "application/json", **headers}
        pool = self._pools[target.scheme]
        url = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.path
        )
        async with pool.stream(
            "POST",
            url,
            headers=[(name.encode(), value.encode()) for name, value in own.items()],
            content=body,
            extensions={"timeout": {**each, "pool": self._timeout}},
        ) as response:
            read = 0
            async for part in response.aiter_stream():
                read += len(part)
                if read >= MOST_READ:
                    break
            said = next((v for name, v in response.headers if name.lower() == b"retry-after"), b"")
            wait = engine.retry_after(said.decode("latin-1"), dt.datetime.now(dt.UTC))
            return Answer(response.status, retry_after=wait)


def now() -> int:
    """Seconds since 1970, of this attempt: a listener refuses what is minutes old."""
    return int(time.time())


@cache
def _trust() -> ssl.SSLContext:
    # Reading the authorities takes longer than a request does.
    return httpx.create_ssl_context()


def _word(fault: BaseException) -> str:
    cause = fault
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {cause.verify_message}"
    return f"{type(fault).__name__}: {str(cause)[:200]}" if str(cause) else type(fault).__name__
