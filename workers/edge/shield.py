"""What stands before every route: headers, a bound for bodies, and a line in the log for each answer.

The log has method, route, status and milliseconds; never an address, a token or a name of a program.
Its lines are written a few times a second: at thousands of answers each write would be felt.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.edge.problem import Problem, answer
from workers.metrics.edge import EdgeMeter

SMALL_BODY = 16_384  # octets: a form of a page

Header = tuple[bytes, bytes]

# Pages hold no script, no picture and nothing from elsewhere; their style is in them.
ALL: Sequence[Header] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-robots-tag", b"noindex"),
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none';"
        b" frame-ancestors 'none'",
    ),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
OWN: Header = (b"cross-origin-resource-policy", b"same-origin")
# The pixel stands in the pages of web mailers.
ANYBODY: Header = (b"cross-origin-resource-policy", b"cross-origin")
HTTPS: Header = (b"strict-transport-security", b"max-age=31536000")

ROUTES = ("c", "o", "u", "confirm", "v1", "hooks", "healthz", "readyz", "openapi.json")


class AccessLog:
    """Lines that wait to be written together; `flush` writes them."""

    def __init__(self, out: TextIO | None = None, meter: EdgeMeter | None = None) -> None:
        self._out = out or sys.stderr
        self._meter = meter or EdgeMeter()
        self._lines: list[str] = []

    def line(self, method: str, path: str, status: int, seconds: float) -> None:
        """Note one answer."""
        first = path.split("/", 2)[1]
        route = first if first in ROUTES else "other"
        if route == "v1":
            rest = path.split("/", 3)[2:3]
            route = f"v1/{rest[0]}" if rest and rest[0] in _V1 else "v1"
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        method = method if method in _METHODS else "other"
        self._meter.answered(f"/{route}", status, seconds)
        # All of it comes from closed sets: nothing has to be escaped.
        self._lines.append(
            f'{{"process": "edge", "level": "info", "at": "{at}", "event": "answered",'
            f' "method": "{method}", "route": "/{route}", "status": {status},'
            f' "ms": {seconds * 1000:.1f}}}\n'
        )

    def flush(self) -> None:
        """Write what waits."""
        if self._lines:
            lines, self._lines = self._lines, []
            with contextlib.suppress(OSError, ValueError):
                self._out.write("".join(lines))
                self._out.flush()


_V1 = {"events", "subscribers", "enrollments", "messages"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Shield:
    """An ASGI app around another one.

    Args:
        app: what answers.
        log: takes a line for each answer.
        body: octets that a request to /v1 may bring; one to a page may bring 16 384.
        https: whether readers come through TLS.
    """

    def __init__(self, app: ASGIApp, log: AccessLog, *, body: int, https: bool) -> None:
        self._app = app
        self._log = log
        self._body = body
        more = [HTTPS] if https else []
        self._own = [*ALL, OWN, *more]
        self._anybody = [*ALL, ANYBODY, *more]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        path: str = scope["path"]
        headers = self._anybody if path.startswith("/o/") else self._own
        most = self._body if path.startswith(("/v1/", "/hooks/")) else SMALL_BODY
        status, seen = 500, 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise Problem(413, _too_large(most))
            return message

        try:
            if _announced(scope) > most:
                await answer(413, _too_large(most))(scope, receive, guarded)
            else:
                await self._app(scope, bounded, guarded)
        finally:
            self._log.line(scope["method"], path, status, time.perf_counter() - began)


def _too_large(most: int) -> str:
    return f"the request is larger than {most} octets; send it in parts"


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
