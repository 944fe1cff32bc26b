"""`/c/TOKEN` goes to the stored link, `/o/TOKEN` is a pixel; both are written down before the answer.

A click leads where a row of `link` says, and nowhere else: no address comes from the request. HEAD
counts nothing. Plain ASGI, since of all that the edge answers these are by far the most.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from models.session import Database
from tasks import hits as stored
from tasks.send.links import HONEYPOT
from tasks.send.tokens import Keys, read
from tasks.track.agents import agent_of
from workers.edge import problem
from workers.edge.hits import Hits

log = structlog.get_logger()

# 1 × 1, transparent: 43 octets.
PIXEL: Final = bytes.fromhex(
    "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b"
)
MOST_LINKS: Final = 20_000
LONGEST: Final = 100  # octets of a token, by far
PURPOSES: Final = (b"sec-purpose", b"purpose", b"x-purpose")

_TOKEN: Final = {
    "name": "token",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "maxLength": LONGEST},
}
_PROBLEM: Final[dict[str, Any]] = {"application/problem+json": {}}
PATHS: Final[dict[str, Any]] = {
    "/c/{token}": {
        "get": {
            "tags": ["tracking"],
            "summary": "Follow a link of a mail",
            "operationId": "click",
            "description": "Counted before it is answered; where Postgres is away, `x-not-counted` says so.",
            "parameters": [_TOKEN],
            "responses": {
                "302": {"description": "To the stored link."},
                "404": {"description": "This leads nowhere.", "content": _PROBLEM},
                "503": {"description": "The link cannot be looked up now.", "content": _PROBLEM},
            },
        }
    },
    "/o/{token}": {
        "get": {
            "tags": ["tracking"],
            "summary": "A pixel of a mail",
            "operationId": "open",
            "parameters": [_TOKEN],
            "responses": {
                "200": {"description": "The same for any token.", "content": {"image/gif": {}}}
            },
        }
    },
}
"""What `Tracking` answers, for the OpenAPI of the app behind it."""


class Tracking:
    """Answers `/c/` and `/o/`; whatever else comes goes on to the app behind it.

    Args:
        app: what answers the rest.
        database: where links are.
        keys: of the tokens.
        hits: takes what is counted; started and stopped by the caller.
    """

    def __init__(self, app: ASGIApp, database: Database, keys: Keys, hits: Hits) -> None:
        self._app = app
        self._database = database
        self._keys = keys
        self._hits = hits
        self._urls: OrderedDict[int, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path.startswith("/c/"):
            await self._click(path[3:], scope, receive, send)
        elif path.startswith("/o/"):
            await self._open(path[3:], scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _click(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await problem.answer(405, "a link is followed by GET")(scope, receive, send)
            return
        ids = read(self._keys, "click", token) if len(token) <= LONGEST else None
        url = None
        if ids is not None and len(ids) == 2 and ids[1] != HONEYPOT:
            url = self._urls.get(ids[1])
            if url is None:
                try:
                    url = await run_in_threadpool(self._look_up, ids[1])
                except SQLAlchemyError:
                    said = "where this link leads cannot be looked up now; try it again in a minute"
                    await problem.answer(503, said)(scope, receive, send)
                    return
        counted = True
        if ids is not None and len(ids) == 2 and scope["method"] == "GET":
            counted = await self._hits.add(ids[0], ids[1], _agent(scope))
        if url is None:
            # The link that no human sees leads to the same nothing as a forged one.
            said = "this link leads nowhere; it may have been cut off: copy it from the mail in one piece"
            await problem.answer(404, said)(scope, receive, send)
            return
        headers = [(b"location", url.encode("ascii")), (b"content-length", b"0")]
        if not counted:
            headers.append((stored.NOT_COUNTED.encode(), b"1"))
        await _answer(send, 302, headers, b"")

    async def _open(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await problem.answer(405, "a picture is asked for by GET")(scope, receive, send)
            return
        ids = read(self._keys, "open", token) if len(token) <= LONGEST else None
        if ids is not None and len(ids) == 1 and scope["method"] == "GET":
            await self._hits.add(ids[0], None, _agent(scope))
        headers = [(b"content-type", b"image/gif"), (b"content-length", b"%d" % len(PIXEL))]
        await _answer(send, 200, headers, PIXEL if scope["method"] == "GET" else b"")

    def _look_up(self, link: int) -> str | None:
        with self._database.snapshot() as connection:
            found = stored.urls(connection, [link]).get(link)
        if found is not None:
            self._urls[link] = found
            while len(self._urls) > MOST_LINKS:
                self._urls.popitem(last=False)
        return found


def _agent(scope: Scope) -> str:
    name, purpose = "", ""
    for key, value in scope["headers"]:
        if key == b"user-agent":
            name = value.decode("latin-1")
        elif key in PURPOSES:
            purpose += value.decode("latin-1")
    return agent_of(name, purpose)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
